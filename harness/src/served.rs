//! The node program, `bequest serve`, as a process to be started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::{Error, Process, ProcessBuilder};

/// The node program: the given one, or the `bequest` beside the program that runs.
///
/// # Errors
/// [`Error::NoNodeProgram`] if it is not there.
pub fn node_program(given: Option<&Path>) -> Result<PathBuf, Error> {
    let program = match given {
        Some(program) => program.to_owned(),
        None => std::env::current_exe().unwrap_or_default().with_file_name("bequest"),
    };
    if program.is_file() {
        // Nodes may be started in other folders.
        return Ok(program.canonicalize().unwrap_or(program));
    }
    Err(Error::NoNodeProgram { program })
}

/// A node that takes part in `group` at `zk`; its data directory, its log and what else it needs is for the caller to
/// add.
pub fn serve(program: &Path, id: u64, zk: &str, group: &str, listen: SocketAddr, http: SocketAddr) -> ProcessBuilder {
    Process::builder(program)
        .name(format!("node {id}"))
        .arg("serve")
        .args(["--node", &id.to_string()])
        .args(["--zk", zk])
        .args(["--group", group])
        .args(["--listen", &listen.to_string()])
        .args(["--http", &http.to_string()])
}
