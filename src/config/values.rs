//! What may stand in one value. Each function says in its error what the value must be.

use crate::index::fields::Field;
use crate::index::index_name::IndexName;
use crate::tls::Fingerprint;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ureq::http::Uri;

/// Of what is waited for: far above any sense, and far below where adding to a clock could
/// overflow.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Lengths in Kafka's protocol are signed 32-bit; this leaves room for what comes around.
const BYTES_MAX: usize = 1 << 30;

/// In the order in which [`show_bytes`] tries them.
const BYTE_UNITS: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Units: milliseconds. In the order in which [`show_duration`] tries them.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration from `min` up to `max`.
pub(super) fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let parsed = number_and_unit(text).and_then(|(n, unit)| {
        let (_, ms) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        Some(Duration::from_millis(n.saturating_mul(*ms)))
    });
    let duration = parsed.ok_or_else(|| {
        format!("must be a duration in ms, s, m, h or d, as in \"10ms\", not {text:?}")
    })?;
    if duration < min {
        return Err(format!("must be at least {}, not {text}", show_duration(min)));
    }
    if duration > max {
        return Err(format!("must be at most {}, not {text}", show_duration(max)));
    }
    Ok(duration)
}

/// Reads a number of bytes of at least `min`.
pub(super) fn bytes(text: &str, min: usize) -> Result<usize, String> {
    let parsed = number_and_unit(text).and_then(|(n, unit)| {
        let unit = if unit.is_empty() { "B" } else { unit };
        let (_, bytes) = BYTE_UNITS.iter().find(|(name, _)| *name == unit)?;
        Some(usize::try_from(n).ok()?.saturating_mul(*bytes))
    });
    let bytes = parsed.ok_or_else(|| {
        format!("must be a size in B, KB, KiB, MB, MiB, GB or GiB, as in \"1MB\", not {text:?}")
    })?;
    if bytes < min {
        return Err(format!("must be at least {}, not {text}", show_bytes(min)));
    }
    if bytes > BYTES_MAX {
        return Err(format!("must be at most {}, not {text}", show_bytes(BYTES_MAX)));
    }
    Ok(bytes)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Writes bytes in the largest unit without a fraction, as the configuration reads them.
pub fn show_bytes(bytes: usize) -> String {
    let fits = |(_, unit): &&(&str, usize)| bytes >= *unit && bytes.is_multiple_of(*unit);
    match BYTE_UNITS.iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => "0B".to_owned(),
    }
}

/// Writes whole milliseconds in the largest unit without a fraction, as the configuration reads
/// them.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let fits = |(_, unit): &&(&str, u64)| millis > 0 && millis.is_multiple_of(u128::from(*unit));
    match DURATION_UNITS.iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", millis / u128::from(*unit)),
        None => "0ms".to_owned(),
    }
}

/// Returns what stands for the word.
pub(super) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let mut what = format!("must be one of {}, not {text:?}", names.join(", "));
    if let Some(near) = nearest(text, &names) {
        let _ = write!(what, "; did you mean {near:?}?");
    }
    Err(what)
}

/// Reads a name that may become a header, a label or part of a line in a log.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("must be text without control characters, not {text:?}"));
    }
    Ok(text.to_owned())
}

/// Reads a host's name, which stands before a slash in record keys.
pub(super) fn host(text: &str) -> Result<String, String> {
    if text.contains('/') || text.contains(char::is_whitespace) {
        return Err(format!("must be a name without slashes or spaces, not {text:?}"));
    }
    name(text)
}

/// Reads a topic's name.
///
/// Source: Kafka's `Topic.validate`.
pub(super) fn topic(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty()
        || text.len() > 249
        || !text.bytes().all(legal)
        || [".", ".."].contains(&text)
    {
        return Err(format!(
            "must be 1 to 249 letters, digits, dots, underscores and dashes, and not . or .., \
             not {text:?}"
        ));
    }
    Ok(text.to_owned())
}

/// Reads an absolute path: a relative one would depend on where the program was started.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err(format!("must be an absolute path, not {text:?}"));
    }
    Ok(path.to_owned())
}

/// Reads the path of a secret, or its name among systemd's credentials.
pub(super) fn secret_file(text: &str) -> Result<PathBuf, String> {
    match text.contains('/') {
        true => absolute_path(text),
        false => name(text).map(PathBuf::from),
    }
}

/// Reads a glob of absolute paths.
pub(super) fn path_glob(text: &str) -> Result<String, String> {
    absolute_path(text)?;
    glob::Pattern::new(text).map_err(|error| format!("{text:?} is no glob: {}", error.msg))?;
    Ok(text.to_owned())
}

/// Reads a glob of absolute paths or, without a slash, of file names.
pub(super) fn path_or_name_glob(text: &str) -> Result<String, String> {
    if text.contains('/') {
        return path_glob(text).map_err(|what| format!("{what}; a file name alone holds no slash"));
    }
    name(text)?;
    glob::Pattern::new(text).map_err(|error| format!("{text:?} is no glob: {}", error.msg))?;
    Ok(text.to_owned())
}

