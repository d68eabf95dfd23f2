//! Disks, syncs and memory of one node, taken away.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bequest_harness::confine::{is_installed, run};
use bequest_harness::Process;
use rustix::process::{prlimit, Pid, Resource, Rlimit};

const FILLER: &str = "filler";
/// How long a tracer may take to let go.
const DETACH_LIMIT: Duration = Duration::from_secs(3);
/// Where control groups are, and the file with the limit of memory: of the second version, and of the first.
const GROUPS: [(&str, &str); 2] =
    [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];

/// Makes `dir` a small disk of its own.
///
/// # Errors
/// In words, if mounting is not permitted.
pub(crate) fn mount(dir: &Path, megabytes: u32) -> Result<(), String> {
    let (dir, size) = (dir.display().to_string(), format!("size={megabytes}m"));
    run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &dir])
}

/// Leaves no byte free on the disk of `dir`.
pub(crate) fn fill(dir: &Path) -> Result<()> {
    let mut file = File::create(dir.join(FILLER)).context("cannot fill the disk")?;
    for bytes in [1 << 20, 1 << 12, 1] {
        // Until there is no room for so much.
        let block = vec![0x5a; bytes];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}

/// Frees what [`fill`] took.
pub(crate) fn drain(dir: &Path) {
    // Whoever deleted the whole disk meanwhile has deleted it, too.
    let _ = fs::remove_file(dir.join(FILLER));
}

/// Whether syncs can be made to fail here.
///
/// # Errors
/// In words, if not.
pub(crate) fn can_trace() -> Result<(), String> {
    if !is_installed("strace") {
        return Err("strace is not installed".to_owned());
    }
    run("strace", &["-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true"])
}

/// Lets the sync number `nth` of each of a process' threads fail.
pub(crate) fn fail_sync(pid: u32, nth: u64, log: &Path) -> Result<Process> {
    let (inject, pid) = (format!("inject=fsync,fdatasync:error=EIO:when={nth}"), pid.to_string());
    // It only says what was injected: everything else a node does is not traced.
    let tracer = Process::builder("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", &inject, "-p", &pid, "-o"])
        .arg(log)
        .log(log.with_extension("tracer"))
        .spawn()?;
    Ok(tracer)
}

/// Ends tracing; says whether a sync failed.
pub(crate) async fn trace_no_more(tracer: Process, log: &Path) -> Result<bool> {
    // It ends by itself with the process it traces.
    let _ = tracer.terminate();
    if tokio::time::timeout(DETACH_LIMIT, tracer.wait()).await.is_err() {
        tracer.kill().await?;
    }
    Ok(fs::read_to_string(log).is_ok_and(|text| text.contains("INJECTED")))
}

/// Lets a process have no more than `more` bytes of memory beyond what it has.
pub(crate) fn limit_memory(pid: u32, more: u64) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kilobytes: u64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .context("the kernel does not tell a process' size")?;
    let limit = Some(kilobytes * 1024 + more);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
    // Of what it can write to: address space alone is reserved in advance by far.
    prlimit(Some(pid), Resource::Data, Rlimit { current: limit, maximum: limit }).context("cannot limit its memory")?;
    Ok(())
}

/// A control group. Dropping it deletes it; its process must be gone.
#[derive(Debug)]
pub(crate) struct Group {
    dir: PathBuf,
    file: &'static str,
}

impl Group {
    /// Makes one.
    ///
    /// # Errors
    /// In words, if that is not permitted.
    pub(crate) fn make(name: &str) -> Result<Self, String> {
        let mut refusals = Vec::new();
        for (root, file) in GROUPS {
            let dir = Path::new(root).join(format!("bequest-torture-{}-{name}", std::process::id()));
            if let Err(error) = fs::create_dir(&dir) {
                refusals.push(format!("{}: {error}", dir.display()));
                continue;
            }
            let group = Self { dir, file };
            if group.dir.join(file).exists() {
                return Ok(group);
            }
            refusals.push(format!("{root} does not limit memory"));
        }
        Err(refusals.join("; "))
    }

    /// Takes a process in: from now on it may take so many more bytes of memory.
    pub(crate) fn take(&self, pid: u32, bytes: u64) -> Result<()> {
        fs::write(self.dir.join(self.file), bytes.to_string()).context("cannot limit a control group's memory")?;
        fs::write(self.dir.join("cgroup.procs"), pid.to_string()).context("cannot move a process into a control group")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Left behind it would be empty, and limit nothing.
        let _ = fs::remove_dir(&self.dir);
    }
}
