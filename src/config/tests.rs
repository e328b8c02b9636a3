use super::*;

const EXAMPLE: &str = include_str!("../../shipper.toml.example");

/// What the example says that is no default.
const LEAST: &str = r#"
kafka.bootstrap_servers = ["localhost:9092"]
elasticsearch.hosts = ["http://localhost:9200"]
[[input]]
paths = ["/var/log/kafka/server.log", "/var/log/kafka/controller.log"]
topic = "broker-logs"
[index]
topics = ["broker-logs"]
error_topic = "broker-errors"
"#;

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, Path::new("shipper.toml"))
}

/// Parses lines that stand in for, or are added to, those of a valid file, and compares the
/// problems without the file's name and line.
fn check(lines: &str, expected: &[&str]) {
    let problems = match parse(lines) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(|p| format!("{}: {}", p.key, p.what)).collect(),
    };
    assert_eq!(problems, expected, "of:\n{lines}");
}

fn check_kafka(line: &str, expected: &str) {
    let servers = match line.starts_with("bootstrap_servers") {
        true => "",
        false => "bootstrap_servers = [\"a:1\"]",
    };
    check(&format!("[kafka]\n{servers}\n{line}"), &[expected]);
}

fn check_input(line: &str, expected: &str) {
    let mut lines = vec!["[[input]]", line];
    if !line.starts_with("paths") {
        lines.push("paths = [\"/a\"]");
    }
    if !line.starts_with("topic") {
        lines.push("topic = \"t\"");
    }
    check(&format!("kafka.bootstrap_servers = [\"a:1\"]\n{}", lines.join("\n")), &[expected]);
}

fn check_index(lines: &str, expected: &str) {
    let head = "kafka.bootstrap_servers = [\"a:1\"]\nelasticsearch.hosts = [\"http://a:1\"]\n";
    let mut index = "[index]\n".to_owned();
    for (key, value) in [("topics", "[\"t\"]"), ("error_topic", "\"errors\"")] {
        if !lines.starts_with(key) {
            index += &format!("{key} = {value}\n");
        }
    }
    check(&format!("{head}{index}{lines}"), &[expected]);
}

fn check_elasticsearch(lines: &str, expected: &str) {
    let hosts = match lines.starts_with("hosts") {
        true => "",
        false => "hosts = [\"http://a:1\"]",
    };
    let text = format!("kafka.bootstrap_servers = [\"a:1\"]\n[elasticsearch]\n{hosts}\n{lines}");
    check(&text, &[expected]);
}

fn check_route(lines: &str, expected: &str) {
    let text = format!("kafka.bootstrap_servers = [\"a:1\"]\n[[route]]\n{lines}");
    check(&text, &[expected]);
}

#[test]
fn all_problems_come_at_once_with_line_key_and_advice() {
    let text = r#"
[kafka]
bootstrap_server = ["localhost"]
request_timeout = 30

[[input]]
pathes = ["/var/log/kafka/server.log"]
topic = "broker logs"
line_bytes_max = "1mb"

[batch]
compression = "lz5"
"#;
    assert_eq!(
        parse(text).unwrap_err().to_string(),
        r#"shipper.toml:2: kafka.bootstrap_servers: missing; write it, as in bootstrap_servers = ["localhost:9092"]
shipper.toml:3: kafka.bootstrap_server: unknown key; did you mean "bootstrap_servers"?
shipper.toml:4: kafka.request_timeout: needs a unit, as in "10ms", "5s" or "1m"
shipper.toml:6: input[0].paths: missing; write it, as in paths = ["/var/log/kafka/server.log"]
shipper.toml:7: input[0].pathes: unknown key; did you mean "paths"?
shipper.toml:8: input[0].topic: must be 1 to 249 letters, digits, dots, underscores and dashes, and not . or .., not "broker logs"
shipper.toml:9: input[0].line_bytes_max: must be a size in B, KB, KiB, MB, MiB, GB or GiB, as in "1MB", not "1mb"
shipper.toml:12: batch.compression: must be one of none, gzip, snappy, lz4, zstd, not "lz5"; did you mean "lz4"?"#
    );
}

#[test]
fn a_problem_has_the_line_of_its_key_or_of_the_table_that_lacks_it() {
    let text = r#"kafka.bootstrap_servers = [
    "a:1",
    "b",
]
[[input]]
paths = ["/a"]
topic = "t"

[[input]]
paths = ["/b"]
[input.multiline]
start = "("
[elasticsearch]
"#;
    let problems = parse(text).unwrap_err();
    let lines: Vec<(&str, Option<usize>)> = problems.iter().map(|p| (&*p.key, p.line)).collect();
    let expected = [
        ("kafka.bootstrap_servers[1]", Some(3)),
        ("input[1].topic", Some(9)),
        ("input[1].multiline.start", Some(12)),
        ("elasticsearch.hosts", Some(13)),
    ];
    assert_eq!(lines, expected);
    assert_eq!(parse("").unwrap_err().iter().next().unwrap().line, None);
}

