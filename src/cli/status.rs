//! `shipper status`: how the tail on this host is, in words or as JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use super::{StatusArgs, plain};
use crate::config::{Config, show_duration};
use crate::error::Error;
use crate::status::{self, Kafka, Status, Trouble};

/// `EX_UNAVAILABLE` of sysexits(3).
const EXIT_UNAVAILABLE: u8 = 69;

/// Asks, and prints the answer; returns the exit code.
///
/// Errors: [`Error::Config`]; [`Error::State`] where the tail does not answer.
pub fn run(args: &StatusArgs) -> Result<u8, Error> {
    let config = Config::load(&args.config.config)
        .map_err(|problems| Error::Config { problems: problems.to_string() })?;
    let state_dir = &config.state_dir;
    let status = status::ask(state_dir).map_err(|source| {
        let path = status::socket(state_dir);
        Error::State { attempt: "ask the tail behind", path, source }
    })?;
    let Some(status) = status else {
        let path = state_dir.display();
        let text = format!(
            "shipper: no tail works in {path}; `shipper checkpoint list` shows how far it came\n"
        );
        let _ = io::stderr().write_all(text.as_bytes());
        return Ok(EXIT_UNAVAILABLE);
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&status).expect("it has only keys of text") + "\n",
        false => show(&status),
    };
    // Nobody is left to tell if the output is closed.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(u8::from(!is_well(&status)))
}

fn is_well(status: &Status) -> bool {
    let kafka = status.kafka.as_ref();
    status.counts.is_some() && kafka.is_some_and(|kafka| kafka.all_troubles().next().is_none())
}

fn show(status: &Status) -> String {
    let Status { version, pid, running_seconds, .. } = status;
    let mut text = format!(
        "tail: shipper {version}, process {pid}, running for {}\n",
        show_seconds(*running_seconds)
    );
    match &status.counts {
        Some(counts) => {
            for name in ["events_read", "records_acked", "records_rejected", "bytes_lost"] {
                let _ = writeln!(text, "  {name:<17}{:>15}", counts.get(name).unwrap_or(&0));
            }
        }
        None => text += "  its hub does not answer: it hangs, or the machine is very busy\n",
    }
    match &status.kafka {
        Some(kafka) => show_kafka(kafka, &mut text),
        None => text += "kafka: the producer's thread does not answer\n",
    }
    text
}

fn show_kafka(kafka: &Kafka, text: &mut String) {
    let well = if kafka.all_troubles().next().is_none() { "well" } else { "not well" };
    let Kafka { batches_unacknowledged, records_unacknowledged, .. } = kafka;
    let _ = writeln!(
        text,
        "kafka: {well}; {records_unacknowledged} records in {batches_unacknowledged} batches not \
         acknowledged"
    );
    if let Some(oldest) = &kafka.oldest_unacknowledged {
        let _ = writeln!(
            text,
            "  the oldest waits for {}: topic {:?} partition {}",
            show_seconds(oldest.seconds),
            oldest.topic,
            oldest.partition
        );
    }
    for broker in &kafka.brokers {
        let node = broker.node.map_or_else(|| "-".into(), |node| node.to_string());
        let address = plain(&broker.address);
        let in_flight = broker.requests_in_flight;
        let _ = writeln!(
            text,
            "  broker {address} (node {node}): {}, {in_flight} requests in flight",
            plain(&broker.state)
        );
        if let Some(Trouble { reason, seconds, failures, .. }) = &broker.trouble {
            let seconds = show_seconds(*seconds);
            let _ = writeln!(text, "    {} ({failures} times in {seconds})", plain(reason));
        }
    }
    for Trouble { subject, reason, seconds, failures } in &kafka.troubles {
        let (subject, reason, seconds) = (plain(subject), plain(reason), show_seconds(*seconds));
        let _ = writeln!(text, "  {subject}: {reason} ({failures} times in {seconds})");
    }
}

fn show_seconds(seconds: u64) -> String {
    match seconds {
        0 => "less than a second".into(),
        1..600 => show_duration(Duration::from_secs(seconds)),
        600..36_000 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Broker, Oldest};

    fn broker(address: &str, node: i32, state: &str, trouble: Option<Trouble>) -> Broker {
        let (address, state) = (address.to_owned(), state.to_owned());
        Broker { address, node: Some(node), state, requests_in_flight: 0, trouble }
    }

    fn trouble(subject: &str, reason: &str) -> Trouble {
        Trouble { subject: subject.into(), reason: reason.into(), seconds: 750, failures: 640 }
    }

    #[test]
    fn what_is_wrong_is_shown_in_plain_words() {
        let down = trouble("broker b:2", "cannot connect: \u{1b}[31mConnection refused");
        let kafka = Kafka {
            brokers: vec![
                broker("a:1", 1, "connected", None),
                broker("b:2", 2, "not connected", Some(down)),
            ],
            troubles: vec![trouble("topic \"t\" partition 0", "NOT_ENOUGH_REPLICAS (19)")],
            batches_unacknowledged: 2,
            records_unacknowledged: 700,
            oldest_unacknowledged: Some(Oldest { topic: "t".into(), partition: 0, seconds: 59 }),
        };
        let counts = [("events_read".to_owned(), 1700), ("records_acked".to_owned(), 1000)];
        let mut status = Status {
            version: "1.2.3".into(),
            pid: 4,
            running_seconds: 36_001,
            counts: Some(counts.into()),
            kafka: Some(kafka),
        };
        let expected = r#"tail: shipper 1.2.3, process 4, running for 10h
  events_read                 1700
  records_acked               1000
  records_rejected               0
  bytes_lost                     0
kafka: not well; 700 records in 2 batches not acknowledged
  the oldest waits for 59s: topic "t" partition 0
  broker a:1 (node 1): connected, 0 requests in flight
  broker b:2 (node 2): not connected, 0 requests in flight
    cannot connect: \u{1b}[31mConnection refused (640 times in 12m)
  topic "t" partition 0: NOT_ENOUGH_REPLICAS (19) (640 times in 12m)
"#;
        assert_eq!(show(&status), expected);
        assert!(!is_well(&status));
        (status.counts, status.kafka) = (None, None);
        assert!(show(&status).ends_with("kafka: the producer's thread does not answer\n"));
        assert!(!is_well(&status));
    }
}
