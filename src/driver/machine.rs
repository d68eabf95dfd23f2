//! The apply thread of a group: the only one that touches its state machine, taking its jobs in order.
//!
//! Snapshots are written out on a thread of their own, as fast as the core grants credit; a restore is taken chunk by
//! chunk, while the old state stays in force.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::{oneshot, OwnedSemaphorePermit};

use super::call::{ProposeAnswer, ReadAnswer};
use super::inbox::{Inbox, Input};
use crate::apply::{Applier, Restoring, SnapshotStream};
use crate::error::{GroupError, ReadError};
use crate::machine::{MachineError, StateMachine};
use crate::replica::event::{Apply, Event, GroupNumber, MachineEvent};

// Entries applied as one durable batch at most, so that the first of them is not answered late.
const BATCH_ENTRIES_MAX: usize = 4096;
// How often the machine is asked whether it is ready to lead while nothing is applied.
const READY_POLL: Duration = Duration::from_millis(100);

/// Where the answer of [`MachineJob::QueryStale`] goes.
pub(crate) type StaleAnswer = oneshot::Sender<Result<(u64, Bytes), ReadError>>;

/// What an apply thread is asked for. Carried out in order.
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
    Stop,
}

/// The way to an apply thread.
///
/// Its queue is bounded by what the core has in flight; stale queries, which do not pass the core, carry permits.
#[derive(Clone)]
pub(crate) struct Machine {
    jobs: Sender<MachineJob>,
}

/// A started apply thread.
pub(crate) struct Started {
    pub(crate) machine: Machine,
    pub(crate) thread: JoinHandle<()>,
    /// Index to which the durable state reaches, or why it cannot be used.
    pub(crate) recovered: oneshot::Receiver<Result<u64, GroupError>>,
}

impl Machine {
    /// Starts the thread, which begins by recovering the machine's durable state.
    pub(crate) fn start(
        group: GroupNumber,
        name: &str,
        machine: Box<dyn StateMachine>,
        inbox: Inbox,
    ) -> std::io::Result<Started> {
        let (jobs, receiver) = crossbeam_channel::unbounded();
        let (tell_recovered, recovered) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("apply-{name}")).spawn(move || {
            let mut writers = Vec::new();
            serve(group, machine, receiver, tell_recovered, inbox, &mut writers);
            // Nothing is left that they could wait for. A panic there has been printed.
            writers.into_iter().for_each(|writer| drop(writer.join()));
        })?;
        Ok(Started { machine: Self { jobs }, thread, recovered })
    }

    /// Gives the thread a job. If it has ended, the job is dropped, and with it whoever waits for an answer.
    pub(crate) fn give(&self, job: MachineJob) {
        let _ = self.jobs.send(job);
    }
}

/// The life of an apply thread, after which its queue is closed and the machine dropped.
fn serve(
    group: GroupNumber,
    machine: Box<dyn StateMachine>,
    jobs: Receiver<MachineJob>,
    tell_recovered: oneshot::Sender<Result<u64, GroupError>>,
    inbox: Inbox,
    writers: &mut Vec<JoinHandle<()>>,
) {
    let mut applier = match Applier::recover(machine) {
        Ok(applier) => applier,
        Err(error) => return drop(tell_recovered.send(Err(error))),
    };
    if tell_recovered.send(Ok(applier.applied())).is_err() {
        return;
    }
    let worker = Worker::new(group, inbox.clone(), &jobs, writers);
    // An assertion that fails must not leave a leader behind whose machine is gone.
    let ended = catch_unwind(AssertUnwindSafe(|| worker.run(&mut applier)));
    if ended.is_err() {
        let message = "an assertion failed while applying, see standard error".to_owned();
        inbox.event(Event::Machine(group, MachineEvent::Failed { message }));
    }
}

struct Worker<'a> {
    group: GroupNumber,
    inbox: Inbox,
    jobs: &'a Receiver<MachineJob>,
    // Taken from the queue already, to be done first.
    next: VecDeque<MachineJob>,
    joined: bool,
    // What the core was told last.
    ready: Option<bool>,
    upload: Option<Upload>,
    // Threads that write snapshots, abandoned ones too: each uses what the machine keeps its state in.
    writers: &'a mut Vec<JoinHandle<()>>,
}

// A snapshot on its way out. Dropping the credit's sender ends it.
struct Upload {
    number: u64,
    credit: Sender<u32>,
}

enum Turn {
    Job(MachineJob),
    Idle,
    End,
}

impl<'a> Worker<'a> {
    fn new(
        group: GroupNumber,
        inbox: Inbox,
        jobs: &'a Receiver<MachineJob>,
        writers: &'a mut Vec<JoinHandle<()>>,
    ) -> Self {
        Self { group, inbox, jobs, next: VecDeque::new(), joined: false, ready: None, upload: None, writers }
    }

    fn run(mut self, applier: &mut Applier) {
        loop {
            match self.turn() {
                Turn::End | Turn::Job(MachineJob::Stop) => return,
                Turn::Idle => self.tell_ready(applier),
                Turn::Job(job) => self.carry_out(applier, job),
            }
        }
    }

    fn turn(&mut self) -> Turn {
        if let Some(job) = self.next.pop_front() {
            return Turn::Job(job);
        }
        match self.jobs.recv_timeout(READY_POLL) {
            Ok(job) => Turn::Job(job),
            Err(RecvTimeoutError::Timeout) => Turn::Idle,
            Err(RecvTimeoutError::Disconnected) => Turn::End,
        }
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
            MachineJob::RestoreBegin { restore } => self.restore(applier, restore),
            // A restore that failed or was dropped is still sent what was on its way to it.
            MachineJob::RestoreChunk { .. } | MachineJob::RestoreFinish { .. } | MachineJob::RestoreAbandon { .. } => {}
            MachineJob::Leadership(leading) => applier.leadership(leading),
            MachineJob::Stop => unreachable!("ends the loop before it comes here"),
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
    }

    /// Returns how the restore ended; `None` if it was dropped.
    fn take_chunks(
        &mut self,
        mut restoring: Restoring<'_>,
        restore: u64,
        leading: &mut Option<bool>,
    ) -> Option<Result<(), MachineError>> {
        loop {
            let job = match self.turn() {
                Turn::End => return None,
                Turn::Idle => continue,
                Turn::Job(job) => job,
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
