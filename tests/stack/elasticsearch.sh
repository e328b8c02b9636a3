#!/usr/bin/env bash
# A real Elasticsearch, or OpenSearch, of one node on 127.0.0.1, from Maven's
# integ-test-zip: the server itself with few modules (no ILM, no ingest).
#   elasticsearch.sh up | down | status | wipe | kill | pause | resume
# Settings, taken by `up` and remembered; only ES_NAME is always needed:
#   ES_NAME            elasticsearch   folder of STACK_DIR
#   ES_DISTRIBUTION    elasticsearch   or opensearch
#   ES_VERSION         8.17.0          8.x, and OpenSearch 2.x, need JDK 17 to 23, others 21 or newer
#   ES_PORT            9200
#   ES_TRANSPORT_PORT  ES_PORT + 10
#   ES_HEAP            512m
#   ES_EXTRA                           more elasticsearch.yml: 'key: value;key: value'
#   ES_SECURED         folder of ca.pem, node.pem and node.key: https only, user elastic,
#                      password elastic-secret; without it no security

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

ES_NAME=${ES_NAME:-elasticsearch}
ROOT=$STACK_DIR/$ES_NAME
SETTINGS=(ES_DISTRIBUTION ES_VERSION ES_PORT ES_TRANSPORT_PORT ES_HEAP ES_EXTRA ES_SECURED)
PASSWORD=elastic-secret
PROCESS=("$ES_NAME" "$ROOT/run/pid" "-Dstack.root=$ROOT/run")

settings() {
  ES_DISTRIBUTION=${ES_DISTRIBUTION:-elasticsearch}
  ES_VERSION=${ES_VERSION:-8.17.0}
  ES_PORT=${ES_PORT:-9200}
  ES_TRANSPORT_PORT=${ES_TRANSPORT_PORT:-$((ES_PORT + 10))}
  ES_HEAP=${ES_HEAP:-512m}
  ES_EXTRA=${ES_EXTRA:-}
  ES_SECURED=${ES_SECURED:-}
  DIST=$STACK_DIR/dist/$ES_DISTRIBUTION-$ES_VERSION
  SERVER=$DIST/$ES_DISTRIBUTION-$ES_VERSION
  URL=http://127.0.0.1:$ES_PORT
  [ -z "$ES_SECURED" ] || URL=https://localhost:$ES_PORT
}

healthy() {
  local of=(--max-time 10) path='/_cluster/health?wait_for_status=yellow&timeout=5s'
  [ -z "$ES_SECURED" ] || of+=(--cacert "$ES_SECURED/ca.pem" -u "elastic:$PASSWORD")
  curl -fsS "${of[@]}" "$URL$path"
}

secure() {
  cp "$ES_SECURED"/{ca.pem,node.pem,node.key} "$ROOT/config/"
  cat <<YAML
xpack.security.enabled: true
xpack.security.autoconfiguration.enabled: false
xpack.security.enrollment.enabled: false
xpack.security.http.ssl.enabled: true
xpack.security.http.ssl.certificate: node.pem
xpack.security.http.ssl.key: node.key
xpack.security.http.ssl.certificate_authorities: ca.pem
xpack.security.http.ssl.client_authentication: optional
YAML
}

# A tool of the distribution, as the server runs: JAVA TOOL ARGUMENTS...
tool() {
  local prefix=ES
  [ "$ES_DISTRIBUTION" = elasticsearch ] || prefix=OPENSEARCH
  as_nobody env "${prefix}_JAVA_HOME=$1" "${prefix}_PATH_CONF=$ROOT/config" "${prefix}_TMPDIR=$ROOT/tmp" \
    "${prefix}_JAVA_OPTS=-Xms$ES_HEAP -Xmx$ES_HEAP -XX:TieredStopAtLevel=1 ${PROCESS[2]}" \
    bash "$SERVER/bin/$2" "${@:3}"
}

