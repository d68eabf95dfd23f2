use std::net::SocketAddr;

use bequest_recovery::record::Uuid;
use bytes::BytesMut;
use crossbeam_channel::Receiver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::*;
use crate::driver::inbox::inbox;
use crate::driver::io::IoRuntime;
use crate::wire::frame::put_frame;

const LIMIT: Duration = Duration::from_secs(20);
const CLUSTER: Uuid = Uuid([7; 16]);

/// A node that is nothing but its links.
struct Linked {
    peers: Peers,
    inputs: Receiver<Input>,
    address: SocketAddr,
    runtime: IoRuntime,
}

impl Linked {
    /// Listens, on the same port as an earlier life if one is given.
    fn listen(id: u64, nonce: u64, address: Option<SocketAddr>) -> Self {
        let runtime = IoRuntime::start().expect("threads");
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address"));
        let listener = runtime.handle().block_on(TcpListener::bind(address)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (inbox, inputs) = inbox();
        let counters = Arc::<Counters>::default();
        let peers = Peers::start(NodeId(id), nonce, listener, inbox, runtime.handle().clone(), counters);
        Self { peers, inputs, address, runtime }
    }

    fn registered(id: u64, incarnation: u64, address: Option<SocketAddr>) -> Self {
        let linked = Self::listen(id, id * 100 + incarnation, address);
        linked.peers.identify(Identity { cluster: CLUSTER, incarnation: Incarnation(incarnation) });
        linked
    }

    fn dial(&self, peer: u64, incarnation: u64, to: &Self) {
        self.peers.dial(NodeId(peer), Incarnation(incarnation), to.address.to_string());
    }

    /// The next event, in short; `None` if there is none for `wait`.
    fn next_within(&self, wait: Duration) -> Option<String> {
        match self.inputs.recv_timeout(wait).ok()? {
            Input::Event(Event::Link(peer, LinkEvent::Up { incarnation })) => {
                Some(format!("{} up {}", peer.0, incarnation.0))
            }
            Input::Event(Event::Link(peer, LinkEvent::Down)) => Some(format!("{} down", peer.0)),
            Input::Event(Event::Link(peer, LinkEvent::Refused)) => Some(format!("{} refused", peer.0)),
            Input::Event(Event::Probed { nonce }) => Some(format!("probed {nonce:?}")),
            Input::Message { peer, message, .. } => Some(format!("{} says {}", peer.0, message.len())),
            _ => panic!("links tell nothing else"),
        }
    }

    fn next(&self) -> String {
        self.next_within(LIMIT).expect("an event")
    }

    /// As by kill -9: all sockets closed at once.
    fn die(self) -> SocketAddr {
        drop(self.runtime);
        self.address
    }
}

fn pair() -> (Linked, Linked) {
    let (low, high) = (Linked::registered(1, 1, None), Linked::registered(2, 1, None));
    low.dial(2, 1, &high);
    high.dial(1, 1, &low);
    assert_eq!((low.next(), high.next()), ("2 up 1".into(), "1 up 1".into()));
    (low, high)
}

#[test]
fn a_pair_of_nodes_has_one_link_that_carries_messages_both_ways_in_order() {
    let (low, high) = pair();
    for length in 1..=1000 {
        low.peers.send(NodeId(2), vec![1; length].into());
        high.peers.send(NodeId(1), vec![1; length].into());
    }
    for length in 1..=1000 {
        assert_eq!(high.next(), format!("1 says {length}"));
        assert_eq!(low.next(), format!("2 says {length}"));
    }
}

#[test]
fn a_dead_process_is_known_by_both_kinds_of_peers_once() {
    for lower_dies in [true, false] {
        let (low, high) = pair();
        let (dead, survivor, id) = if lower_dies { (low, high, 1) } else { (high, low, 2) };
        let address = dead.die();
        assert_eq!(survivor.next(), format!("{id} down"));
        assert_eq!(survivor.next(), format!("{id} refused"));
        // Attempts go on, and are refused, and are no news. What the next life causes is.
        let reborn = Linked::registered(id, 2, Some(address));
        reborn.dial(3 - id, 1, &survivor);
        assert_eq!(survivor.next(), format!("{id} up 2"), "lower_dies={lower_dies}");
        reborn.die();
        assert_eq!(survivor.next(), format!("{id} down"));
        assert_eq!(survivor.next(), format!("{id} refused"), "a completed handshake arms it again");
    }
}

#[test]
fn a_link_that_ends_between_living_processes_comes_back_and_nobody_is_called_dead() {
    let (low, high) = pair();
    // What a network does: the connection is gone, both processes live.
    low.peers.close(NodeId(2), low.peers.table().get_mut(&NodeId(2)).expect("linked"));
    assert_eq!(low.next(), "2 down");
    assert_eq!(high.next(), "1 down");
    assert_eq!(high.next(), "1 up 1");
    assert_eq!(low.next(), "2 up 1");
}

#[test]
fn an_older_incarnation_is_not_linked_and_a_newer_one_ends_the_link_to_the_old() {
    let (low, high) = pair();
    low.dial(2, 2, &high);
    assert_eq!(low.next(), "2 down");
    assert_eq!(high.next(), "1 down");
    // The old process dials on and is refused by its incarnation, whatever address it has.
    let refused = || low.peers.shared.counters.read().handshakes_refused;
    let began = Instant::now();
    while refused() < 2 {
        assert!(began.elapsed() < LIMIT, "the old incarnation is not refused");
        assert_eq!(high.next_within(Duration::from_millis(10)), None);
    }
    assert_eq!(low.next_within(Duration::ZERO), None);
    high.peers.identify(Identity { cluster: CLUSTER, incarnation: Incarnation(2) });
    assert_eq!(low.next(), "2 up 2");
}

#[test]
fn another_cluster_and_an_unregistered_node_get_no_link() {
    let low = Linked::listen(1, 5, None);
    let high = Linked::registered(2, 1, None);
    high.dial(1, 1, &low);
    let refused = |at_least| {
        let began = Instant::now();
        while low.peers.shared.counters.read().handshakes_refused < at_least {
            assert!(began.elapsed() < LIMIT, "no link is refused");
            assert_eq!(low.next_within(Duration::from_millis(10)), None);
        }
    };
    refused(1);
    low.peers.identify(Identity { cluster: Uuid([8; 16]), incarnation: Incarnation(1) });
    refused(low.peers.shared.counters.read().handshakes_refused + 2);
    low.peers.identify(Identity { cluster: CLUSTER, incarnation: Incarnation(1) });
    assert_eq!(low.next(), "2 up 1");
}

#[test]
fn a_probe_finds_the_process_that_listens_registered_or_not() {
    let (asking, asked) = (Linked::listen(2, 5, None), Linked::listen(1, 77, None));
    asking.peers.probe(asked.address.to_string());
    assert_eq!(asking.next(), "probed Some(77)");
    let address = asked.die();
    asking.peers.probe(address.to_string());
    assert_eq!(asking.next(), "probed None");
    // Somebody who accepts and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    asking.peers.probe(mute.local_addr().expect("bound").to_string());
    assert_eq!(asking.next(), "probed None");
}

#[test]
fn strangers_are_closed_counted_and_harm_no_link() {
    let (low, high) = pair();
    let damaged = {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, b"hello?");
        frame[9] ^= 1;
        frame
    };
    let no_hello = {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, &[0x0a, 0xff, 0xff]);
        frame
    };
    let huge = [0xff; 64];
    let cases: [&[u8]; 5] = [b"GET / HTTP/1.1\r\n\r\n", &huge, &[0; 8], &damaged, &no_hello];
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (count, bytes) in (1..).zip(cases) {
        client.block_on(async {
            let mut stream = TcpStream::connect(low.address).await.expect("listens");
            stream.write_all(bytes).await.expect("takes some bytes");
            // Closed, by an end or a reset, without a word.
            let read = timeout(LIMIT, stream.read(&mut [0; 16])).await.expect("closed before the deadline");
            assert!(matches!(read, Ok(0) | Err(_)), "{bytes:?}: {read:?}");
        });
        assert_eq!(low.peers.shared.counters.read().bad_frames, count, "{bytes:?}");
    }
    high.peers.send(NodeId(1), vec![1; 9].into());
    assert_eq!(low.next(), "2 says 9", "the link has not been touched");
}

