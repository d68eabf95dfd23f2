//! The peer port under strangers and liars: nothing they send harms the group.

use std::time::Duration;

use bequest_recovery::record::{open, Registration};
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::operator::Operator;
use crate::world::{eventually, Member, World};

// What nodes say to each other, written down once more: a defect in it must not hide behind itself.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Hello {
        #[prost(fixed64, tag = "1")]
        pub(super) magic: u64,
        #[prost(uint32, tag = "2")]
        pub(super) version: u32,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) cluster: Vec<u8>,
        #[prost(uint64, tag = "4")]
        pub(super) node: u64,
        #[prost(uint64, tag = "5")]
        pub(super) to_node: u64,
        #[prost(uint64, tag = "6")]
        pub(super) incarnation: u64,
        #[prost(fixed64, tag = "7")]
        pub(super) nonce: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Welcome {
        #[prost(uint64, tag = "5")]
        pub(super) incarnation: u64,
        #[prost(string, tag = "7")]
        pub(super) refused: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Envelope {
        #[prost(uint64, tag = "1")]
        pub(super) from: u64,
        #[prost(uint64, tag = "2")]
        pub(super) to: u64,
        #[prost(message, tag = "3")]
        pub(super) beat: Option<Groups>,
        #[prost(message, tag = "4")]
        pub(super) raft: Option<Raft>,
        #[prost(message, tag = "5")]
        pub(super) hello: Option<Groups>,
        #[prost(message, tag = "6")]
        pub(super) hand_over: Option<Group>,
        #[prost(message, tag = "7")]
        pub(super) fetch: Option<Group>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Groups {
        #[prost(message, repeated, tag = "1")]
        pub(super) groups: Vec<Group>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Group {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) group: Vec<u8>,
        #[prost(uint64, tag = "2")]
        pub(super) number: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Raft {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) group: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) message: Vec<u8>,
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend(payload);
    frame
}

async fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32_le().await?;
    let _crc = stream.read_u32_le().await?;
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// Sends bytes to a peer port, and waits until the node closes the connection.
async fn is_hung_up_on(node: &Member, bytes: &[u8]) {
    let mut stream = TcpStream::connect(node.listen).await.expect("it listens");
    // It may hang up while we still write.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "it keeps a connection that began with {:?}", &bytes[..bytes.len().min(16)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_on_the_peer_port_are_hung_up_on_and_nobody_notices() {
    let mut world = World::start().await;
    let settled = world.settled().await;
    let noise: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let huge = [&u32::MAX.to_le_bytes()[..], &[0; 4], &noise].concat();
    let many = [&(64_u32 << 20).to_le_bytes()[..], &[0; 4]].concat();
    let http = b"GET /status HTTP/1.1\r\nHost: here\r\n\r\n";
    let inputs: [&[u8]; 7] =
        [&noise, http, &huge, &many, &frame(b""), &frame(&noise[..512]), &frame(&vec![0xff; 1000])];
    for node in &world.nodes {
        for input in inputs {
            is_hung_up_on(node, input).await;
        }
        for length in 0..64 {
            let start = length * 97;
            let mut stream = TcpStream::connect(node.listen).await.expect("it listens");
            let _ = stream.write_all(&noise[start..start + length]).await;
        }
    }
    world.write(5, 10).await;
    assert_eq!(world.settled().await, settled, "nothing moved");
    world.nothing_is_lost().await;
}

/// A link to `target` in the name of `as_node`, which must be the higher one.
struct Liar {
    stream: TcpStream,
    from: u64,
    to: u64,
    group: Vec<u8>,
}

async fn registered(operator: &Operator, node: u64) -> Registration {
    open(&operator.get(&format!("//nodes/{node:020}")).await.into(), None).expect("a registration")
}

impl Liar {
    async fn link(operator: &Operator, target: &Member, as_node: u64) -> Self {
        let mine = registered(operator, as_node).await;
        let hello = wire::Hello {
            magic: u64::from_le_bytes(*b"bequest\0"),
            version: 1,
            cluster: mine.uuid.to_vec(),
            node: as_node,
            to_node: target.id,
            incarnation: mine.incarnation,
            nonce: mine.nonce,
        };
        let mut stream = TcpStream::connect(target.listen).await.expect("it listens");
        stream.write_all(&frame(&hello.encode_to_vec())).await.expect("it reads");
        let welcome = read_frame(&mut stream).await.expect("a welcome");
        let welcome = wire::Welcome::decode(welcome.as_slice()).expect("a welcome");
        assert_eq!(welcome.refused, "", "the handshake is complete");
        // The genesis record has the group's uuid where all records have it.
        let group = open::<bequest_recovery::record::Genesis>(&operator.get("").await.into(), None);
        let group = group.expect("a genesis").uuid.to_vec();
        Self { stream, from: mine.incarnation, to: welcome.incarnation, group }
    }

    /// Sends one envelope; whether the node still took it.
    async fn send(&mut self, fill: impl FnOnce(&mut wire::Envelope)) -> bool {
        let mut envelope = wire::Envelope { from: self.from, to: self.to, ..wire::Envelope::default() };
        fill(&mut envelope);
        self.stream.write_all(&frame(&envelope.encode_to_vec())).await.is_ok()
    }

    async fn raft(&mut self, message: &Message) -> bool {
        let message = message.write_to_bytes().expect("it can be encoded");
        let raft = wire::Raft { group: self.group.clone(), message };
        self.send(|envelope| envelope.raft = Some(raft)).await
    }
}

const MESSAGES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Messages no node sends, of every kind, around what the target holds.
fn impossible(from: u64, to: u64, term: u64, last: u64) -> Vec<Message> {
    let mut messages = Vec::new();
    for kind in MESSAGES {
        for term in [0, 1, term, term + 1, 1 << 63, u64::MAX] {
            for index in [0, 1, last, last + 1, 1 << 63, u64::MAX] {
                let mut message = Message::default();
                message.set_msg_type(kind);
                message.from = from;
                message.to = to;
                message.term = term;
                message.index = index;
                message.log_term = term.min(index);
                message.commit = index;
                if kind == MessageType::MsgSnapshot {
                    let mut snapshot = Snapshot::default();
                    snapshot.mut_metadata().index = index;
                    snapshot.mut_metadata().term = term;
                    message.set_snapshot(snapshot);
                }
                messages.push(message.clone());
                let mut entry =
                    Entry { index: index.wrapping_add(7), term, data: vec![1; 10].into(), ..Entry::default() };
                entry.set_entry_type(EntryType::EntryConfChangeV2);
                message.mut_entries().push(entry);
                message.reject = true;
                message.reject_hint = u64::MAX;
                messages.push(message);
            }
        }
    }
    messages
}

/// Sends everything a liar can think of over complete handshakes, as `as_node`.
async fn lie(operator: &Operator, target: &Member, as_node: u64) {
    let status = target.status().await;
    let (term, last) = (status["term"].as_u64().unwrap_or(1), status["last"].as_u64().unwrap_or(1));
    let mut liar = Liar::link(operator, target, as_node).await;
    let senders = [(as_node, target.id), (99, target.id), (as_node, 99), (1 << 63, target.id), (0, 0)];
    for (from, to) in senders {
        for message in impossible(from, to, term, last) {
            if !liar.raft(&message).await {
                // The true node has taken its link back.
                liar = Liar::link(operator, target, as_node).await;
            }
        }
    }
    let numbers = [0, 1, u64::from(u32::MAX), u64::MAX];
    for number in numbers {
        let group = wire::Group { group: liar.group.clone(), number };
        let stranger = wire::Group { group: vec![7; 16], number };
        let short = wire::Group { group: vec![7; 3], number };
        for group in [group, stranger, short] {
            let groups = wire::Groups { groups: vec![group.clone(); 3] };
            let sent = [
                liar.send(|envelope| envelope.beat = Some(groups.clone())).await,
                liar.send(|envelope| envelope.hello = Some(groups.clone())).await,
                liar.send(|envelope| envelope.fetch = Some(group.clone())).await,
            ];
            if sent.contains(&false) {
                liar = Liar::link(operator, target, as_node).await;
            }
        }
    }
    liar.send(|envelope| envelope.raft = Some(wire::Raft { group: vec![1; 16], message: vec![0xff; 99] })).await;
    liar.send(|envelope| envelope.from = u64::MAX).await;
    // A frame that is no envelope, and one that announces more than there may be.
    let _ = liar.stream.write_all(&frame(&[0xff; 300])).await;
    let mut liar = Liar::link(operator, target, as_node).await;
    let _ = liar.stream.write_all(&[&u32::MAX.to_le_bytes()[..], &[0; 64]].concat()).await;
    drop(liar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_survives_every_impossible_message_in_its_follower_s_name() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let (leader, follower) = world.settled().await;
    assert_eq!(world.nodes[leader].id, 1, "the lower node is the one that is dialed");
    let operator = world.operator().await;
    let before = operator.version("/ballot").await;
    // Alone with the liar, who has the follower's name and incarnation.
    world.nodes[follower].kill().await;
    lie(&operator, &world.nodes[leader], 2).await;
    world.write(5, 10).await;
    world.nodes[follower].start();
    world.write(5, 10).await;
    world.nothing_is_lost().await;
    assert_eq!(operator.version("/ballot").await, before, "no leadership moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_survives_every_impossible_message_in_its_leader_s_name() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    // Node 2 leads.
    world.nodes[0].kill().await;
    world.nodes[1].says("role", "leader").await;
    world.nodes[0].start();
    world.settled().await;
    let operator = world.operator().await;
    lie(&operator, &world.nodes[0], 2).await;
    assert!(world.nodes[0].process().is_running(), "{}", world.nodes[0].log());
    world.write(5, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_of_another_cluster_node_or_version_is_refused_by_name() {
    let mut world = World::start().await;
    let operator = world.operator().await;
    let mine = registered(&operator, 2).await;
    let hello = wire::Hello {
        magic: u64::from_le_bytes(*b"bequest\0"),
        version: 1,
        cluster: mine.uuid.to_vec(),
        node: 2,
        to_node: 1,
        incarnation: mine.incarnation,
        nonce: mine.nonce,
    };
    let cases = [
        (wire::Hello { cluster: vec![9; 16], ..hello.clone() }, "other cluster"),
        (wire::Hello { cluster: Vec::new(), ..hello.clone() }, "other cluster"),
        (wire::Hello { version: 2, ..hello.clone() }, "other protocol version"),
        (wire::Hello { to_node: 5, ..hello.clone() }, "other node expected"),
        (wire::Hello { node: 1, ..hello.clone() }, "the lower node is dialed"),
        (wire::Hello { incarnation: 0, ..hello }, "an incarnation that has ended"),
    ];
    for (hello, reason) in cases {
        let mut stream = TcpStream::connect(world.nodes[0].listen).await.expect("it listens");
        stream.write_all(&frame(&hello.encode_to_vec())).await.expect("it reads");
        let welcome = read_frame(&mut stream).await.expect("an answer");
        let welcome = wire::Welcome::decode(welcome.as_slice()).expect("an answer");
        assert!(welcome.refused.contains(reason), "{reason}: {welcome:?}");
    }
    eventually("the true link to stay", || async {
        let status = world.nodes[0].status().await;
        if status["mode"] == "full" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await;
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}
