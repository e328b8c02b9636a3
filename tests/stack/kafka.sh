#!/usr/bin/env bash
# A real Kafka (KRaft, each node broker and controller) on 127.0.0.1, from Maven
# artefacts, that writes its logs to files as a production broker does.
#   kafka.sh up | down | status | wipe        all nodes; wipe deletes their data
#   kafka.sh start | stop | kill | pause | resume N         one node
#   kafka.sh roll N         wait until log4j has renamed node N's server.log
#   kafka.sh provoke [N]    make node 1 log N times each of the errors below
#   kafka.sh tool CLASS ARGUMENTS...          one of Kafka's own tools
# Settings, taken by `up` and remembered; only KAFKA_NAME is always needed:
#   KAFKA_NAME      kafka     folder of STACK_DIR; another name, another cluster
#   KAFKA_VERSION   4.1.1     4.x logs through log4j 2, 3.x through log4j 1
#   KAFKA_NODES     1         or 3: replication factor 3, min.insync.replicas 2
#   KAFKA_PORT      9092      of node 1, the next port for the next node
#   KAFKA_CONTROLLER_PORT  KAFKA_PORT + 10, likewise
#   KAFKA_ROLL      hourly    as in stock; or minutely, secondly
#   KAFKA_HEAP      400m
#   KAFKA_EXTRA               more server.properties: 'key=value;key=value'
#   KAFKA_SECURED             folder of ca.pem and broker.pem: three more listeners of
#                             node 1, on localhost from KAFKA_PORT + 20 on: SSL that asks
#                             for a certificate, SASL_SSL, SASL_PLAINTEXT (user shipper,
#                             password shipper-secret); what has an ACL is closed to others
#   KAFKA_OUTSIDE             address of this machine: two more listeners of each node there,
#                             for clients of another network namespace: node N at KAFKA_PORT +
#                             19 + N, advertised as that address, and at KAFKA_PORT + 22 + N,
#                             advertised as nodeN.kafka.test
# STACK_DIR/NAME/nodeN/logs holds server.log and its siblings. A rotation is
# log4j's own: the first record of a new hour (minute, second) renames the file.
# `provoke` gives, each time, five ERROR records and one WARN in server.log, the
# same from 4.1 and 3.9, while the broker goes on:
#   2 ERROR kafka.network.Processor, with Caused by and frames: API key 9999
#   2 ERROR kafka.network.Processor, likewise, another exception: damaged request
#   1 ERROR kafka.server.ReplicaManager, an exception without frames: a message
#     without key for the compacted topic provoke-compacted
#   1 WARN  org.apache.kafka.common.network.Selector, frames: HTTP on the port

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

KAFKA_NAME=${KAFKA_NAME:-kafka}
ROOT=$STACK_DIR/$KAFKA_NAME
SETTINGS=(KAFKA_VERSION KAFKA_NODES KAFKA_PORT KAFKA_CONTROLLER_PORT KAFKA_ROLL KAFKA_HEAP KAFKA_EXTRA KAFKA_SECURED KAFKA_OUTSIDE)
CLUSTER_ID=c3RhY2stdGVzdC1jbHVzdA # any 16 bytes in base64url

settings() {
  KAFKA_VERSION=${KAFKA_VERSION:-4.1.1}
  KAFKA_NODES=${KAFKA_NODES:-1}
  KAFKA_PORT=${KAFKA_PORT:-9092}
  KAFKA_CONTROLLER_PORT=${KAFKA_CONTROLLER_PORT:-$((KAFKA_PORT + 10))}
  KAFKA_ROLL=${KAFKA_ROLL:-hourly}
  KAFKA_HEAP=${KAFKA_HEAP:-400m}
  KAFKA_EXTRA=${KAFKA_EXTRA:-}
  KAFKA_SECURED=${KAFKA_SECURED:-}
  KAFKA_OUTSIDE=${KAFKA_OUTSIDE:-}
  case $KAFKA_NODES in 1 | 3) ;; *) die "KAFKA_NODES is 1 or 3" ;; esac
  case $KAFKA_ROLL in
    hourly | minutely | secondly) ;;
    *) die "KAFKA_ROLL is hourly, minutely or secondly" ;;
  esac
}

load_java() {
  JAVA=$(java_home 17 99)/bin/java
  case $KAFKA_VERSION in
    3.*) set -- ;; # brings reload4j and its slf4j binding itself
    *) set -- org.apache.logging.log4j:log4j-slf4j-impl:2.24.3 org.apache.logging.log4j:log4j-1.2-api:2.24.3 ;;
  esac
  CLASSPATH=$(class_path "kafka-$KAFKA_VERSION" "org.apache.kafka:kafka_2.13:$KAFKA_VERSION" \
    "org.apache.kafka:kafka-tools:$KAFKA_VERSION" "$@")
  export CLASSPATH
}

