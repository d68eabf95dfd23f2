//! A child process that can be killed, stopped and continued, and that never outlives its parent.

use crate::Error;
use rustix::process::{kill_process, waitid, Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const LOG_TAIL_LINES: usize = 20;
const LOG_TAIL_BYTES: u64 = 64 * 1024;
// A killed process is gone within milliseconds; longer than this it hangs in the kernel and waiting does not help.
const DEATH_WAIT_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

/// How to start a program. See [`Process::builder`].
#[derive(Clone, Debug)]
pub struct ProcessBuilder {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    prefix: Vec<OsString>,
    dir: Option<PathBuf>,
    log: Option<PathBuf>,
}

impl ProcessBuilder {
    /// What errors call the process; the program's file name by default.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the process's environment, beside what it inherits.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the program through another one that ends in executing it, like `ip netns exec NAME`.
    #[must_use]
    pub fn prefix<A: AsRef<OsStr>>(mut self, prefix: impl IntoIterator<Item = A>) -> Self {
        self.prefix = prefix.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self
    }

    /// The folder the process works in; the caller's by default.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Where its output and error output are appended; thrown away by default.
    #[must_use]
    pub fn log(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// Starts the process.
    ///
    /// # Errors
    /// [`Error::Spawn`] if the program cannot be executed, [`Error::File`] if its log cannot be opened.
    pub fn spawn(&self) -> Result<Process, Error> {
        let mut words = death_with_parent();
        words.extend(self.prefix.iter().cloned());
        words.push(self.program.clone());
        words.extend(self.args.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment.iter().map(|(key, value)| (key, value))).stdin(Stdio::null());
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let (out, err) = self.output()?;
        command.stdout(out).stderr(err);
        let failed = |source| Error::Spawn { program: self.program.to_string_lossy().into_owned(), source };
        // Through a wrapper, a missing program would look like one that started and ended.
        if find_program(&self.program).is_none() {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        }
        let child = spawn_on_lasting_thread(command).map_err(failed)?;
        Process::watch(child, self.name.clone(), self.log.clone()).map_err(failed)
    }

    /// Runs the program to its end; how it ended, and everything it wrote.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn); [`Error::NotReady`], with all it wrote, if it has not ended after `limit`, and is killed.
    pub async fn run(self, limit: Duration) -> Result<(ExitStatus, String), Error> {
        let dir = tempfile::tempdir().map_err(|source| Error::File {
            action: "make a folder in",
            path: std::env::temp_dir(),
            source,
        })?;
        let log = dir.path().join("log");
        let process = self.log(&log).spawn()?;
        let ended = tokio::time::timeout(limit, process.wait()).await;
        let written = fs::read_to_string(&log).unwrap_or_default();
        match ended {
            Ok(status) => Ok((status, written)),
            Err(_) => {
                let (name, wanted) = (process.name.clone(), "its end".to_owned());
                Err(Error::NotReady { name, wanted, waited: limit, log_tail: written })
            }
        }
    }

    fn output(&self) -> Result<(Stdio, Stdio), Error> {
        let Some(path) = &self.log else {
            return Ok((Stdio::null(), Stdio::null()));
        };
        let failed = |source| Error::File { action: "open log", path: path.clone(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let out = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        Ok((out.into(), err.into()))
    }
}

/// A running (or ended) child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: Option<PathBuf>,
    ending: Arc<Ending>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// Holds how the process ended. Signals are sent under its lock, so that none ever hits a reused process id.
#[derive(Debug, Default)]
struct Ending {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Ending {
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Describes a program to start: a path, or a name to be looked for in `PATH`.
    pub fn builder(program: impl AsRef<OsStr>) -> ProcessBuilder {
        let program = program.as_ref().to_owned();
        let name = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
        ProcessBuilder {
            name,
            program,
            args: Vec::new(),
            environment: Vec::new(),
            prefix: Vec::new(),
            dir: None,
            log: None,
        }
    }

    fn watch(child: Child, name: String, log: Option<PathBuf>) -> std::io::Result<Self> {
        let pid = Pid::from_child(&child);
        let ending = Arc::new(Ending::default());
        let (sender, exit) = watch::channel(None);
        let reaper = Arc::clone(&ending);
        std::thread::Builder::new().name(format!("reap-{name}")).spawn(move || reap(child, pid, &reaper, &sender))?;
        Ok(Self { name, pid, log, ending, exit })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Whether it has not ended yet. A stopped process runs.
    pub fn is_running(&self) -> bool {
        self.ending.lock().is_none()
    }

    /// Waits until it ends, and says how.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        loop {
            if let Some(status) = *exit.borrow_and_update() {
                return status;
            }
            // The reaper sends before it ends, so a closed channel has the status in it.
            if exit.changed().await.is_err() {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Kills it as by `kill -9` and waits until it is gone. Does nothing if it has ended.
    ///
    /// # Errors
    /// [`Error::Signal`] if the signal cannot be sent.
    pub async fn kill(&self) -> Result<ExitStatus, Error> {
        self.kill_now()?;
        Ok(self.wait().await)
    }

    /// Kills it as by `kill -9` without waiting for its end. Does nothing if it has ended.
    ///
    /// # Errors
    /// [`Error::Signal`] if the signal cannot be sent.
    pub fn kill_now(&self) -> Result<(), Error> {
        match self.signal(Signal::KILL) {
            Err(Error::NotRunning { .. }) => Ok(()),
            other => other,
        }
    }

    /// Asks it to end, as by `kill`. Does not wait: see [`Process::wait`].
    ///
    /// # Errors
    /// [`Error::NotRunning`] or [`Error::Signal`].
    pub fn terminate(&self) -> Result<(), Error> {
        self.signal(Signal::TERM)
    }

    /// Stops it as by `kill -STOP`; returns when none of its threads runs any more.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Signal`], or [`Error::NotReady`] if a thread does not stop.
    pub async fn pause(&self) -> Result<(), Error> {
        self.signal(Signal::STOP)?;
        let started = Instant::now();
        while !self.is_paused() {
            if !self.is_running() {
                return Err(Error::NotRunning { name: self.name.clone() });
            }
            if started.elapsed() > DEATH_WAIT_MAX {
                return Err(self.not_ready("all threads to stop", started.elapsed()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Lets it go on after [`Process::pause`].
    ///
    /// # Errors
    /// [`Error::NotRunning`] or [`Error::Signal`].
    pub fn resume(&self) -> Result<(), Error> {
        self.signal(Signal::CONT)
    }

    /// Whether all its threads are stopped, as after [`Process::pause`].
    pub fn is_paused(&self) -> bool {
        // The lock keeps the process id from being given to another process meanwhile.
        let status = self.ending.lock();
        let (None, Ok(threads)) = (*status, fs::read_dir(format!("/proc/{}/task", self.pid()))) else {
            return false;
        };
        threads.flatten().all(|thread| {
            // The name in parentheses may hold anything; the state follows the last one. A thread that just ended is
            // unreadable, and does not run.
            fs::read_to_string(thread.path().join("stat")).map_or(true, |stat| {
                stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't', 'X', 'Z']))
            })
        })
    }

    /// Where its output goes, if it is kept.
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        self.log.as_deref().map_or_else(|| "(no log is kept)".to_owned(), log_tail)
    }

    /// Waits until `text` appears in its log.
    ///
    /// # Errors
    /// [`Error::Ended`] if the process ends first, [`Error::NotReady`] after `limit`.
    pub async fn wait_for_log(&self, text: &str, limit: Duration) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let ended = *self.exit.borrow();
            let found = self.log.as_deref().and_then(|path| fs::read(path).ok());
            if found.is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains(text)) {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(self.ended(status));
            }
            if started.elapsed() > limit {
                return Err(self.not_ready(&format!("{text:?} in its log"), started.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// An [`Error::Ended`] if it has ended.
    ///
    /// # Errors
    /// That one.
    pub fn check_running(&self) -> Result<(), Error> {
        match *self.ending.lock() {
            Some(status) => Err(self.ended(status)),
            None => Ok(()),
        }
    }

    /// An [`Error::NotReady`] about this process, with the end of its log.
    pub fn not_ready(&self, wanted: &str, waited: Duration) -> Error {
        Error::NotReady { name: self.name.clone(), wanted: wanted.to_owned(), waited, log_tail: self.log_tail() }
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Ended { name: self.name.clone(), status, log_tail: self.log_tail() }
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        let status = self.ending.lock();
        if status.is_some() {
            return Err(Error::NotRunning { name: self.name.clone() });
        }
        kill_process(self.pid, signal).map_err(|error| Error::Signal {
            name: self.name.clone(),
            pid: self.pid(),
            source: error.into(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Failing to kill leaves nothing else to do here; the kernel kills it with this process.
        let _ = self.kill_now();
        // Its ports and files should be free when this returns.
        let status = self.ending.lock();
        let _ = self.ending.changed.wait_timeout_while(status, DEATH_WAIT_MAX, |status| status.is_none());
    }
}

/// Waits for the end without collecting it, and collects it under the lock: only then is the process id free.
fn reap(mut child: Child, pid: Pid, ending: &Ending, exit: &watch::Sender<Option<ExitStatus>>) {
    while waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        .is_err_and(|error| error == rustix::io::Errno::INTR)
    {}
    let mut status = ending.lock();
    // Waiting for one's own child fails only if somebody else collected it; that it ended is known all the same.
    *status = Some(child.wait().unwrap_or_default());
    exit.send_replace(*status);
    ending.changed.notify_all();
}

/// The end of the file at `path`, for an error message.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        Ok(lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n"))
    };
    match read() {
        Ok(text) if text.is_empty() => "(empty)".to_owned(),
        Ok(text) => text,
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// Where `program` is: as given if it is a path, else in `PATH`.
pub(crate) fn find_program(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = Path::new(program.as_ref());
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// The words before a command that let the kernel kill it when this process ends, however it ends. A process that had
/// ended already when that was asked of the kernel is nobody's parent any more, and its child does not begin.
///
/// `setpriv` is part of Debian's base system; where it is missing, children outlive a killed parent.
fn death_with_parent() -> Vec<OsString> {
    const UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;
    find_program("setpriv").map_or_else(Vec::new, |setpriv| {
        let words = ["--pdeathsig", "KILL", "--", "sh", "-c", UNLESS_ORPHANED];
        let parent = std::process::id().to_string();
        [setpriv.into_os_string()].into_iter().chain(words.map(OsString::from)).chain([parent.into()]).collect()
    })
}

/// Starts `command` on a thread that lives as long as this process.
///
/// The kernel takes the end of the *thread* that started a child for its parent's death, and threads of a runtime
/// come and go.
fn spawn_on_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    let jobs = match spawner.take() {
        Some(jobs) => jobs,
        None => {
            let (jobs, inbox) = mpsc::channel::<Job>();
            std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
                for (mut command, answer) in inbox {
                    // Whoever asked waits for the answer.
                    let _ = answer.send(command.spawn());
                }
            })?;
            jobs
        }
    };
    let (answer, result) = mpsc::channel();
    let sent = jobs.send((command, answer));
    *spawner = Some(jobs);
    drop(spawner);
    match sent.map(|()| result.recv()) {
        Ok(Ok(child)) => child,
        Ok(Err(_)) | Err(_) => Err(std::io::Error::other("the thread that starts processes has ended")),
    }
}
