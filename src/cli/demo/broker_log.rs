//! A broker's log for the demo: what Kafka 4.1 writes, with known counts.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Writes events as Kafka's `[%d] %p %m (%c)%n` does, the same ones each time but for their dates.
pub struct BrokerLog {
    random: u64,
    n_events: u64,
    n_errors: u64,
}

/// Frames of a real broker's trace, log4j 2 with package data.
const FRAMES: &str = "\tat org.apache.kafka.storage.internals.log.UnifiedLog.append(UnifiedLog.java:1022) \
~[kafka-storage-4.1.1.jar:?]\n\
\tat kafka.cluster.Partition.appendRecordsToLeader(Partition.scala:1344) ~[kafka_2.13-4.1.1.jar:?]\n\
\tat kafka.server.ReplicaManager.appendRecordsToLeader(ReplicaManager.scala:1487) \
[kafka_2.13-4.1.1.jar:?]\n\
\tat kafka.server.KafkaRequestHandler.run(KafkaRequestHandler.scala:158) [kafka_2.13-4.1.1.jar:?]\n\
\tat java.base/java.lang.Thread.run(Thread.java:840) [?:?]\n";

impl BrokerLog {
    /// Begins a log.
    pub fn new() -> BrokerLog {
        BrokerLog { random: 0x9e37_79b9_7f4a_7c15, n_events: 0, n_errors: 0 }
    }

    /// Events written so far.
    pub fn n_events(&self) -> u64 {
        self.n_events
    }

    /// Of those, events of level ERROR.
    pub fn n_errors(&self) -> u64 {
        self.n_errors
    }

    /// Appends one event.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        let time = Timestamp::now().to_zoned(TimeZone::UTC);
        let stamp = time.strftime("[%Y-%m-%d %H:%M:%S,%3f]");
        let number = self.n_events;
        let partition = self.next() % 48;
        let text = match self.next() % 100 {
            0 => {
                self.n_errors += 1;
                format!(
                    "{stamp} ERROR [ReplicaManager broker=1] Error processing append operation on \
                     partition orders-{partition} (kafka.server.ReplicaManager)\n\
                     org.apache.kafka.common.errors.NotEnoughReplicasException: The size of the \
                     current ISR : 1 is insufficient to satisfy the min.isr requirement of 2 for \
                     partition orders-{partition}, live replica(s) broker.id are : [1]\n{FRAMES}"
                )
            }
            1 => {
                self.n_errors += 1;
                format!(
                    "{stamp} ERROR Error while appending records to orders-{partition} in dir \
                     /var/lib/kafka/data \
                     (org.apache.kafka.storage.internals.log.LogDirFailureChannel)\n\
                     java.io.IOException: No space left on device\n{FRAMES}\
                     Caused by: sun.nio.ch.IOStatus: write failed\n\t... 5 more\n"
                )
            }
            2..5 => format!(
                "{stamp} WARN [RequestSendThread controllerId=1] Controller 1 epoch 7 fails to send \
                 request {number} to broker kafka-2:9092 (id: 2 rack: null). Reconnecting to \
                 broker. (kafka.controller.RequestSendThread)\n"
            ),
            5..9 => format!(
                "{stamp} INFO AdminClientConfig values: \n\tbootstrap.servers = [kafka-1:9092]\n\
                 \tclient.id = probe-{number}\n\tretries = 2147483647\n \
                 (org.apache.kafka.clients.admin.AdminClientConfig)\n"
            ),
            9..40 => format!(
                "{stamp} INFO [GroupCoordinator id=1] Group payments-{partition} with generation id \
                 {number} is now empty. \
                 (org.apache.kafka.coordinator.group.GroupMetadataManager)\n"
            ),
            _ => format!(
                "{stamp} INFO [UnifiedLog partition=orders-{partition}, dir=/var/lib/kafka/data] \
                 Rolled new log segment at offset {number} in 1 ms. \
                 (org.apache.kafka.storage.internals.log.UnifiedLog)\n"
            ),
        };
        self.n_events += 1;
        out.extend_from_slice(text.as_bytes());
    }

    /// xorshift64: the mix of events need not be better than that.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }
}

/// Returns the name that Kafka's hourly roll-over gives to a log.
pub fn rotated_name(name: &str) -> String {
    format!("{name}.{}", Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y-%m-%d-%H"))
}
