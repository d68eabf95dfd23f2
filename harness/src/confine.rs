//! A network and mounts of this program's own, so that whatever it makes vanishes with it, however it ends.
//!
//! It starts itself again by `unshare`. Root may do that anywhere; others where the kernel gives them a user namespace.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Set for the program that is inside.
const INSIDE: &str = "BEQUEST_INSIDE";
/// What must work inside, for all of it to be of use.
const PROBE: &str =
    "mount -t tmpfs tmpfs /run && ip link set lo up && ip netns add probe && nsenter --net=/run/netns/probe true";

/// Goes inside: returns only if it is there already (`Ok`), or cannot get there.
///
/// # Errors
/// In words, if the system does not permit it.
pub fn enter() -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        // Names of network namespaces are kept below /run, where they would outlive this program.
        return run("mount", &["-t", "tmpfs", "tmpfs", "/run"]).and_then(|()| run("ip", &["link", "set", "lo", "up"]));
    }
    let mut unshare: Vec<OsString> = ["--net", "--mount", "--propagation", "private"].map(OsString::from).to_vec();
    if !rustix::process::geteuid().is_root() {
        unshare.extend(["--user", "--map-root-user"].map(OsString::from));
    }
    let probe = Command::new("unshare").args(&unshare).args(["sh", "-c", PROBE]).stdin(Stdio::null()).output();
    match probe {
        Err(error) => return Err(format!("cannot run unshare: {error}")),
        Ok(output) if !output.status.success() => {
            let refusal = String::from_utf8_lossy(&output.stderr);
            return Err(refusal.lines().next().unwrap_or("refused without a word").to_owned());
        }
        Ok(_) => {}
    }
    let own = std::env::current_exe().map_err(|error| format!("cannot find out where this program is: {error}"))?;
    // This program is replaced: only a failure returns.
    let failed =
        Command::new("unshare").args(unshare).arg(own).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    Err(format!("cannot run unshare: {failed}"))
}

/// Runs a command that needs no answer.
///
/// # Errors
/// In words, if it fails or cannot be run.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let words = || format!("{program} {}", arguments.join(" "));
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{}: {}", words(), String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{}: {error}", words())),
    }
}

/// Whether `program` is in `PATH`.
pub fn is_installed(program: &str) -> bool {
    crate::process::find_program(program).is_some()
}
