//! The state machine of a group at work, taking its jobs in order.
//!
//! Jobs are done on the threads of a [pool](super::pool). What may take long has a thread of its own: recovering the
//! machine's durable state, and a restore, which is taken chunk by chunk while the old state stays in force. Snapshots are
//! written out on threads of their own as well, as fast as the core grants credit.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{oneshot, OwnedSemaphorePermit};

use super::call::{ProposeAnswer, ReadAnswer};
use super::inbox::{Inbox, Input};
use super::pool::{Pool, Work};
use crate::apply::{Applier, Restoring, SnapshotStream};
use crate::error::{GroupError, ReadError};
use crate::machine::{MachineError, StateMachine};
use crate::replica::event::{Apply, Event, GroupNumber, MachineEvent};

// Entries applied as one durable batch at most, so that the first of them is not answered late.
const BATCH_ENTRIES_MAX: usize = 4096;
// Jobs after which another group has its turn.
const JOBS_MAX: usize = 64;

/// Where the answer of [`MachineJob::QueryStale`] goes.
pub(crate) type StaleAnswer = oneshot::Sender<Result<(u64, Bytes), ReadError>>;

/// What a machine is asked for. Carried out in order.
pub(crate) enum MachineJob {
    /// The core knows the group now: it may be told things.
    Joined,
    /// The answers are those of the entries with a token, in their order.
    Apply {
        entries: Vec<Apply>,
        answers: Vec<Option<ProposeAnswer>>,
    },
    Query {
        query: Bytes,
        answer: ReadAnswer,
    },
    QueryStale {
        query: Bytes,
        answer: StaleAnswer,
        permit: OwnedSemaphorePermit,
    },
    SnapshotTake {
        upload: u64,
        credit: u32,
    },
    SnapshotCredit {
        upload: u64,
        credit: u32,
    },
    SnapshotAbandon {
        upload: u64,
    },
    RestoreBegin {
        restore: u64,
    },
    RestoreChunk {
        restore: u64,
        chunk: Bytes,
    },
    RestoreFinish {
        restore: u64,
        applied: u64,
    },
    RestoreAbandon {
        restore: u64,
    },
    Leadership(bool),
    /// Time goes on: is the machine still ready to lead, or not yet?
    Look,
    Stop,
}

/// The threads of all machines of a node.
pub(crate) type Machines = Pool<Hosted>;

/// The way to a group's machine.
///
/// Its queue is bounded by what the core has in flight; stale queries, which do not pass the core, carry permits.
#[derive(Clone)]
pub(crate) struct Machine {
    hosted: Arc<Hosted>,
}

/// A started machine.
pub(crate) struct Started {
    pub(crate) machine: Machine,
    /// Closed when the machine has been dropped and its threads have ended.
    pub(crate) ended: Ended,
    /// Index to which the durable state reaches, or why it cannot be used.
    pub(crate) recovered: oneshot::Receiver<Result<u64, GroupError>>,
}

/// Nothing is ever sent: it is closed at the end.
pub(crate) type Ended = Receiver<()>;

impl Machine {
    /// Begins by recovering the machine's durable state, on a thread of its own.
    pub(crate) fn start(
        pool: &Arc<Machines>,
        group: GroupNumber,
        name: &str,
        machine: Box<dyn StateMachine>,
        inbox: Inbox,
    ) -> std::io::Result<Started> {
        let (jobs, receiver) = crossbeam_channel::unbounded();
        let (tell_recovered, recovered) = oneshot::channel();
        let (tell_ended, ended) = crossbeam_channel::bounded(0);
        let hosted = Arc::new(Hosted {
            jobs,
            // Recovering comes first.
            busy: AtomicBool::new(true),
            looked: AtomicBool::new(false),
            body: Mutex::new(None),
            pool: Arc::downgrade(pool),
        });
        pool.add(&hosted);
        let back = Arc::downgrade(&hosted);
        std::thread::Builder::new().name(format!("recover-{name}")).spawn(move || {
            let recovered = Applier::recover(machine);
            let told = match &recovered {
                Ok(applier) => tell_recovered.send(Ok(applier.applied())),
                Err(error) => tell_recovered.send(Err(error.clone())),
            };
            if let (Ok(applier), Ok(()), Some(hosted)) = (recovered, told, back.upgrade()) {
                hosted.take_back(Body { applier, worker: Worker::new(group, inbox, receiver), ended: tell_ended });
            }
        })?;
        Ok(Started { machine: Self { hosted }, ended, recovered })
    }

