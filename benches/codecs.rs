//! What it costs to put segments, ballots and peers' frames into bytes, and to check them on the way back.
//!
//! `cargo bench --no-default-features --bench codecs`

use std::hint::black_box;

use bequest_recovery::entry::{Entry, Position};
use bequest_recovery::record::{self, Addresses, Ballot, Uuid, FORMAT};
use bequest_recovery::segment;
use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};

// It is nobody's interface, so its very source is measured.
#[allow(dead_code, unreachable_pub, reason = "shared with the node, which uses more of it")]
#[path = "../src/wire/frame.rs"]
mod frame;

const GROUP: Uuid = Uuid([7; 16]);
const TERM: u64 = 3;

fn entries(count: u64, bytes: usize) -> Vec<Entry> {
    let entry = |index| Entry { index, term: TERM, kind: 0, data: vec![0x5a; bytes].into(), context: Bytes::new() };
    (1..=count).map(entry).collect()
}

fn segments(criterion: &mut Criterion) {
    for (count, bytes) in [(1, 100), (256, 100), (4, 64 * 1024)] {
        let mut group = criterion.benchmark_group(format!("segment of {count} entries of {bytes} B"));
        let entries = entries(count, bytes);
        let (sealed, end) = segment::encode(GROUP, TERM, 0, Position::START, entries.clone());
        group.throughput(Throughput::Bytes(count * bytes as u64));
        group.bench_function("encode", |bencher| {
            bencher.iter(|| segment::encode(GROUP, TERM, 0, Position::START, black_box(entries.clone())));
        });
        group.bench_function("decode", |bencher| {
            bencher.iter(|| {
                let decoded = segment::decode(black_box(&sealed), GROUP, TERM, 1).expect("own encoding");
                assert_eq!(decoded.end(), end);
            });
        });
        group.finish();
    }
}

fn ballots(criterion: &mut Criterion) {
    let addresses = Addresses { peer: "10.0.0.1:7001".to_owned(), client: "10.0.0.1:8001".to_owned() };
    let ballot = Ballot {
        format: FORMAT,
        uuid: GROUP.to_bytes(),
        term: TERM,
        node: 1,
        incarnation: 9,
        nonce: 0x5a5a,
        addresses: Some(addresses),
        vacant: false,
        served: true,
    };
    let sealed = record::seal(&ballot);
    criterion.bench_function("ballot/encode", |bencher| bencher.iter(|| record::seal(black_box(&ballot))));
    criterion.bench_function("ballot/decode", |bencher| {
        bencher.iter(|| record::open::<Ballot>(black_box(&sealed), Some(GROUP)).expect("own encoding"));
    });
}

fn frames(criterion: &mut Criterion) {
    for bytes in [100, 256 * 1024] {
        let mut group = criterion.benchmark_group(format!("frame of {bytes} B"));
        let payload = vec![0x5a; bytes];
        let mut framed = BytesMut::new();
        frame::put_frame(&mut framed, &payload);
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut buffer = BytesMut::new();
        group.bench_function("encode", |bencher| {
            bencher.iter(|| {
                buffer.clear();
                frame::put_frame(&mut buffer, black_box(&payload));
            });
        });
        group.bench_function("decode", |bencher| {
            bencher.iter(|| {
                let (header, payload) = black_box(&framed).split_first_chunk().expect("a whole header");
                let header = frame::Header::parse(*header, frame::FRAME_BYTES_MAX).expect("own encoding");
                header.check(payload).expect("own encoding");
            });
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    segments(&mut criterion);
    ballots(&mut criterion);
    frames(&mut criterion);
    criterion.final_summary();
}
