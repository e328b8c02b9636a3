# shellcheck shell=bash disable=SC2034 # the scripts that source this read the variables
# Shared by the benchmarks beside it, sourced and never run: real servers, the
# generated log, and what a process costs.
#   SHIPPER_BIN   target/release/shipper
#   ROUNDS        1: how often each is measured, one after the other
#   STACK_DIR     as in tests/stack
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
STACK=$ROOT/tests/stack
SHIPPER_BIN=${SHIPPER_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release/shipper}
ROUNDS=${ROUNDS:-1}
STACK_DIR=$("$STACK/all.sh" dir)
export STACK_DIR
WORK=$STACK_DIR/bench # the log is kept for the next run, the rest goes
RUNNING= # pid of what is being measured
SERVERS=()
POLL=0.2 # seconds between two looks at how far it is

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

have() { command -v "$1" >/dev/null; }

have_rsyslog() { # MODULE...
  local module
  for module in "$@"; do
    compgen -G "/usr/lib/*/rsyslog/$module.so" >/dev/null || {
      echo "rsyslog with $* is not installed: left out (apt-get install rsyslog rsyslog-kafka rsyslog-elasticsearch)"
      return 1
    }
  done
}

end() {
  local server
  [ -z "$RUNNING" ] || kill -TERM "$RUNNING" 2>/dev/null || true
  for server in "${SERVERS[@]}"; do "$server" wipe >/dev/null; done
  find "$WORK" -mindepth 1 -maxdepth 1 ! -name 'server-*' -exec rm -rf {} + 2>/dev/null || true
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

prepare() {
  have kcat || die "kcat is missing: apt-get install kcat"
  [ -x "$SHIPPER_BIN" ] || die "no $SHIPPER_BIN: cargo build --release"
  mkdir -p "$WORK"
}

start_kafka() {
  export KAFKA_NAME=bench-kafka KAFKA_VERSION=4.1.1 KAFKA_PORT=${KAFKA_PORT:-19092} KAFKA_HEAP=1g
  BROKER=127.0.0.1:$KAFKA_PORT
  SERVERS+=("$STACK/kafka.sh")
  "$STACK/kafka.sh" up >&2
}

start_elasticsearch() {
  export ES_NAME=bench-elasticsearch ES_VERSION=8.17.0 ES_PORT=${ES_PORT:-19200} ES_HEAP=1g
  ELASTICSEARCH=http://127.0.0.1:$ES_PORT
  SERVERS+=("$STACK/elasticsearch.sh")
  "$STACK/elasticsearch.sh" up >&2
}

# make_log LINES: sets LOG, LINES_N, EVENTS, ERRORS, BYTES; the log is in the page cache.
make_log() {
  LOG=$WORK/server-$1.log
  if [ ! -s "$LOG.counts.log" ]; then
    "$ROOT/benches/real/generate" "$1" >"$LOG" 2>"$LOG.counts.log"
  fi
  read -r LINES_N EVENTS ERRORS <"$LOG.counts.log"
  BYTES=$(wc -c <"$LOG")
  cat "$LOG" >/dev/null
  printf '%s lines, %s bytes on average, %s events, %s of them ERROR with a stack trace\n' \
    "$LINES_N" "$(ratio "$BYTES" "$LINES_N" 1)" "$EVENTS" "$ERRORS"
}

topics() { "$STACK/kafka.sh" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$BROKER" "$@" >/dev/null 2>&1; }
make_topic() { topics --create --topic "$1" --partitions 1; }
delete_topic() { topics --delete --topic "$1"; }
messages() { kcat -Q -b "$BROKER" -t "$1:0:-1" 2>/dev/null | awk '{ print $NF }'; }

documents() { # INDEX
  curl -fsS -XPOST "$ELASTICSEARCH/$1/_refresh" >/dev/null 2>&1 || true
  curl -fsS "$ELASTICSEARCH/$1/_count" 2>/dev/null | sed 's/.*"count":\([0-9]*\).*/\1/'
}

# start NAME COMMAND...: runs it in the background; sets RUNNING, its pid.
start() {
  local name=$1
  shift
  rm -f "$WORK/$name".{pid,times}
  # The shell in between has one child, so that its `times` are that child's.
  (
    trap - EXIT
    "$@" >"$WORK/$name.out" 2>&1 </dev/null &
    echo $! >"$WORK/$name.pid"
    wait $! || true
    times >"$WORK/$name.times"
  ) &
  BETWEEN=$!
  until [ -s "$WORK/$name.pid" ]; do sleep 0.01; done
  RUNNING=$(cat "$WORK/$name.pid")
  BEGAN=$EPOCHREALTIME
  PEAK=0
}

# Keeps the peak of resident memory in KiB; to be called now and then while it lives.
look() {
  local kib
  kib=$(awk '/^VmHWM/ { print $2 }' "/proc/$RUNNING/status" 2>/dev/null || true)
  [ -z "$kib" ] || PEAK=$kib
}

# until_is WANTED COMMAND...: waits until COMMAND prints at least WANTED.
until_is() {
  local wanted=$1 got=0 began=$SECONDS
  shift
  while look; got=$("$@"); [ "${got:-0}" -lt "$wanted" ]; do
    kill -0 "$RUNNING" 2>/dev/null || die "it ended early: $(tail -n 5 "$WORK"/*.out)"
    [ $((SECONDS - began)) -lt 900 ] || die "only $got of $wanted after 900 s: $(tail -n 5 "$WORK"/*.out)"
    sleep "$POLL"
  done
}

# Sets WALL, the seconds since start.
stop_watch() { WALL=$(ratio "${EPOCHREALTIME/./} - ${BEGAN/./}" 1000000 3); }

# finish NAME: ends it if it still runs; sets CPU, its seconds in user and kernel.
finish() {
  look
  kill -TERM "$RUNNING" 2>/dev/null || true
  wait "$BETWEEN"
  RUNNING=
  CPU=$(awk 'NR == 2 { for (i = 1; i <= 2; i++) { split($i, t, "[ms]"); s += t[1] * 60 + t[2] } print s }' "$WORK/$1.times")
}

# ratio A B DIGITS: A / B.
ratio() { awk "BEGIN { if (($2) == 0) print \"-\"; else printf \"%.${3}f\", ($1) / ($2) }"; }
