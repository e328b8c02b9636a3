#!/usr/bin/env bash
# The servers of the stack tests, together.
#   all.sh up       starts them and writes STACK_DIR/env, which tells the tests
#   all.sh down     ends them; what they wrote stays
#   all.sh wipe     ends them; what they wrote goes
#   all.sh dir      prints STACK_DIR
# By hand: tests/stack/all.sh up && . target/stack/env && cargo test --features stack ...
# Ports: from STACK_PORT on, 100 of them; by default the first that are free from
# 21000 on. Without a JDK for Elasticsearch 9 its place is taken by 8.17.0 and
# STACK_DIR/left-out says so; with CI set that is an error.

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

ENV=$STACK_DIR/env

# Keeps the ports of the last time, for servers that are up already.
choose_ports() {
  local port
  BASE=${STACK_PORT:-$(sed -n 's/^# STACK_PORT=//p' "$ENV" 2>/dev/null || true)}
  [ -z "$BASE" ] || return 0
  for ((BASE = 21000; BASE < 30000; BASE += 100)); do
    for port in 0 10 20 30 40 41 45 46 50 51 60 70 80 90; do
      if (exec 3<>"/dev/tcp/127.0.0.1/$((BASE + port))") 2>/dev/null; then continue 2; fi
    done
    return 0
  done
  die "no free ports: set STACK_PORT"
}

up() {
  local elasticsearch_9
  choose_ports
  rm -f "$STACK_DIR/left-out"
  KAFKA_NAME=kafka KAFKA_VERSION=4.1.1 KAFKA_PORT=$BASE KAFKA_ROLL=minutely "$STACK_SCRIPTS/kafka.sh" up
  KAFKA_NAME=kafka-old KAFKA_VERSION=3.9.1 KAFKA_PORT=$((BASE + 20)) KAFKA_ROLL=minutely "$STACK_SCRIPTS/kafka.sh" up
  ES_NAME=elasticsearch ES_VERSION=8.17.0 ES_PORT=$((BASE + 40)) ES_TRANSPORT_PORT=$((BASE + 41)) \
    "$STACK_SCRIPTS/elasticsearch.sh" up
  ES_NAME=opensearch ES_DISTRIBUTION=opensearch ES_VERSION=2.19.4 ES_PORT=$((BASE + 45)) \
    ES_TRANSPORT_PORT=$((BASE + 46)) "$STACK_SCRIPTS/elasticsearch.sh" up
  if [ -n "${CI:-}" ] || (java_home 21 99 >/dev/null 2>&1); then
    ES_NAME=elasticsearch-9 ES_VERSION=9.2.0 ES_PORT=$((BASE + 50)) ES_TRANSPORT_PORT=$((BASE + 51)) \
      "$STACK_SCRIPTS/elasticsearch.sh" up
    elasticsearch_9=http://127.0.0.1:$((BASE + 50))
  else
    echo 'no JDK 21 or newer: Elasticsearch 9.2.0 left out, 8.17.0 in its place' | tee "$STACK_DIR/left-out"
    elasticsearch_9=http://127.0.0.1:$((BASE + 40))
  fi
  cat >"$ENV" <<ENV
# STACK_PORT=$BASE
export STACK_DIR=$STACK_DIR
export SHIPPER_STACK_DIR=$STACK_DIR
export SHIPPER_STACK_SCRIPTS=$STACK_SCRIPTS
export SHIPPER_STACK_KAFKA=127.0.0.1:$BASE
export SHIPPER_STACK_KAFKA_OLD=127.0.0.1:$((BASE + 20))
export SHIPPER_STACK_ELASTICSEARCH=http://127.0.0.1:$((BASE + 40))
export SHIPPER_STACK_ELASTICSEARCH_9=$elasticsearch_9
export SHIPPER_STACK_OPENSEARCH=http://127.0.0.1:$((BASE + 45))
export SHIPPER_STACK_PORT=$((BASE + 60))
ENV
}

all() {
  local name
  for name in kafka kafka-old; do KAFKA_NAME=$name "$STACK_SCRIPTS/kafka.sh" "$1"; done
  for name in elasticsearch elasticsearch-9 opensearch; do ES_NAME=$name "$STACK_SCRIPTS/elasticsearch.sh" "$1"; done
}

case ${1:-} in
  up) up ;;
  down) all down ;;
  wipe)
    all wipe
    rm -f "$ENV"
    ;;
  dir) printf '%s\n' "$STACK_DIR" ;;
  *) usage ;;
esac
