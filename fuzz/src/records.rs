//! Everything that lies in ZooKeeper: records, segments, names, and the address where it is.

use bequest_recovery::address::Address;
use bequest_recovery::entry::{Entry, Position};
use bequest_recovery::genesis::cluster_record;
use bequest_recovery::path::{self, WalName};
use bequest_recovery::record::{
    self, Addresses, Answer, Ballot, Challenge, ChunkName, Cluster, Doubt, Genesis, Limits, Manifest, Pin, Pointer,
    Record, Registration, Segment, SnapshotName, Testimony, Uuid, WalHeader, FORMAT,
};
use bequest_recovery::segment::{self, Body};
use bytes::Bytes;

use crate::source::Source;

const UUID: Uuid = Uuid([7; 16]);

/// The kind of record that the first byte names, with and without a checksum put behind it.
pub fn records(data: &[u8]) -> bool {
    let mut source = Source::new(data);
    let kind = source.pick(12);
    let body = source.rest();
    let mut sealed = body.to_vec();
    // Field 15, fixed 32 bits: where a record keeps its checksum.
    let crc = crc32c::crc32c(&body);
    sealed.push(0x7d);
    sealed.extend_from_slice(&crc.to_le_bytes());
    let sealed = Bytes::from(sealed);
    match kind {
        0 => opens::<Cluster>(&sealed, &body),
        1 => opens::<Registration>(&sealed, &body),
        2 => opens::<Challenge>(&sealed, &body),
        3 => opens::<Answer>(&sealed, &body),
        4 => opens::<Genesis>(&sealed, &body),
        5 => opens::<Ballot>(&sealed, &body),
        6 => opens::<WalHeader>(&sealed, &body),
        7 => opens::<Segment>(&sealed, &body) && decodes(&sealed),
        8 => opens::<Manifest>(&sealed, &body),
        9 => opens::<Pointer>(&sealed, &body),
        10 => opens::<Pin>(&sealed, &body),
        _ => opens::<Cluster>(&body, &sealed),
    }
}

fn opens<R: Record + PartialEq + std::fmt::Debug>(sealed: &Bytes, raw: &Bytes) -> bool {
    let _ = record::open::<R>(raw, None);
    let Ok(found) = record::open::<R>(sealed, None) else { return false };
    let owner = Uuid::from_slice(found.head().1).expect("an opened record has an owner");
    let again =
        record::open::<R>(&record::seal(&found), Some(owner)).expect("what was opened can be sealed and opened");
    assert!(again == found, "{found:?} became {again:?}");
    true
}

/// A segment that a reader would take: where its name says that it belongs.
fn decodes(sealed: &Bytes) -> bool {
    let Ok(found) = record::open::<Segment>(sealed, None) else { return false };
    let Some(owner) = Uuid::from_slice(&found.uuid) else { return false };
    let first = found.prev_index.wrapping_add(1);
    let Ok(decoded) = segment::decode(sealed, owner, found.term, first) else { return false };
    let mut end = decoded.prev;
    if let Body::Entries(entries) = &decoded.body {
        for (entry, hash) in entries {
            assert_eq!(end.index.checked_add(1), Some(entry.index), "a gap passed");
            end = end.next(entry);
            assert_eq!(end.hash, *hash, "a hash passed that is none");
        }
    }
    assert_eq!(decoded.end(), end);
    true
}

/// Where ZooKeeper is, and the names of znodes.
pub fn addresses(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Some(wal) = WalName::parse(text) {
        assert_eq!(wal.to_string(), text, "two names of one WAL");
    }
    if let Some(number) = path::number(text, 20) {
        assert_eq!(format!("{number:020}"), text, "two names of one number");
    }
    let _ = path::valid_group_name(text);
    let Ok(address) = text.parse::<Address>() else { return false };
    assert!(!address.servers.is_empty() && address.chroot.starts_with('/'), "{address}");
    if address.credentials.is_none() {
        assert_eq!(address.to_string().parse().as_ref(), Ok(&address), "an address does not survive being shown");
    }
    true
}

