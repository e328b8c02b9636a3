#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use log_shipper::config::Config;

fuzz_target!(|text: &str| {
    if let Err(problems) = Config::parse(text, Path::new("shipper.toml")) {
        let said = problems.to_string();
        assert!(!said.is_empty());
        // Nothing of a file may reach the terminal as it is.
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    }
});