    /// Gives the machine a job. If it has ended, the job is dropped, and with it whoever waits for an answer.
    pub(crate) fn give(&self, job: MachineJob) {
        self.hosted.give(job);
    }
}

/// A machine with its queue, on a thread or not.
pub(crate) struct Hosted {
    jobs: Sender<MachineJob>,
    // Waits for a thread of the pool, or has one, or one of its own: nobody else may give it one.
    busy: AtomicBool,
    // Asked to look, and has not done it.
    looked: AtomicBool,
    // Not there while it has a thread of its own, nor after the end.
    body: Mutex<Option<Body>>,
    // Not kept alive: what waits in the pool for a thread is kept by it.
    pool: Weak<Machines>,
}

/// The machine, and what works on it.
struct Body {
    applier: Applier,
    worker: Worker,
    ended: Sender<()>,
}

/// What becomes of a machine after some of its jobs.
enum Next {
    /// There may be more to do.
    More,
    /// Nothing is left to do.
    Idle,
    /// A snapshot is to be restored.
    Restore(u64),
    End,
}

impl Hosted {
    fn give(self: &Arc<Self>, job: MachineJob) {
        if self.jobs.send(job).is_ok() {
            self.wake();
        }
    }

    /// Sees to it that whatever is in the queue now will be done.
    fn wake(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if !self.busy.swap(true, Ordering::AcqRel) {
            self.run();
        }
    }

    fn run(self: &Arc<Self>) {
        match self.pool.upgrade() {
            Some(pool) => pool.run(self.clone()),
            // The node is gone.
            None => self.abandon(),
        }
    }

    fn take(&self) -> Option<Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Goes on on the pool's threads.
    fn take_back(self: Arc<Self>, body: Body) {
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        self.run();
    }

    /// Restores a snapshot on a thread of its own, and then goes on.
    fn restore_aside(self: &Arc<Self>, body: Body, restore: u64) {
        // Held strongly, the queue would never close, should everybody else let go of the machine.
        let back = Arc::downgrade(self);
        // Still there if the thread cannot be started.
        let passed = Arc::new(Mutex::new(Some(body)));
        let taken = passed.clone();
        let spawned = std::thread::Builder::new().name("bequest-restore".into()).spawn(move || {
            let Some(mut body) = taken.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
            let Body { applier, worker, .. } = &mut body;
            let ended = catch_unwind(AssertUnwindSafe(|| worker.restore(applier, restore)));
            match (ended, back.upgrade()) {
                (Ok(()), Some(hosted)) => hosted.take_back(body),
                (Ok(()), None) => body.end(),
                (Err(_), _) => body.fail(),
            }
        });
        let Err(error) = spawned else { return };
        let left = passed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(body) = left {
            let message = format!("cannot start a thread to restore a snapshot: {error}");
            body.worker.tell(MachineEvent::RestoreFailed { restore, message });
            self.clone().take_back(body);
        }
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Work for Hosted {
    fn work(self: &Arc<Self>) -> bool {
        // Never waited for: whoever is busy with it is the only one.
        let mut place = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut body) = place.take() else { return false };
        let Body { applier, worker, .. } = &mut body;
        // An assertion that fails must not leave a leader behind whose machine is gone.
        match catch_unwind(AssertUnwindSafe(|| worker.run(applier, &self.looked))) {
            Ok(Next::More) => {
                *place = Some(body);
                true
            }
            Ok(Next::Idle) => {
                *place = Some(body);
                drop(place);
                self.busy.store(false, Ordering::Release);
                // A job that came in between was given to one that seemed busy: either its giver sees that this one is
                // not, or the job is seen here.
                fence(Ordering::SeqCst);
                !self.jobs.is_empty() && !self.busy.swap(true, Ordering::AcqRel)
            }
            Ok(Next::Restore(restore)) => {
                drop(place);
                self.restore_aside(body, restore);
                false
            }
            Ok(Next::End) => {
                drop(place);
                body.end();
                false
            }
            Err(_) => {
                drop(place);
                body.fail();
                false
            }
        }
    }

    fn abandon(&self) {
        if let Some(body) = self.take() {
            body.end();
        }
    }

    fn look(self: &Arc<Self>) {
        if !self.looked.swap(true, Ordering::AcqRel) {
            self.give(MachineJob::Look);
        }
    }
}

impl Body {
    /// The end: its queue is closed, the machine dropped, and then nothing is waited for but threads that still write.
    fn end(self) {
        let Self { applier, worker, ended } = self;
        // The user's code may do what it likes in there.
        drop(catch_unwind(AssertUnwindSafe(|| drop(applier))));
        let mut writers = worker.writers;
        drop((worker.jobs, worker.next, worker.upload));
        writers.retain(|writer| !writer.is_finished());
        if writers.is_empty() {
            return;
        }
        // Nothing is left that they could wait for. A panic there has been printed.
        let spawned = std::thread::Builder::new().name("bequest-end".into()).spawn(move || {
            writers.into_iter().for_each(|writer| drop(writer.join()));
            drop(ended);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "snapshots that are being written are not waited for");
        }
    }

