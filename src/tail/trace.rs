//! Which lines belong to a stack trace, as Java and Python write it.
//!
//! A trace belongs to the line before it, which says what went wrong: loggers of both languages
//! write it there. What is known of an event that began before is no more than [`Trace::Inside`],
//! so that an event which reached its limit goes on alike before and after a restart.

/// Where in a stack trace an event is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trace {
    /// Nothing has been seen of the event.
    #[default]
    Before,
    /// No trace has been seen.
    Outside,
    /// In a trace.
    Inside,
    /// Behind the line of a Python trace that names the exception.
    Raised,
    /// Behind the line that says that another Python trace follows.
    Chained,
}

impl Trace {
    /// Tells whether a line belongs to the event, and takes it in; where it does not belong, it
    /// is taken as the first of an event.
    ///
    /// Source: `java.lang.Throwable.printStackTrace`; `%xEx` of log4j 2 puts `~[jar:version]`
    /// behind frames.
    pub fn goes_on_in_java(&mut self, line: &[u8]) -> bool {
        let is_frame = is_java_frame(line);
        let is_first = *self == Trace::Before;
        let goes_on = !is_first
            && (is_frame
                || is_indented(line)
                || line.is_empty()
                || (*self == Trace::Outside && is_throwable(line)));
        *self = match self {
            _ if is_frame || is_throwable(line) || line.starts_with(b"Exception in thread ") => {
                Trace::Inside
            }
            Trace::Inside if goes_on => Trace::Inside,
            _ => Trace::Outside,
        };
        goes_on
    }

    /// Does the same for Python.
    ///
    /// Source: `traceback.TracebackException.format`.
    pub fn goes_on_in_python(&mut self, line: &[u8]) -> bool {
        let begins_trace = line.starts_with(b"Traceback (most recent call last)");
        let is_link = [
            &b"During handling of the above exception, another exception occurred:"[..],
            b"The above exception was the direct cause of the following exception:",
        ]
        .contains(&line);
        let (goes_on, next) = match *self {
            Trace::Before => (false, Trace::Outside),
            // An empty line is no event, and the lines of a chain have some between them.
            state if line.is_empty() || is_indented(line) => (true, state),
            Trace::Outside | Trace::Chained if begins_trace => (true, Trace::Inside),
            Trace::Inside if begins_trace => (true, Trace::Inside),
            Trace::Inside if names_python_exception(line) => (true, Trace::Raised),
            Trace::Raised if is_link => (true, Trace::Chained),
            _ => (false, Trace::Outside),
        };
        *self = if !goes_on && begins_trace { Trace::Inside } else { next };
        goes_on
    }
}