#[test]
fn errors_of_syntax_come_with_line_and_column() {
    let text = "host = \n[kafka]\nclient_id = \"a\"\nclient_id = \"b\"\n";
    let problems = parse(text).unwrap_err().to_string();
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), 2, "{problems}");
    assert!(lines[0].starts_with("shipper.toml:1:"), "{problems}");
    assert!(lines[1].starts_with("shipper.toml:4:1: duplicate key"), "{problems}");
}

#[test]
fn a_file_that_is_not_utf8_says_from_which_byte_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"host = \"\xff\"").unwrap();
    let problems = Config::load(file.path()).unwrap_err().to_string();
    assert!(problems.ends_with(": is not UTF-8 from byte 8 on; TOML must be"), "{problems}");
}

#[test]
fn a_key_in_the_wrong_place_says_where_it_belongs() {
    check(
        "hots = \"a\"\nkafka.bootstrap_servers = [\"a:1\"]",
        &["hots: unknown key; did you mean \"host\"?"],
    );
    check_kafka(
        "state_dir = \"/a\"",
        "kafka.state_dir: unknown key here; move it above the first [table]",
    );
    check(
        "kafka.\"bootstrap.servers\" = 1\nkafka.bootstrap_servers = [\"a:1\"]",
        &["kafka.bootstrap.servers: unknown key; did you mean \"bootstrap_servers\"?"],
    );
    check_kafka(
        "bootstrap.servers = 1",
        "kafka.bootstrap: unknown key; did you mean \"bootstrap_servers\"?",
    );
    check(
        "batch.linger_ms = 1\nkafka.bootstrap_servers = [\"a:1\"]",
        &["batch.linger_ms: unknown key; did you mean \"linger\"?"],
    );
    check(
        "archive.zzz = 1\narchive.dir = \"/a\"\nkafka.bootstrap_servers = [\"a:1\"]",
        &["archive.zzz: unknown key; known here: dir, gzip"],
    );
    // What came in quotes must not reach the terminal as it is.
    check(
        "\"\\u001b[2J\" = 1\nkafka.bootstrap_servers = [\"a:1\"]",
        &[
            "\\u{1b}[2J: unknown key; known here: state_dir, host, kafka, input, tail, batch, index, \
           elasticsearch, route, archive",
        ],
    );
}

#[test]
fn a_value_of_the_wrong_type_says_how_to_write_it() {
    check("kafka = 1", &["kafka: must be one table, written [kafka]"]);
    check("[[kafka]]", &["kafka: must be one table, written [kafka]"]);
    let kafka = "kafka.bootstrap_servers = [\"a:1\"]\n";
    check(&format!("{kafka}[input]"), &["input: must be tables, each written [[input]]"]);
    check(&format!("{kafka}input = [1]"), &["input[0]: must be tables, each written [[input]]"]);
    check_kafka("client_id = 1", "kafka.client_id: must be a string, not an integer");
    check_kafka(
        "allow_auto_create_topics = \"yes\"",
        "kafka.allow_auto_create_topics: must be true or false, not a string",
    );
    check_kafka(
        "bootstrap_servers = \"a:1\"",
        "kafka.bootstrap_servers: must be a list, written [\"...\"]",
    );
    check_kafka(
        "bootstrap_servers = [1]",
        "kafka.bootstrap_servers[0]: must be a string, not an integer",
    );
    check_kafka("bootstrap_servers = []", "kafka.bootstrap_servers: must not be empty");
    check_kafka(
        "consumer_options = 1",
        "kafka.consumer_options: must be a table of names and values, not an integer",
    );
    check_kafka(
        "consumer_options.a = 1.5",
        "kafka.consumer_options.a: must be a string, not a float",
    );
    check_input(
        "multiline = \"kafka\"",
        "input[0].multiline: must be one table, written { profile = \"kafka\" }, \
         { start = \"REGEX\" }, { continuation = \"REGEX\" } or { count = 2 }",
    );
    check_input(
        "line_bytes_max = 1.5",
        "input[0].line_bytes_max: must be a size, as in \"1MB\", not a float",
    );
    check_input(
        "event_timeout = true",
        "input[0].event_timeout: must be a duration, as in \"10ms\", not a boolean",
    );
}

