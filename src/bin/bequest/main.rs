//! `bequest`: placeholder until the node exists.
fn main() {}
