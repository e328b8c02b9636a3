//! Takes typed values out of TOML tables, and notes what is wrong instead of stopping.
//!
//! A getter that finds a problem returns what it returns for a missing key; what is built from
//! that is never used, for a file with problems gives no configuration. A key that no getter
//! asked for is unknown.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::problems::{Problems, key_path};
use super::values;

/// One table of the file, while it is read.
pub(super) struct Table<'a> {
    path: String,
    table: &'a DeTable<'a>,
    problems: &'a mut Problems,
    known: Vec<&'static str>,
}

/// Reads the whole document.
pub(super) fn read_root<T>(
    document: &DeTable,
    problems: &mut Problems,
    read: impl FnOnce(&mut Table) -> T,
) -> T {
    read_table(String::new(), document, problems, read)
}

fn read_table<T>(
    path: String,
    table: &DeTable,
    problems: &mut Problems,
    read: impl FnOnce(&mut Table) -> T,
) -> T {
    let mut table = Table { path, table, problems, known: Vec::new() };
    let value = read(&mut table);
    table.refuse_unknown();
    value
}

impl<'a> Table<'a> {
    /// Returns the path of a key of this table.
    pub(super) fn path(&self, key: &str) -> String {
        key_path(&self.path, key)
    }

    /// Notes that something is wrong with a key.
    pub(super) fn problem(&mut self, key: &str, what: impl Into<String>) {
        self.problems.add(&self.path(key), what);
    }

    /// Notes that the key is missing if it is; `example` is a line to write instead.
    pub(super) fn require(&mut self, key: &'static str, example: &str) {
        if !self.has(key) {
            self.problem(key, format!("missing; write it, as in {example}"));
        }
    }

