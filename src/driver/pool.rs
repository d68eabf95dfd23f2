//! The threads on which the state machines of all groups work: a few, however many groups there are.
//!
//! A thread for each group would be simpler. But with a thousand groups a node then spends most of its time on going
//! from one thread to the next for a single small job each.
//!
//! A group's jobs are done in their order and one at a time: it is in the queue, or at work on one thread, or neither.
//! A machine that does not come back keeps its thread; then another is started, so that no group waits for another's
//! code for long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

/// How often groups are looked after that have nothing to do, and threads are missed.
const LOOK: Duration = Duration::from_millis(100);

/// What is done on the pool's threads.
pub(crate) trait Work: Send + Sync + 'static {
    /// Does some of what there is to do; never on two threads at once. Whether to be put behind the others for more.
    fn work(self: &Arc<Self>) -> bool;

    /// Says, now and then, that time goes on. Must not block.
    fn look(self: &Arc<Self>);
}

enum Turn<W> {
    Work(Arc<W>),
    End,
}

/// A few threads, and who waits for one.
pub(crate) struct Pool<W: Work> {
    turns: Sender<Turn<W>>,
    waiting: Receiver<Turn<W>>,
    // Turns that were begun.
    begun: AtomicU64,
    everybody: Mutex<Vec<Weak<W>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    // Dropped to end the one who looks.
    looking: Mutex<Option<Sender<()>>>,
}

impl<W: Work> Pool<W> {
    /// Starts so many threads, and one that looks after them.
    pub(crate) fn start(threads: usize) -> std::io::Result<Arc<Self>> {
        let (turns, waiting) = crossbeam_channel::unbounded();
        let (looking, ends) = crossbeam_channel::bounded(0);
        let pool = Arc::new(Self {
            turns,
            waiting,
            begun: AtomicU64::new(0),
            everybody: Mutex::default(),
            threads: Mutex::default(),
            looking: Mutex::new(Some(looking)),
        });
        let started = (0..threads).try_for_each(|_| pool.add_thread()).and_then(|()| {
            let looked_after = pool.clone();
            let looker = std::thread::Builder::new().name("bequest-look".into());
            let looker = looker.spawn(move || looked_after.look_after(&ends))?;
            lock(&pool.threads).push(looker);
            Ok(())
        });
        match started {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.end().into_iter().for_each(|thread| drop(thread.join()));
                Err(error)
            }
        }
    }

    /// Has it looked after from now on.
    pub(crate) fn add(&self, work: &Arc<W>) {
        lock(&self.everybody).push(Arc::downgrade(work));
    }

    /// Gives it a thread as soon as there is one. It must not be waiting for one already, nor be at work.
    pub(crate) fn run(&self, work: Arc<W>) {
        // After the end nobody takes it, and it is dropped with the pool.
        let _ = self.turns.send(Turn::Work(work));
    }

    /// Has the threads end once they have done what was waiting; they are to be joined.
    pub(crate) fn end(&self) -> Vec<JoinHandle<()>> {
        lock(&self.looking).take();
        let threads = std::mem::take(&mut *lock(&self.threads));
        threads.iter().for_each(|_| drop(self.turns.send(Turn::End)));
        threads
    }

    fn add_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let pool = self.clone();
        let thread = std::thread::Builder::new().name("bequest-apply".into()).spawn(move || pool.serve())?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    fn serve(&self) {
        while let Ok(Turn::Work(work)) = self.waiting.recv() {
            self.begun.fetch_add(1, Ordering::Relaxed);
            if work.work() {
                self.run(work);
            }
        }
    }

    fn look_after(self: &Arc<Self>, ends: &Receiver<()>) {
        let mut begun = 0;
        while ends.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let now = self.begun.load(Ordering::Relaxed);
            if now == begun && !self.waiting.is_empty() {
                if let Err(error) = self.add_thread() {
                    tracing::warn!(%error, "state machines keep all threads, and no other can be started");
                }
            }
            begun = now;
            let mut everybody = lock(&self.everybody);
            everybody.retain(|work| {
                let there = work.upgrade();
                there.iter().for_each(Work::look);
                there.is_some()
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