configure() {
  rm -rf "$ROOT/config"
  mkdir -p "$ROOT/data" "$ROOT/logs" "$ROOT/tmp" "$ROOT/run"
  cp -R "$SERVER/config" "$ROOT/config"
  # Their default places are in the distribution, which stays as it is.
  sed -i -e '/Xlog:gc/d' -e '/HeapDump/d' -e '/ErrorFile/d' "$ROOT/config/jvm.options"
  {
    cat <<YAML
cluster.name: stack
node.name: n1
discovery.type: single-node
network.host: 127.0.0.1
http.port: $ES_PORT
transport.port: $ES_TRANSPORT_PORT
path.data: $ROOT/data
path.logs: $ROOT/logs
node.store.allow_mmap: false
cluster.routing.allocation.disk.threshold_enabled: false
YAML
    if [ -n "$ES_SECURED" ]; then
      secure
    elif [ "$ES_DISTRIBUTION" = elasticsearch ]; then
      echo 'xpack.security.enabled: false'
    fi
    printf '%s\n' "$ES_EXTRA" | tr ';' '\n'
  } >"$ROOT/config/$ES_DISTRIBUTION.yml"
  [ "$(id -u)" != 0 ] || chown -R nobody:nogroup "$ROOT/config" "$ROOT/data" "$ROOT/logs" "$ROOT/tmp" "$ROOT/run"
}

up() {
  local java
  need curl
  ! pid_of "${PROCESS[@]:1}" >/dev/null || return 0
  case $ES_DISTRIBUTION-$ES_VERSION in
    elasticsearch-8.* | opensearch-2.*) java=$(java_home 17 23) ;;
    *) java=$(java_home 21 99) ;;
  esac
  ports_must_be_free "$ES_PORT" "$ES_TRANSPORT_PORT"
  unpack "org.$ES_DISTRIBUTION.distribution.integ-test-zip:$ES_DISTRIBUTION:$ES_VERSION" "$DIST"
  # OpenSearch wants the folder and does not bring it.
  mkdir -p "$SERVER/plugins"
  configure
  if [ -n "$ES_SECURED" ]; then
    {
      tool "$java" elasticsearch-keystore create
      printf '%s' "$PASSWORD" | tool "$java" elasticsearch-keystore add -x bootstrap.password
    } >"$ROOT/keystore.log" 2>&1 || die "cannot make the keystore: see $ROOT/keystore.log"
  fi
  rm -f "${PROCESS[1]}"
  # -d returns when Elasticsearch listens, and leaves one JVM instead of two.
  (cd "$ROOT" && tool "$java" "$ES_DISTRIBUTION" -d -p "${PROCESS[1]}") >"$ROOT/start.log" 2>&1 </dev/null || {
    tail -n 25 "$ROOT/start.log" >&2
    die "$ES_NAME did not start: see $ROOT/start.log and $ROOT/logs"
  }
  # OpenSearch has not written its pid by then.
  for ((n = 0; n < 100; n++)); do
    [ ! -s "${PROCESS[1]}" ] || return 0
    sleep 0.2
  done
  die "$ES_NAME has no pid after 20 s: see $ROOT/start.log and $ROOT/logs"
}

await() {
  wait_ready 120 "$ES_NAME ($ES_VERSION, $URL)" "${PROCESS[@]:1}" "$ROOT/logs/stack.log" healthy
}

COMMAND=${1:-}
recall "${SETTINGS[@]}"
settings
case $COMMAND in
  up)
    mkdir -p "$ROOT"
    remember "${SETTINGS[@]}"
    up
    await
    ;;
  down) stop_process "${PROCESS[@]}" 30 ;;
  status) show_process "${PROCESS[@]}" ;;
  wipe)
    stop_process "${PROCESS[@]}" 0
    rm -rf "$ROOT"
    ;;
  kill) signal_process KILL "${PROCESS[@]}" ;;
  pause) signal_process STOP "${PROCESS[@]}" ;;
  resume) signal_process CONT "${PROCESS[@]}" ;;
  *) usage ;;
esac
