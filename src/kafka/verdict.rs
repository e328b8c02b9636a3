//! What each error code of Produce means for a batch.

/// What is to be done about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stands in the log.
    Arrived,
    /// Ask for the leaders again, then resend it unchanged.
    Refresh,
    /// Resend it unchanged after a while.
    Retry,
    /// As `Retry`, but if it lasts the batch itself is broken, and only reading it again helps.
    Corrupt,
    /// As `Retry`, slowly, for somebody must do something first.
    Hold,
    /// Halve it; a single record can never be taken. It used up no sequence numbers.
    Halve,
    /// The records that the answer names can never be taken; send the others. It used up no
    /// sequence numbers.
    Reject,
    /// A consequence of an earlier batch, or the broker has forgotten us.
    OutOfSequence,
    /// Another process has our producer id: stop.
    Fenced,
}

/// One row of the table of Produce errors.
struct Row {
    code: i16,
    name: &'static str,
    verdict: Verdict,
    /// What the operator can do, or what it means to her; empty where the name says it.
    advice: &'static str,
}

const fn row(code: i16, name: &'static str, verdict: Verdict, advice: &'static str) -> Row {
    Row { code, name, verdict, advice }
}

/// Error codes of Produce; those it does not hold are treated like -1.
///
/// Idempotence makes `Retry` harmless also where the batch may have been appended (7, 20).
#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(-1, "UNKNOWN_SERVER_ERROR", Verdict::Retry, "see the broker's log"),
    row(0, "NONE", Verdict::Arrived, ""),
    row(2, "CORRUPT_MESSAGE", Verdict::Corrupt, "the checksum is wrong on the broker's side"),
    row(3, "UNKNOWN_TOPIC_OR_PARTITION", Verdict::Refresh, ""),
    row(5, "LEADER_NOT_AVAILABLE", Verdict::Refresh, "the partition has no leader at the moment"),
    row(6, "NOT_LEADER_OR_FOLLOWER", Verdict::Refresh, "the leader has moved"),
    row(7, "REQUEST_TIMED_OUT", Verdict::Retry, "the replicas are slow"),
    row(10, "MESSAGE_TOO_LARGE", Verdict::Halve, "larger than max.message.bytes of the topic"),
    row(13, "NETWORK_EXCEPTION", Verdict::Retry, ""),
    row(17, "INVALID_TOPIC_EXCEPTION", Verdict::Hold, "no topic can have this name, or it is an internal one"),
    row(18, "RECORD_LIST_TOO_LARGE", Verdict::Halve, "larger than segment.bytes of the topic"),
    row(19, "NOT_ENOUGH_REPLICAS", Verdict::Retry, "fewer replicas in sync than min.insync.replicas"),
    row(20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", Verdict::Retry, "fewer replicas in sync than min.insync.replicas"),
    row(29, "TOPIC_AUTHORIZATION_FAILED", Verdict::Hold, "grant Write and Describe on the topic"),
    row(31, "CLUSTER_AUTHORIZATION_FAILED", Verdict::Hold, "grant IdempotentWrite on the cluster"),
    row(32, "INVALID_TIMESTAMP", Verdict::Hold, "time stamps too far from the broker's clock: set this host's clock right, or timestamp = \"read\" of the input, and start anew"),
    row(35, "UNSUPPORTED_VERSION", Verdict::Hold, "the broker does not know this request"),
    row(42, "INVALID_REQUEST", Verdict::Hold, "the broker does not understand this request"),
    row(43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", Verdict::Hold, "the topic keeps an old message format"),
    row(44, "POLICY_VIOLATION", Verdict::Reject, ""),
    row(45, "OUT_OF_ORDER_SEQUENCE_NUMBER", Verdict::OutOfSequence, ""),
    row(46, "DUPLICATE_SEQUENCE_NUMBER", Verdict::Arrived, ""),
    row(47, "INVALID_PRODUCER_EPOCH", Verdict::Fenced, "another process produces under our producer id"),
    row(53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", Verdict::Hold, "grant Write on the transactional id"),
    row(56, "KAFKA_STORAGE_ERROR", Verdict::Retry, "the broker cannot write to its disk"),
    row(59, "UNKNOWN_PRODUCER_ID", Verdict::OutOfSequence, ""),
    row(74, "FENCED_LEADER_EPOCH", Verdict::Refresh, "the leader has moved"),
    row(75, "UNKNOWN_LEADER_EPOCH", Verdict::Refresh, "the leader has moved"),
    row(76, "UNSUPPORTED_COMPRESSION_TYPE", Verdict::Hold, "set batch.compression to one that the topic allows"),
    row(87, "INVALID_RECORD", Verdict::Reject, ""),
    row(89, "THROTTLING_QUOTA_EXCEEDED", Verdict::Retry, ""),
    row(90, "PRODUCER_FENCED", Verdict::Fenced, "another process produces under our producer id"),
    row(100, "UNKNOWN_TOPIC_ID", Verdict::Refresh, "the topic was deleted or made anew"),
    row(103, "INCONSISTENT_TOPIC_ID", Verdict::Refresh, "the topic was deleted or made anew"),
];

/// Error codes of other answers that a broker may give us, for the log.
const OTHERS: &[(i16, &str)] = &[
    (14, "COORDINATOR_LOAD_IN_PROGRESS"),
    (15, "COORDINATOR_NOT_AVAILABLE"),
    (16, "NOT_COORDINATOR"),
    (33, "UNSUPPORTED_SASL_MECHANISM"),
    (34, "ILLEGAL_SASL_STATE"),
    (41, "NOT_CONTROLLER"),
    (51, "CONCURRENT_TRANSACTIONS"),
    (58, "SASL_AUTHENTICATION_FAILED"),
];

fn find(code: i16) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.code == code)
}

