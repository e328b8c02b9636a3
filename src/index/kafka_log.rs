//! One event of a broker log, and what its layout says.
//!
//! ```text
//! [2017-08-04 10:48:20,377] INFO starting (kafka.server.KafkaServer)            Kafka, log4j 1 and 2
//! [2020-01-20 01:32:00,705] [WARN ] [thread] [state.change.logger] - message    Confluent
//! 2026-05-27 13:34:02,000+0200 INFO [thread] Class:174 - message                Strimzi
//! [2024-05-27 13:34:02,000] INFO [name|task-0] message (org.apache.Class:42)    Connect
//! ```
//!
//! A message may run over several lines, with the logger on the last of them; an exception and
//! its frames may follow, however they are indented. Nothing is ever dropped: a text in none of
//! these layouts (garbage collection, start scripts, standard output) is a message as it is,
//! without a level. All fields borrow from the event, and what lies between them is only layout:
//! brackets, blanks and line ends.

use memchr::{memchr, memrchr};

use crate::time::{EventTime, TimeReader};

/// The fields of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// When it says it happened.
    pub time: Option<EventTime>,
    /// `None` for a level no one knows, too: then the layout is taken as unknown.
    pub level: Option<Level>,
    /// Full name of the logger, mostly a class.
    pub logger: Option<&'a str>,
    /// Line of the source file that logged it.
    pub line: Option<u32>,
    /// Name of the thread that logged it.
    pub thread: Option<&'a str>,
    /// What stands in brackets before the message, as in `Controller id=10`.
    pub component: Option<&'a str>,
    /// What is left when the other fields are taken off: one line or more.
    pub message: &'a str,
    /// The exception that was logged with the message.
    pub error: Option<LoggedError<'a>>,
}

/// An exception, as Java prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedError<'a> {
    /// Its class; `None` where only frames were logged.
    pub class: Option<&'a str>,
    /// Its own message: one line or more.
    pub message: Option<&'a str>,
    /// All of it, from the line that names the class to the last frame of the last cause.
    pub stack_trace: &'a str,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Log4j 1 only; the broker goes down.
    Fatal,
    /// Also what java.util.logging calls SEVERE.
    Error,
    /// Also WARNING.
    Warn,
    /// Also NOTICE.
    Info,
    /// Also java.util.logging's CONFIG and FINE.
    Debug,
    /// Also FINER and FINEST.
    Trace,
}

impl Level {
    /// The spellings that are known, of which case does not matter; the common ones first.
    const WORDS: [(&str, Level); 14] = [
        ("INFO", Level::Info),
        ("WARN", Level::Warn),
        ("ERROR", Level::Error),
        ("DEBUG", Level::Debug),
        ("TRACE", Level::Trace),
        ("FATAL", Level::Fatal),
        ("WARNING", Level::Warn),
        ("SEVERE", Level::Error),
        ("CRITICAL", Level::Fatal),
        ("NOTICE", Level::Info),
        ("CONFIG", Level::Debug),
        ("FINE", Level::Debug),
        ("FINER", Level::Trace),
        ("FINEST", Level::Trace),
    ];

    /// Returns the level that `word` names in any case, alone or by a synonym.
    pub fn from_word(word: &str) -> Option<Level> {
        let known = Level::WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
        known.map(|(_, level)| *level)
    }

    /// Returns its name, as Log4j writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Fatal => "FATAL",
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        }
    }
}

/// Returns the fields of `event`, one event without its last line end.
pub fn parse<'a>(event: &'a str, times: &mut TimeReader) -> Parsed<'a> {
    let mut parsed = Parsed {
        time: None,
        level: None,
        logger: None,
        line: None,
        thread: None,
        component: None,
        message: event,
        error: None,
    };
    let inside = event.strip_prefix('[');
    let text = inside.unwrap_or(event);
    let Some((time, len)) = times.read(text.as_bytes()) else {
        return parsed;
    };
    let behind = match inside {
        Some(inside) => inside[len..].strip_prefix(']'),
        None => Some(&event[len..]),
    };
    let Some(text) = behind else {
        return parsed;
    };
    parsed.time = Some(time);
    let Some((level, text)) = take_level(text) else {
        return parsed;
    };
    parsed.level = Some(level);

    let (text, stack_trace) = split_stack_trace(text);
    let (place, text, stack_trace) = take_place(text, stack_trace);
    parsed.thread = place.thread;
    parsed.logger = place.logger;
    parsed.line = place.line;
    parsed.error = stack_trace.map(read_error);
    let (component, message) = take_component(text);
    parsed.component = component;
    parsed.message = message.trim_end();
    parsed
}

