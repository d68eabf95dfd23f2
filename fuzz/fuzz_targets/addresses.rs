#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bequest_fuzz::records::addresses(data);
});
