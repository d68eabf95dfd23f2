//! Compiles the core and its part of ZooKeeper a second time, with bugs in them that tests can choose.
//!
//! The sources are those of the crates themselves. Only the two packages here set the cfg `planted`, and nothing depends on
//! them: whoever uses the library gets the same sources without a trace of this.

fn main() {
    println!("cargo::rerun-if-changed=../build.rs");
    // Cargo notes sources outside of a package by their absolute paths: in a target folder shared by several checkouts, it
    // would take those of another one for these.
    for sources in ["src", "recovery/src", "tests/simulation"] {
        println!("cargo::rerun-if-changed=../../{sources}");
    }
    println!("cargo::rustc-cfg=planted");
}