#[test]
fn idle_connections_do_not_keep_nodes_out() {
    let low = Linked::registered(1, 1, None);
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut idle = Vec::new();
    client.block_on(async {
        for _ in 0..200 {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind("127.0.0.2:0".parse().expect("an address")).expect("loopback");
            idle.push(socket.connect(low.address).await.expect("accepted"));
        }
    });
    let began = Instant::now();
    while low.peers.shared.counters.read().turned_away < 200 - 32 {
        assert!(began.elapsed() < LIMIT, "{:?}", low.peers.shared.counters.read());
        std::thread::yield_now();
    }
    let high = Linked::registered(2, 1, None);
    high.dial(1, 1, &low);
    assert_eq!(high.next(), "1 up 1");
}

#[test]
fn a_peer_that_does_not_read_costs_bounded_memory_and_no_time() {
    let low = Linked::registered(1, 1, None);
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let identity = Identity { cluster: CLUSTER, incarnation: Incarnation(1) };
    let deaf = client.block_on(async {
        let mut stream = TcpStream::connect(low.address).await.expect("listens");
        let hello = Hello::link(NodeId(2), 1, identity, NodeId(1));
        let welcome = greet(&mut stream, &hello).await.expect("answered");
        welcome.accept(NodeId(1), identity).expect("linked");
        stream
    });
    assert_eq!(low.next(), "2 up 1");
    let message = Bytes::from(vec![1; 256 * 1024]);
    for _ in 0..4096 {
        low.peers.send(NodeId(2), message.clone());
    }
    let dropped = low.peers.shared.counters.read().messages_dropped;
    // A gigabyte was offered; what was kept fits the queue, the socket's buffers and one write.
    assert!(dropped > 4096 - 256, "dropped={dropped}");
    // It sends no keepalive either, so the link is given up.
    assert_eq!(low.next(), "2 down");
    drop(deaf);
}