/// Reads a regular expression, of text or of bytes.
pub(super) fn regex<R: FromStr<Err = regex::Error>>(text: &str) -> Result<R, String> {
    text.parse().map_err(|error: regex::Error| {
        // The crate draws the pattern with a marker below it; its last line says what is wrong.
        let message = error.to_string();
        let last = message.lines().last().unwrap_or_default();
        let last = last.strip_prefix("error: ").unwrap_or(last);
        format!("{text:?} is no regular expression: {last}")
    })
}

/// Reads the address of a broker.
pub(super) fn bootstrap_server(text: &str) -> Result<String, String> {
    let hint = if text.contains("://") {
        "; leave the scheme out"
    } else if text.contains(',') {
        "; write a list of one string each"
    } else if text.parse::<Ipv6Addr>().is_ok() {
        "; write an IPv6 address in brackets"
    } else {
        ""
    };
    if hint.is_empty() && is_host_port(text) {
        return Ok(text.to_owned());
    }
    Err(format!("must be host:port, as in \"kafka-1:9092\" or \"[::1]:9092\", not {text:?}{hint}"))
}

/// Reads the address of an Elasticsearch node; a slash behind it is left out.
///
/// The value is never shown: it might hold a password.
pub(super) fn http_host(text: &str) -> Result<String, String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(address) = address else {
        let example = "\"https://es-1:9200\"";
        return Err(format!("must begin with https:// or http://, as in {example}"));
    };
    if address.contains('@') {
        return Err("must not hold credentials; use username and password_file".to_owned());
    }
    if !is_host_port(address) {
        let example = "\"https://es-1:9200\"";
        return Err(format!("must be https://host:port and nothing else, as in {example}"));
    }
    Ok(text.to_owned())
}

/// Reads a fingerprint: 64 hexadecimal digits, with colons between the bytes or without.
pub(super) fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let digits = text.replace(':', "");
    let is_whole = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |n: usize| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap_or_default();
    let bytes = || std::array::from_fn(byte);
    is_whole
        .then(bytes)
        .ok_or("must be the SHA-256 of a certificate, 64 hexadecimal digits".to_owned())
}

/// Reads the address of a provider's token endpoint, to which a secret goes: over TLS, or not out
/// of this host.
///
/// The value is never shown: it might hold a password.
pub(super) fn token_endpoint(text: &str) -> Result<String, String> {
    let uri: Option<Uri> = text.parse().ok().filter(|_| !text.contains('#'));
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    let Some((scheme @ ("https" | "http"), authority)) = parts else {
        let example = "https://login.example.org/oauth2/token";
        return Err(format!("must be the URL of a token endpoint, as in {example:?}"));
    };
    if authority.as_str().contains('@') {
        return Err("must not hold credentials; use sasl_oauthbearer_client_id and \
                    sasl_oauthbearer_client_secret_file"
            .to_owned());
    }
    if scheme == "http" && !is_this_host(authority.host()) {
        return Err("would send the client's secret for all to read; use https://".to_owned());
    }
    Ok(text.to_owned())
}

/// Whether a name or address leads nowhere but to this host; an IPv6 address stands in brackets.
pub(crate) fn is_this_host(host: &str) -> bool {
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_is_legal = match host.strip_prefix('[') {
        Some(rest) => {
            rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        None => {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !host.is_empty() && host.bytes().all(legal)
        }
    };
    let port_is_legal = port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0);
    host_is_legal && port_is_legal
}

/// Reads the pattern of an index name.
pub(super) fn index_pattern(text: &str) -> Result<String, String> {
    IndexName::new(text).map(|_| text.to_owned())
}

/// Reads the name of a document's field.
pub(super) fn field(text: &str) -> Result<(), String> {
    let known: Vec<&str> = Field::NAMES.iter().map(|(name, _)| *name).collect();
    if Field::named(text).is_some() {
        return Ok(());
    }
    Err(match nearest(text, &known) {
        Some(known) => format!("no document has this field; did you mean {known:?}?"),
        None => {
            format!("no document has this field; known are fields.NAME and {}", known.join(", "))
        }
    })
}

/// Reads the name of a time zone.
pub(super) fn timezone(text: &str) -> Result<jiff::tz::TimeZone, String> {
    jiff::tz::TimeZone::get(text)
        .map_err(|_| format!("{text:?} is no time zone; use an IANA name, as in \"Europe/Berlin\""))
}

/// Returns the known word that was probably meant, if any is near enough.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = word.to_lowercase().replace(['-', '.'], "_");
    let distance = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let begins_alike = plain.len().min(candidate.len()) >= 4
            && (plain.starts_with(&candidate) || candidate.starts_with(&plain));
        if begins_alike { 1 } else { edit_distance(&plain, &candidate) }
    };
    known
        .iter()
        .map(|candidate| (distance(candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().min(plain.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns how many letters must be put in, left out or exchanged (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
