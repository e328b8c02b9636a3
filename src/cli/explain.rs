//! `shipper explain`: what would become of each event of a log, by the code that ships and indexes.
//!
//! Opens no connection. An event is cut out of the log by the rules of the input that would ship it,
//! made a record, and sorted as `index` sorts what it consumes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{ExplainArgs, plain};
use crate::config::{Config, InputConfig, Walk};
use crate::error::Error;
use crate::index::origin::Header;
use crate::index::route::Destinations;
use crate::index::sort::{Explained, Sorter};
use crate::kafka::record_batch::{RecordArena, now_ms};
use crate::tail::discover::{matches, written_under};
use crate::tail::encode::Origin;
use crate::tail::fingerprint::{self, Stat};
use crate::tail::gzip;
use crate::tail::harvester::{Bytes, ReadAt};
use crate::tail::multiline::{Event, EventBuffer, Limits};
use crate::time::TimeWriter;

/// Where the configuration has no table that is needed, this one's is taken.
const DEFAULTS: &str = r#"
kafka.bootstrap_servers = ["localhost:9092"]
index.topics = ["broker-logs"]
index.error_topic = "broker-errors"
elasticsearch.hosts = ["http://localhost:9200"]
[[input]]
paths = ["/var/log/kafka/*.log"]
topic = "broker-logs"
"#;

/// Letters of an event's first line that are shown.
const LINE_MAX: usize = 160;

/// Explains the events of all files; returns the exit code.
///
/// Errors: [`Error::Config`]; [`Error::State`] for a file that cannot be read.
pub fn run(args: &ExplainArgs) -> Result<u8, Error> {
    let config = load(args)?;
    let mut explainer = Explainer::new(&config, args)?;
    // Whoever has seen enough closes the output.
    let mut out = io::BufWriter::new(io::stdout().lock());
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin[..] } else { &args.files };
    for file in files {
        if !explainer.file(file, &mut out)? {
            break;
        }
    }
    if !args.json {
        let _ = out.write_all(explainer.counts.show().as_bytes());
    }
    let _ = out.flush();
    Ok(u8::from(explainer.counts.n_unknown > 0))
}

/// The configuration, with what it lacks: one of a host that only ships says nothing of where
/// events go.
fn load(args: &ExplainArgs) -> Result<Config, Error> {
    let wrong = |problems: String| Error::Config { problems };
    let defaults = Config::parse(DEFAULTS, Path::new("")).expect("well formed");
    let Some(path) = &args.config else {
        return Ok(defaults);
    };
    let mut config = Config::load(path).map_err(|problems| wrong(problems.to_string()))?;
    if config.index.is_some() {
        config.require(Walk::Index, path).map_err(|problems| wrong(problems.to_string()))?;
    } else {
        config.index = defaults.index;
        config.elasticsearch = config.elasticsearch.or(defaults.elasticsearch);
    }
    if config.input.is_empty() {
        config.input = defaults.input;
    }
    Ok(config)
}

struct Explainer<'a> {
    config: &'a Config,
    args: &'a ExplainArgs,
    sorter: Sorter,
    times: TimeWriter,
    counts: Counts,
}

/// What became of all events.
#[derive(Debug, Default)]
struct Counts {
    n_events: u64,
    /// Those in no layout that is known.
    n_unknown: u64,
    /// By route and where it leads.
    by_route: BTreeMap<(String, String), u64>,
}

/// What is said of an event, as JSON.
#[derive(Serialize)]
struct Explanation<'a> {
    file: &'a str,
    /// Number of its first line, from 1 on.
    line: u64,
    lines: u32,
    offset: u64,
    length: u64,
    /// Whether its layout is known.
    structured: bool,
    route: &'a str,
    /// Rules before that one, with the first condition of each that it does not fulfil.
    misses: BTreeMap<&'a str, &'a str>,
    to: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a RawValue>,
    /// What is written of it, or would be if it went where documents go.
    document: &'a RawValue,
}