    /// Says whether the key is there, whatever its value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Returns a string that `parse` takes.
    pub(super) fn string<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.value(key, |value| match value {
            DeValue::String(text) => parse(text),
            other => Err(wrong_type("a string", other)),
        })
    }

    /// Returns what stands for one of the given words.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        self.string(key, |text| values::one_of(text, choices))
    }

    /// Returns a boolean.
    pub(super) fn bool(&mut self, key: &'static str, default: bool) -> bool {
        let value = self.value(key, |value| match value {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(wrong_type("true or false", other)),
        });
        value.unwrap_or(default)
    }

    /// Returns a duration of at least `min`, and at most a day.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        min: Duration,
    ) -> Duration {
        self.duration_up_to(key, default, min, values::DURATION_MAX)
    }

    /// Returns a duration from `min` up to `max`.
    pub(super) fn duration_up_to(
        &mut self,
        key: &'static str,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let value = self.value(key, |value| match value {
            DeValue::String(text) => values::duration(text, min, max),
            DeValue::Integer(_) => Err("needs a unit, as in \"10ms\", \"5s\" or \"1m\"".into()),
            other => Err(wrong_type("a duration, as in \"10ms\"", other)),
        });
        value.unwrap_or(default)
    }

    /// Returns a number of bytes of at least `min`.
    pub(super) fn bytes(&mut self, key: &'static str, default: usize, min: usize) -> usize {
        let value = self.value(key, |value| match value {
            DeValue::String(text) => values::bytes(text, min),
            DeValue::Integer(_) => values::bytes(&integer(value)?.to_string(), min),
            other => Err(wrong_type("a size, as in \"1MB\"", other)),
        });
        value.unwrap_or(default)
    }

    /// Returns a number between 1 and `max`.
    pub(super) fn count(&mut self, key: &'static str, default: u32, max: u32) -> u32 {
        let value = self.value(key, |value| {
            let n = integer(value)?;
            match u32::try_from(n) {
                Ok(n) if (1..=max).contains(&n) => Ok(n),
                _ => Err(format!("must be between 1 and {max}, not {n}")),
            }
        });
        value.unwrap_or(default)
    }

    /// Returns a list of strings that `parse` takes; empty only if the key is missing.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let path = self.path(key);
        let DeValue::Array(array) = value else {
            let what = match value {
                DeValue::String(_) => "must be a list, written [\"...\"]".to_owned(),
                other => wrong_type("a list of strings", other),
            };
            self.problems.add(&path, what);
            return Vec::new();
        };
        if array.is_empty() {
            self.problems.add(&path, "must not be empty");
        }
        let mut list = Vec::new();
        for (n, element) in array.iter().enumerate() {
            let earlier =
                |text: &str| array.iter().take(n).any(|e| e.get_ref().as_str() == Some(text));
            let parsed = match element.get_ref() {
                DeValue::String(text) if earlier(text) => Err("is there twice".to_owned()),
                DeValue::String(text) => parse(text),
                other => Err(wrong_type("a string", other)),
            };
            match parsed {
                Ok(value) => list.push(value),
                Err(what) => self.problems.add(&format!("{path}[{n}]"), what),
            }
        }
        list
    }

    /// Returns names and values that `parse` takes; empty if the key is missing.
    ///
    /// Names may hold dots. TOML reads `a.b = 1` as a table in a table, which means the same here
    /// as `"a.b" = 1`.
    pub(super) fn map<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str, &str) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        let mut map = BTreeMap::new();
        match self.take(key) {
            None => {}
            Some(DeValue::Table(table)) => {
                let path = self.path(key);
                self.flatten(table, &path, "", &parse, &mut map);
            }
            Some(other) => {
                let what = wrong_type("a table of names and values", other);
                self.problem(key, what);
            }
        }
        map
    }

    fn flatten<T>(
        &mut self,
        table: &DeTable,
        path: &str,
        prefix: &str,
        parse: &impl Fn(&str, &str) -> Result<T, String>,
        map: &mut BTreeMap<String, T>,
    ) {
        for (key, value) in table {
            let path = key_path(path, key.get_ref());
            let name = format!("{prefix}{}", key.get_ref());
            let parsed = match value.get_ref() {
                DeValue::Table(table) => {
                    self.flatten(table, &path, &format!("{name}."), parse, map);
                    continue;
                }
                _ if map.contains_key(&name) => Err("is there twice".to_owned()),
                DeValue::String(text) => parse(&name, text),
                DeValue::Integer(_) => {
                    integer(value.get_ref()).and_then(|n| parse(&name, &n.to_string()))
                }
                DeValue::Boolean(value) => parse(&name, &value.to_string()),
                other => Err(wrong_type("a string", other)),
            };
            match parsed {
                Ok(value) => {
                    map.insert(name, value);
                }
                Err(what) => self.problems.add(&path, what),
            }
        }
    }

    /// Reads a table within this one; `None` if the key is missing. `form` shows how to write it.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        form: &str,
        read: impl FnOnce(&mut Table) -> T,
    ) -> Option<T> {
        match self.take(key)? {
            DeValue::Table(table) => Some(read_table(self.path(key), table, self.problems, read)),
            _ => {
                self.problem(key, format!("must be one table, written {form}"));
                None
            }
        }
    }

    /// Reads a table within this one as if it stood there empty where it is missing.
    pub(super) fn table_or_empty<T>(
        &mut self,
        key: &'static str,
        form: &str,
        read: impl Fn(&mut Table) -> T,
    ) -> T {
        match self.table(key, form, &read) {
            Some(value) => value,
            // A key of another type was refused already; what the empty table lacks besides
            // would only distract.
            None if self.has(key) => {
                let empty = DeTable::new();
                let mut unheard = Problems::default();
                read_table(self.path(key), &empty, &mut unheard, read)
            }
            None => read_table(self.path(key), &DeTable::new(), self.problems, read),
        }
    }

    /// Reads the tables of a list; empty if the key is missing. `form` shows how to write one.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        form: &str,
        read: impl Fn(&mut Table) -> T,
    ) -> Vec<T> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let refusal = format!("must be tables, each written {form}");
        let DeValue::Array(array) = value else {
            self.problem(key, refusal);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (n, element) in array.iter().enumerate() {
            let path = format!("{}[{n}]", self.path(key));
            match element.get_ref() {
                DeValue::Table(table) => {
                    tables.push(read_table(path, table, self.problems, &read));
                }
                _ => self.problems.add(&path, refusal.as_str()),
            }
        }
        tables
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.take(key)?) {
            Ok(value) => Some(value),
            Err(what) => {
                self.problem(key, what);
                None
            }
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a DeValue<'a>> {
        self.known.push(key);
        Some(self.table.get(key)?.get_ref())
    }

    fn refuse_unknown(self) {
        for (key, _) in self.table {
            let key = key.get_ref();
            if self.known.iter().any(|known| known == key) {
                continue;
            }
            let what = match values::nearest(key, &self.known) {
                Some(near) => format!("unknown key; did you mean {near:?}?"),
                // TOML's own trap: a line below a table's header belongs to that table.
                None if !self.path.is_empty() && matches!(&**key, "host" | "state_dir") => {
                    "unknown key here; move it above the first [table]".to_owned()
                }
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            };
            self.problems.add(&key_path(&self.path, key), what);
        }
    }
}

fn integer(value: &DeValue) -> Result<i64, String> {
    let DeValue::Integer(integer) = value else {
        return Err(wrong_type("a whole number", value));
    };
    i64::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| format!("{integer} is too large"))
}

fn wrong_type(wanted: &str, found: &DeValue) -> String {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("must be {wanted}, not {found}")
}