/// Takes the level, in brackets or not, and the blanks around it off `text`.
///
/// A blank has to stand before it: the JVM's own log has none there (`][info][gc] ...`), and is
/// no log of the broker.
fn take_level(text: &str) -> Option<(Level, &str)> {
    let word = text.trim_start_matches(' ');
    if word.len() == text.len() {
        return None;
    }
    let (word, behind) = match word.strip_prefix('[') {
        Some(padded) => {
            let (padded, behind) = padded.split_once(']')?;
            (padded.trim_matches(' '), behind)
        }
        None => {
            let len = word.bytes().take_while(u8::is_ascii_alphabetic).count();
            word.split_at(len)
        }
    };
    if !behind.is_empty() && !behind.starts_with([' ', '\n', '\r', '\t']) {
        return None;
    }
    Some((Level::from_word(word)?, behind.trim_start_matches(' ')))
}

/// Splits before the first line that belongs to an exception; the line end between is in neither
/// part. The first line of `text` is never such a line.
fn split_stack_trace(text: &str) -> (&str, Option<&str>) {
    let mut at = 0;
    while let Some(len) = memchr(b'\n', &text.as_bytes()[at..]) {
        at += len + 1;
        let lines = &text[at..];
        if is_inside_of_trace(lines) || take_error_class(lines).is_some() {
            return (&text[..at - 1], Some(lines.trim_end()));
        }
    }
    (text, None)
}

/// Whether the first of `lines` is a frame, a cause, or what stands for frames left out.
///
/// Indentation says nothing: tabs, four blanks, one blank and none have all been seen.
fn is_inside_of_trace(lines: &str) -> bool {
    let line = first_line(lines).trim_ascii();
    if let Some(frame) = line.strip_prefix("at ") {
        // `java.base/java.util.Foo.<init>(Foo.java:12)`: no blank before the parenthesis.
        return matches!(frame.find(['(', ' ']), Some(at) if frame.as_bytes()[at] == b'(');
    }
    let omitted = |line: &str| line.starts_with("... ") && line.ends_with(" more");
    line.starts_with("Caused by: ") || line.starts_with("Suppressed: ") || omitted(line)
}

/// Takes the class of an exception off `lines`; `None` if the first line does not begin with one.
///
/// Names such as `some.key: value` fill the dumps of configurations, so the class has to be
/// called exception, error or the like, unless a frame follows.
fn take_error_class(lines: &str) -> Option<(&str, &str)> {
    let header = lines.trim_start_matches([' ', '\t']);
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'$' | b'_');
    let len = header.bytes().take_while(|b| is_name(b)).count();
    let (name, behind) = header.split_at(len);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic())
        || !(behind.is_empty() || behind.starts_with([':', '\n', '\r']))
    {
        return None;
    }
    let last = &name[name.rfind('.')? + 1..];
    let says_so = ["Exception", "Error", "Throwable", "Failure", "Fault"];
    let is_throwable = says_so.iter().any(|word| last.contains(word));
    let next = || memchr(b'\n', behind.as_bytes()).map(|end| &behind[end + 1..]);
    (is_throwable || next().is_some_and(is_inside_of_trace)).then_some((name, behind))
}

fn read_error(stack_trace: &str) -> LoggedError<'_> {
    let header = stack_trace.strip_prefix("Caused by: ").unwrap_or(stack_trace);
    let (class, message) = match take_error_class(header) {
        Some((class, behind)) => (Some(class), behind.strip_prefix(':')),
        None => (None, None),
    };
    LoggedError {
        class,
        message: message.map(until_frames).filter(|text| !text.is_empty()),
        stack_trace,
    }
}

/// Returns the lines of `text` up to the first that is a frame, a cause or the like.
fn until_frames(text: &str) -> &str {
    let mut at = 0;
    while let Some(len) = memchr(b'\n', &text.as_bytes()[at..]) {
        at += len + 1;
        if is_inside_of_trace(&text[at..]) {
            return text[..at].trim();
        }
    }
    text.trim()
}

/// Where an event was logged.
#[derive(Default)]
struct Place<'a> {
    thread: Option<&'a str>,
    logger: Option<&'a str>,
    line: Option<u32>,
}