    /// The end after an assertion that failed.
    fn fail(self) {
        let message = "an assertion failed while applying, see standard error".to_owned();
        self.worker.tell(MachineEvent::Failed { message });
        self.end();
    }
}

struct Worker {
    group: GroupNumber,
    inbox: Inbox,
    jobs: Receiver<MachineJob>,
    // Taken from the queue already, to be done first.
    next: VecDeque<MachineJob>,
    joined: bool,
    // What the core was told last.
    ready: Option<bool>,
    upload: Option<Upload>,
    // Asked to look while it could not.
    look_later: bool,
    // Threads that write snapshots, abandoned ones too: each uses what the machine keeps its state in.
    writers: Vec<JoinHandle<()>>,
}

// A snapshot on its way out. Dropping the credit's sender ends it.
struct Upload {
    number: u64,
    credit: Sender<u32>,
}

impl Worker {
    fn new(group: GroupNumber, inbox: Inbox, jobs: Receiver<MachineJob>) -> Self {
        let (next, writers) = (VecDeque::new(), Vec::new());
        Self { group, inbox, jobs, next, joined: false, ready: None, upload: None, look_later: false, writers }
    }

    /// Does what there is to do, but not more than is fair to other groups.
    fn run(&mut self, applier: &mut Applier, looked: &AtomicBool) -> Next {
        for _ in 0..JOBS_MAX {
            let job = match self.next.pop_front() {
                Some(job) => job,
                None => match self.jobs.try_recv() {
                    Ok(job) => job,
                    Err(_) => return Next::Idle,
                },
            };
            match job {
                MachineJob::Stop => return Next::End,
                MachineJob::RestoreBegin { restore } => return Next::Restore(restore),
                MachineJob::Look => {
                    looked.store(false, Ordering::Release);
                    self.tell_ready(applier);
                }
                job => self.carry_out(applier, job),
            }
        }
        Next::More
    }

