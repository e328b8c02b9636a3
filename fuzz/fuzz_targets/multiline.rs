#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use log_shipper::config::Multiline;
use regex::bytes::Regex;
use shipper_fuzz::{check, limits};

static RULES: LazyLock<[Multiline; 6]> = LazyLock::new(|| {
    let regex = |pattern: &str| pattern.parse::<Regex>().expect("a pattern");
    [
        Multiline::Kafka,
        Multiline::Java,
        Multiline::Python,
        Multiline::Start(regex("^#")),
        Multiline::Continuation(regex("^[ \t]")),
        Multiline::Count(3),
    ]
});

fuzz_target!(|data: &[u8]| {
    let Some((&rule, data)) = data.split_first() else { return };
    if let Some((limits, step, bytes)) = limits(data) {
        check(bytes, limits, &RULES[usize::from(rule) % RULES.len()], step);
    }
});
