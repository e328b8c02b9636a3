//! What is wrong with a configuration file: all of it at once, each with its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// All problems of one file; as text, one a line, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
    /// Where each key path of the file stands, so that whoever finds a problem needs only name
    /// the key.
    lines: BTreeMap<String, usize>,
}

/// One thing that is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line of the key, or of the table that lacks it; 1 is the first.
    pub line: Option<usize>,
    /// Column in characters, of syntax errors only; 1 is the first.
    pub column: Option<usize>,
    /// Path of the key, as in `input[0].paths`; empty where no key is meant.
    pub key: String,
    /// What is wrong; what to do.
    pub what: String,
}

impl Problems {
    /// Returns an empty list for a file, with the lines of all its keys at hand.
    pub(super) fn new(file: &Path, text: &str, document: &DeTable) -> Problems {
        let mut lines = BTreeMap::new();
        let newlines: Vec<usize> = text.match_indices('\n').map(|(offset, _)| offset).collect();
        // A key's line is one more than the newlines before it.
        let line_of = |offset: usize| newlines.partition_point(|&newline| newline < offset) + 1;
        note_table(document, "", &line_of, &mut lines);
        Problems { file: file.to_owned(), list: Vec::new(), lines }
    }

    /// Returns the one problem that concerns the file as a whole, or a key that it lacks.
    pub(super) fn of_file(file: &Path, key: &str, what: String) -> Problems {
        Problems {
            file: file.to_owned(),
            list: vec![Problem { line: None, column: None, key: key.to_owned(), what }],
            lines: BTreeMap::new(),
        }
    }

    /// Adds a problem of this key; a missing key gets the line of its table.
    pub(super) fn add(&mut self, key: &str, what: impl Into<String>) {
        self.list.push(Problem {
            line: self.line_of(key),
            column: None,
            key: key.to_owned(),
            what: what.into(),
        });
    }

    /// Adds what is wrong between several keys, under the first of them, unless one of them is
    /// wrong by itself: its value here is only a placeholder then.
    pub(super) fn add_relation(&mut self, keys: &[&str], what: impl Into<String>) {
        let wrong = |key: &&str| {
            let mut rests = self.list.iter().filter_map(|problem| problem.key.strip_prefix(*key));
            rests.any(|rest| rest.is_empty() || rest.starts_with('['))
        };
        if !keys.iter().any(wrong) {
            self.add(keys[0], what);
        }
    }

    /// Adds an error of the TOML parser, unless its line has one already: that one is the cause.
    pub(super) fn add_syntax(&mut self, text: &str, error: &toml::de::Error) {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        if self.list.iter().any(|problem| problem.line == Some(line)) {
            return;
        }
        self.list.push(Problem {
            line: Some(line),
            column: Some(before[line_start..].chars().count() + 1),
            key: String::new(),
            what: error.message().replace('\n', " "),
        });
    }

    /// Returns the value if nothing was found wrong.
    pub(super) fn into_result<T>(mut self, value: T) -> Result<T, Problems> {
        if self.list.is_empty() {
            return Ok(value);
        }
        self.list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Err(self)
    }

    /// Iterates over the problems in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    fn line_of(&self, key: &str) -> Option<usize> {
        let mut path = key;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.list.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file.display())?;
            for position in [problem.line, problem.column].into_iter().flatten() {
                write!(f, ":{position}")?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Returns the path of a key of the table at `path`, as it stands in problems.
pub(super) fn key_path(path: &str, key: &str) -> String {
    // A quoted key may hold anything, and must not reach the terminal as it is.
    let key = key.escape_debug();
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

fn note_table(
    table: &DeTable,
    path: &str,
    line_of: &dyn Fn(usize) -> usize,
    lines: &mut BTreeMap<String, usize>,
) {
    for (key, value) in table {
        let path = key_path(path, key.get_ref());
        lines.insert(path.clone(), line_of(key.span().start));
        note_value(value.get_ref(), &path, line_of, lines);
    }
}

fn note_value(
    value: &DeValue,
    path: &str,
    line_of: &dyn Fn(usize) -> usize,
    lines: &mut BTreeMap<String, usize>,
) {
    match value {
        DeValue::Table(table) => note_table(table, path, line_of, lines),
        DeValue::Array(array) => {
            for (n, element) in array.iter().enumerate() {
                let path = format!("{path}[{n}]");
                lines.insert(path.clone(), line_of(element.span().start));
                note_value(element.get_ref(), &path, line_of, lines);
            }
        }
        _ => {}
    }
}