#[test]
fn numbers_have_their_units_and_limits() {
    let duration = "must be a duration in ms, s, m, h or d, as in \"10ms\", not";
    for text in ["10", "ms", "", "1.5s", "-1s", "1w", "1 s", "99999999999999999999s"] {
        let expected = format!("kafka.request_timeout: {duration} {text:?}");
        check_kafka(&format!("request_timeout = {text:?}"), &expected);
    }
    let size = "must be a size in B, KB, KiB, MB, MiB, GB or GiB, as in \"1MB\", not";
    for text in ["1k", "MB", "", "1.5MB", "-1", "1 MB"] {
        let expected = format!("input[0].line_bytes_max: {size} {text:?}");
        check_input(&format!("line_bytes_max = {text:?}"), &expected);
    }
    for (line, expected) in [
        ("kafka.request_timeout = \"999ms\"", "must be at least 1s, not 999ms"),
        ("kafka.request_timeout = \"25h\"", "must be at most 1d, not 25h"),
        (
            "kafka.request_timeout = \"18446744073709551615h\"",
            "must be at most 1d, not 18446744073709551615h",
        ),
        ("kafka.retry_backoff = \"0s\"", "must be at least 1ms, not 0s"),
        ("kafka.retry_backoff_max = \"0s\"", "must be at least 1ms, not 0s"),
        ("tail.forget_after = \"59m\"", "must be at least 1h, not 59m"),
        ("tail.forget_after = \"3651d\"", "must be at most 3650d, not 3651d"),
        ("tail.scan_interval = \"49ms\"", "must be at least 50ms, not 49ms"),
        ("tail.save_interval = \"49ms\"", "must be at least 50ms, not 49ms"),
        ("batch.bytes_max = \"15999B\"", "must be at least 16KB, not 15999B"),
        ("batch.bytes_max = 15_999", "must be at least 16KB, not 15999"),
        ("batch.bytes_max = \"2GB\"", "must be at most 1GiB, not 2GB"),
        ("batch.count_max = 0", "must be between 1 and 2147483647, not 0"),
        ("batch.count_max = -1", "must be between 1 and 2147483647, not -1"),
        ("batch.count_max = 99999999999999999999", "99999999999999999999 is too large"),
        ("batch.in_flight_max = 0", "must be between 1 and 1000, not 0"),
        ("batch.in_flight_max = 1001", "must be between 1 and 1000, not 1001"),
        ("batch.in_flight_max = \"5\"", "must be a whole number, not a string"),
    ] {
        let key = line.split(' ').next().unwrap();
        let text = format!("kafka.bootstrap_servers = [\"a:1\"]\n{line}");
        check(&text, &[&*format!("{key}: {expected}")]);
    }
    check_input(
        "line_bytes_max = 1023",
        "input[0].line_bytes_max: must be at least 1KiB, not 1023",
    );
    check_input("event_timeout = \"0s\"", "input[0].event_timeout: must be at least 1ms, not 0s");
    check_index("bytes_max = 1", "index.bytes_max: must be at least 16KB, not 1");
    check_index("count_max = 0", "index.count_max: must be between 1 and 2147483647, not 0");
    check_index("in_flight_max = 0", "index.in_flight_max: must be between 1 and 1000, not 0");
    check_elasticsearch(
        "request_timeout = \"1ms\"",
        "elasticsearch.request_timeout: must be at least 1s, not 1ms",
    );
}

#[test]
fn sizes_and_durations_are_written_as_they_are_read() {
    for (text, bytes) in [
        ("1B", 1),
        ("16KB", 16_000),
        ("16KiB", 16_384),
        ("1MB", 1_000_000),
        ("8MiB", 8 << 20),
        ("1GB", 1_000_000_000),
        ("1GiB", 1 << 30),
    ] {
        assert_eq!(values::bytes(text, 0), Ok(bytes));
        assert_eq!(show_bytes(bytes), text);
    }
    for (text, ms) in [
        ("0ms", 0),
        ("10ms", 10),
        ("5s", 5_000),
        ("90s", 90_000),
        ("1m", 60_000),
        ("23h", 82_800_000),
        ("30d", 2_592_000_000),
    ] {
        let duration = Duration::from_millis(ms);
        assert_eq!(values::duration(text, Duration::ZERO, Duration::MAX), Ok(duration));
        assert_eq!(show_duration(duration), text);
    }
    assert_eq!(values::bytes("4096", 0), Ok(4096));
}

#[test]
fn addresses_are_host_and_port() {
    let wanted = "must be host:port, as in \"kafka-1:9092\" or \"[::1]:9092\", not";
    for (text, hint) in [
        ("kafka", ""),
        ("kafka:", ""),
        (":9092", ""),
        ("kafka:0", ""),
        ("kafka:65536", ""),
        ("kafka:+1", ""),
        ("ka fka:1", ""),
        ("[::g]:1", ""),
        ("[::1:1", ""),
        ("PLAINTEXT://kafka:9092", "; leave the scheme out"),
        ("a:1,b:1", "; write a list of one string each"),
        ("::1:9092", "; write an IPv6 address in brackets"),
    ] {
        let expected = format!("kafka.bootstrap_servers[0]: {wanted} {text:?}{hint}");
        check_kafka(&format!("bootstrap_servers = [{text:?}]"), &expected);
    }
    check_kafka(
        "bootstrap_servers = [\"a:1\", \"a:1\"]",
        "kafka.bootstrap_servers[1]: is there twice",
    );
    let good = ["kafka-1.example.org:9092", "10.0.0.1:1", "[::1]:65535", "under_score:1"];
    for text in good {
        assert_eq!(values::bootstrap_server(text).as_deref(), Ok(text));
    }

    for (text, expected) in [
        ("a:1", "must begin with https:// or http://, as in \"https://es-1:9200\""),
        ("http://u:secret@a:1", "must not hold credentials; use username and password_file"),
        ("http://a", "must be https://host:port and nothing else, as in \"https://es-1:9200\""),
        (
            "https://a:1/x",
            "must be https://host:port and nothing else, as in \"https://es-1:9200\"",
        ),
    ] {
        let expected = format!("elasticsearch.hosts[0]: {expected}");
        check_elasticsearch(&format!("hosts = [{text:?}]"), &expected);
    }
    assert_eq!(values::http_host("http://[::1]:9200/").as_deref(), Ok("http://[::1]:9200"));
    assert_eq!(values::http_host("https://a:1").as_deref(), Ok("https://a:1"));
}