impl<'a> Explainer<'a> {
    fn new(config: &'a Config, args: &'a ExplainArgs) -> Result<Explainer<'a>, Error> {
        let index = config.index.as_ref().expect("put in where it is missing");
        let sorter = Sorter::new(config, index);
        let sorter = sorter.map_err(|problems| Error::Config { problems })?;
        let (times, counts) = (TimeWriter::default(), Counts::default());
        Ok(Explainer { config, args, sorter, times, counts })
    }

    /// Explains one file, `-` for the standard input; `false` where nobody listens any more.
    fn file(&mut self, file: &Path, out: &mut impl Write) -> Result<bool, Error> {
        let failed = |source| Error::State { attempt: "read", path: file.to_path_buf(), source };
        let mut source = Source::open(file).map_err(failed)?;
        let path = match (&self.args.path, file == Path::new("-")) {
            (Some(path), _) => path.clone(),
            (None, true) => PathBuf::from("/dev/stdin"),
            (None, false) => written_under(&fs::canonicalize(file).map_err(failed)?),
        };
        let input = self.input_for(&path);
        let mut events = EventBuffer::new(0, Limits::of(input), false);
        let topic = input.topic.topic(&input.names(&self.config.host, &path));
        let (mut origin, mut line) = (None, 1);
        loop {
            while let Some(event) = events.peek(&input.multiline) {
                if !event.is_nuls {
                    let origin = origin.get_or_insert_with(|| {
                        let file_id = source.file_id(events.content(&event));
                        Origin::new(input, &self.config.host, &path, &file_id)
                    });
                    let mut room = Vec::new();
                    let text = events.text(&event, &mut room);
                    let name = file.to_string_lossy();
                    if !self.event(origin, &topic, (&name, line), &event, text, out) {
                        return Ok(false);
                    }
                }
                line += u64::from(event.n_lines);
                events.consume();
            }
            if events.read_from(&mut source).map_err(failed)? > 0 {
                continue;
            }
            if !events.has_open() && !events.has_partial() {
                return Ok(true);
            }
            events.finish(&input.multiline);
        }
    }

    /// Returns the input that would ship a file, the first one where none would.
    fn input_for(&self, path: &Path) -> &'a InputConfig {
        let leads_there = |input: &&InputConfig| input.paths.iter().any(|it| matches(it, path));
        let inputs = &self.config.input;
        inputs.iter().find(leads_there).unwrap_or(&inputs[0])
    }

    /// Explains one event; `false` where nobody listens any more.
    fn event(
        &mut self,
        origin: &Origin,
        topic: &str,
        (file, line): (&str, u64),
        event: &Event,
        text: &[u8],
        out: &mut impl Write,
    ) -> bool {
        let place = (topic, 0, self.counts.n_events as i64);
        let (mut records, mut varying) = (RecordArena::with_capacity(text.len()), Vec::new());
        origin.encode(now_ms(), event, text, &mut varying, &mut records);
        let mut headers: Vec<Header<'_>> = Vec::new();
        let mut record = records.iter().next().expect("just put there");
        let explained = self.sorter.explain(&record, place, &mut headers);
        // Shipped when it was logged, it would be in the index of that time.
        record.timestamp_ms = explained.time_ms.unwrap_or(record.timestamp_ms);
        self.sorter.sorted.clear();
        let routed = self.sorter.take(0, &record, place, &mut headers);
        let route = self.sorter.route_names()[routed.route].clone();
        let to = names(routed.to);
        self.counts.add(&explained, &route, &to);
        let is_wanted = !self.args.summary && (!self.args.unknown || explained.level.is_none());
        if !is_wanted {
            return true;
        }
        let bulk = std::str::from_utf8(self.sorter.sorted.body.as_bytes()).expect("JSON");
        let raw = |json: &str| serde_json::from_str::<Box<RawValue>>(json).expect("JSON");
        let (action, document) = (bulk.lines().next().map(raw), raw(&explained.document));
        let explanation = Explanation {
            file,
            line,
            lines: event.n_lines,
            offset: event.start,
            length: event.end - event.start,
            structured: explained.level.is_some(),
            route: &route,
            misses: explained.misses.iter().map(|(rule, why)| (&**rule, &**why)).collect(),
            to,
            action: action.as_deref(),
            document: &document,
        };
        let text = match self.args.json {
            true => serde_json::to_string(&explanation).expect("it has only keys of text") + "\n",
            false => self.show(&explanation, &explained, text),
        };
        out.write_all(text.as_bytes()).is_ok()
    }

    fn show(&mut self, it: &Explanation<'_>, explained: &Explained, text: &[u8]) -> String {
        let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first: String = String::from_utf8_lossy(first).chars().take(LINE_MAX).collect();
        let more = if it.lines > 1 {
            format!(" (and {} lines more)", it.lines - 1)
        } else {
            String::new()
        };
        let mut shown = format!("{}:{}: {}{more}\n", plain(it.file), it.line, plain(&first));
        let layout = match explained.level {
            Some(level) => format!("level {}", level.as_str()),
            None => "in no layout that is known: a message as it is".to_owned(),
        };
        let time = match explained.time_ms {
            Some(time_ms) => {
                let mut time = Vec::new();
                self.times.write(&mut time, time_ms);
                String::from_utf8_lossy(&time).into_owned()
            }
            None => "no time of its own".to_owned(),
        };
        let _ = writeln!(
            shown,
            "  event     {layout}, {time}; bytes {} to {}",
            it.offset,
            it.offset + it.length
        );
        let misses: Vec<String> =
            it.misses.iter().map(|(rule, why)| format!("{rule} (for its {why})")).collect();
        let misses = if misses.is_empty() {
            String::new()
        } else {
            format!(", after {}", misses.join(", "))
        };
        let _ = writeln!(shown, "  route     {}{}", plain(it.route), plain(&misses));
        let _ = writeln!(shown, "  to        {}", show_names(&it.to));
        if let Some(action) = it.action {
            let _ = writeln!(shown, "  action    {}", plain(action.get()));
        }
        let name = if it.to.iter().any(|to| *to != "error_topic") { "document" } else { "fields" };
        let _ = writeln!(shown, "  {name:<9} {}", plain(it.document.get()));
        shown
    }
}

