//! A TCP proxy that breaks connections in chosen ways.

use crate::{free_port, Error};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

// A longer "frame" is no ZooKeeper frame but a four-letter word, or noise.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// What the proxy knows about the bytes it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    Raw,
    /// What clients send is ZooKeeper's: frames with a length of four bytes, the first of a connection its handshake.
    ZooKeeper,
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// By RST: the other side sees a reset at once and loses what it has not read.
    Reset,
    /// By FIN: the other side reads to the end, then sees the end of the stream.
    Fin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Forward,
    Silent,
    SwallowReplies,
    /// Counts down with each request let through.
    Requests(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    generation: u64,
    close: Close,
    server_too: bool,
}

/// A TCP proxy in front of one server. It forwards until told otherwise; dropping it closes everything.
///
/// Faults apply to connections that exist and to those that come.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
    listening: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    framing: Framing,
    flow: watch::Sender<Flow>,
    cut: watch::Sender<Cut>,
    accept: watch::Sender<bool>,
    connections: AtomicU64,
    forwarded: AtomicU64,
    swallowed: AtomicU64,
}

impl Proxy {
    /// Starts a proxy on a free loopback port.
    ///
    /// # Errors
    /// [`Error::Bind`] or [`Error::NoFreePort`].
    pub async fn start(target: SocketAddr, framing: Framing) -> Result<Self, Error> {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self::start_at(SocketAddr::new(ip, free_port(ip)?), target, framing).await
    }

    /// Starts a proxy that listens on `address`.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub async fn start_at(address: SocketAddr, target: SocketAddr, framing: Framing) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
        let shared = Arc::new(Shared {
            target,
            framing,
            flow: watch::Sender::new(Flow::Forward),
            cut: watch::Sender::new(Cut { generation: 0, close: Close::Fin, server_too: true }),
            accept: watch::Sender::new(true),
            connections: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        });
        let (listens, listening) = watch::channel(true);
        let acceptor = tokio::spawn(accept(listener, address, Arc::clone(&shared), listens));
        Ok(Self { address, shared, acceptor, listening })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, on both sides. New ones are accepted.
    pub fn cut(&self, close: Close) {
        self.send_cut(close, true);
    }

    /// Closes every connection on the client's side alone; the server sees nothing of it until the proxy is dropped.
    pub fn cut_client(&self, close: Close) {
        self.send_cut(close, false);
    }

    /// Carries nothing in either direction, but keeps connections open and accepts new ones. What is sent meanwhile
    /// arrives after [`Proxy::resume`], as after a partition.
    pub fn silence(&self) {
        self.shared.flow.send_replace(Flow::Silent);
    }

    /// Carries requests, and throws away what the server answers. Those answers are lost for good: cut the
    /// connections before [`Proxy::resume`], or the client sees a stream with a hole.
    pub fn swallow_replies(&self) {
        self.shared.flow.send_replace(Flow::SwallowReplies);
    }

    /// Lets exactly `count` more requests through and throws away the rest, as a connection that breaks does. Replies
    /// pass. A connection's handshake, heartbeats and other frames with negative ids do not count; once `count` is
    /// reached they are thrown away as well, except a new connection's handshake.
    ///
    /// # Panics
    /// If the proxy knows nothing of requests ([`Framing::Raw`]).
    pub fn let_requests_through(&self, count: u64) {
        assert_eq!(self.shared.framing, Framing::ZooKeeper, "requests are known only in ZooKeeper's framing");
        self.shared.flow.send_replace(Flow::Requests(count));
    }

    /// Refuses new connections as a port nobody listens on does. Existing ones live on.
    pub async fn refuse(&self) {
        self.set_accepting(false).await;
    }

    /// Forwards again, and accepts connections again.
    pub async fn resume(&self) {
        self.shared.flow.send_replace(Flow::Forward);
        self.set_accepting(true).await;
    }

    /// How many connections were accepted since the start.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many requests went to the server since the start, without handshakes and heartbeats.
    pub fn requests_forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::SeqCst)
    }

    /// How many requests were thrown away since the start, without heartbeats.
    pub fn requests_swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    fn send_cut(&self, close: Close, server_too: bool) {
        self.shared.cut.send_modify(|cut| *cut = Cut { generation: cut.generation + 1, close, server_too });
    }

    async fn set_accepting(&self, accepting: bool) {
        self.shared.accept.send_replace(accepting);
        let mut listening = self.listening.clone();
        // Fails only when the acceptor has ended, and then nobody listens.
        let _ = listening.wait_for(|now| *now == accepting).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.send_cut(Close::Reset, true);
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>, listens: watch::Sender<bool>) {
    let mut accepting = shared.accept.subscribe();
    let mut listener = Some(listener);
    loop {
        if !*accepting.borrow_and_update() {
            listener = None;
        } else if listener.is_none() {
            // Its port is not ephemeral, so it is free unless another program took it on purpose.
            listener = TcpListener::bind(address).await.ok();
        }
        listens.send_replace(listener.is_some());
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = accepting.changed() => if changed.is_err() { return },
            client = accepted => if let Some((client, _)) = client {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                // From here on a cut is about this connection, too.
                tokio::spawn(connect(client, Arc::clone(&shared), shared.cut.subscribe()));
            },
        }
    }
}