#[test]
fn names_of_topics_hosts_and_zones_are_legal() {
    let long = "t".repeat(250);
    for text in ["", ".", "..", "a b", "a/b", "ä", long.as_str()] {
        let expected = format!(
            "input[0].topic: must be 1 to 249 letters, digits, dots, underscores and dashes, and \
             not . or .., not {text:?}"
        );
        check_input(&format!("topic = {text:?}"), &expected);
    }
    let kafka = "kafka.bootstrap_servers = [\"a:1\"]\n";
    check(
        &format!("{kafka}host = \"a/b\""),
        &["host: must be a name without slashes or spaces, not \"a/b\""],
    );
    check(
        &format!("{kafka}host = \"\""),
        &["host: must be text without control characters, not \"\""],
    );
    check(
        &format!("{kafka}state_dir = \"state\""),
        &["state_dir: must be an absolute path, not \"state\""],
    );
    check_index(
        "timezone = \"Europe/Berlino\"",
        "index.timezone: \"Europe/Berlino\" is no time zone; use an IANA name, as in \"Europe/Berlin\"",
    );
}

#[test]
fn patterns_of_files_and_lines_are_compiled() {
    check_input(
        "paths = [\"logs/*.log\"]",
        "input[0].paths[0]: must be an absolute path, not \"logs/*.log\"",
    );
    check_input(
        "paths = [\"/logs/[\"]",
        "input[0].paths[0]: \"/logs/[\" is no glob: invalid range pattern",
    );
    check_input(
        "exclude = [\"logs/a\"]",
        "input[0].exclude[0]: must be an absolute path, not \"logs/a\"; a file name alone holds no slash",
    );
    check_input(
        "exclude = [\"***\"]",
        "input[0].exclude[0]: \"***\" is no glob: wildcards are either regular `*` or recursive `**`",
    );
    check_input(
        "multiline = { start = \"(\" }",
        "input[0].multiline.start: \"(\" is no regular expression: unclosed group",
    );
    check_input(
        "multiline = {}",
        "input[0].multiline.profile: give either profile, start, continuation or count",
    );
    check_input(
        "multiline = { profile = \"none\", start = \"a\" }",
        "input[0].multiline.profile: give either profile, start, continuation or count",
    );
    check_input(
        "multiline = { profile = \"log4j\" }",
        "input[0].multiline.profile: must be one of kafka, java, python, none, not \"log4j\"",
    );
    check_input(
        "multiline = { continuation = \"^ \", count = 2 }",
        "input[0].multiline.profile: give either profile, start, continuation or count",
    );
    check_input(
        "multiline = { count = 0 }",
        "input[0].multiline.count: must be between 1 and 2147483647, not 0",
    );
    check_input(
        "event_lines_max = 0",
        "input[0].event_lines_max: must be between 1 and 2147483647, not 0",
    );
    check_input(
        "key = \"line\"",
        "input[0].key: must be file, host, none, or a text with names in braces as \
         \"{host}/{file}\", not \"line\"",
    );
    check_input(
        "key = \"{rack}\"",
        "input[0].key: {rack} is none of {host}, {file}, {folder}, {path}, nor one of fields",
    );
    check_input("key = \"{host\"", "input[0].key: has a brace without its other: \"{host\"");
    check_input(
        "line_too_long = \"cut\"",
        "input[0].line_too_long: must be one of truncate, split, not \"cut\"",
    );
    check_input(
        "encoding = \"utf16\"",
        "input[0].encoding: must be one of utf-8, utf-16, utf-16le, utf-16be, latin-1, not \
         \"utf16\"; did you mean \"utf-16\"?",
    );
    check_input(
        "include_events = \"ERROR\"",
        "input[0].include_events: must be a list, written [\"...\"]",
    );
    check_input(
        "exclude_events = [\"ok\", \"(\"]",
        "input[0].exclude_events[1]: \"(\" is no regular expression: unclosed group",
    );
}