each() {
  local n
  for ((n = 1; n <= KAFKA_NODES; n++)); do "$@" "$n"; done
}

node() { # COMMAND... N: runs COMMAND with the variables of node N
  local n=${*: -1}
  case $n in [1-3]) ;; *) die "which node? 1 to $KAFKA_NODES" ;; esac
  NODE=$ROOT/node$n PORT=$((KAFKA_PORT + n - 1)) CONTROLLER_PORT=$((KAFKA_CONTROLLER_PORT + n - 1))
  PROCESS=("$KAFKA_NAME node $n" "$NODE/pid" "-Dkafka.logs.dir=$NODE/logs")
  "${@:1:$#-1}"
}

# Listeners, and what they need; the brokers among themselves stay with PLAINTEXT.
secured() {
  local name login=org.apache.kafka.common.security
  cat <<PROPERTIES
ssl.keystore.type=PEM
ssl.keystore.location=$KAFKA_SECURED/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$KAFKA_SECURED/ca.pem
listener.name.tls.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS
PROPERTIES
  for name in saslssl sasl; do
    cat <<PROPERTIES
listener.name.$name.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.$name.plain.sasl.jaas.config=$login.plain.PlainLoginModule required user_shipper="shipper-secret";
listener.name.$name.scram-sha-256.sasl.jaas.config=$login.scram.ScramLoginModule required;
listener.name.$name.scram-sha-512.sasl.jaas.config=$login.scram.ScramLoginModule required;
listener.name.$name.oauthbearer.sasl.jaas.config=$login.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
PROPERTIES
  done
}

configure() {
  local n voters='' replicas=1 in_sync=1 port listeners='' advertised protocols='' users=()
  if [ "$KAFKA_NODES" = 3 ]; then replicas=3 in_sync=2; fi
  for ((n = 1; n <= KAFKA_NODES; n++)); do
    voters+=${voters:+,}$n@127.0.0.1:$((KAFKA_CONTROLLER_PORT + n - 1))
  done
  if [ -n "$KAFKA_SECURED" ]; then
    port=$((PORT + 20))
    listeners=,TLS://localhost:$port,SASLSSL://localhost:$((port + 1)),SASL://localhost:$((port + 2))
    protocols=,TLS:SSL,SASLSSL:SASL_SSL,SASL:SASL_PLAINTEXT
    for n in 256 512; do
      users+=(--add-scram "SCRAM-SHA-$n=[name=shipper,password=shipper-secret]")
    done
  fi
  advertised=$listeners
  if [ -n "$KAFKA_OUTSIDE" ]; then
    port=$((PORT + 20)) n=${NODE##*/node}
    listeners+=,OUTSIDE://$KAFKA_OUTSIDE:$port,NAMED://$KAFKA_OUTSIDE:$((port + 3))
    advertised+=,OUTSIDE://$KAFKA_OUTSIDE:$port,NAMED://node$n.kafka.test:$((port + 3))
    protocols+=,OUTSIDE:PLAINTEXT,NAMED:PLAINTEXT
  fi
  mkdir -p "$NODE/logs"
  {
    cat <<PROPERTIES
process.roles=broker,controller
node.id=${NODE##*/node}
controller.quorum.voters=$voters
listeners=CLIENT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$CONTROLLER_PORT$listeners
advertised.listeners=CLIENT://127.0.0.1:$PORT$advertised
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT$protocols
log.dirs=$NODE/data
num.partitions=3
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=5
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
    [ -z "$KAFKA_SECURED" ] || secured
    printf '%s\n' "$KAFKA_EXTRA" | tr ';' '\n'
  } >"$NODE/server.properties"
  if [ ! -f "$NODE/data/meta.properties" ]; then
    "$JAVA" -Xmx128m kafka.tools.StorageTool format -t "$CLUSTER_ID" -c "$NODE/server.properties" \
      "${users[@]}" >"$NODE/format.log" 2>&1 || die "cannot format ${PROCESS[0]}: see $NODE/format.log"
  fi
}

launch() {
  local date
  ! pid_of "${PROCESS[@]:1}" >/dev/null || return 0
  ports_must_be_free "$PORT" "$CONTROLLER_PORT"
  case $KAFKA_ROLL in
    hourly) date=yyyy-MM-dd-HH ;;
    minutely) date=yyyy-MM-dd-HH-mm ;;
    secondly) date=yyyy-MM-dd-HH-mm-ss ;;
  esac
  # For a quick start on few cores: the plain collector and the first compiler only.
  setsid "$JAVA" -Xms"$KAFKA_HEAP" -Xmx"$KAFKA_HEAP" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    "${PROCESS[2]}" -Dkafka.logs.roll="$date" -Dlog4j.configuration="file:$STACK_SCRIPTS/log4j.properties" \
    -Dlog4j2.configurationFile="$STACK_SCRIPTS/log4j2.xml" kafka.Kafka "$NODE/server.properties" \
    </dev/null >"$NODE/stdout.log" 2>&1 &
  echo $! >"${PROCESS[1]}"
}

