#![no_main]

use libfuzzer_sys::fuzz_target;
use log_shipper::config::Multiline;
use shipper_fuzz::{check, limits, with_runs};

fuzz_target!(|data: &[u8]| {
    if let Some((limits, step, bytes)) = limits(data) {
        check(&with_runs(bytes), limits, &Multiline::None, step);
    }
});
