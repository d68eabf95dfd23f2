use std::sync::{Arc, Mutex};
use std::time::Duration;

use bequest_recovery::entry::Entry;
use crossbeam_channel::RecvTimeoutError;

use super::*;
use crate::apply::Answer;
use crate::command::Command;
use crate::driver::inbox::inbox;
use crate::error::ProposeError;
use crate::machine::{Restore, Snapshot, StateMachine};
use crate::replica::event::Token;

const LIMIT: Duration = Duration::from_secs(20);
const GROUP: GroupNumber = GroupNumber(3);

/// Its state is the last command, its snapshots repeat that in ten chunks, and it leads when told to.
#[derive(Clone, Default)]
struct Register {
    value: Bytes,
    ready: Arc<AtomicBool>,
    leading: Arc<AtomicBool>,
    /// Its snapshots do not end while this is locked.
    gate: Arc<Mutex<()>>,
}

impl StateMachine for Register {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Bytes {
        assert_ne!(command, b"poison", "cannot digest this");
        std::mem::replace(&mut self.value, Bytes::copy_from_slice(command))
    }

    fn query(&self, _query: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.value.clone())
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(self.clone()))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(Restored { value: Bytes::new(), register: self }))
    }

    fn ready_to_lead(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    fn leadership(&mut self, leading: bool) {
        self.leading.store(leading, Ordering::SeqCst);
    }
}

impl Snapshot for Register {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        let written = (0..10).try_for_each(|_| chunk(self.value.clone()));
        drop(self.gate.lock());
        written
    }
}

struct Restored<'a> {
    value: Bytes,
    register: &'a mut Register,
}

impl Restore for Restored<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        self.value = chunk;
        Ok(())
    }

    fn finish(self: Box<Self>, _applied: u64, _rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        self.register.value = self.value;
        Ok(())
    }
}

/// Has a machine apply a command; and where its answer comes.
fn job(index: u64, command: &[u8]) -> (MachineJob, oneshot::Receiver<Result<Answer, ProposeError>>) {
    let (sender, answer) = oneshot::channel();
    let data = Command::Plain(Bytes::copy_from_slice(command)).encode();
    let entry = Entry { index, term: 1, kind: 0, data, context: Bytes::new() };
    let entries = vec![Apply { entry, token: Some(Token(index)) }];
    (MachineJob::Apply { entries, answers: vec![Some(sender)] }, answer)
}

/// A machine at work, and what it says.
struct Bench {
    machine: Machine,
    inputs: Receiver<Input>,
    register: Register,
    ended: Ended,
    // Its threads.
    _pool: Arc<Machines>,
}

impl Bench {
    fn joined() -> Self {
        let (inbox, inputs) = inbox();
        let register = Register::default();
        let pool = Machines::start(2).expect("threads");
        let started = Machine::start(&pool, GROUP, "bench", Box::new(register.clone()), inbox).expect("a thread");
        let Started { machine, ended, recovered } = started;
        assert_eq!(recovered.blocking_recv().expect("recovered"), Ok(0));
        let bench = Self { machine, inputs, register, ended, _pool: pool };
        bench.machine.give(MachineJob::Joined);
        assert_eq!(bench.next(), "applied 0 ready=false");
        bench
    }

    fn next_within(&self, wait: Duration) -> Option<String> {
        let event = match self.inputs.recv_timeout(wait).ok()? {
            Input::Event(Event::Machine(GROUP, event)) => event,
            Input::MachineFailed(GROUP, error) => return Some(format!("stop: {error}")),
            _ => panic!("a machine tells nothing else"),
        };
        Some(match event {
            MachineEvent::Applied { index, ready_to_lead } => format!("applied {index} ready={ready_to_lead}"),
            MachineEvent::SnapshotTaken { upload, applied } => format!("taken {upload} at {applied}"),
            MachineEvent::SnapshotChunk { upload, .. } => format!("chunk of {upload}"),
            MachineEvent::SnapshotEnd { upload } => format!("end of {upload}"),
            MachineEvent::SnapshotFailed { upload, message } => format!("failed {upload}: {message}"),
            MachineEvent::RestoreTook { restore } => format!("took {restore}"),
            MachineEvent::Restored { restore } => format!("restored {restore}"),
            MachineEvent::RestoreFailed { restore, message } => format!("not restored {restore}: {message}"),
            MachineEvent::Failed { message } => format!("failed: {message}"),
        })
    }

