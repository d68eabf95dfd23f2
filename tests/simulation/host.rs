//! The thread of one replica's state machine: jobs in order, answers, snapshots under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bequest::apply::{Answer, Applier};
use bequest::replica::event::{Apply, MachineEvent, Token};
use bytes::Bytes;

use crate::ledger::Accounts;
use crate::machine::{self, Lists, State, Took, Window};

/// Work for the machine.
#[derive(Debug)]
pub enum Job {
    Apply(Vec<Apply>),
    Query(Token),
    Take { upload: u64, credit: u32 },
    Begin(u64),
    Chunk(u64, Bytes),
    Finish { restore: u64, applied: u64 },
    Abandon(u64),
    Leadership(bool),
}

/// What a job came to.
#[derive(Debug)]
pub enum Output {
    Event(MachineEvent),
    Answer(Token, Answer),
    Query(Token),
    Took(Took),
    Write(State),
    Restored,
}

#[derive(Debug)]
struct Upload {
    number: u64,
    credit: u32,
    chunks: VecDeque<Bytes>,
}

/// The machine's thread.
#[derive(Debug)]
pub struct Host {
    applier: Applier,
    window: Arc<Mutex<Window>>,
    jobs: VecDeque<Job>,
    upload: Option<Upload>,
    restore: Option<(u64, Vec<Bytes>)>,
}

impl Host {
    /// Opens the machine on what the disk has.
    pub fn new(durable: bool, disk: &State) -> Self {
        let (machine, window) = Lists::new(durable, disk);
        let applier = Applier::recover(Box::new(machine)).expect("the machine's own state is whole");
        Self { applier, window, jobs: VecDeque::new(), upload: None, restore: None }
    }

    /// Index of the last entry in the state.
    pub fn applied(&self) -> u64 {
        self.applier.applied()
    }

    /// The list of a key.
    pub fn list(&self, key: u64) -> Vec<u64> {
        machine::listed(&self.applier.query(&key.to_le_bytes()).expect("the machine answers"))
    }

    /// All accounts and lists, as of one moment.
    pub fn scan(&self) -> (Accounts, Vec<Vec<u64>>) {
        machine::scanned(&self.applier.query(&machine::scan()).expect("the machine answers"))
    }

    /// Whether the machine would lead.
    pub fn set_ready(&mut self, ready: bool) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).ready = ready;
    }

    pub fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    pub fn idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether a snapshot is being taken over.
    pub fn restoring(&self) -> bool {
        let taken = |job: &Job| matches!(job, Job::Begin(_) | Job::Finish { .. });
        self.restore.is_some() || self.jobs.iter().any(taken)
    }

    /// Whether a snapshot is on its way out.
    pub fn uploading(&self) -> bool {
        self.upload.is_some() || self.jobs.iter().any(|job| matches!(job, Job::Take { .. }))
    }

    /// Grants an upload more chunks; it goes on outside the queue.
    pub fn grant(&mut self, upload: u64, more: u32) -> Vec<Output> {
        match &mut self.upload {
            Some(current) if current.number == upload => {
                current.credit += more;
                self.send_chunks()
            }
            _ => Vec::new(),
        }
    }

    /// Drops an upload.
    pub fn drop_upload(&mut self, upload: u64) {
        self.upload.take_if(|current| current.number == upload);
    }

    /// Does the oldest job; a snapshot may fail.
    pub fn work(&mut self, fails: bool) -> Vec<Output> {
        let Some(job) = self.jobs.pop_front() else { return Vec::new() };
        let mut output = match job {
            Job::Take { upload, .. } if fails => {
                let message = "the machine has a bad moment".to_owned();
                vec![Output::Event(MachineEvent::SnapshotFailed { upload, message })]
            }
            job => self.carry_out(job),
        };
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // What an apply did comes before its answers, as it does for a client that looks at once.
        let mut all: Vec<Output> = window.took.drain(..).map(Output::Took).collect();
        all.extend(window.committed.take().map(Output::Write));
        all.append(&mut output);
        all
    }

    fn carry_out(&mut self, job: Job) -> Vec<Output> {
        match job {
            Job::Apply(entries) => {
                assert!(self.restore.is_none(), "entries to apply in the middle of a restore");
                let answers = self.applier.apply(entries).unwrap_or_else(|error| panic!("apply failed: {error}"));
                let applied =
                    MachineEvent::Applied { index: self.applied(), ready_to_lead: self.applier.ready_to_lead() };
                let answers = answers.into_iter().map(|(token, answer)| Output::Answer(token, answer));
                answers.chain([Output::Event(applied)]).collect()
            }
            Job::Query(token) => vec![Output::Query(token)],
            Job::Take { upload, credit } => self.take(upload, credit),
            Job::Begin(restore) => {
                self.restore = Some((restore, Vec::new()));
                Vec::new()
            }
            Job::Chunk(number, chunk) => match &mut self.restore {
                Some((restore, chunks)) if *restore == number => {
                    chunks.push(chunk);
                    vec![Output::Event(MachineEvent::RestoreTook { restore: number })]
                }
                _ => Vec::new(),
            },
            Job::Finish { restore, applied } => self.finish(restore, applied),
            Job::Abandon(number) => {
                self.restore.take_if(|(restore, _)| *restore == number);
                Vec::new()
            }
            Job::Leadership(leading) => {
                self.applier.leadership(leading);
                Vec::new()
            }
        }
    }

    fn take(&mut self, upload: u64, credit: u32) -> Vec<Output> {
        let stream = self.applier.snapshot().expect("the machine gives a view");
        let applied = stream.applied();
        let mut chunks = VecDeque::new();
        let written = stream.write_to(&mut |chunk| {
            chunks.push_back(chunk);
            Ok(())
        });
        written.expect("the machine writes its view");
        self.upload = Some(Upload { number: upload, credit, chunks });
        let mut output = vec![Output::Event(MachineEvent::SnapshotTaken { upload, applied })];
        output.append(&mut self.send_chunks());
        output
    }

    fn send_chunks(&mut self) -> Vec<Output> {
        let mut output = Vec::new();
        let Some(upload) = &mut self.upload else { return output };
        while upload.credit > 0 && !upload.chunks.is_empty() {
            upload.credit -= 1;
            if let Some(chunk) = upload.chunks.pop_front() {
                output.push(Output::Event(MachineEvent::SnapshotChunk { upload: upload.number, chunk }));
            }
        }
        if upload.chunks.is_empty() {
            output.push(Output::Event(MachineEvent::SnapshotEnd { upload: upload.number }));
            self.upload = None;
        }
        output
    }

    fn finish(&mut self, number: u64, applied: u64) -> Vec<Output> {
        let Some((restore, chunks)) = self.restore.take_if(|(restore, _)| *restore == number) else {
            return Vec::new();
        };
        let result = self.applier.restore().map_err(|error| error.to_string()).and_then(|mut restoring| {
            chunks.into_iter().try_for_each(|chunk| restoring.write(chunk)).map_err(|error| error.to_string())?;
            restoring.finish(applied).map_err(|error| error.to_string())
        });
        match result {
            Ok(()) => vec![Output::Restored, Output::Event(MachineEvent::Restored { restore })],
            Err(message) => panic!("a verified snapshot cannot be restored: {message}"),
        }
    }
}