await() {
  wait_ready 120 "${PROCESS[0]} ($KAFKA_VERSION, 127.0.0.1:$PORT)" "${PROCESS[@]:1}" "$NODE/stdout.log" \
    grep -q 'Kafka Server started' "$NODE/stdout.log"
}

halt() { stop_process "${PROCESS[@]}" "$1"; }
send() { signal_process "$1" "${PROCESS[@]}"; }
show() { show_process "${PROCESS[@]}" || DOWN=1; }

# One frame the broker cannot read: it logs that and closes. No line feed after its
# first bytes, at which bash would write in two parts, the second after the close.
send_frame() { # BYTES as printf understands them
  exec 3<>"/dev/tcp/127.0.0.1/$PORT"
  # shellcheck disable=SC2059 # the escapes are the message
  printf "$1" >&3
  timeout 10 cat <&3 >/dev/null || die "the broker did not close the connection"
  exec 3>&-
}

provoke() {
  local i topic=provoke-compacted
  need kcat
  if ! kcat -L -b "127.0.0.1:$PORT" | grep -q "topic \"$topic\""; then
    load_java
    "$JAVA" -Xmx128m org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$PORT" --create \
      --topic "$topic" --partitions 1 --config cleanup.policy=compact >"$NODE/provoke.log" 2>&1 ||
      die "cannot make topic $topic: see $NODE/provoke.log"
  fi
  for ((i = 0; i < $1; i++)); do
    send_frame '\x00\x00\x00\x0a\x27\x0f\x00\x00\x00\x00\x00\x01\xff\xff'                 # API key 9999
    send_frame '\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x02\xff\xff\x00\x00\x00\x05' # Metadata of 5 topics, names missing
    send_frame 'GET / HTTP/1.0'
    if echo 'no key' | kcat -P -b "127.0.0.1:$PORT" -t "$topic" -X retries=0 >"$NODE/provoke.log" 2>&1; then
      die "the broker took a message without key into a compacted topic"
    fi
  done
}

# Waits for the next rename of server.log; each connection with garbage is a
# record, which is what log4j needs to look at the clock.
roll() {
  local log=$NODE/logs/server.log inode began=$SECONDS
  [ "$KAFKA_ROLL" != hourly ] || die "KAFKA_ROLL=hourly would take up to an hour"
  inode=$(stat -c %i "$log")
  # Just after the rename and before the new file is made there is no server.log.
  while [ "$(stat -c %i "$log" 2>/dev/null || echo "$inode")" = "$inode" ]; do
    [ $((SECONDS - began)) -lt 90 ] || die "$log was not renamed within 90 s"
    send_frame 'GET / HTTP/1.0'
    sleep 0.5
  done
  say "$(find "$NODE/logs" -inum "$inode" -printf '%f') was server.log until now"
}

COMMAND=${1:-}
recall "${SETTINGS[@]}"
settings
case $COMMAND in
  up)
    mkdir -p "$ROOT"
    remember "${SETTINGS[@]}"
    load_java
    each node configure
    each node launch
    each node await
    ;;
  down)
    # All at once; the last of three has no quorum left to ask and would wait for long.
    for ((n = 1; n <= KAFKA_NODES; n++)); do node halt 15 "$n" & done
    wait
    ;;
  status)
    DOWN=
    each node show
    [ -z "$DOWN" ]
    ;;
  wipe)
    each node halt 0
    rm -rf "$ROOT"
    ;;
  start)
    load_java
    node configure "${2:-}"
    node launch "$2"
    node await "$2"
    ;;
  stop) node halt 30 "${2:-}" ;;
  kill) node send KILL "${2:-}" ;;
  pause) node send STOP "${2:-}" ;;
  resume) node send CONT "${2:-}" ;;
  roll) node roll "${2:-}" ;;
  provoke) node provoke "${2:-1}" 1 ;;
  tool)
    load_java
    exec "$JAVA" -Xmx128m -XX:TieredStopAtLevel=1 "${@:2}"
    ;;
  *) usage ;;
esac