#[test]
fn an_index_pattern_that_gives_no_legal_name_is_refused() {
    check_elasticsearch(
        "index = \"Logs\"",
        "elasticsearch.index: an index name such as `Logs` must be in lower case",
    );
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    check_kafka(
        "retry_backoff = \"6s\"",
        "kafka.retry_backoff_max: must be at least retry_backoff (6s), not 1s",
    );
    check_elasticsearch(
        "retry_backoff_max = \"100ms\"",
        "elasticsearch.retry_backoff_max: must be at least retry_backoff (200ms), not 100ms",
    );
    check_input(
        "event_bytes_max = \"255KiB\"",
        "input[0].event_bytes_max: must be at least line_bytes_max (256KiB), not 255KiB",
    );
    check_input(
        "event_bytes_max = \"1MB\"",
        "input[0].event_bytes_max: 1MB and 16KiB for key and headers do not fit batch.bytes_max \
         (1MB); lower the one or raise the other",
    );
    check_input(
        "event_bytes_max = \"512KiB\"\nencoding = \"latin-1\"",
        "input[0].event_bytes_max: 1MiB and 16KiB for key and headers do not fit batch.bytes_max \
         (1MB); lower the one or raise the other",
    );
    check_input(
        &format!("event_bytes_max = 983616\nfields.a = \"{}\"", "b".repeat(999)),
        "input[0].event_bytes_max: 983616B and 17384B for key and headers do not fit \
         batch.bytes_max (1MB); lower the one or raise the other",
    );
    // One that is wrong by itself says nothing about the other.
    check_input(
        "event_bytes_max = \"8KiB\"\nline_bytes_max = \"8kb\"",
        "input[0].line_bytes_max: must be a size in B, KB, KiB, MB, MiB, GB or GiB, as in \"1MB\", \
         not \"8kb\"",
    );
    check(
        "kafka.bootstrap_servers = [\"a:1\"]\n\
         [[input]]\npaths = [\"/a\"]\ntopic = \"t\"\n\
         [[input]]\npaths = [\"/b\", \"/a\"]\ntopic = \"t\"",
        &["input[1].paths[1]: \"/a\" belongs to input[0] already"],
    );
}

#[test]
fn what_is_consumed_never_comes_back() {
    check_index(
        "error_topic = \"t\"",
        "index.error_topic: t is one of topics: its records would come back for ever",
    );
    check_index(
        "dead_letter_topic = \"t\"",
        "index.dead_letter_topic: t is one of topics: its records would come back for ever",
    );
    check_index(
        "topics = [\"a\", \"a-dead-letters\"]",
        "index.dead_letter_topic: a-dead-letters is one of topics: its records would come back for ever",
    );
    check_index(
        &format!("topics = [\"{}\"]", "t".repeat(249)),
        "index.dead_letter_topic: its default would be longer than 249 letters; set it",
    );
}

#[test]
fn events_always_have_somewhere_to_go() {
    let kafka = "kafka.bootstrap_servers = [\"a:1\"]\n";
    check(
        &format!("{kafka}[index]\ntopics = [\"t\"]\nerror_topic = \"e\""),
        &[
            "index: has nowhere to put events; add [elasticsearch] with hosts, or [archive] with dir",
        ],
    );
    check(
        &format!("{kafka}archive.dir = \"/a\"\n[index]\ntopics = [\"t\"]"),
        &[
            "index.error_topic: missing; write it, as in error_topic = \"broker-errors\"; ERROR and \
           FATAL events go there",
        ],
    );
    check_route("name = \"a\"\nto = \"index\"", "route[0].to: needs a table [elasticsearch]");
    check_route("name = \"a\"\nto = \"archive\"", "route[0].to: needs a table [archive]");
}

#[test]
fn routes_are_named_once_and_lead_somewhere() {
    check_route("to = \"drop\"", "route[0].name: missing; write it, as in name = \"noise\"");
    check_route("name = \"a\"", "route[0].to: missing; write it, as in to = \"drop\"");
    check_route(
        "name = \"a\"\nto = \"errors\"",
        "route[0].to: must be one of error_topic, index, archive, drop, not \"errors\"",
    );
    check_route(
        "name = \"a\"\nto = \"drop\"\nlevel = [\"warn\"]",
        "route[0].level[0]: must be one of TRACE, DEBUG, INFO, WARN, ERROR, FATAL, not \"warn\"; \
         did you mean \"WARN\"?",
    );
    check_route("name = \"a\"\nto = \"drop\"\nlevel = []", "route[0].level: must not be empty");
    check_route(
        "name = \"a\"\nto = \"drop\"\nfield.kafka.log.component = \"[\"",
        "route[0].field.kafka.log.component: \"[\" is no regular expression: unclosed character class",
    );
    check_route(
        "name = \"a\"\nto = \"drop\"\n[[route]]\nname = \"a\"\nto = \"drop\"",
        "route[1].name: \"a\" is the name of route[0] already",
    );
}

