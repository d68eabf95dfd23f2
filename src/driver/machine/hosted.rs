//! On which thread a state machine is at work, and when: on one of a [pool](crate::driver::pool) while it has jobs.
//!
//! What may take long has a thread of its own: recovering the machine's durable state, and a restore.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::{MachineJob, Next, Worker};
use crate::apply::Applier;
use crate::driver::inbox::Inbox;
use crate::driver::pool::{lock, Pool, Work};
use crate::error::GroupError;
use crate::machine::StateMachine;
use crate::replica::event::{GroupNumber, MachineEvent};

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
                hosted.put(Body { applier, worker: Worker::new(group, inbox, receiver), ended: tell_ended });
                hosted.run();
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
    // Not there while it is at work, nor after the end.
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
        lock(&self.body).take()
    }

    fn put(&self, body: Body) {
        *lock(&self.body) = Some(body);
    }

    /// Restores a snapshot on a thread of its own, and then goes on.
    fn restore_aside(self: &Arc<Self>, restore: u64) {
        // Held strongly, the queue would never close, should everybody else let go of the machine.
        let back = Arc::downgrade(self);
        let spawned = std::thread::Builder::new().name("bequest-restore".into()).spawn(move || {
            let Some(mut body) = back.upgrade().and_then(|hosted| hosted.take()) else { return };
            let Body { applier, worker, .. } = &mut body;
            let ended = catch_unwind(AssertUnwindSafe(|| worker.restore(applier, restore)));
            match (ended, back.upgrade()) {
                (Ok(()), Some(hosted)) => {
                    hosted.put(body);
                    hosted.run();
                }
                (Ok(()), None) => body.end(),
                (Err(_), _) => body.fail(),
            }
        });
        if let Err(error) = spawned {
            if let Some(body) = &*lock(&self.body) {
                let message = format!("cannot start a thread to restore a snapshot: {error}");
                body.worker.tell(MachineEvent::RestoreFailed { restore, message });
            }
            self.run();
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
        // Whoever is busy with it is the only one.
        let Some(mut body) = self.take() else { return false };
        let Body { applier, worker, .. } = &mut body;
        // An assertion that fails must not leave a leader behind whose machine is gone.
        match catch_unwind(AssertUnwindSafe(|| worker.run(applier, &self.looked))) {
            Ok(Next::More) => {
                self.put(body);
                return true;
            }
            Ok(Next::Idle) => {
                self.put(body);
                self.busy.store(false, Ordering::Release);
                // A job that came in between was given to one that seemed busy: either its giver sees that this one is
                // not, or the job is seen here.
                fence(Ordering::SeqCst);
                return !self.jobs.is_empty() && !self.busy.swap(true, Ordering::AcqRel);
            }
            Ok(Next::Restore(restore)) => {
                self.put(body);
                self.restore_aside(restore);
            }
            Ok(Next::End) => body.end(),
            Err(_) => body.fail(),
        }
        false
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