/// Real records, and what a hand might make of them.
pub fn record_seeds() -> Vec<Vec<u8>> {
    let (format, uuid) = (FORMAT, UUID.to_bytes());
    let name = |index| Some(SnapshotName { index, term: 3 });
    let addresses = Some(Addresses { peer: "10.0.0.1:7101".into(), client: "10.0.0.1:8101".into() });
    let entry = |index, term| Entry { index, term, kind: 0, data: Bytes::from_static(b"x"), context: Bytes::new() };
    let (first, end) = segment::encode(UUID, 3, 0, Position::START, vec![entry(1, 2), entry(2, 3)]);
    let last = Position { index: u64::MAX - 2, ..end };
    let (beyond, _) = segment::encode(UUID, 3, 5000, last, vec![entry(u64::MAX - 1, 3), entry(u64::MAX, 3)]);
    // One entry more than there are numbers.
    let overrun = Segment {
        format,
        uuid: uuid.clone(),
        term: 3,
        prev_index: u64::MAX - 1,
        prev_hash: Bytes::from_static(&[0; 16]),
        hash: Bytes::from_static(&[0; 16]),
        entries: vec![entry(u64::MAX, 3), entry(0, 3)],
        ..Segment::default()
    };
    let limits = Some(Limits { wal_bytes: 1 << 28, wal_segments: 100_000, state_bytes: 1 << 29 });
    let doubts = vec![Doubt { group: uuid.clone(), version: 9 }];
    let testimonies = vec![Testimony { group: uuid.clone(), version: 9, stand: 2, progress: 17 }];
    let chunks = vec![ChunkName { hash: Bytes::from_static(&[0xaa; 32]), length: 4096 }];
    let (hash, voters) = (end.hash.to_bytes(), vec![1, 2]);
    let ballot = Ballot { format, uuid: uuid.clone(), term: 3, node: 1, incarnation: 7, nonce: 8, ..Ballot::default() };
    let records = [
        (0, cluster_record(UUID)),
        (
            1,
            record::seal(&Registration {
                format,
                uuid: uuid.clone(),
                incarnation: 7,
                nonce: 42,
                addresses: addresses.clone(),
            }),
        ),
        (2, record::seal(&Challenge { format, uuid: uuid.clone(), nonce: 5, incarnation: 7, doubts })),
        (3, record::seal(&Answer { format, uuid: uuid.clone(), nonce: 5, testimonies })),
        (4, record::seal(&Genesis { format, uuid: uuid.clone(), voters: voters.clone(), limits })),
        (5, record::seal(&Ballot { addresses, ..ballot.clone() })),
        (5, record::seal(&Ballot { vacant: true, served: true, ..ballot })),
        (6, record::seal(&WalHeader { format, uuid: uuid.clone(), term: 3, node: 1, nonce: 8 })),
        (7, first),
        (7, beyond),
        (7, record::seal(&overrun)),
        (7, segment::encode_closed(UUID, 3, 1, end, 4)),
        (
            8,
            record::seal(&Manifest {
                format,
                uuid: uuid.clone(),
                index: 2,
                term: 3,
                hash,
                voters,
                chunks,
                bytes: 4096,
            }),
        ),
        (9, record::seal(&Pointer { format, uuid: uuid.clone(), newest: name(20), previous: name(10) })),
        (10, record::seal(&Pin { format, uuid, snapshot: name(10), incarnation: 7 })),
    ];
    let unsealed = records.iter().map(|(kind, bytes)| [&[*kind][..], &bytes[..bytes.len() - 5]].concat());
    let whole = [&[11][..], &cluster_record(UUID)].concat();
    let foreign = b"\x05what somebody else wrote".to_vec();
    unsealed.chain([whole, foreign]).collect()
}

/// Addresses and names.
pub fn address_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "zk://ann:se%3Acret%2F@h1:2182,h-2,[::1]:2183,[fe80::1]/a/b",
        "zk://h:2181",
        "zk://h/a/",
        "zk://h/zookeeper/x",
        "zk://h:0",
        "00000000000000000003-00000000000000000001",
        "18446744073709551615",
        "orders.v2",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
