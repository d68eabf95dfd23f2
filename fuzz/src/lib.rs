//! What the fuzzers do with their inputs: one function for every decoder that meets foreign bytes.
//!
//! Each says whether it accepted the input; that nothing panics, and that what is accepted is sound, is asserted within.
//! `tests/decoders.rs` runs the same functions over the corpora without a fuzzer.

pub mod commands;
#[cfg(feature = "node")]
pub mod http;
#[cfg(feature = "node")]
pub mod kv;
pub mod reading;
pub mod records;
pub mod source;
