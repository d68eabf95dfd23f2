//! The key-value machine on its RocksDB: commands, questions, and the chunks of a snapshot.

use bequest_storage::{
    kv_answer, KvAnswer, KvCommand, KvMachine, KvOptions, KvQuery, KvResponse, Options, StorageError, Store,
};
use bytes::Bytes;
use prost::Message;

use crate::source::{put_long, with_crc, Source};

const GROUP: [u8; 16] = [7; 16];
const STATE_BYTES_MAX: u64 = 1 << 20;

struct Machine {
    _dir: tempfile::TempDir,
    store: Store,
    /// The chunks of a state without anything in it.
    empty: Vec<Bytes>,
}

thread_local! {
    // Opening a store takes longer than an input; every input finds an empty state and leaves one.
    static MACHINE: Machine = Machine::new();
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(dir.path().join("data"), Options::default()).expect("opens");
        let mut machine = Self { _dir: dir, store, empty: Vec::new() };
        machine.empty = written(&machine.open());
        machine
    }

    fn open(&self) -> KvMachine {
        KvMachine::open(&self.store, GROUP, KvOptions { state_bytes_max: STATE_BYTES_MAX }).expect("opens")
    }
}

fn written(machine: &KvMachine) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let written: Result<(), StorageError> = machine.snapshot().expect("a view").write_to(&mut |chunk| {
        chunks.push(chunk);
        Ok(())
    });
    written.expect("written");
    chunks
}

/// Everything that reaches the machine through the log, a reader or the archive.
pub fn values(data: &[u8]) -> bool {
    MACHINE.with(|shared| {
        let mut source = Source::new(data);
        let mut machine = shared.open();
        let (mut accepted, mut index) = (false, machine.applied());
        while !source.is_empty() {
            index += 1;
            match source.pick(4) {
                0 => {
                    let answer = machine.apply(index, &source.long_bytes());
                    accepted |= responded(&answer);
                }
                1 => {
                    let (key, value) = (source.bytes(), source.bytes());
                    let command = match source.pick(3) {
                        0 => KvCommand::put(key, value),
                        1 => KvCommand::delete(key),
                        _ => KvCommand::compare_and_set(key, Some(value.clone()), Some(value)),
                    };
                    accepted |= responded(&machine.apply(index, &command.encode_to_vec()));
                }
                2 => {
                    if let Ok(answer) = machine.query(&source.long_bytes()) {
                        KvAnswer::decode(answer).expect("an answer");
                        accepted = true;
                    }
                }
                _ => accepted |= restores(shared, &mut machine, &mut source, index),
            }
            assert!(machine.state_bytes() <= STATE_BYTES_MAX);
        }
        accepted
    })
}

fn responded(answer: &[u8]) -> bool {
    assert!(!answer.is_empty(), "the store failed");
    let response = KvResponse::decode(answer).expect("a response").response.expect("one of them");
    !matches!(response, bequest_storage::kv_response::Response::Invalid(_))
}

/// Chunks of anybody's; what is restored must be a state that can be read, and written out as a snapshot again.
fn restores(shared: &Machine, machine: &mut KvMachine, source: &mut Source<'_>, applied: u64) -> bool {
    let before = machine.applied();
    let mut restore = machine.restore().expect("begins");
    for _ in 0..1 + source.pick(4) {
        let sealed = source.pick(8) > 0;
        let body = source.long_bytes();
        if restore.write(&if sealed { with_crc(&body) } else { body }).is_err() {
            break;
        }
    }
    if restore.finish(applied, &[]).is_err() {
        assert_eq!(machine.applied(), before, "a restore that failed moved the state");
        return false;
    }
    let answer = machine.query(&KvQuery::scan("", None, 0).encode_to_vec()).expect("answers");
    let Some(kv_answer::Answer::Pairs(page)) = KvAnswer::decode(answer).expect("decodes").answer else {
        panic!("a scan is answered with pairs");
    };
    assert!(page.pairs.windows(2).all(|pair| pair[0].key < pair[1].key));
    let chunks = written(machine);
    let mut restore = machine.restore().expect("begins");
    chunks.iter().for_each(|chunk| restore.write(chunk).expect("own chunk"));
    restore.finish(applied, &[]).expect("own snapshot");
    // The next input finds nothing of it.
    let mut restore = machine.restore().expect("begins");
    shared.empty.iter().for_each(|chunk| restore.write(chunk).expect("own chunk"));
    restore.finish(applied, &[]).expect("an empty state");
    true
}

/// Commands, questions, a real snapshot and one with a byte too few.
pub fn value_seeds() -> Vec<Vec<u8>> {
    let tagged = |tag: u8, bytes: &[u8]| {
        let mut seed = vec![tag];
        put_long(&mut seed, bytes);
        seed
    };
    let commands = [
        KvCommand::put("a", "1"),
        KvCommand::compare_and_set("a", Some("1".into()), Some("2".into())),
        KvCommand::delete("a"),
        KvCommand { command: None },
    ];
    let queries = [KvQuery::get("a"), KvQuery::scan("a", Some("b".into()), 9), KvQuery { query: None }];
    let mut seeds: Vec<Vec<u8>> = commands.iter().map(|command| tagged(0, &command.encode_to_vec())).collect();
    seeds.extend(queries.iter().map(|query| tagged(2, &query.encode_to_vec())));
    let shared = Machine::new();
    let mut machine = shared.open();
    machine.apply(1, &KvCommand::put("a", "1").encode_to_vec());
    machine.apply(2, &KvCommand::put("b", "2").encode_to_vec());
    machine.commit(2, &[]).expect("commits");
    let chunks = written(&machine);
    let restore = |cut: usize| {
        let mut seed = vec![3, chunks.len() as u8 - 1];
        for chunk in &chunks {
            seed.push(1);
            put_long(&mut seed, &chunk[..chunk.len() - 4 - cut]);
        }
        seed
    };
    seeds.extend([restore(0), restore(1), vec![3, 0, 0, 0, 0]]);
    seeds
}
