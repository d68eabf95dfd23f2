//! Writers that nothing stops: whoever does not answer is left for the next server.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// Before the next write after one that was answered: a load, and not a flood that takes all the cores.
const PAUSE: Duration = Duration::from_millis(1);
/// Before the next attempt after a refusal.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// An attempt without an answer is left to itself, and another server is asked.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_millis(2);

/// What is written to.
pub(crate) trait Service: Send + Sync + 'static {
    /// How many servers may be asked.
    fn servers(&self) -> usize;
    /// Makes one attempt; returns when it is acknowledged.
    fn write(&self, server: usize, number: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    /// When the attempt began.
    pub(crate) began: Instant,
    /// When it was answered.
    pub(crate) ended: Instant,
    /// By which server.
    pub(crate) server: usize,
}

#[derive(Debug, Default)]
struct Notes {
    /// In the order in which they ended.
    acks: Mutex<Vec<Ack>>,
    refusal: Mutex<String>,
    stop: AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writers at work. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Writers {
    notes: Arc<Notes>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts so many of them.
    pub(crate) fn start<S: Service>(service: &Arc<S>, numbers: &Arc<AtomicU64>, count: usize) -> Self {
        let notes = Arc::<Notes>::default();
        let tasks = 0..count;
        let tasks =
            tasks.map(|writer| tokio::spawn(write(service.clone(), numbers.clone(), notes.clone(), writer))).collect();
        Self { notes, tasks }
    }

    /// When the acknowledged ones ended, ascending.
    pub(crate) fn ends(&self) -> Vec<Instant> {
        held(&self.notes.acks).iter().map(|ack| ack.ended).collect()
    }

    /// Waits for an acknowledgement that `counts`.
    ///
    /// # Errors
    /// In words, if there is none within `limit`.
    pub(crate) async fn wait_for(&self, limit: Duration, counts: impl Fn(&Ack) -> bool) -> Result<Ack, String> {
        let (began, mut seen) = (Instant::now(), 0);
        loop {
            let found = {
                let acks = held(&self.notes.acks);
                let from = std::mem::replace(&mut seen, acks.len());
                acks[from..].iter().copied().find(&counts)
            };
            match found {
                Some(ack) => return Ok(ack),
                None if began.elapsed() > limit => {
                    return Err(format!("no write for {limit:?}; the last refusal: {}", held(&self.notes.refusal)));
                }
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Ends them when their last attempts have.
    pub(crate) async fn stop(mut self) {
        self.notes.stop.store(true, Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            // None of them panics, or it was told.
            let _ = task.await;
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn write<S: Service>(service: Arc<S>, numbers: Arc<AtomicU64>, notes: Arc<Notes>, writer: usize) {
    let mut server = writer % service.servers();
    while !notes.stop.load(Relaxed) {
        let began = Instant::now();
        let attempt = service.write(server, numbers.fetch_add(1, Relaxed));
        let pause = match tokio::time::timeout(ATTEMPT_LIMIT, attempt).await {
            Ok(Ok(())) => {
                let mut acks = held(&notes.acks);
                acks.push(Ack { began, ended: Instant::now(), server });
                PAUSE
            }
            Ok(Err(refusal)) => {
                *held(&notes.refusal) = refusal;
                server = (server + 1) % service.servers();
                REFUSED_PAUSE
            }
            Err(_) => {
                *held(&notes.refusal) = format!("no answer within {ATTEMPT_LIMIT:?}");
                server = (server + 1) % service.servers();
                continue;
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// One of three servers answers; another refuses, and the third is silent.
    #[derive(Debug, Default)]
    struct Three {
        leader: AtomicUsize,
    }

    impl Service for Three {
        fn servers(&self) -> usize {
            3
        }

        async fn write(&self, server: usize, _number: u64) -> Result<(), String> {
            match (server + 3 - self.leader.load(Relaxed)) % 3 {
                0 => Ok(()),
                1 => Err("elsewhere".to_owned()),
                _ => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn writers_find_who_answers_and_whoever_does_after_it() {
        let (three, numbers) = (Arc::new(Three::default()), Arc::<AtomicU64>::default());
        let writers = Writers::start(&three, &numbers, 3);
        let limit = Duration::from_secs(60);
        writers.wait_for(limit, |ack| ack.server == 0).await.expect("one answers");
        three.leader.store(2, Relaxed);
        let moved = Instant::now();
        let ack = writers.wait_for(limit, |ack| ack.began >= moved).await.expect("another one answers");
        assert_eq!(ack.server, 2);
        let ends = writers.ends();
        assert!(ends.is_sorted() && ends.len() >= 2, "{ends:?}");
        writers.stop().await;
    }

    #[tokio::test]
    async fn that_nobody_answers_is_told_with_the_last_refusal() {
        let (three, numbers) = (Arc::new(Three::default()), Arc::<AtomicU64>::default());
        let writers = Writers::start(&three, &numbers, 1);
        let refused = writers.wait_for(Duration::ZERO, |_| false).await.expect_err("nothing counts");
        assert!(refused.contains("no write for"), "{refused}");
    }
}