    fn carry_out(&mut self, applier: &mut Applier, job: MachineJob) {
        match job {
            MachineJob::Joined => {
                self.joined = true;
                self.tell_applied(applier);
            }
            MachineJob::Apply { entries, answers } => self.apply(applier, entries, answers),
            MachineJob::Query { query, answer } => drop(answer.send(applier.query(&query))),
            MachineJob::QueryStale { query, answer, permit } => {
                let result = applier.query(&query).map(|bytes| (applier.applied(), bytes));
                drop(answer.send(result));
                drop(permit);
            }
            MachineJob::SnapshotTake { upload, credit } => self.take_snapshot(applier, upload, credit),
            MachineJob::SnapshotCredit { upload, credit } => {
                if let Some(current) = self.upload.as_ref().filter(|current| current.number == upload) {
                    // Ended already: its thread has said why.
                    let _ = current.credit.send(credit);
                }
            }
            MachineJob::SnapshotAbandon { upload } => {
                self.upload.take_if(|current| current.number == upload);
            }
            // A restore that failed or was dropped is still sent what was on its way to it.
            MachineJob::RestoreChunk { .. } | MachineJob::RestoreFinish { .. } | MachineJob::RestoreAbandon { .. } => {}
            MachineJob::Leadership(leading) => applier.leadership(leading),
            MachineJob::RestoreBegin { .. } | MachineJob::Look | MachineJob::Stop => {
                unreachable!("ends or passes the loop before it comes here")
            }
        }
    }

    fn apply(&mut self, applier: &mut Applier, mut entries: Vec<Apply>, mut answers: Vec<Option<ProposeAnswer>>) {
        // What has queued up is applied as one batch: one durable write for all of it.
        while entries.len() < BATCH_ENTRIES_MAX {
            match self.jobs.try_recv() {
                Ok(MachineJob::Apply { entries: more, answers: more_answers }) => {
                    entries.extend(more);
                    answers.extend(more_answers);
                }
                Ok(other) => {
                    self.next.push_back(other);
                    break;
                }
                Err(_) => break,
            }
        }
        match applier.apply(entries) {
            Ok(results) => {
                assert_eq!(results.len(), answers.len(), "one answer for each token");
                for ((_, result), answer) in results.into_iter().zip(answers) {
                    // A caller who went away is not answered; the command has taken effect all the same.
                    if let Some(answer) = answer {
                        let _ = answer.send(Ok(result));
                    }
                }
                self.tell_applied(applier);
            }
            Err(error) => {
                // Unanswered, the callers learn that the outcome is unknown: another node may apply it.
                drop(answers);
                self.fail(error);
            }
        }
    }

    fn take_snapshot(&mut self, applier: &mut Applier, upload: u64, credit: u32) {
        self.upload = None;
        let stream = match applier.snapshot() {
            Ok(stream) => stream,
            Err(error) => return self.tell(MachineEvent::SnapshotFailed { upload, message: error.to_string() }),
        };
        self.tell(MachineEvent::SnapshotTaken { upload, applied: stream.applied() });
        let (sender, credits) = crossbeam_channel::unbounded();
        let _ = sender.send(credit);
        let (group, inbox) = (self.group, self.inbox.clone());
        let spawned = std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || send_chunks(stream, upload, group, &inbox, &credits));
        match spawned {
            // The thread ends by itself: with the last chunk, or as soon as it wants credit after being abandoned.
            Ok(writer) => {
                self.upload = Some(Upload { number: upload, credit: sender });
                self.writers.retain(|writer| !writer.is_finished());
                self.writers.push(writer);
            }
            Err(error) => self.tell(MachineEvent::SnapshotFailed { upload, message: error.to_string() }),
        }
    }

    /// Takes a restore from its beginning to its end; the machine can do nothing else meanwhile.
    fn restore(&mut self, applier: &mut Applier, restore: u64) {
        // Told to the machine when the restore has let go of it.
        let mut leading = None;
        let outcome = match applier.restore() {
            Ok(restoring) => self.take_chunks(restoring, restore, &mut leading),
            Err(error) => Some(Err(MachineError::new(error.to_string()))),
        };
        match outcome {
            Some(Ok(())) => {
                self.tell(MachineEvent::Restored { restore });
                self.tell_applied(applier);
            }
            Some(Err(error)) => self.tell(MachineEvent::RestoreFailed { restore, message: error.to_string() }),
            None => {}
        }
        if let Some(leading) = leading {
            applier.leadership(leading);
        }
        if std::mem::take(&mut self.look_later) {
            self.next.push_back(MachineJob::Look);
        }
    }

