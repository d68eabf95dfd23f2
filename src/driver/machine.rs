//! The state machine of a group at work, taking its jobs in order.
//!
//! Which thread that is, is another matter (`hosted.rs`). A restore is taken chunk by chunk, while the old state stays in
//! force. Snapshots are written out on threads of their own, as fast as the core grants credit.

mod hosted;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{oneshot, OwnedSemaphorePermit};

use super::call::{ProposeAnswer, ReadAnswer};
use super::inbox::{Inbox, Input};
use crate::apply::{Applier, Restoring, SnapshotStream};
use crate::error::{GroupError, ReadError};
use crate::machine::MachineError;
use crate::replica::event::{Apply, Event, GroupNumber, MachineEvent};

pub(crate) use hosted::{Ended, Machine, Machines, Started};

// Entries applied as one batch at most, so that the first of them is not answered late.
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
        // What has queued up is applied as one batch: one commit for all of it.
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