    fn next(&self) -> String {
        self.next_within(LIMIT).expect("an event")
    }

    fn apply(&self, index: u64, command: &'static [u8]) -> oneshot::Receiver<Result<Answer, ProposeError>> {
        let (job, answer) = job(index, command);
        self.machine.give(job);
        answer
    }

    fn query(&self) -> Result<Bytes, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.machine.give(MachineJob::Query { query: Bytes::new(), answer });
        answered.blocking_recv().expect("answered")
    }

    /// The chunks of a snapshot of the state as it is.
    fn snapshot(&self) -> Vec<Bytes> {
        self.machine.give(MachineJob::SnapshotTake { upload: 99, credit: 1000 });
        let mut chunks = Vec::new();
        loop {
            match self.inputs.recv_timeout(LIMIT).expect("an event") {
                Input::Event(Event::Machine(_, MachineEvent::SnapshotChunk { chunk, .. })) => chunks.push(chunk),
                Input::Event(Event::Machine(_, MachineEvent::SnapshotEnd { .. })) => return chunks,
                _ => {}
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.machine.give(MachineJob::Stop);
    }
}

#[test]
fn answers_come_in_order_and_after_the_batch_is_committed() {
    let bench = Bench::joined();
    let (first, second) = (bench.apply(1, b"a"), bench.apply(2, b"b"));
    assert_eq!(first.blocking_recv(), Ok(Ok(Answer::Machine(Bytes::new()))));
    assert_eq!(second.blocking_recv(), Ok(Ok(Answer::Machine(Bytes::from_static(b"a")))));
    assert_eq!(bench.query(), Ok(Bytes::from_static(b"b")));
    drop(bench.apply(3, b"c"));
    assert_eq!(bench.query(), Ok(Bytes::from_static(b"c")), "the caller's absence changes nothing");
}

#[test]
fn snapshot_chunks_come_no_faster_than_granted() {
    let bench = Bench::joined();
    drop(bench.apply(1, b"a"));
    assert_eq!(bench.next(), "applied 1 ready=false");
    bench.machine.give(MachineJob::SnapshotTake { upload: 7, credit: 2 });
    assert_eq!(bench.next(), "taken 7 at 1");
    assert_eq!((bench.next(), bench.next()), ("chunk of 7".into(), "chunk of 7".into()));
    // The machine goes on meanwhile.
    drop(bench.apply(2, b"b"));
    assert_eq!(bench.next(), "applied 2 ready=false");
    bench.machine.give(MachineJob::SnapshotCredit { upload: 6, credit: 50 });
    assert_eq!(bench.next_within(Duration::from_millis(50)), None, "credit of another upload");
    bench.machine.give(MachineJob::SnapshotCredit { upload: 7, credit: 50 });
    // The header, and ten of the machine's.
    for _ in 2..11 {
        assert_eq!(bench.next(), "chunk of 7");
    }
    assert_eq!(bench.next(), "end of 7");
}

#[test]
fn an_abandoned_snapshot_says_nothing_more() {
    let bench = Bench::joined();
    drop(bench.apply(1, b"a"));
    assert_eq!(bench.next(), "applied 1 ready=false");
    for (upload, abandon) in [(7, true), (8, false)] {
        bench.machine.give(MachineJob::SnapshotTake { upload, credit: 1 });
        assert_eq!(bench.next(), format!("taken {upload} at 1"));
        assert_eq!(bench.next(), format!("chunk of {upload}"));
        if abandon {
            bench.machine.give(MachineJob::SnapshotAbandon { upload });
        }
    }
    // A newer one abandons the one before it.
    bench.machine.give(MachineJob::SnapshotTake { upload: 9, credit: 100 });
    assert_eq!(bench.next(), "taken 9 at 1");
    for _ in 0..11 {
        assert_eq!(bench.next(), "chunk of 9");
    }
    assert_eq!(bench.next(), "end of 9");
    assert_eq!(bench.next_within(Duration::from_millis(50)), None);
}

#[test]
fn a_machine_ends_after_the_snapshots_it_began() {
    let bench = Bench::joined();
    drop(bench.apply(1, b"a"));
    assert_eq!(bench.next(), "applied 1 ready=false");
    for upload in [7, 8] {
        bench.machine.give(MachineJob::SnapshotTake { upload, credit: 2 });
        assert_eq!(bench.next(), format!("taken {upload} at 1"));
        assert_eq!((bench.next(), bench.next()), (format!("chunk of {upload}"), format!("chunk of {upload}")));
    }
    let gate = bench.register.gate.clone();
    let closed = gate.lock().expect("no panic");
    bench.machine.give(MachineJob::Stop);
    assert_eq!(bench.ended.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout), "both still write");
    // A writer that waits for its own group is not waited for in turn: nobody else is left to answer.
    let (answer, mut answered) = oneshot::channel();
    bench.machine.give(MachineJob::Query { query: Bytes::new(), answer });
    assert!(matches!(answered.try_recv(), Err(oneshot::error::TryRecvError::Closed)), "the queue is closed");
    drop(closed);
    assert_eq!(bench.ended.recv_timeout(LIMIT), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_restore_replaces_the_state_when_it_is_finished_and_not_before() {
    let source = Bench::joined();
    drop(source.apply(1, b"inherited"));
    let chunks = source.snapshot();

    let bench = Bench::joined();
    bench.machine.give(MachineJob::RestoreBegin { restore: 1 });
    for chunk in chunks.clone() {
        bench.machine.give(MachineJob::RestoreChunk { restore: 1, chunk });
        assert_eq!(bench.next(), "took 1");
    }
    bench.machine.give(MachineJob::Leadership(true));
    assert_eq!(bench.query(), Err(restoring_now()));
    bench.machine.give(MachineJob::RestoreFinish { restore: 1, applied: 1 });
    assert_eq!((bench.next(), bench.next()), ("restored 1".into(), "applied 1 ready=false".into()));
    assert_eq!(bench.query(), Ok(Bytes::from_static(b"inherited")));
    assert!(bench.register.leading.load(Ordering::SeqCst), "told when the restore was over");
}

#[test]
fn a_restore_that_fails_or_is_dropped_leaves_the_old_state() {
    let source = Bench::joined();
    drop(source.apply(1, b"inherited"));
    let chunks = source.snapshot();

    let bench = Bench::joined();
    drop(bench.apply(1, b"old"));
    assert_eq!(bench.next(), "applied 1 ready=false");
    bench.machine.give(MachineJob::RestoreBegin { restore: 1 });
    bench.machine.give(MachineJob::RestoreChunk { restore: 1, chunk: Bytes::from_static(b"damaged header") });
    let refused = bench.next();
    assert!(refused.contains("not restored 1:") && refused.contains("snapshot chunk damaged"), "{refused}");
    // What was on its way to it is of no interest.
    bench.machine.give(MachineJob::RestoreChunk { restore: 1, chunk: chunks[1].clone() });
    bench.machine.give(MachineJob::RestoreFinish { restore: 1, applied: 1 });
    bench.machine.give(MachineJob::RestoreBegin { restore: 2 });
    bench.machine.give(MachineJob::RestoreChunk { restore: 2, chunk: chunks[0].clone() });
    assert_eq!(bench.next(), "took 2");
    bench.machine.give(MachineJob::RestoreAbandon { restore: 2 });
    assert_eq!(bench.query(), Ok(Bytes::from_static(b"old")));
    drop(bench.apply(2, b"new"));
    assert_eq!(bench.next(), "applied 2 ready=false");
    assert_eq!(bench.query(), Ok(Bytes::from_static(b"new")));
}

#[test]
fn entries_to_apply_in_the_middle_of_a_restore_end_it_with_an_error() {
    let bench = Bench::joined();
    bench.machine.give(MachineJob::RestoreBegin { restore: 1 });
    drop(bench.apply(1, b"early"));
    let refused = bench.next();
    assert!(refused.contains("not restored 1:") && refused.contains("in the middle of a restore"), "{refused}");
    assert_eq!(bench.query(), Ok(Bytes::new()));
}

#[test]
fn a_panic_in_apply_stops_the_group_and_leaves_its_callers_without_a_claim() {
    let bench = Bench::joined();
    let answer = bench.apply(1, b"poison");
    let stop = bench.next();
    assert!(stop.starts_with("stop:") && stop.contains("index=1") && stop.contains("digest"), "{stop}");
    assert!(bench.next().starts_with("failed:"));
    assert!(answer.blocking_recv().is_err(), "nobody knows what other nodes make of it");
}

#[test]
fn readiness_to_lead_is_told_when_it_changes_also_while_nothing_is_applied() {
    let bench = Bench::joined();
    bench.register.ready.store(true, Ordering::SeqCst);
    assert_eq!(bench.next(), "applied 0 ready=true");
    bench.register.ready.store(false, Ordering::SeqCst);
    assert_eq!(bench.next(), "applied 0 ready=false");
}

/// Says when it is to apply something, and does not while this is locked.
struct Stuck(Sender<()>, Arc<Mutex<()>>);

impl StateMachine for Stuck {
    fn apply(&mut self, _index: u64, _command: &[u8]) -> Bytes {
        self.0.send(()).expect("is heard");
        drop(self.1.lock());
        Bytes::new()
    }

    fn query(&self, _query: &[u8]) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Err(MachineError::new("has none"))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Err(MachineError::new("takes none"))
    }
}

#[test]
fn a_machine_that_comes_back_when_its_threads_are_gone_ends_and_answers_nobody() {
    let gate = Arc::<Mutex<()>>::default();
    let closed = gate.lock().expect("no panic");
    let (inbox, _inputs) = inbox();
    let pool = Machines::start(2).expect("threads");
    let (say, said) = crossbeam_channel::unbounded();
    let stuck = Box::new(Stuck(say, gate.clone()));
    let started = Machine::start(&pool, GROUP, "stuck", stuck, inbox).expect("a thread");
    assert_eq!(started.recovered.blocking_recv().expect("recovered"), Ok(0));
    let machine = started.machine;
    let (apply, applied) = job(1, b"a");
    machine.give(apply);
    said.recv_timeout(LIMIT).expect("it is at work");
    // More than it does without letting others have their turn.
    let queries: Vec<_> = (0..4 * JOBS_MAX)
        .map(|_| {
            let (answer, answered) = oneshot::channel();
            machine.give(MachineJob::Query { query: Bytes::new(), answer });
            answered
        })
        .collect();
    let dropper = std::thread::spawn(move || drop(pool));
    assert_eq!(started.ended.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout), "it is stuck");
    drop(closed);
    assert_eq!(started.ended.recv_timeout(LIMIT), Err(RecvTimeoutError::Disconnected));
    dropper.join().expect("no panic");
    drop(applied.blocking_recv());
    queries.into_iter().for_each(|query| drop(query.blocking_recv()));
    let (apply, applied) = job(2, b"b");
    machine.give(apply);
    assert!(applied.blocking_recv().is_err(), "its queue is closed");
}