fn names(to: Destinations) -> Vec<&'static str> {
    let all = [("error_topic", to.error_topic), ("index", to.index), ("archive", to.archive)];
    all.into_iter().filter(|(_, is_one)| *is_one).map(|(name, _)| name).collect()
}

fn show_names(to: &[&str]) -> String {
    if to.is_empty() { "nowhere: it is dropped".to_owned() } else { to.join(", ") }
}

impl Counts {
    fn add(&mut self, explained: &Explained, route: &str, to: &[&str]) {
        self.n_events += 1;
        self.n_unknown += u64::from(explained.level.is_none());
        *self.by_route.entry((route.to_owned(), show_names(to))).or_default() += 1;
    }

    fn show(&self) -> String {
        let mut text = format!(
            "{} events, {} of them in no layout that is known\n",
            self.n_events, self.n_unknown
        );
        for ((route, to), n) in &self.by_route {
            let _ = writeln!(text, "{n:>10}  {} to {to}", plain(route));
        }
        text
    }
}

/// Where the bytes of a log come from.
enum Source {
    File(Bytes),
    /// From its beginning to its end, once.
    Stdin,
}

impl Source {
    fn open(path: &Path) -> io::Result<Source> {
        match path == Path::new("-") {
            true => Ok(Source::Stdin),
            false => {
                let file = File::open(path)?;
                let is_gzipped = gzip::is_gzipped(&file)?;
                Ok(Source::File(Bytes::of(file, is_gzipped)))
            }
        }
    }

    /// Returns the name that a tail would give the file.
    fn file_id(&self, first_event: &[u8]) -> String {
        match self {
            Source::File(bytes) => match Stat::of(bytes.file()) {
                Ok(stat) => fingerprint::file_id(&stat, 0, first_event),
                Err(_) => "unknown".to_owned(),
            },
            Source::Stdin => "stdin".to_owned(),
        }
    }
}

impl ReadAt for &mut Source {
    fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Source::File(bytes) => ReadAt::read_at(&mut &mut *bytes, room, offset),
            Source::Stdin => io::stdin().read(room),
        }
    }
}
