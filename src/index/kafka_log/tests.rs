//! Lines from public repositories and issues, and the logs of two real brokers.

use std::fs;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Level::{Debug, Error, Fatal, Info, Trace, Warn};
use super::*;

fn parse_utc(event: &str) -> Parsed<'_> {
    parse(event, &mut TimeReader::new(TimeZone::UTC))
}

/// Returns the fields of an event of that time, level, logger and message that has no others.
fn fields<'a>(iso: &str, level: Level, logger: &'a str, message: &'a str) -> Parsed<'a> {
    let time: Timestamp = iso.parse().expect("a time");
    Parsed {
        time: Some(EventTime { ms: time.as_millisecond(), zoned: false }),
        level: Some(level),
        logger: (!logger.is_empty()).then_some(logger),
        line: None,
        thread: None,
        component: None,
        message,
        error: None,
    }
}

fn error<'a>(class: &'a str, message: &'a str, stack_trace: &'a str) -> Option<LoggedError<'a>> {
    Some(LoggedError {
        class: Some(class),
        message: (!message.is_empty()).then_some(message),
        stack_trace,
    })
}

/// Asserts that each event has these fields.
fn check(cases: &[(&str, Parsed<'_>)]) {
    for (event, expected) in cases {
        assert_eq!(parse_utc(event), *expected, "{event}");
    }
}

#[test]
fn single_lines_of_kafkas_own_layout_are_read() {
    check(&[
        // elastic/beats, module/kafka/log/test/server.log
        (
            "[2017-08-04 10:48:20,377] INFO starting (kafka.server.KafkaServer)",
            fields("2017-08-04T10:48:20.377Z", Info, "kafka.server.KafkaServer", "starting"),
        ),
        (
            "[2017-08-04 10:48:20,400] INFO Client environment:java.compiler=<NA> (org.apache.zookeeper.ZooKeeper)",
            fields(
                "2017-08-04T10:48:20.400Z",
                Info,
                "org.apache.zookeeper.ZooKeeper",
                "Client environment:java.compiler=<NA>",
            ),
        ),
        (
            "[2017-08-04 10:48:20,415] INFO Opening socket connection to server localhost/0:0:0:0:0:0:0:1:2181. Will not attempt to authenticate using SASL (unknown error) (org.apache.zookeeper.ClientCnxn)",
            fields(
                "2017-08-04T10:48:20.415Z",
                Info,
                "org.apache.zookeeper.ClientCnxn",
                "Opening socket connection to server localhost/0:0:0:0:0:0:0:1:2181. Will not attempt to authenticate using SASL (unknown error)",
            ),
        ),
        (
            "[2017-08-04 10:48:20,748] WARN No meta.properties file under dir /tmp/kafka-logs/meta.properties (kafka.server.BrokerMetadataCheckpoint)",
            fields(
                "2017-08-04T10:48:20.748Z",
                Warn,
                "kafka.server.BrokerMetadataCheckpoint",
                "No meta.properties file under dir /tmp/kafka-logs/meta.properties",
            ),
        ),
        // elastic/beats, controller-2.0.0.log
        (
            "[2018-10-31 15:03:32,474] TRACE [Controller id=10] Checking need to trigger auto leader balancing (kafka.controller.KafkaController)",
            Parsed {
                component: Some("Controller id=10"),
                ..fields(
                    "2018-10-31T15:03:32.474Z",
                    Trace,
                    "kafka.controller.KafkaController",
                    "Checking need to trigger auto leader balancing",
                )
            },
        ),
        // elastic/integrations, test-server-3-6-0.log
        (
            "[2025-04-09 10:00:02,738] INFO [LogLoader partition=foo-..-0, dir=/kafka-logs] Loading producer state till offset 0 with message format version 2 (kafka.log.UnifiedLog$)",
            Parsed {
                component: Some("LogLoader partition=foo-..-0, dir=/kafka-logs"),
                ..fields(
                    "2025-04-09T10:00:02.738Z",
                    Info,
                    "kafka.log.UnifiedLog$",
                    "Loading producer state till offset 0 with message format version 2",
                )
            },
        ),
        // Confluent cp-demo: a denial, with a distinguished name
        (
            "[2018-01-12 21:13:18,454] INFO Principal = User:CN=client,OU=TEST,O=CONFLUENT,L=PaloAlto,ST=Ca,C=US is Denied Operation = Describe from host = 172.23.0.7 on resource = Topic:wikipedia.parsed (kafka.authorizer.logger)",
            fields(
                "2018-01-12T21:13:18.454Z",
                Info,
                "kafka.authorizer.logger",
                "Principal = User:CN=client,OU=TEST,O=CONFLUENT,L=PaloAlto,ST=Ca,C=US is Denied Operation = Describe from host = 172.23.0.7 on resource = Topic:wikipedia.parsed",
            ),
        ),
        // bitnami/containers#71831
        (
            "[2024-09-04 22:16:02,851] INFO [SocketServer listenerType=CONTROLLER, nodeId=1] Failed authentication with /10.12.199.127 (channelId=10.12.199.221:9094-10.12.199.127:58542-0) (SSL handshake failed) (org.apache.kafka.common.network.Selector)",
            Parsed {
                component: Some("SocketServer listenerType=CONTROLLER, nodeId=1"),
                ..fields(
                    "2024-09-04T22:16:02.851Z",
                    Info,
                    "org.apache.kafka.common.network.Selector",
                    "Failed authentication with /10.12.199.127 (channelId=10.12.199.221:9094-10.12.199.127:58542-0) (SSL handshake failed)",
                )
            },
        ),
        // A mark behind the component, as in the brokers' own logs.
        (
            "[2026-11-22 23:18:55,892] INFO [kafka-log-cleaner-thread-0]: Starting (org.apache.kafka.storage.internals.log.LogCleaner$CleanerThread)",
            Parsed {
                component: Some("kafka-log-cleaner-thread-0"),
                ..fields(
                    "2026-11-22T23:18:55.892Z",
                    Info,
                    "org.apache.kafka.storage.internals.log.LogCleaner$CleanerThread",
                    "Starting",
                )
            },
        ),
    ]);
}

#[test]
fn the_layouts_of_confluent_strimzi_and_connect_are_read() {
    check(&[
        // elastic/beats, state-change-2.2.2.log
        (
            "[2020-04-23 00:28:21,796] [WARN ] [kafka-request-handler-7] [state.change.logger] - [Broker id=1] Ignoring LeaderAndIsr request from controller 1 with correlation id 1 epoch 27 for partition xxx.xxx.inventory.test.1-0-2 since its associated leader epoch 5 is not higher than the current leader epoch 5 ",
            Parsed {
                thread: Some("kafka-request-handler-7"),
                component: Some("Broker id=1"),
                ..fields(
                    "2020-04-23T00:28:21.796Z",
                    Warn,
                    "state.change.logger",
                    "Ignoring LeaderAndIsr request from controller 1 with correlation id 1 epoch 27 for partition xxx.xxx.inventory.test.1-0-2 since its associated leader epoch 5 is not higher than the current leader epoch 5",
                )
            },
        ),
        // elastic/integrations, test-strimzi_kafka-4-1-1.log
        (
            "2026-05-27 13:33:11 INFO [data-plane-kafka-request-handler-4] logger:305 - Principal = User:anon is Denied operation = DESCRIBE_CONFIGS from host = 0.0.0.0 on resource = Cluster:LITERAL:kafka-cluster for request = DescribeConfigs with resourceRefCount = 1 based on rule DefaultDeny",
            Parsed {
                thread: Some("data-plane-kafka-request-handler-4"),
                line: Some(305),
                ..fields(
                    "2026-05-27T13:33:11Z",
                    Info,
                    "logger",
                    "Principal = User:anon is Denied operation = DESCRIBE_CONFIGS from host = 0.0.0.0 on resource = Cluster:LITERAL:kafka-cluster for request = DescribeConfigs with resourceRefCount = 1 based on rule DefaultDeny",
                )
            },
        ),
        (
            "2026-05-27 13:34:02,000+0200 INFO [quorum-controller-0-event-handler] EventPerformanceMonitor:174 - [QuorumController id=0] In the last 60000 ms period, 386 controller events were completed, ..",
            Parsed {
                time: Some(EventTime {
                    ms: 1_779_881_642_000, // 11:34:02 in UTC
                    zoned: true,
                }),
                thread: Some("quorum-controller-0-event-handler"),
                line: Some(174),
                component: Some("QuorumController id=0"),
                ..fields(
                    "2026-05-27T11:34:02Z",
                    Info,
                    "EventPerformanceMonitor",
                    "In the last 60000 ms period, 386 controller events were completed, ..",
                )
            },
        ),
        // connect-log4j.properties: `[%d] %p %X{connector.context}%m (%c:%L)%n`
        (
            "[2024-05-27 13:34:02,000] INFO [my-sink|task-0] WorkerSinkTask{id=my-sink-0} Committing (org.apache.kafka.connect.runtime.WorkerSinkTask:354)",
            Parsed {
                component: Some("my-sink|task-0"),
                line: Some(354),
                ..fields(
                    "2024-05-27T13:34:02Z",
                    Info,
                    "org.apache.kafka.connect.runtime.WorkerSinkTask",
                    "WorkerSinkTask{id=my-sink-0} Committing",
                )
            },
        ),
        (
            "[2024-05-27 13:34:02,000] INFO Kafka version: 3.9.1 (my-custom.logger-name:?)",
            fields("2024-05-27T13:34:02Z", Info, "my-custom.logger-name", "Kafka version: 3.9.1"),
        ),
        (
            "[2024-05-27 13:34:02,000] WARN ISR is [1,2] (kafka.cluster.Partition) [kafka-request-handler-7]",
            Parsed {
                thread: Some("kafka-request-handler-7"),
                ..fields("2024-05-27T13:34:02Z", Warn, "kafka.cluster.Partition", "ISR is [1,2]")
            },
        ),
        // What could be taken for a thread and a logger, and is not.
        (
            "[2024-05-27 13:34:02,000] WARN [Broker id=1] Partition foo - 3 is gone (kafka.A)",
            Parsed {
                component: Some("Broker id=1"),
                ..fields("2024-05-27T13:34:02Z", Warn, "kafka.A", "Partition foo - 3 is gone")
            },
        ),
    ]);
}

#[test]
fn the_logger_is_found_behind_a_message_of_several_lines() {
    check(&[
        // bitnami/charts#14116
        (
            "[2022-12-28 14:16:50,313] INFO Stat of the created znode at /brokers/ids/0 is: 25,25,1672237010301,1672237010301,1,0,0,72062614476685312,364,0,25\n (kafka.zk.KafkaZkClient)",
            fields(
                "2022-12-28T14:16:50.313Z",
                Info,
                "kafka.zk.KafkaZkClient",
                "Stat of the created znode at /brokers/ids/0 is: 25,25,1672237010301,1672237010301,1,0,0,72062614476685312,364,0,25",
            ),
        ),
        (
            "[2021-10-11 09:40:10,139] INFO KafkaConfig values: \n\tadvertised.host.name = null\n\tlisteners = [\n[a](b)\n\t]\n\terror.class = java.lang.Exception\n (kafka.server.KafkaConfig)",
            fields(
                "2021-10-11T09:40:10.139Z",
                Info,
                "kafka.server.KafkaConfig",
                "KafkaConfig values: \n\tadvertised.host.name = null\n\tlisteners = [\n[a](b)\n\t]\n\terror.class = java.lang.Exception",
            ),
        ),
        (
            "[2026-11-22 23:19:01,977] INFO [kafka-log-cleaner-thread-0]: \n\tCleaned 0.9 MB (31.0 Mb/sec)\n\t99.8% fewer messages)\n (kafka.log.LogCleaner)",
            Parsed {
                component: Some("kafka-log-cleaner-thread-0"),
                ..fields(
                    "2026-11-22T23:19:01.977Z",
                    Info,
                    "kafka.log.LogCleaner",
                    "Cleaned 0.9 MB (31.0 Mb/sec)\n\t99.8% fewer messages)",
                )
            },
        ),
        // A writer to standard output got in between: nothing of it is lost.
        (
            "[2024-05-27 13:34:02,000] INFO starting (kafka.server.KafkaServer)\nOpenJDK warning: a b",
            fields(
                "2024-05-27T13:34:02Z",
                Info,
                "kafka.server.KafkaServer",
                "starting (kafka.server.KafkaServer)\nOpenJDK warning: a b",
            ),
        ),
        // The event was cut before its logger.
        (
            "[2024-05-27 13:34:02,000] INFO KafkaConfig values: \n\ta = null (or not)",
            fields("2024-05-27T13:34:02Z", Info, "", "KafkaConfig values: \n\ta = null (or not)"),
        ),
        // Line ends of Windows.
        (
            "[2024-05-27 13:34:02,000] INFO a\r\nb\r\n (kafka.A)\r",
            fields("2024-05-27T13:34:02Z", Info, "kafka.A", "a\r\nb"),
        ),
    ]);
}

#[test]
fn an_exception_gives_its_class_its_message_and_all_of_its_trace() {
    let cases = [
        // elastic/beats, server-2.0.0.log: no frames
        (
            "[2018-10-17 12:57:18,400] ERROR [ReplicaFetcher replicaId=10, leaderId=30, fetcherId=0] Error for partition test-3-0 at offset 0 (kafka.server.ReplicaFetcherThread)",
            "org.apache.kafka.common.errors.UnknownTopicOrPartitionException: This server does not host this topic-partition.",
            Parsed {
                component: Some("ReplicaFetcher replicaId=10, leaderId=30, fetcherId=0"),
                error: error(
                    "org.apache.kafka.common.errors.UnknownTopicOrPartitionException",
                    "This server does not host this topic-partition.",
                    "",
                ),
                ..fields(
                    "2018-10-17T12:57:18.400Z",
                    Error,
                    "kafka.server.ReplicaFetcherThread",
                    "Error for partition test-3-0 at offset 0",
                )
            },
        ),
        // elastic/beats, state-change-2.2.2.log: frames behind four blanks
        (
            "[2020-01-20 01:32:00,705] [ERROR] [controller-event-thread] [state.change.logger] - [Controller id=1 epoch=25] Controller 1 epoch 25 failed to change state for partition xxx.xxx.na.och.aud.1-0-2 from OfflinePartition to OnlinePartition",
            "kafka.common.StateChangeFailedException: Failed to elect leader for partition xxx.xxx.na.och.aud.1-0-2 under strategy OfflinePartitionLeaderElectionStrategy\n    at kafka.controller.PartitionStateMachine.$anonfun$doElectLeaderForPartitions$9(PartitionStateMachine.scala:390)\n    at scala.runtime.java8.JFunction0$mcV$sp.apply(JFunction0$mcV$sp.java:23)",
            Parsed {
                thread: Some("controller-event-thread"),
                component: Some("Controller id=1 epoch=25"),
                error: error(
                    "kafka.common.StateChangeFailedException",
                    "Failed to elect leader for partition xxx.xxx.na.och.aud.1-0-2 under strategy OfflinePartitionLeaderElectionStrategy",
                    "",
                ),
                ..fields(
                    "2020-01-20T01:32:00.705Z",
                    Error,
                    "state.change.logger",
                    "Controller 1 epoch 25 failed to change state for partition xxx.xxx.na.och.aud.1-0-2 from OfflinePartition to OnlinePartition",
                )
            },
        ),
        // Yolean/kubernetes-kafka#108: brackets in the exception's message
        (
            "[2017-12-17 21:33:52,638] ERROR [ReplicaManager broker=1] Error processing append operation on partition __consumer_offsets-32 (kafka.server.ReplicaManager)",
            "org.apache.kafka.common.errors.NotEnoughReplicasException: Number of insync replicas for partition __consumer_offsets-32 is [1], below required minimum [2]",
            Parsed {
                component: Some("ReplicaManager broker=1"),
                error: error(
                    "org.apache.kafka.common.errors.NotEnoughReplicasException",
                    "Number of insync replicas for partition __consumer_offsets-32 is [1], below required minimum [2]",
                    "",
                ),
                ..fields(
                    "2017-12-17T21:33:52.638Z",
                    Error,
                    "kafka.server.ReplicaManager",
                    "Error processing append operation on partition __consumer_offsets-32",
                )
            },
        ),
        // bitnami/charts#32637: log4j 2 names the jars
        (
            "[2025-04-09 10:17:49,720] ERROR Exiting Kafka due to fatal exception during startup. (kafka.Kafka$)",
            "java.lang.RuntimeException: Received a fatal error while waiting for the controller to acknowledge that we are caught up\n\tat org.apache.kafka.server.util.FutureUtils.waitWithLogging(FutureUtils.java:73) ~[kafka-server-common-4.0.0.jar:?]\n\tat kafka.Kafka$.main(Kafka.scala:97) [kafka_2.13-4.0.0.jar:?]\nCaused by: java.util.concurrent.CancellationException\n\tat java.base/java.util.concurrent.CompletableFuture.cancel(CompletableFuture.java:2478) ~[?:?]\n\t... 12 more",
            Parsed {
                error: error(
                    "java.lang.RuntimeException",
                    "Received a fatal error while waiting for the controller to acknowledge that we are caught up",
                    "",
                ),
                ..fields(
                    "2025-04-09T10:17:49.720Z",
                    Error,
                    "kafka.Kafka$",
                    "Exiting Kafka due to fatal exception during startup.",
                )
            },
        ),
        // AutoMQ/automq#1797
        (
            "[2024-08-14 16:36:07,774] ERROR Encountered fatal fault: Unexpected error in raft IO thread (org.apache.kafka.server.fault.ProcessTerminatingFaultHandler)",
            "java.lang.IllegalArgumentException: Got an unexpected empty key in the record\n\tat org.apache.kafka.raft.internals.RecordsIterator.decodeControlRecord(RecordsIterator.java:351)",
            Parsed {
                error: error(
                    "java.lang.IllegalArgumentException",
                    "Got an unexpected empty key in the record",
                    "",
                ),
                ..fields(
                    "2024-08-14T16:36:07.774Z",
                    Error,
                    "org.apache.kafka.server.fault.ProcessTerminatingFaultHandler",
                    "Encountered fatal fault: Unexpected error in raft IO thread",
                )
            },
        ),
        // sentry-kubernetes/charts#1733: `(k: v)` at the very end is no logger
        (
            "[2025-03-20 08:04:15,034] ERROR Processor got uncaught exception. (kafka.network.Processor)",
            "java.lang.OutOfMemoryError: Cannot reserve 369295617 bytes of direct buffer memory (allocated: .., limit: ..)",
            Parsed {
                error: error(
                    "java.lang.OutOfMemoryError",
                    "Cannot reserve 369295617 bytes of direct buffer memory (allocated: .., limit: ..)",
                    "",
                ),
                ..fields(
                    "2025-03-20T08:04:15.034Z",
                    Error,
                    "kafka.network.Processor",
                    "Processor got uncaught exception.",
                )
            },
        ),
        // eventuate-messaging-kafka#53: a lambda's frame
        (
            "[2022-02-20 17:18:49,545] ERROR [KafkaServer id=0] Fatal error during KafkaServer startup. Prepare to shutdown (kafka.server.KafkaServer)",
            "java.lang.OutOfMemoryError: ..\n\tat kafka.log.LogManager$$Lambda$337/0x0000000800e8a8c0.apply$mcVI$sp(Unknown Source)",
            Parsed {
                component: Some("KafkaServer id=0"),
                error: error("java.lang.OutOfMemoryError", "..", ""),
                ..fields(
                    "2022-02-20T17:18:49.545Z",
                    Error,
                    "kafka.server.KafkaServer",
                    "Fatal error during KafkaServer startup. Prepare to shutdown",
                )
            },
        ),
        // conduktor/kafka-stack-docker-compose#47
        (
            "[2019-02-16 19:28:43,786] ERROR Error while creating log for __confluent.support.metrics-0 in dir /var/lib/kafka/data (kafka.server.LogDirFailureChannel)",
            "java.io.IOException: Invalid argument\n\tat sun.nio.ch.FileChannelImpl.map0(Native Method)",
            Parsed {
                error: error("java.io.IOException", "Invalid argument", ""),
                ..fields(
                    "2019-02-16T19:28:43.786Z",
                    Error,
                    "kafka.server.LogDirFailureChannel",
                    "Error while creating log for __confluent.support.metrics-0 in dir /var/lib/kafka/data",
                )
            },
        ),
        // openimsdk/helm-charts#84: an exception without a message
        (
            "[2024-02-22 01:21:14,395] ERROR [BrokerServer id=0] Received a fatal error while waiting for the controller to acknowledge that we are caught up (kafka.server.BrokerServer)",
            "java.util.concurrent.CancellationException\n\tat java.base/java.util.concurrent.CompletableFuture.cancel(CompletableFuture.java:2478)",
            Parsed {
                component: Some("BrokerServer id=0"),
                error: error("java.util.concurrent.CancellationException", "", ""),
                ..fields(
                    "2024-02-22T01:21:14.395Z",
                    Error,
                    "kafka.server.BrokerServer",
                    "Received a fatal error while waiting for the controller to acknowledge that we are caught up",
                )
            },
        ),
        // apache/kafka#13075: one blank before the exception and its frames
        (
            "[2019-06-11 17:58:46,304] ERROR [ReplicaAlterLogDirsThread-1]: Error due to (kafka.server.ReplicaAlterLogDirsThread)",
            " org.apache.kafka.common.KafkaException: Error processing data for partition metrics_timers-35 offset 4224887\n at kafka.server.AbstractFetcherThread.$anonfun$processFetchRequest$7(AbstractFetcherThread.scala:342)",
            Parsed {
                component: Some("ReplicaAlterLogDirsThread-1"),
                error: error(
                    "org.apache.kafka.common.KafkaException",
                    "Error processing data for partition metrics_timers-35 offset 4224887",
                    "",
                ),
                ..fields(
                    "2019-06-11T17:58:46.304Z",
                    Error,
                    "kafka.server.ReplicaAlterLogDirsThread",
                    "Error due to",
                )
            },
        ),
        // No indentation at all, a message of two lines, a suppressed exception.
        (
            "[2024-05-27 13:34:02,000] FATAL a (kafka.A)",
            "a.b.Fault$Inner: one\ntwo: 2\nat a.b.C.<init>(C.java:1)\n\tSuppressed: a.b.X: y\n\t\tat a.b.D.d(D.java)\n\t\t... 3 more",
            Parsed {
                error: error("a.b.Fault$Inner", "one\ntwo: 2", ""),
                ..fields("2024-05-27T13:34:02Z", Fatal, "kafka.A", "a")
            },
        ),
        // Not called an exception, and one all the same.
        (
            "[2024-05-27 13:34:02,000] DEBUG a (kafka.A)",
            "a.b.Vexed: c\r\n\tat a.b.C.d(C.java:1)",
            Parsed {
                error: error("a.b.Vexed", "c", ""),
                ..fields("2024-05-27T13:34:02Z", Debug, "kafka.A", "a")
            },
        ),
        // The logger stands before the exception, behind a message of two lines.
        (
            "[2024-05-27 13:34:02,000] WARN a\nb: c\n (kafka.A)",
            "java.lang.Error\n\tat a.b.C.d(C.java:1)",
            Parsed {
                error: error("java.lang.Error", "", ""),
                ..fields("2024-05-27T13:34:02Z", Warn, "kafka.A", "a\nb: c")
            },
        ),
    ];
    for (lines, stack_trace, mut expected) in cases {
        if let Some(error) = &mut expected.error {
            error.stack_trace = stack_trace;
        }
        check(&[
            (&format!("{lines}\n{stack_trace}"), expected.clone()),
            (&format!("{lines}\n{stack_trace}\n"), expected), // an empty line at the end
        ]);
    }
}

#[test]
fn traces_without_a_class_and_within_a_message_are_traces() {
    let frames = "\tat a.b.C.d(C.java:1)\n\tat a.b.C.e(C.java:2)";
    let only_frames = LoggedError { class: None, message: None, stack_trace: frames };
    let cause = "Caused by: a.b.CException: d\n\tat a.b.C.d(C.java:1)";
    check(&[
        (
            &format!("[2024-05-27 13:34:02,000] ERROR a (kafka.A)\n{frames}"),
            Parsed {
                error: Some(only_frames),
                ..fields("2024-05-27T13:34:02Z", Error, "kafka.A", "a")
            },
        ),
        (
            &format!("[2024-05-27 13:34:02,000] ERROR a (kafka.A)\n{cause}"),
            Parsed {
                error: error("a.b.CException", "d", cause),
                ..fields("2024-05-27T13:34:02Z", Error, "kafka.A", "a")
            },
        ),
        (
            &format!("[2024-05-27 13:34:02,000] ERROR a\n{frames}\n (kafka.A)"),
            Parsed {
                error: Some(only_frames),
                ..fields("2024-05-27T13:34:02Z", Error, "kafka.A", "a")
            },
        ),
    ]);
}

#[test]
fn levels_are_known_by_synonyms_padded_and_in_any_case() {
    for (spelling, level) in [
        ("INFO ", Some(Info)),
        (" INFO", Some(Info)),
        ("info", Some(Info)),
        ("Warning", Some(Warn)),
        ("[ERROR]", Some(Error)),
        ("[INFO ]", Some(Info)),
        ("[ WARN]", Some(Warn)),
        ("SEVERE", Some(Error)),
        ("FATAL", Some(Fatal)),
        ("FINE", Some(Debug)),
        ("finest", Some(Trace)),
        ("INFORMATION", None),
        ("[]", None),
        ("[INFO", None),
        ("1", None),
    ] {
        let event = format!("[2024-05-27 13:34:02,000] {spelling} text (kafka.A)");
        let parsed = parse_utc(&event);
        let message = if level.is_some() { "text" } else { &event };
        assert_eq!((parsed.level, parsed.message), (level, message), "{event}");
    }
}

#[test]
fn text_in_no_known_layout_is_the_message_as_it_is() {
    for (event, has_time) in [
        ("", false),
        ("===> Launching kafka ...", false), // Confluent's image
        ("[", false),
        ("[2024-05-27 13:34:02,000 INFO a (b.C)", false),
        ("2024-05-27 13:34:02,000] INFO a (b.C)", true),
        ("[2024-05-27 13:34:02,000]", true),
        ("[2024-05-27 13:34:02,000] \n", true),
        // apache/kafka#2863: garbage collection from Java 9 on, and before
        (
            "[2017-07-20T14:35:38.820+0800][gc,start     ] GC(0) Pause Initial Mark (Metadata GC Threshold)",
            true,
        ),
        ("[2017-07-20T14:35:38.820+0800][info][gc] GC(0) Pause (kafka.A)", true),
        ("2017-07-20T14:35:38.820+0800: 1.234: [GC pause (young)]", true),
        ("ERROR failed to write blocks, startOffset: 1 (SlidingWindowService)", false),
        ("pri=ERROR t=kafka-request-handler-6 at=ReplicaManager", false),
        ("java.lang.Error: a\n\tat b.C.d(E.java)", false),
        ("\u{e9}\u{20ac}", false),
    ] {
        let parsed = parse_utc(event);
        let expected = Parsed {
            time: parsed.time,
            level: None,
            ..fields("1970-01-01T00:00:00Z", Info, "", event)
        };
        assert_eq!(parsed, expected);
        assert_eq!(parsed.time.is_some(), has_time, "{event}");
    }
}

#[test]
fn no_cut_of_an_event_makes_the_parser_panic() {
    let events = [
        "[2020-01-20 01:32:00,705+02:00] [ERROR] [t] [a.b:7] - [C id=1]: \u{e9}\njava.lang.Error: \u{20ac}\n at a(b)\n... 1 more\n (a.b) [t]",
        "2026-05-27 13:34:02.000Z INFO [t] A:174 - [Q id=0] m (a.b:?)",
    ];
    for event in events {
        for (start, _) in event.char_indices() {
            for (end, _) in event[start..].char_indices() {
                parse_utc(&event[start..start + end]);
            }
        }
    }
}

/// The logs of a broker 3.9 and one 4.1, of some minutes with troubles made on purpose.
fn broker_logs() -> Vec<(String, String)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/logs");
    let entries = fs::read_dir(dir).expect("the logs are there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut logs: Vec<(String, String)> = paths
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a log");
            (path.display().to_string(), text)
        })
        .collect();
    logs.sort();
    logs
}

