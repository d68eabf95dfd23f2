//! The bytes of every record, held to a file: what one release wrote, every later one must read.
//!
//! A change of these bytes is a change of the format. Where it is meant, run with `BEQUEST_GOLDEN=write` and review the
//! difference.

use std::fmt::Write as _;

use bequest_recovery::entry::{Entry, EntryHash, Position};
use bequest_recovery::genesis::cluster_record;
use bequest_recovery::record::{
    open, seal, Addresses, Answer, Ballot, Challenge, ChunkName, Cluster, Doubt, Genesis, Limits, Manifest, Pin,
    Pointer, RecordError, Registration, SnapshotName, Testimony, Uuid, WalHeader, FORMAT,
};
use bequest_recovery::segment;
use bytes::Bytes;

const UUID: Uuid = Uuid(*b"0123456789abcdef");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn addresses() -> Option<Addresses> {
    Some(Addresses { peer: "10.0.0.1:7101".into(), client: "http://10.0.0.1:8101".into() })
}

fn entry(index: u64, term: u64, data: &'static str) -> Entry {
    Entry { index, term, kind: 0, data: Bytes::from_static(data.as_bytes()), context: Bytes::new() }
}

fn records() -> Vec<(&'static str, Bytes)> {
    let (format, uuid) = (FORMAT, UUID.to_bytes());
    let name = |index| Some(SnapshotName { index, term: 3 });
    let group = uuid.clone();
    let (first, end) = segment::encode(UUID, 3, 0, Position::START, vec![entry(1, 2, "put x=1"), entry(2, 3, "")]);
    let limits = Some(Limits { wal_bytes: 1 << 28, wal_segments: 100_000, state_bytes: 1 << 29 });
    let ballot = Ballot {
        format,
        uuid: uuid.clone(),
        term: 3,
        node: 1,
        incarnation: 7,
        nonce: 0x0102_0304_0506_0708,
        addresses: addresses(),
        vacant: false,
        served: false,
    };
    let registration = Registration { format, uuid: uuid.clone(), incarnation: 7, nonce: 42, addresses: addresses() };
    let doubts = vec![Doubt { group: group.clone(), version: 9 }];
    let testimonies = vec![Testimony { group, version: 9, stand: 2, progress: 17 }];
    let chunks = vec![ChunkName { hash: Bytes::from_static(&[0xaa; 32]), length: 4096 }];
    let hash = end.hash.to_bytes();
    vec![
        ("cluster", cluster_record(UUID)),
        ("registration", seal(&registration)),
        ("challenge", seal(&Challenge { format, uuid: uuid.clone(), nonce: 5, incarnation: 7, doubts })),
        ("answer", seal(&Answer { format, uuid: uuid.clone(), nonce: 5, testimonies })),
        ("genesis", seal(&Genesis { format, uuid: uuid.clone(), voters: vec![1, 2], limits })),
        ("ballot", seal(&ballot)),
        ("vacant ballot", seal(&Ballot { vacant: true, served: true, ..ballot })),
        ("wal header", seal(&WalHeader { format, uuid: uuid.clone(), term: 3, node: 1, nonce: 8 })),
        ("segment", first),
        ("mark", segment::encode_closed(UUID, 3, 1, end, 4)),
        (
            "manifest",
            seal(&Manifest {
                format,
                uuid: uuid.clone(),
                index: 2,
                term: 3,
                hash,
                voters: vec![1, 2],
                chunks,
                bytes: 4096,
            }),
        ),
        ("pointer", seal(&Pointer { format, uuid: uuid.clone(), newest: name(20), previous: name(10) })),
        ("pin", seal(&Pin { format, uuid, snapshot: name(10), incarnation: 7 })),
    ]
}

#[test]
fn the_bytes_of_every_record_are_those_of_the_first_release() {
    let written: String = records().iter().fold(String::new(), |mut text, (name, bytes)| {
        let _ = writeln!(text, "{name}: {}", hex(bytes));
        text
    });
    if std::env::var("BEQUEST_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(GOLDEN, &written).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("the golden file is part of the sources");
    for (line, expected) in written.lines().zip(golden.lines()) {
        assert_eq!(line, expected, "the format changed");
    }
    assert_eq!(written.lines().count(), golden.lines().count());
}

#[test]
fn every_flipped_bit_of_every_record_is_refused() {
    for (name, bytes) in records() {
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Any kind will do: the checksum is judged before the first field.
            let opened = open::<Cluster>(&damaged.into(), None);
            assert!(
                matches!(opened, Err(RecordError::Crc { .. } | RecordError::Unsealed { .. })),
                "{name}: bit {bit} flipped: {opened:?}"
            );
        }
    }
}

#[test]
fn a_newer_format_is_refused_with_the_newest_that_is_understood() {
    let newer = seal(&Cluster { format: FORMAT + 1, uuid: UUID.to_bytes() });
    let expected = RecordError::UnsupportedFormat { kind: "cluster", found: FORMAT + 1, max: FORMAT };
    assert_eq!(open::<Cluster>(&newer, None), Err(expected));
}

#[test]
fn truncated_and_random_bytes_are_refused_and_never_panic() {
    for (_, bytes) in records() {
        for length in 0..bytes.len() {
            assert!(open::<Ballot>(&bytes.slice(..length), None).is_err(), "a prefix of {length} bytes passed");
            assert!(segment::decode(&bytes.slice(..length), UUID, 3, 1).is_err());
        }
    }
    let mut state = 1u64;
    for length in 0..2000usize {
        let noise: Vec<u8> = (0..length % 300)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert!(segment::decode(&noise.into(), UUID, 3, 1).is_err());
    }
}

#[test]
fn the_rolling_hash_covers_every_field_of_an_entry() {
    let base = entry(5, 2, "data");
    let variants = [
        Entry { index: 6, ..base.clone() },
        Entry { term: 3, ..base.clone() },
        Entry { kind: 1, ..base.clone() },
        Entry { data: Bytes::from_static(b"datb"), ..base.clone() },
        // The same bytes, cut elsewhere.
        Entry { data: Bytes::from_static(b"dat"), context: Bytes::from_static(b"a"), ..base.clone() },
    ];
    let hash = EntryHash::EMPTY.next(&base);
    for variant in variants {
        assert_ne!(EntryHash::EMPTY.next(&variant), hash, "{variant:?}");
    }
    assert_ne!(hash.next(&base), hash);
}
