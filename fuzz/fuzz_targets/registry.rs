#![no_main]

use libfuzzer_sys::fuzz_target;
use log_shipper::tail::registry::format::{decode, encode};

/// What is read from the bytes as they are, and from bytes that a header vouches for.
fuzz_target!(|data: &[u8]| {
    let _ = decode(data, "h");
    let head = format!(
        "{{\"magic\":\"shipper-registry\",\"format\":2,\"min_reader\":2,\"generation\":1,\
         \"host\":\"h\",\"len\":{}",
        data.len()
    );
    let crc32c = crc32c::crc32c_append(crc32c::crc32c(head.as_bytes()), data);
    let sealed = [format!("{head},\"crc32c\":{crc32c}}}\n").as_bytes(), data].concat();
    if let Ok(mut snapshot) = decode(&sealed, "h") {
        let again = encode(snapshot.generation, "h", &mut snapshot.entries);
        assert_eq!(decode(&again, "h").expect("as it was written"), snapshot);
    }
});
