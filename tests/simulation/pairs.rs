//! Every pair of failures: one scripted run, its effects numbered, and every two of them struck in every way.
//!
//! The second effect is one of the run in which the first was struck: it may belong to the recovery from the first. So
//! the pairs are found by running every single strike, and noting what there is behind it.
//!
//! `BEQUEST_STRIKES="17:late 93:crash-before"` with the test `one_pair` replays a run, and `BEQUEST_TRACE=1` prints it.

#[cfg(not(planted))]
mod every;
#[cfg(not(planted))]
mod story;
pub mod strike;