/// Joins lines into events: one starts with a time at column 0, optionally after `[`.
fn events(log: &str) -> Vec<&str> {
    let mut times = TimeReader::new(TimeZone::UTC);
    let mut starts = Vec::new();
    let mut at = 0;
    for line in log.split_inclusive('\n') {
        let text = line.strip_prefix('[').unwrap_or(line);
        if times.read(text.as_bytes()).is_some() {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(log.len());
    let bounds = starts.windows(2);
    bounds.map(|bound| log[bound[0]..bound[1]].trim_end_matches('\n')).collect()
}

#[test]
fn every_event_of_two_real_brokers_is_read_and_no_byte_of_it_lost() {
    let (mut n_events, mut n_several_lines, mut n_errors) = (0, 0, 0);
    for (path, log) in broker_logs() {
        let events = events(&log);
        let len: usize = events.iter().map(|event| event.len() + 1).sum();
        assert_eq!(len, log.len(), "{path} starts within an event");
        for event in events {
            let parsed = parse_utc(event);
            let not_in_a_field = without_fields(event, &parsed);
            let is_layout = |c| "[]():, \n\t".contains(c);
            assert!(not_in_a_field.chars().all(is_layout), "{path}: {event}");
            if let Some(error) = &parsed.error {
                let (message, logger) = (parsed.message, parsed.logger.expect("a logger"));
                let text = format!("{message} ({logger})\n{}", error.stack_trace);
                assert!(event.ends_with(&text), "{path}: {event}");
                let class = error.class.expect("a class");
                let message = error.message.map(|text| format!(": {text}"));
                let header = format!("{class}{}", message.unwrap_or_default());
                assert_eq!(error.stack_trace.lines().next(), Some(header.as_str()));
                n_errors += 1;
            }
            n_events += 1;
            n_several_lines += usize::from(event.contains('\n'));
        }
    }
    assert_eq!((n_events, n_several_lines, n_errors), (3649, 39, 25));
}

/// Returns what is left of `event` without its fields, which have to stand there in this order.
/// Panics if it lacks one that every event of the two brokers has.
fn without_fields(event: &str, parsed: &Parsed<'_>) -> String {
    let ms = parsed.time.expect("a time").ms;
    let time = Timestamp::from_millisecond(ms).expect("a time");
    let fields = [
        Some(time.strftime("%F %T,%3f").to_string()),
        parsed.level.map(|level| level.as_str().to_owned()),
        Some(parsed.component.unwrap_or_default().to_owned()),
        Some(parsed.message.to_owned()),
        parsed.logger.map(str::to_owned),
        Some(parsed.error.map_or("", |error| error.stack_trace).to_owned()),
    ];
    let mut left = String::new();
    let mut rest = event;
    for field in fields {
        let field = field.unwrap_or_else(|| panic!("{event}: {parsed:?}"));
        let (before, behind) = rest.split_once(&field).expect(event);
        left.push_str(before);
        rest = behind;
    }
    left + rest
}
