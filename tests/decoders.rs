//! The fuzzers' targets over their seeds and corpora: what a fuzzer found once is tried with every change.

// Nothing of a test program is exported; `pub` says what other files of it use.
#![allow(unreachable_pub)]

#[path = "../fuzz/src/commands.rs"]
mod commands;
#[cfg(feature = "programs")]
#[path = "../fuzz/src/http.rs"]
mod http;
#[cfg(feature = "programs")]
#[path = "../fuzz/src/kv.rs"]
mod kv;
#[path = "../fuzz/src/reading.rs"]
mod reading;
#[path = "../fuzz/src/records.rs"]
mod records;
#[path = "../fuzz/src/source.rs"]
mod source;

use source::replay;

#[test]
fn records_and_segments_are_judged_without_a_panic() {
    replay("records", records::records, &records::record_seeds());
}

#[test]
fn addresses_and_names_are_judged_without_a_panic() {
    replay("addresses", records::addresses, &records::address_seeds());
}

#[test]
fn read_passes_end_without_a_panic_and_hand_over_no_gap() {
    replay("passes", reading::passes, &reading::pass_seeds());
}

#[test]
fn commands_are_judged_without_a_panic() {
    replay("commands", commands::commands, &commands::command_seeds());
}

#[test]
fn rows_of_client_sessions_are_judged_without_a_panic() {
    replay("rows", commands::rows, &commands::row_seeds());
}

#[test]
fn snapshots_are_judged_without_a_panic_and_leave_the_state_where_they_are_refused() {
    replay("snapshots", commands::snapshots, &commands::snapshot_seeds());
}

#[cfg(feature = "programs")]
#[test]
fn commands_questions_and_chunks_of_values_are_judged_without_a_panic() {
    replay("values", kv::values, &kv::value_seeds());
}

#[cfg(feature = "programs")]
#[test]
fn requests_over_http_are_judged_without_a_panic() {
    replay("requests", http::requests, &http::request_seeds());
}