/// Takes what says where the event was logged off `text`, or off a `stack_trace` that stands
/// within the message.
fn take_place<'a>(
    text: &'a str,
    stack_trace: Option<&'a str>,
) -> (Place<'a>, &'a str, Option<&'a str>) {
    if let Some((place, text)) = take_place_before(text).or_else(|| take_place_behind(text)) {
        return (place, text, stack_trace);
    }
    if let Some((place, frames)) = stack_trace.and_then(take_place_behind)
        && frames.trim_end_matches(' ').ends_with('\n')
    {
        return (place, text, Some(frames.trim_end()));
    }
    // Foreign text behind the event, from a writer to standard output: the message stays whole,
    // yet the logger is known.
    let mut lines = text.trim_end().lines().rev().skip(1);
    let place = lines.find_map(|line| Some(take_place_behind(line)?.0));
    (place.unwrap_or_default(), text, stack_trace)
}

/// Takes Confluent's `[thread] [logger] - ` or Strimzi's `[thread] logger:line - ` off the start.
fn take_place_before(text: &str) -> Option<(Place<'_>, &str)> {
    let inside = first_line(text).strip_prefix('[')?;
    let (thread, behind) = inside.split_at(memchr(b']', inside.as_bytes())?);
    let behind = behind.strip_prefix("] ")?;
    let name_len = memchr(b' ', behind.as_bytes()).unwrap_or(behind.len());
    let (name, behind) = behind.split_at(name_len);
    behind.strip_prefix(" -").filter(|text| text.is_empty() || text.starts_with(' '))?;
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let place = read_logger(bracketed.unwrap_or(name))?;
    if bracketed.is_none() && place.line.is_none() {
        return None; // `[Component id=1] Something - more of a message`
    }
    let message = &text["[".len() + thread.len() + "] ".len() + name_len + " -".len()..];
    let thread = Some(thread);
    Some((Place { thread, ..place }, message.trim_start_matches(' ')))
}

/// Takes `(logger)`, `(logger:line)` or `(logger) [thread]` off the end.
fn take_place_behind(text: &str) -> Option<(Place<'_>, &str)> {
    let text = text.trim_end();
    if let Some(text) = text.strip_suffix(')') {
        let open = memrchr(b'(', text.as_bytes())?;
        let message = &text[..open];
        if !message.is_empty() && !message.ends_with(char::is_whitespace) {
            return None; // `close()`
        }
        return Some((read_logger(&text[open + 1..])?, message));
    }
    let text = text.strip_suffix(']')?;
    let open = memrchr(b'[', text.as_bytes())?;
    let before = text[..open].strip_suffix(") ")?;
    let (place, message) = take_place_behind(&text[..before.len() + 1])?;
    let thread = Some(&text[open + 1..]);
    Some((Place { thread, ..place }, message))
}

/// Reads `name`, `name:line` or `name:?`; `None` if that is no name a logger has.
fn read_logger(text: &str) -> Option<Place<'_>> {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.' | b'-');
    let len = text.bytes().take_while(is_name).count();
    let (name, line) = text.split_at(len);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '$')) {
        return None;
    }
    let line = match line {
        "" | ":?" => None,
        line => Some(line.strip_prefix(':')?.parse().ok()?),
    };
    Some(Place { thread: None, logger: Some(name), line })
}

/// Takes `[component]` and the mark and blanks behind it off the start, as Filebeat does.
///
/// Source: elastic/beats, `filebeat/module/kafka/log/ingest/pipeline.yml`. Unlike there, it has
/// to be the start, and a list of numbers is no component.
fn take_component(text: &str) -> (Option<&str>, &str) {
    let component = || {
        let (component, behind) = text.strip_prefix('[')?.split_once(']')?;
        let is_component = |c: char| c.is_ascii_alphabetic();
        if !component.starts_with(is_component) || component.contains(['\n', '[']) {
            return None;
        }
        let message = behind.strip_prefix([',', ':', '.']).unwrap_or(behind);
        let is_apart = message.starts_with([' ', '\n', '\r']);
        is_apart.then(|| (Some(component), message.trim_start()))
    };
    component().unwrap_or((None, text))
}

fn first_line(text: &str) -> &str {
    match memchr(b'\n', text.as_bytes()) {
        Some(end) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests;