async fn connect(client: TcpStream, shared: Arc<Shared>, mut cut: watch::Receiver<Cut>) {
    let server = tokio::select! {
        // A server that has accepted is to be cut as such, below.
        biased;
        server = TcpStream::connect(shared.target) => server,
        _ = cut.changed() => {
            if cut.borrow_and_update().close == Close::Reset {
                reset(&client);
            }
            return;
        }
    };
    let Ok(server) = server else {
        // The client learns that nobody is there, as it would without the proxy.
        reset(&client);
        return;
    };
    // Small requests must not wait for each other. Failing to say so only costs time.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut requests = Pump { read: client_read, write: server_write, flow: shared.flow.subscribe() };
    let mut replies = Pump { read: server_read, write: client_write, flow: shared.flow.subscribe() };
    let carry = async {
        // One side's end is passed on, and the other direction carried to its own end.
        tokio::join!(requests.carry_requests(&shared), replies.carry_replies());
    };
    tokio::select! {
        () = carry => return,
        _ = cut.changed() => {}
    }
    let mut now = *cut.borrow_and_update();
    let Pump { read: client_read, write: server_write, .. } = requests;
    let Pump { read: server_read, write: client_write, .. } = replies;
    close(client_read, client_write, now.close);
    while !now.server_too {
        if cut.changed().await.is_err() {
            break;
        }
        now = *cut.borrow_and_update();
    }
    close(server_read, server_write, now.close);
}

fn close(read: OwnedReadHalf, write: OwnedWriteHalf, close: Close) {
    if close == Close::Reset {
        reset(read.as_ref());
        // Dropped as it is, this half would send a FIN before the RST.
        write.forget();
    }
}

/// Lets the socket answer its own end with RST instead of FIN.
fn reset(socket: &TcpStream) {
    // Fails only on a socket that is gone already.
    let _ = socket.set_zero_linger();
}

struct Pump {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    flow: watch::Receiver<Flow>,
}

impl Pump {
    /// Ends when either side has closed or broken.
    async fn carry_requests(&mut self, shared: &Shared) {
        let mut handshake = shared.framing == Framing::ZooKeeper;
        loop {
            let frame = match shared.framing {
                Framing::Raw => read_chunk(&mut self.read).await,
                Framing::ZooKeeper => read_frame(&mut self.read).await,
            };
            let Some(frame) = frame else { break };
            let counts = shared.framing == Framing::ZooKeeper && !handshake && is_request(&frame);
            let forward = handshake | self.admit_request(shared, counts).await;
            handshake = false;
            if counts {
                let counter = if forward { &shared.forwarded } else { &shared.swallowed };
                counter.fetch_add(1, Ordering::SeqCst);
            }
            if forward && self.write.write_all(&frame).await.is_err() {
                break;
            }
        }
        // Fails only if that direction is closed already.
        let _ = self.write.shutdown().await;
    }

    async fn carry_replies(&mut self) {
        while let Some(chunk) = read_chunk(&mut self.read).await {
            let flow = self.wait_while_silent().await;
            if flow != Flow::SwallowReplies && self.write.write_all(&chunk).await.is_err() {
                break;
            }
        }
        // Fails only if that direction is closed already.
        let _ = self.write.shutdown().await;
    }

    async fn admit_request(&mut self, shared: &Shared, counts: bool) -> bool {
        self.wait_while_silent().await;
        let mut admitted = true;
        // Other connections count down too, so looking and counting is one step.
        shared.flow.send_if_modified(|flow| match flow {
            Flow::Requests(0) => {
                admitted = false;
                false
            }
            Flow::Requests(left) if counts => {
                *left -= 1;
                true
            }
            _ => false,
        });
        admitted
    }

    async fn wait_while_silent(&mut self) -> Flow {
        match self.flow.wait_for(|flow| *flow != Flow::Silent).await {
            Ok(flow) => *flow,
            // The proxy is gone, and this task about to be told.
            Err(_) => Flow::Silent,
        }
    }
}

async fn read_chunk(read: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let length = read.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
    chunk.truncate(length);
    Some(chunk)
}

/// The next frame with its length; what is no frame is returned as it comes.
async fn read_frame(read: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    read.read_exact(&mut header).await.ok()?;
    let length = usize::try_from(u32::from_be_bytes(header)).ok()?;
    if length > FRAME_BYTES_MAX {
        return Some(header.to_vec());
    }
    let mut frame = vec![0; 4 + length];
    frame[..4].copy_from_slice(&header);
    read.read_exact(&mut frame[4..]).await.ok()?;
    Some(frame)
}

/// Requests carry ids from 0 on; heartbeats, authentication and the renewal of watches have negative ones.
fn is_request(frame: &[u8]) -> bool {
    frame.get(4..8).and_then(|xid| xid.try_into().ok()).is_some_and(|xid| i32::from_be_bytes(xid) >= 0)
}
