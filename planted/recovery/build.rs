//! Compiles sources of the project a second time, with bugs in them that tests can choose.
//!
//! They are those of the crates themselves. Only the two packages in this folder set the cfg `planted`, and nothing
//! depends on them: whoever uses the library gets the same sources without a trace of this.

fn main() {
    println!("cargo::rustc-cfg=planted");
    // Cargo notes what lies outside of a package by absolute paths: in a target folder that several checkouts share, it
    // would take the sources of another one for these.
    println!("cargo::rerun-if-changed=../../recovery/src");
}
