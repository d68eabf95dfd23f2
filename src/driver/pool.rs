//! The threads on which the state machines of all groups work: a few, however many groups there are.
//!
//! A thread for each group would be simpler. But with a thousand groups a node then spends most of its time on going
//! from one thread to the next for a single small job each.
//!
//! A group's jobs are done in their order and one at a time: it waits for a thread, or is at work on one, or neither. For
//! a machine that keeps its thread another is started, so that no group waits for another's code for long. Threads once
//! started stay until the end.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{fence, AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

/// How often groups are looked after that have nothing to do, and threads that do not come back.
const LOOK: Duration = Duration::from_millis(100);

/// What is done on the pool's threads.
pub(crate) trait Work: Send + Sync + 'static {
    /// Does some of what there is to do; never on two threads at once. Whether to be put behind the others for more.
    fn work(self: &Arc<Self>) -> bool;

    /// Says, now and then, that time goes on. Must not block.
    fn look(self: &Arc<Self>);

    /// Ends what waits for a thread, as there will be none.
    fn abandon(&self);
}

/// A few threads, and who waits for one. The threads end when it is dropped.
pub(crate) struct Pool<W: Work> {
    shared: Arc<Shared<W>>,
    // It ends when its sender is dropped.
    looker: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Shared<W> {
    turns: Sender<Turn<W>>,
    waiting: Receiver<Turn<W>>,
    closed: AtomicBool,
    // As many that come back there are at least.
    threads_min: usize,
    threads: Mutex<Vec<Thread>>,
    everybody: Mutex<Vec<Weak<W>>>,
}

enum Turn<W> {
    Work(Arc<W>),
    End,
}

struct Thread {
    handle: JoinHandle<()>,
    // Turns begun and ended there: odd while at work.
    turns: Arc<AtomicU64>,
    // What it was when it was looked at last.
    seen: u64,
}

impl<W: Work> Pool<W> {
    /// Starts so many threads, and one that looks after them.
    pub(crate) fn start(threads: usize) -> std::io::Result<Arc<Self>> {
        let (turns, waiting) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            turns,
            waiting,
            closed: AtomicBool::new(false),
            threads_min: threads,
            threads: Mutex::default(),
            everybody: Mutex::default(),
        });
        // From here on, what was started is ended if anything else cannot be.
        let mut pool = Self { shared: shared.clone(), looker: None };
        (0..threads).try_for_each(|_| shared.add_thread())?;
        let (looking, ends) = crossbeam_channel::bounded(0);
        let looker = std::thread::Builder::new().name("bequest-look".into());
        let looker = looker.spawn(move || {
            while ends.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                shared.look_after();
            }
        })?;
        pool.looker = Some((looking, looker));
        Ok(Arc::new(pool))
    }

    /// Has it looked after from now on.
    pub(crate) fn add(&self, work: &Arc<W>) {
        lock(&self.shared.everybody).push(Arc::downgrade(work));
    }

    /// Gives it a thread as soon as there is one. It must not be waiting for one already, nor be at work.
    pub(crate) fn run(&self, work: Arc<W>) {
        self.shared.run(work);
    }
}

impl<W: Work> Drop for Pool<W> {
    /// Waits for the threads, each for the work it is at, unless one of them does this.
    fn drop(&mut self) {
        let threads = {
            let mut threads = lock(&self.shared.threads);
            self.shared.closed.store(true, Ordering::Release);
            std::mem::take(&mut *threads)
        };
        fence(Ordering::SeqCst);
        threads.iter().for_each(|_| drop(self.shared.turns.send(Turn::End)));
        let looker = self.looker.take().map(|(_, looker)| looker);
        let own = std::thread::current().id();
        for thread in threads.into_iter().map(|thread| thread.handle).chain(looker) {
            if thread.thread().id() != own {
                // A panic there has been printed.
                drop(thread.join());
            }
        }
        self.shared.abandon_all();
    }
}

impl<W: Work> Shared<W> {
    fn run(&self, work: Arc<W>) {
        // The receiver is here as well: it is taken.
        let _ = self.turns.send(Turn::Work(work));
        // Either the end comes later, and finds it there, or it is seen here.
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Acquire) {
            self.abandon_all();
        }
    }

    /// Nobody is left behind who waits for a thread.
    fn abandon_all(&self) {
        let mut ends = 0;
        for turn in self.waiting.try_iter() {
            match turn {
                Turn::Work(work) => work.abandon(),
                Turn::End => ends += 1,
            }
        }
        // They are for threads that have not come to them yet.
        (0..ends).for_each(|_| drop(self.turns.send(Turn::End)));
    }

    fn add_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let mut threads = lock(&self.threads);
        if self.closed.load(Ordering::Acquire) {
            // Nobody would tell it to end.
            return Ok(());
        }
        let (shared, turns) = (self.clone(), Arc::<AtomicU64>::default());
        let counted = turns.clone();
        let thread = std::thread::Builder::new().name("bequest-apply".into());
        let handle = thread.spawn(move || shared.serve(&counted))?;
        threads.push(Thread { handle, turns, seen: 0 });
        Ok(())
    }

    fn serve(&self, turns: &AtomicU64) {
        while let Ok(Turn::Work(work)) = self.waiting.recv() {
            turns.fetch_add(1, Ordering::Relaxed);
            // What goes wrong in there is told there; nothing may cost the others their thread.
            if catch_unwind(AssertUnwindSafe(|| work.work())).unwrap_or(false) {
                self.run(work);
            } else {
                drop(catch_unwind(AssertUnwindSafe(|| drop(work))));
            }
            turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn look_after(self: &Arc<Self>) {
        let missing = {
            let mut threads = lock(&self.threads);
            let mut kept = 0;
            for thread in threads.iter_mut() {
                let before = std::mem::replace(&mut thread.seen, thread.turns.load(Ordering::Relaxed));
                kept += usize::from(thread.seen == before && before % 2 == 1);
            }
            (self.threads_min + kept).saturating_sub(threads.len())
        };
        for _ in 0..missing {
            if let Err(error) = self.add_thread() {
                tracing::warn!(%error, "state machines keep their threads, and no other can be started");
                break;
            }
        }
        let mut there = Vec::new();
        lock(&self.everybody).retain(|work| {
            let work = work.upgrade();
            let is_there = work.is_some();
            there.extend(work);
            is_there
        });
        for work in there {
            // The last one to hold it drops it.
            drop(catch_unwind(AssertUnwindSafe(|| work.look())));
            drop(catch_unwind(AssertUnwindSafe(|| drop(work))));
        }
    }
}

/// Locks it; what a panic in there left half done is nobody's who locks by this.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