#[test]
fn credentials_come_whole_and_once() {
    check_elasticsearch(
        "username = \"u\"",
        "elasticsearch.password_file: missing; username and password_file come together",
    );
    check_elasticsearch(
        "password_file = \"/p\"",
        "elasticsearch.username: missing; username and password_file come together",
    );
    check_elasticsearch(
        "username = \"u\"\npassword_file = \"/p\"\napi_key_file = \"/k\"",
        "elasticsearch.api_key_file: cannot stand beside username and password_file; choose",
    );
    check_elasticsearch(
        "bearer_token_file = \"/t\"\napi_key_file = \"/k\"",
        "elasticsearch.bearer_token_file: cannot stand beside api_key_file, or username and \
         password_file; choose",
    );
    check_elasticsearch(
        "username = \"u:v\"\npassword_file = \"/p\"",
        "elasticsearch.username: must not hold a colon, which ends it in basic authentication",
    );
}

#[test]
fn what_is_said_of_tls_to_elasticsearch_must_be_of_use_and_whole() {
    let https = "hosts = [\"https://a:1\"]\n";
    for (lines, expected) in [
        (
            "ssl_ca_file = \"/c\"",
            "ssl_ca_file: of use only where one of hosts begins with https://",
        ),
        (
            &*format!(
                "{https}ssl_ca_file = \"/c\"\nssl_ca_trusted_fingerprint = \"{}\"",
                "0F:".repeat(32)
            ),
            "ssl_ca_trusted_fingerprint: cannot stand beside ssl_ca_file; choose",
        ),
        (
            &format!("{https}ssl_certificate_file = \"/c\""),
            "ssl_key_file: missing; ssl_certificate_file and ssl_key_file come together",
        ),
        (
            &format!("{https}ssl_key_password_file = \"/p\""),
            "ssl_key_password_file: of use only with ssl_key_file",
        ),
        (
            &format!("{https}ssl_ca_trusted_fingerprint = \"{}\"", "+f".repeat(32)),
            "ssl_ca_trusted_fingerprint: must be the SHA-256 of a certificate, 64 hexadecimal digits",
        ),
    ] {
        check_elasticsearch(lines, &format!("elasticsearch.{expected}"));
    }
    assert_eq!(
        values::fingerprint(&"0F:1e".repeat(16)).map(|it| it[..2].to_vec()),
        Ok(vec![15, 30])
    );
}

#[test]
fn consumer_options_that_the_promise_depends_on_are_refused() {
    check_kafka(
        "consumer_options = { \"enable.auto.commit\" = true }",
        "kafka.consumer_options.enable.auto.commit: cannot be set: offsets are committed when \
         their records have arrived, never by a timer",
    );
    check_kafka(
        "consumer_options.group.id = \"g\"",
        "kafka.consumer_options.group.id: cannot be set: it is index.group_id",
    );
    check_kafka(
        "consumer_options = { a.b = 1, \"a.b\" = 2 }",
        "kafka.consumer_options.a.b: is there twice",
    );
    let config = parse(
        "kafka.bootstrap_servers = [\"a:1\"]\n[kafka.consumer_options]\nfetch.min.bytes = 1\n\
         \"check.crcs\" = true\nsocket.nagle.disable = true",
    );
    let options = config.unwrap().kafka.consumer_options;
    let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (&**k, &**v)).collect();
    let expected =
        [("check.crcs", "true"), ("fetch.min.bytes", "1"), ("socket.nagle.disable", "true")];
    assert_eq!(options, expected);
}