fn is_indented(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Tells whether a line is one of a trace, but not its first.
fn is_java_frame(line: &[u8]) -> bool {
    let text = line.trim_ascii_start();
    let is_inner = text.len() < line.len() && (text.starts_with(b"at ") || is_n_more(text));
    let is_cause = [&b"Caused by: "[..], b"Suppressed: "].iter().any(|word| text.starts_with(word));
    is_inner || is_cause || is_n_more(line)
}

/// `... 12 more`.
fn is_n_more(line: &[u8]) -> bool {
    let number = line.strip_prefix(b"... ").and_then(|rest| rest.first());
    number.is_some_and(u8::is_ascii_digit)
}

/// Tells whether a line is the first of a trace, as in `java.io.IOException: no` or without the
/// message: the full name of a class that is named as throwables are.
fn is_throwable(line: &[u8]) -> bool {
    let end = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
    let name = line[..end].trim_ascii_end();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._$".contains(byte);
    name.iter().all(is_name)
        && name.contains(&b'.')
        && [&b"Exception"[..], b"Error", b"Throwable"].iter().any(|word| name.ends_with(word))
}

/// Tells whether a line is the last of a Python trace, as in `ValueError: no` or without the
/// message.
fn names_python_exception(line: &[u8]) -> bool {
    let end = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._".contains(byte) || *byte >= 128;
    !line[0].is_ascii_digit() && line[..end].iter().all(is_name) && end > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joins the lines of `events` and compares what comes apart again.
    fn check(goes_on: fn(&mut Trace, &[u8]) -> bool, events: &[&str]) {
        let mut trace = Trace::default();
        let mut found: Vec<String> = Vec::new();
        for line in events.join("\n").split('\n') {
            match found.last_mut() {
                Some(event) if goes_on(&mut trace, line.as_bytes()) => {
                    event.push('\n');
                    event.push_str(line);
                }
                Some(_) => found.push(line.into()),
                None => {
                    assert!(!goes_on(&mut trace, line.as_bytes()), "{line}");
                    found.push(line.into());
                }
            }
        }
        assert_eq!(found, events);
    }

    fn check_java(events: &[&str]) {
        check(Trace::goes_on_in_java, events);
    }

    fn check_python(events: &[&str]) {
        check(Trace::goes_on_in_python, events);
    }

    #[test]
    fn a_java_trace_belongs_to_the_line_that_was_logged() {
        check_java(&[
            "10:17:48 INFO starting",
            "10:17:49 ERROR Exiting Kafka due to fatal exception during startup.\n\
             java.lang.RuntimeException: Received a fatal error\n\
             \tat org.apache.kafka.server.util.FutureUtils.waitWithLogging(FutureUtils.java:73) ~[kafka-server-common-4.0.0.jar:?]\n\
             \tat kafka.Kafka$.main(Kafka.scala:97) [kafka_2.13-4.0.0.jar:?]\n\
             Caused by: java.util.concurrent.CancellationException\n\
             \tat java.base/java.util.concurrent.CompletableFuture.cancel(CompletableFuture.java:2478)\n\
             \t... 12 more",
            "10:17:50 INFO stopping",
            // Without frames, and without a message.
            "10:17:51 ERROR Error for partition test-3-0 at offset 0\n\
             org.apache.kafka.common.errors.UnknownTopicOrPartitionException: not hosted",
            "10:17:52 ERROR again\njava.util.concurrent.CancellationException\n    at a.B$.c(B.scala:1)\n",
            "10:17:53 WARN end",
        ]);
    }

    #[test]
    fn java_traces_without_a_logger_are_events_of_their_own() {
        check_java(&[
            "Exception in thread \"main\" java.lang.IllegalStateException: closed\n\
             \tat a.Main.run(Main.java:5)\n\
             \tat a.Main.main(Main.java:1)\n\
             \tSuppressed: java.io.IOException: pipe\n\
             \t\tat a.Main.close(Main.java:9)\n\
             \t\t... 1 more\n\
             \tCaused by: java.io.EOFException\n\
             \t\t... 2 more",
            "java.lang.OutOfMemoryError: Java heap space",
            "java.lang.StackOverflowError\n\tat a.B.c(Native Method)\n\tat a.B.c(Unknown Source)",
            "done: no error",
        ]);
    }

    #[test]
    fn what_is_indented_belongs_to_the_line_before_it_in_java() {
        check_java(&[
            "INFO config:\n  a = 1\n\tb = 2\n\n  c = 3",
            "INFO x.y.Error of mine",
            "INFO",
        ]);
    }

    #[test]
    fn a_python_traceback_belongs_to_the_line_that_was_logged() {
        check_python(&[
            "INFO:root:begin",
            "ERROR:root:division failed\n\
             Traceback (most recent call last):\n  \
               File \"/srv/app.py\", line 7, in <module>\n    \
                 1 / 0\n    \
                 ~~^~~\n\
             ZeroDivisionError: division by zero",
            "INFO:root:next",
            "ERROR:root:no message\n\
             Traceback (most recent call last):\n  \
               File \"/srv/app.py\", line 9, in f\n    \
                 raise KeyboardInterrupt\n  \
               [Previous line repeated 996 more times]\n\
             KeyboardInterrupt",
            "plain text",
        ]);
    }

    #[test]
    fn chained_python_tracebacks_are_one_event() {
        for link in [
            "During handling of the above exception, another exception occurred:",
            "The above exception was the direct cause of the following exception:",
        ] {
            check_python(&[
                "2026-01-31 13:00:00 request failed",
                &format!(
                    "2026-01-31 13:00:01 request failed\n\
                     Traceback (most recent call last):\n  \
                       File \"a.py\", line 2, in f\n    \
                         return d[\"k\"]\n\
                     KeyError: 'k'\n\
                     \n\
                     {link}\n\
                     \n\
                     Traceback (most recent call last):\n  \
                       File \"a.py\", line 5, in g\n    \
                         raise app.errors.NotFound(\"k\") from error\n\
                     app.errors.NotFound: k"
                ),
                "2026-01-31 13:00:02 done",
            ]);
        }
    }

    #[test]
    fn python_tracebacks_of_their_own_and_exception_groups_are_events() {
        check_python(&[
            "Traceback (most recent call last):\n  File \"a.py\", line 1\n    f(\n     ^\nSyntaxError: '(' was never closed",
            "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nOSError: [Errno 28]",
            "ERROR:root:several\n  + Exception Group Traceback (most recent call last):\n  |   File \"a.py\", line 1, in <module>\n  | ExceptionGroup: two (2 sub-exceptions)\n  +-+---------------- 1 ----------------\n    | ValueError: 1\n    +------------------------------------",
            "end",
        ]);
    }
}