#[test]
fn a_restore_that_ends_when_its_threads_are_gone_ends_the_machine() {
    let (inbox, _inputs) = inbox();
    let pool = Machines::start(2).expect("threads");
    let started = Machine::start(&pool, GROUP, "bench", Box::new(Register::default()), inbox).expect("a thread");
    assert_eq!(started.recovered.blocking_recv().expect("recovered"), Ok(0));
    started.machine.give(MachineJob::RestoreBegin { restore: 1 });
    // It is answered on the thread of the restore.
    let (answer, answered) = oneshot::channel();
    started.machine.give(MachineJob::Query { query: Bytes::new(), answer });
    assert_eq!(answered.blocking_recv().expect("answered"), Err(restoring_now()));
    drop(pool);
    assert_eq!(started.ended.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
    started.machine.give(MachineJob::Stop);
    assert_eq!(started.ended.recv_timeout(LIMIT), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_machine_that_does_not_come_back_holds_up_no_other() {
    let gate = Arc::<Mutex<()>>::default();
    let closed = gate.lock().expect("no panic");
    let pool = Machines::start(2).expect("threads");
    let (say, _said) = crossbeam_channel::unbounded();
    let machines: Vec<(Machine, Ended, Receiver<Input>)> = (0..6)
        .map(|number| {
            let (inbox, inputs) = inbox();
            let machine: Box<dyn StateMachine> =
                if number < 5 { Box::new(Stuck(say.clone(), gate.clone())) } else { Box::new(Register::default()) };
            let started = Machine::start(&pool, GroupNumber(number), "one", machine, inbox).expect("a thread");
            assert_eq!(started.recovered.blocking_recv().expect("recovered"), Ok(0));
            (started.machine, started.ended, inputs)
        })
        .collect();
    let answers: Vec<_> = machines
        .iter()
        .map(|(machine, ..)| {
            let (job, answer) = job(1, b"a");
            machine.give(job);
            answer
        })
        .collect();
    let mut answers = answers.into_iter().rev();
    let last = answers.next().expect("six of them");
    assert_eq!(last.blocking_recv(), Ok(Ok(Answer::Machine(Bytes::new()))), "five others keep their threads");
    drop(closed);
    answers.for_each(|answer| assert_eq!(answer.blocking_recv(), Ok(Ok(Answer::Machine(Bytes::new())))));
    machines.iter().for_each(|(machine, ..)| machine.give(MachineJob::Stop));
    for (_, ended, _) in &machines {
        assert_eq!(ended.recv_timeout(LIMIT), Err(RecvTimeoutError::Disconnected));
    }
    drop(pool);
}

#[test]
fn jobs_are_done_in_their_order_whoever_gives_them_and_however_many_groups_there_are() {
    const GROUPS: u32 = 50;
    const ENTRIES: u64 = 300;
    let pool = Machines::start(4).expect("threads");
    let machines: Vec<(Machine, Register)> = (0..GROUPS)
        .map(|number| {
            let (inbox, _) = inbox();
            let register = Register::default();
            let started =
                Machine::start(&pool, GroupNumber(number), "one", Box::new(register.clone()), inbox).expect("a thread");
            assert_eq!(started.recovered.blocking_recv().expect("recovered"), Ok(0));
            (started.machine, register)
        })
        .collect();
    let give = |(group, index): (usize, u64)| {
        let (job, answer) = job(index, index.to_string().as_bytes());
        machines[group].0.give(job);
        answer
    };
    // Two threads give, one after the other for each group, while the machines work.
    let (pass, passed) = crossbeam_channel::unbounded();
    let (tell_given, given) = crossbeam_channel::unbounded();
    std::thread::scope(|scope| {
        scope.spawn(|| passed.iter().try_for_each(|job| tell_given.send(give(job))));
        for index in (1..=ENTRIES).step_by(2) {
            let mut first = Vec::new();
            for group in 0..machines.len() {
                first.push(give((group, index)));
                pass.send((group, index + 1)).expect("is taken");
            }
            let second = machines.iter().map(|_| given.recv_timeout(LIMIT).expect("given"));
            let second: Vec<_> = second.collect();
            let before = |index: u64| if index == 0 { Bytes::new() } else { Bytes::from(index.to_string()) };
            for (answers, index) in [(first, index - 1), (second, index)] {
                for answer in answers {
                    assert_eq!(answer.blocking_recv().expect("applied"), Ok(Answer::Machine(before(index))));
                }
            }
        }
        drop(pass);
    });
    machines.iter().for_each(|(machine, _)| machine.give(MachineJob::Stop));
    drop(pool);
}