#[test]
fn what_would_make_a_connection_less_safe_than_it_looks_is_refused() {
    check_kafka(
        "ssl_ca_file = \"/ca.pem\"",
        "kafka.ssl_ca_file: of use only with security_protocol = \"SSL\" or \"SASL_SSL\", not \
         \"PLAINTEXT\"",
    );
    check_kafka(
        "security_protocol = \"SSL\"\nssl_certificate_file = \"/c.pem\"",
        "kafka.ssl_key_file: missing; ssl_certificate_file and ssl_key_file come together",
    );
    check_kafka(
        "security_protocol = \"SSL\"\nssl_key_password_file = \"password\"",
        "kafka.ssl_key_password_file: of use only with ssl_key_file",
    );
    check_kafka(
        "security_protocol = \"SSL\"\nsasl_username = \"u\"",
        "kafka.sasl_username: of use only with security_protocol = \"SASL_SSL\" or \
         \"SASL_PLAINTEXT\", not \"SSL\"",
    );
    check_kafka(
        "security_protocol = \"SASL_SSL\"",
        "kafka.sasl_mechanism: missing; SASL_SSL needs one",
    );
    let user = "sasl_username = \"u\"\nsasl_password_file = \"/p\"";
    check_kafka(
        &format!("security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"PLAIN\"\n{user}"),
        "kafka.sasl_mechanism: PLAIN would send the password for all to read; use SASL_SSL, or a \
         SCRAM mechanism, or set sasl_plain_without_tls = true",
    );
    let sasl = "security_protocol = \"SASL_SSL\"\nsasl_mechanism";
    check_kafka(
        &format!("{sasl} = \"SCRAM-SHA-256\"\nsasl_username = \"u\""),
        "kafka.sasl_password_file: missing; SCRAM-SHA-256 needs it",
    );
    check_kafka(
        &format!("{sasl} = \"OAUTHBEARER\"\nsasl_token_file = \"t\"\nsasl_username = \"u\""),
        "kafka.sasl_username: of no use with sasl_mechanism = \"OAUTHBEARER\"",
    );
    let missing = "kafka.sasl_token_file: missing; OAUTHBEARER needs it, or \
                   sasl_oauthbearer_token_endpoint_url";
    check_kafka(&format!("{sasl} = \"OAUTHBEARER\""), missing);
    let endpoint = "sasl_oauthbearer_token_endpoint_url = \"https://idp/token\"\n\
                    sasl_oauthbearer_client_secret_file = \"s\"";
    check_kafka(
        &format!("{sasl} = \"OAUTHBEARER\"\n{endpoint}"),
        "kafka.sasl_oauthbearer_client_id: missing; sasl_oauthbearer_token_endpoint_url needs it",
    );
    let endpoint = format!("{endpoint}\nsasl_oauthbearer_client_id = \"shipper\"");
    check_kafka(
        &format!("{sasl} = \"OAUTHBEARER\"\nsasl_token_file = \"t\"\n{endpoint}"),
        "kafka.sasl_oauthbearer_token_endpoint_url: cannot stand beside sasl_token_file; choose",
    );
    check_kafka(
        &format!(
            "{sasl} = \"OAUTHBEARER\"\nsasl_token_file = \"t\"\nsasl_oauthbearer_scope = \"s\""
        ),
        "kafka.sasl_oauthbearer_scope: of use only with sasl_oauthbearer_token_endpoint_url",
    );
    check_kafka(
        &format!("{sasl} = \"PLAIN\"\n{user}\nsasl_oauthbearer_client_id = \"shipper\""),
        "kafka.sasl_oauthbearer_client_id: of no use with sasl_mechanism = \"PLAIN\"",
    );
    check_kafka(
        "security_protocol = \"SSL\"\nsasl_oauthbearer_scope = \"s\"",
        "kafka.sasl_oauthbearer_scope: of use only with security_protocol = \"SASL_SSL\" or \
         \"SASL_PLAINTEXT\", not \"SSL\"",
    );
    check_kafka(
        &format!("{sasl} = \"OAUTHBEARER\"\n{}", endpoint.replace("https:", "http:")),
        "kafka.sasl_oauthbearer_token_endpoint_url: would send the client's secret for all to \
         read; use https://",
    );
    let config = parse(&format!(
        "[kafka]\nbootstrap_servers = [\"a:1\"]\nsecurity_protocol = \"SASL_PLAINTEXT\"\n\
         sasl_mechanism = \"OAUTHBEARER\"\nssl_ca_file = \"/ca.pem\"\n{endpoint}"
    ));
    assert!(config.unwrap().kafka.sasl_oauthbearer_scope.is_none());
    check_kafka(
        "security_protocol = \"SSL\"\nssl_key_file = \"keys/k.pem\"",
        "kafka.ssl_key_file: must be an absolute path, not \"keys/k.pem\"",
    );
    let config = parse(&format!(
        "[kafka]\nbootstrap_servers = [\"a:1\"]\nsecurity_protocol = \"SASL_PLAINTEXT\"\n\
         sasl_mechanism = \"PLAIN\"\nsasl_plain_without_tls = true\n{user}"
    ));
    assert!(config.unwrap().kafka.security_protocol.has_sasl());
}

#[test]
fn a_clients_secret_goes_out_of_this_host_over_tls_only() {
    let check = |url: &str, problem: &str| {
        let key = "sasl_oauthbearer_token_endpoint_url";
        check_kafka(&format!("{key} = {url:?}"), &format!("kafka.{key}: {problem}"));
    };
    let clear = "would send the client's secret for all to read; use https://";
    check("http://login.example.org/token", clear);
    check("http://127.0.0.1.example.org/token", clear);
    check("http://10.0.0.1:8080/token", clear);
    check("http://[::2]/token", clear);
    let example = "must be the URL of a token endpoint, as in \
                   \"https://login.example.org/oauth2/token\"";
    for url in [
        "",
        "/token",
        "login.example.org",
        "ftp://a/token",
        "https://",
        "https://a/#b",
        "https://a/\n",
    ] {
        check(url, example);
    }
    check(
        "https://shipper:secret@login.example.org/token",
        "must not hold credentials; use sasl_oauthbearer_client_id and \
         sasl_oauthbearer_client_secret_file",
    );
    for url in
        ["http://localhost:8080/t", "http://127.0.0.2/t", "http://[::1]:1/t", "https://a/t?p=1"]
    {
        assert_eq!(values::token_endpoint(url).as_deref(), Ok(url));
    }
}