    /// Returns how the restore ended; `None` if it was dropped.
    fn take_chunks(
        &mut self,
        mut restoring: Restoring<'_>,
        restore: u64,
        leading: &mut Option<bool>,
    ) -> Option<Result<(), MachineError>> {
        loop {
            let job = match self.next.pop_front() {
                Some(job) => job,
                None => self.jobs.recv().ok()?,
            };
            match job {
                MachineJob::RestoreChunk { restore: number, chunk } if number == restore => {
                    if let Err(error) = restoring.write(chunk) {
                        return Some(Err(error));
                    }
                    self.tell(MachineEvent::RestoreTook { restore });
                }
                MachineJob::RestoreFinish { restore: number, applied } if number == restore => {
                    return Some(restoring.finish(applied));
                }
                MachineJob::RestoreAbandon { restore: number } if number == restore => return None,
                MachineJob::RestoreChunk { .. }
                | MachineJob::RestoreFinish { .. }
                | MachineJob::RestoreAbandon { .. } => {}
                MachineJob::Leadership(leads) => *leading = Some(leads),
                MachineJob::Look => self.look_later = true,
                MachineJob::Query { answer, .. } => drop(answer.send(Err(restoring_now()))),
                MachineJob::QueryStale { answer, permit, .. } => {
                    drop(answer.send(Err(restoring_now())));
                    drop(permit);
                }
                MachineJob::SnapshotTake { upload, .. } => {
                    let message = "a snapshot is being restored".to_owned();
                    self.tell(MachineEvent::SnapshotFailed { upload, message });
                }
                MachineJob::SnapshotCredit { .. } => {}
                MachineJob::SnapshotAbandon { upload } => {
                    self.upload.take_if(|current| current.number == upload);
                }
                // The core applies nothing while it restores. Doing either would lose the other without a word.
                MachineJob::Apply { .. } => {
                    return Some(Err(MachineError::new("entries to apply in the middle of a restore")));
                }
                job @ (MachineJob::RestoreBegin { .. } | MachineJob::Joined | MachineJob::Stop) => {
                    // The core has moved on without a word: the old state stays in force.
                    self.next.push_front(job);
                    return None;
                }
            }
        }
    }

    fn tell_applied(&mut self, applier: &Applier) {
        let ready_to_lead = applier.ready_to_lead();
        self.ready = Some(ready_to_lead);
        self.tell(MachineEvent::Applied { index: applier.applied(), ready_to_lead });
    }

    fn tell_ready(&mut self, applier: &Applier) {
        if self.joined && self.ready != Some(applier.ready_to_lead()) {
            self.tell_applied(applier);
        }
    }

    fn fail(&self, error: GroupError) {
        let message = error.to_string();
        self.inbox.put(Input::MachineFailed(self.group, error));
        self.tell(MachineEvent::Failed { message });
    }

    fn tell(&self, event: MachineEvent) {
        self.inbox.event(Event::Machine(self.group, event));
    }
}

fn restoring_now() -> ReadError {
    ReadError::Busy { reason: "a snapshot is being restored" }
}

fn send_chunks(stream: SnapshotStream, upload: u64, group: GroupNumber, inbox: &Inbox, credits: &Receiver<u32>) {
    let tell = |event| inbox.event(Event::Machine(group, event));
    let mut credit = 0u64;
    let mut abandoned = false;
    let written = stream.write_to(&mut |chunk| {
        while credit == 0 {
            match credits.recv() {
                Ok(more) => credit += u64::from(more),
                Err(_) => {
                    abandoned = true;
                    return Err(MachineError::new("snapshot abandoned"));
                }
            }
        }
        credit -= 1;
        tell(MachineEvent::SnapshotChunk { upload, chunk });
        Ok(())
    });
    match written {
        Ok(()) => tell(MachineEvent::SnapshotEnd { upload }),
        Err(_) if abandoned => {}
        Err(error) => tell(MachineEvent::SnapshotFailed { upload, message: error.to_string() }),
    }
}

#[cfg(test)]
mod tests;
