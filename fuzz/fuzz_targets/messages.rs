#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bequest::fuzzing::messages(data);
});