#[test]
fn a_walk_says_what_it_lacks() {
    let config = parse("kafka.bootstrap_servers = [\"a:1\"]").unwrap();
    let file = Path::new("shipper.toml");
    assert_eq!(
        config.require(Walk::Tail, file).unwrap_err().to_string(),
        "shipper.toml: input: missing; tail needs at least one [[input]] with paths and a topic"
    );
    assert_eq!(
        config.require(Walk::Index, file).unwrap_err().to_string(),
        "shipper.toml: index: missing; index needs an [index] with the topics to consume"
    );
    let config = parse(LEAST).unwrap();
    assert!(config.require(Walk::Tail, file).is_ok());
    assert!(config.require(Walk::Index, file).is_ok());
}

#[test]
fn the_example_holds_the_defaults() {
    let example = parse(EXAMPLE).unwrap();
    let least = parse(LEAST).unwrap();
    assert_eq!(format!("{example:#?}"), format!("{least:#?}"));
}

#[test]
fn what_the_example_leaves_out_may_be_put_in() {
    let lines: Vec<&str> = EXAMPLE
        .lines()
        // Not beside a password.
        .filter(|line| !line.starts_with("#api_key_file") && !line.starts_with("#sasl_token_file"))
        .filter(|line| {
            !line.starts_with("#sasl_oauthbearer_") && !line.starts_with("#bearer_token")
        })
        // Not beside the authorities' file.
        .filter(|line| !line.starts_with("#ssl_ca_trusted_fingerprint"))
        .map(|line| match line.strip_prefix('#') {
            None if line.starts_with("security_protocol") => "security_protocol = \"SASL_SSL\"",
            None if line.starts_with("hosts") => "hosts = [\"https://localhost:9200\"]",
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .collect();
    let config = parse(&lines.join("\n")).unwrap();
    assert_eq!(config.host, "kafka-1.example.org");
    assert_eq!(config.route[0].name, "noise");
    assert!(config.archive.is_some());
}

#[test]
fn the_example_says_of_each_key_what_the_code_says() {
    let mut table = String::new();
    let example = comments_by_key(EXAMPLE, "#", |line| {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned();
            return Some(table.clone());
        }
        let (key, _) = line.split_once(" = ")?;
        Some(problems::key_path(&table, key))
    });
    let mut table = String::new();
    let code = comments_by_key(include_str!("../config.rs"), "///", |line| {
        if let Some(name) = line.strip_prefix("pub struct ") {
            table = name.strip_suffix("Config {")?.to_lowercase();
            return None;
        }
        let (key, _) = line.strip_prefix("    pub ")?.split_once(": ")?;
        (!key.contains(' ')).then(|| problems::key_path(&table, key))
    });
    assert!(code.len() > 60, "{code:#?}");
    assert_eq!(example, code);
}

/// Returns the comment right above each key; `key_of` sees every other line.
fn comments_by_key(
    text: &str,
    mark: &str,
    mut key_of: impl FnMut(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let mut comments = BTreeMap::new();
    let mut comment = Vec::new();
    for line in text.lines() {
        let words = line.trim_start().strip_prefix(mark);
        if let Some(words) = words.and_then(|rest| rest.strip_prefix(' ')) {
            comment.push(words);
            continue;
        }
        if let Some(key) = key_of(line) {
            comments.insert(key, comment.join(" "));
        }
        comment.clear();
    }
    comments
}

#[test]
fn the_example_has_the_default_that_its_comment_names() {
    let mut n_defaults = 0;
    let mut comment = String::new();
    for line in EXAMPLE.lines() {
        if let Some(words) = line.strip_prefix("# ") {
            comment += words;
            comment.push(' ');
            continue;
        }
        let default = comment
            .split_once("Default: `")
            .and_then(|(_, rest)| rest.split_once('`'))
            .map(|(default, _)| default);
        if let (Some(default), Some((_, value))) = (default, line.split_once(" = ")) {
            assert_eq!(value.trim_matches('"'), default, "{line}");
            n_defaults += 1;
        }
        comment.clear();
    }
    assert!(n_defaults > 30, "{n_defaults}");
}

#[test]
fn nesting_without_end_is_refused() {
    for text in [format!("a = {}", "[".repeat(100_000)), format!("a = {}", "{a=".repeat(100_000))] {
        assert!(parse(&text).is_err());
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_or_read_but_never_panics() {
    for end in (0..EXAMPLE.len()).filter(|end| EXAMPLE.is_char_boundary(*end)) {
        if let Err(problems) = parse(&EXAMPLE[..end]) {
            assert!(!problems.to_string().is_empty(), "cut at {end}");
        }
    }
}

/// Torture: 86.
#[test]
fn kerberos_is_refused_by_its_name_with_what_there_is_instead() {
    check_kafka(
        "security_protocol = \"SASL_SSL\"\nsasl_mechanism = \"GSSAPI\"",
        "kafka.sasl_mechanism: GSSAPI (Kerberos) is not built in: it needs the Cyrus SASL and \
         Kerberos libraries of the host; use SCRAM-SHA-512 over TLS, or a TLS certificate",
    );
}