/// Returns what is to be done about a batch that was answered with `code`.
pub(super) fn verdict(code: i16) -> Verdict {
    find(code).map_or(Verdict::Retry, |row| row.verdict)
}

/// Whether a batch that was answered with `code`, not with success, may stand in the log. A leader
/// that ceases to be one answers NOT_LEADER_OR_FOLLOWER (6) also of what it has appended and the
/// replicas have not.
/// Source: Kafka's `DelayedProduce`.
pub(super) fn may_have_arrived(code: i16) -> bool {
    matches!(code, 6 | 7 | 13 | 20 | 56) || find(code).is_none_or(|row| row.code == -1)
}

/// Returns name and number for the log.
pub(super) fn named(code: i16) -> String {
    let other = || OTHERS.iter().find(|(other, _)| *other == code).map(|(_, name)| *name);
    let name = find(code).map(|row| row.name).or_else(other);
    name.map_or_else(|| format!("{code}"), |name| format!("{name} ({code})"))
}

/// Returns what the operator should know about `code`, with the broker's own words if there are.
pub(super) fn explained(code: i16, message: Option<&str>) -> String {
    let mut text = named(code);
    let advice = find(code).map_or("", |row| row.advice);
    for more in [advice, message.unwrap_or_default()] {
        if !more.is_empty() {
            text.push_str(": ");
            text.extend(more.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_verdict_the_protocol_calls_for() {
        let expected: [(&[i16], Verdict); 9] = [
            (&[0, 46], Verdict::Arrived),
            (&[3, 5, 6, 74, 75, 100, 103], Verdict::Refresh),
            (&[-1, 7, 13, 19, 20, 56, 89], Verdict::Retry),
            (&[2], Verdict::Corrupt),
            (&[17, 29, 31, 32, 35, 42, 43, 53, 76], Verdict::Hold),
            (&[10, 18], Verdict::Halve),
            (&[44, 87], Verdict::Reject),
            (&[45, 59], Verdict::OutOfSequence),
            (&[47, 90], Verdict::Fenced),
        ];
        let mut n_rows = 0;
        for (codes, expected) in expected {
            for code in codes {
                assert_eq!(verdict(*code), expected, "{code}");
                n_rows += 1;
            }
        }
        assert_eq!(TABLE.len(), n_rows);
    }

    #[test]
    fn each_code_has_the_name_that_kafka_gives_it() {
        let rows = TABLE.iter().map(|row| (row.code, row.name)).filter(|(code, _)| *code != 0);
        for (code, ours) in rows.chain(OTHERS.iter().copied()) {
            let error = kafka_protocol::ResponseError::try_from_code(code);
            let name = format!("{:?}", error.expect("kafka-protocol knows it"));
            let squeeze = |name: &str| name.replace('_', "").to_lowercase();
            assert!(squeeze(ours).starts_with(&squeeze(&name)), "{code} is {name}, not {ours}");
        }
    }

    #[test]
    fn a_code_nobody_knows_is_tried_again_and_may_have_been_appended() {
        for code in [-1, 1234] {
            assert_eq!(verdict(code), Verdict::Retry, "{code}");
            assert!(may_have_arrived(code), "{code}");
        }
    }

    #[test]
    fn what_a_broker_says_goes_to_the_log_without_control_characters() {
        assert_eq!(
            explained(87, Some("bad\n\u{1b}[31mrecord")),
            "INVALID_RECORD (87): bad  [31mrecord"
        );
        assert_eq!(explained(1234, None), "1234");
    }
}
