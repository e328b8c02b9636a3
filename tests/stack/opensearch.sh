#!/usr/bin/env bash
# A real OpenSearch of one node without security on 127.0.0.1, from Maven's
# integ-test-zip: the server itself with few modules.
#   opensearch.sh up | down | status | wipe | kill | pause | resume
# Settings, taken by `up` and remembered; only OS_NAME is always needed:
#   OS_NAME            opensearch   folder of STACK_DIR
#   OS_VERSION         2.19.4       needs JDK 11 to 23; 3.x JDK 21 or newer
#   OS_PORT            9210
#   OS_TRANSPORT_PORT  OS_PORT + 10
#   OS_HEAP            512m
#   OS_EXTRA                        more opensearch.yml: 'key: value;key: value'

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

OS_NAME=${OS_NAME:-opensearch}
ROOT=$STACK_DIR/$OS_NAME
SETTINGS=(OS_VERSION OS_PORT OS_TRANSPORT_PORT OS_HEAP OS_EXTRA)
PROCESS=("$OS_NAME" "$ROOT/run/pid" "-Dstack.root=$ROOT/run")

settings() {
  OS_VERSION=${OS_VERSION:-2.19.4}
  OS_PORT=${OS_PORT:-9210}
  OS_TRANSPORT_PORT=${OS_TRANSPORT_PORT:-$((OS_PORT + 10))}
  OS_HEAP=${OS_HEAP:-512m}
  OS_EXTRA=${OS_EXTRA:-}
  DIST=$STACK_DIR/dist/opensearch-$OS_VERSION
}

healthy() {
  curl -fsS --max-time 10 "http://127.0.0.1:$OS_PORT/_cluster/health?wait_for_status=yellow&timeout=5s"
}

configure() {
  rm -rf "$ROOT/config"
  mkdir -p "$ROOT/data" "$ROOT/logs" "$ROOT/tmp" "$ROOT/run"
  cp -R "$DIST/opensearch-$OS_VERSION/config" "$ROOT/config"
  # Their default places are in the distribution, which stays as it is.
  sed -i -e '/Xlog:gc/d' -e '/HeapDump/d' -e '/ErrorFile/d' "$ROOT/config/jvm.options"
  {
    cat <<YAML
cluster.name: stack
node.name: n1
discovery.type: single-node
network.host: 127.0.0.1
http.port: $OS_PORT
transport.port: $OS_TRANSPORT_PORT
path.data: $ROOT/data
path.logs: $ROOT/logs
node.store.allow_mmap: false
cluster.routing.allocation.disk.threshold_enabled: false
YAML
    printf '%s\n' "$OS_EXTRA" | tr ';' '\n'
  } >"$ROOT/config/opensearch.yml"
  [ "$(id -u)" != 0 ] || chown -R nobody:nogroup "$ROOT/config" "$ROOT/data" "$ROOT/logs" "$ROOT/tmp" "$ROOT/run"
}

up() {
  local java
  need curl
  ! pid_of "${PROCESS[@]:1}" >/dev/null || return 0
  case $OS_VERSION in
    2.*) java=$(java_home 11 23) ;;
    *) java=$(java_home 21 99) ;;
  esac
  ports_must_be_free "$OS_PORT" "$OS_TRANSPORT_PORT"
  unpack "org.opensearch.distribution.integ-test-zip:opensearch:$OS_VERSION" "$DIST"
  # The distribution has none, and the server wants it.
  mkdir -p "$DIST/opensearch-$OS_VERSION/plugins"
  configure
  rm -f "${PROCESS[1]}"
  (cd "$ROOT" && as_nobody env OPENSEARCH_JAVA_HOME="$java" JAVA_HOME="$java" OPENSEARCH_PATH_CONF="$ROOT/config" \
    OPENSEARCH_TMPDIR="$ROOT/tmp" \
    OPENSEARCH_JAVA_OPTS="-Xms$OS_HEAP -Xmx$OS_HEAP -XX:TieredStopAtLevel=1 ${PROCESS[2]}" \
    bash "$DIST/opensearch-$OS_VERSION/bin/opensearch" -d -p "${PROCESS[1]}") >"$ROOT/start.log" 2>&1 </dev/null || {
    tail -n 25 "$ROOT/start.log" >&2
    die "$OS_NAME did not start: see $ROOT/start.log and $ROOT/logs"
  }
  # -d returns before the process has written its pid.
  for ((n = 0; n < 100; n++)); do
    [ ! -s "${PROCESS[1]}" ] || return 0
    sleep 0.2
  done
  die "$OS_NAME has no pid after 20 s: see $ROOT/start.log and $ROOT/logs"
}

await() {
  wait_ready 120 "$OS_NAME ($OS_VERSION, http://127.0.0.1:$OS_PORT)" "${PROCESS[@]:1}" "$ROOT/logs/stack.log" healthy
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
