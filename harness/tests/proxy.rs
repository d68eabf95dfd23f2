//! The faults of the proxy, one by one, on plain sockets.

use bequest_harness::{Close, Framing, Proxy};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(30);

/// A proxy in front of a listener, and one connection through it.
async fn connected(framing: Framing) -> (Proxy, TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let target = listener.local_addr().expect("it is bound");
    let proxy = Proxy::start(target, framing).await.expect("the proxy starts");
    let client = TcpStream::connect(proxy.address()).await.expect("the proxy accepts");
    let (server, _) = listener.accept().await.expect("the proxy connects");
    (proxy, listener, client, server)
}

async fn read_some(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 1024];
    let length = tokio::time::timeout(LIMIT, stream.read(&mut bytes)).await.expect("something happens in time")?;
    bytes.truncate(length);
    Ok(bytes)
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await.is_err()
}

fn frame(xid: i32) -> Vec<u8> {
    let mut frame = 4_u32.to_be_bytes().to_vec();
    frame.extend(xid.to_be_bytes());
    frame
}

#[tokio::test]
async fn bytes_and_the_end_of_a_stream_pass_in_both_directions() {
    let (_proxy, _listener, mut client, mut server) = connected(Framing::Raw).await;
    client.write_all(b"ask").await.expect("connected");
    assert_eq!(read_some(&mut server).await.expect("connected"), b"ask");
    client.shutdown().await.expect("connected");
    assert_eq!(read_some(&mut server).await.expect("closed by FIN"), b"");
    server.write_all(b"answer").await.expect("half open");
    assert_eq!(read_some(&mut client).await.expect("half open"), b"answer");
}

#[tokio::test]
async fn a_cut_by_reset_is_seen_as_a_reset_on_both_sides() {
    let (proxy, _listener, mut client, mut server) = connected(Framing::Raw).await;
    proxy.cut(Close::Reset);
    let seen = [read_some(&mut client).await, read_some(&mut server).await].map(|result| result.map_err(|e| e.kind()));
    assert_eq!(seen, [Err(ErrorKind::ConnectionReset), Err(ErrorKind::ConnectionReset)]);
}

#[tokio::test]
async fn a_cut_by_fin_is_seen_as_the_end_on_both_sides() {
    let (proxy, _listener, mut client, mut server) = connected(Framing::Raw).await;
    proxy.cut(Close::Fin);
    assert_eq!(read_some(&mut client).await.expect("closed by FIN"), b"");
    assert_eq!(read_some(&mut server).await.expect("closed by FIN"), b"");
}

#[tokio::test]
async fn a_cut_on_the_clients_side_leaves_the_server_connected() {
    let (proxy, _listener, mut client, mut server) = connected(Framing::Raw).await;
    proxy.cut_client(Close::Reset);
    let error = read_some(&mut client).await.expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(is_silent(&mut server).await, "the server saw the cut");
    drop(proxy);
    let error = read_some(&mut server).await.expect_err("reset with the proxy's end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_sent_in_silence_arrives_afterwards() {
    let (proxy, _listener, mut client, mut server) = connected(Framing::Raw).await;
    proxy.silence();
    client.write_all(b"held").await.expect("connected");
    server.write_all(b"back").await.expect("connected");
    assert!(is_silent(&mut server).await);
    assert!(is_silent(&mut client).await);
    proxy.resume().await;
    assert_eq!(read_some(&mut server).await.expect("connected"), b"held");
    assert_eq!(read_some(&mut client).await.expect("connected"), b"back");
}

#[tokio::test]
async fn swallowed_replies_never_arrive() {
    let (proxy, _listener, mut client, mut server) = connected(Framing::Raw).await;
    proxy.swallow_replies();
    server.write_all(b"lost").await.expect("connected");
    client.write_all(b"ask").await.expect("connected");
    assert_eq!(read_some(&mut server).await.expect("connected"), b"ask");
    assert!(is_silent(&mut client).await);
    proxy.resume().await;
    server.write_all(b"new").await.expect("connected");
    assert_eq!(read_some(&mut client).await.expect("connected"), b"new");
}

#[tokio::test]
async fn exactly_the_allowed_requests_pass_and_handshakes_and_heartbeats_do_not_count() {
    let (proxy, _listener, mut client, mut server) = connected(Framing::ZooKeeper).await;
    proxy.let_requests_through(2);
    // A handshake, then two requests around a heartbeat, then one of each too many.
    let sent: Vec<u8> = [0, 1, -2, 2, 3, -2].iter().flat_map(|xid| frame(*xid)).collect();
    client.write_all(&sent).await.expect("connected");
    client.shutdown().await.expect("connected");
    let mut arrived = Vec::new();
    tokio::time::timeout(LIMIT, server.read_to_end(&mut arrived)).await.expect("in time").expect("closed by FIN");
    let expected: Vec<u8> = [0, 1, -2, 2].iter().flat_map(|xid| frame(*xid)).collect();
    assert_eq!(arrived, expected);
    assert_eq!((proxy.requests_forwarded(), proxy.requests_swallowed()), (2, 1));
}

#[tokio::test]
async fn refused_connections_are_refused_by_the_kernel_and_existing_ones_live_on() {
    let (proxy, listener, mut client, mut server) = connected(Framing::Raw).await;
    proxy.refuse().await;
    let error = TcpStream::connect(proxy.address()).await.expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    client.write_all(b"still").await.expect("connected");
    assert_eq!(read_some(&mut server).await.expect("connected"), b"still");
    proxy.resume().await;
    TcpStream::connect(proxy.address()).await.expect("the proxy listens again");
    listener.accept().await.expect("the proxy connects");
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_target_that_is_away_is_seen_as_a_reset() {
    let (proxy, listener, _client, _server) = connected(Framing::Raw).await;
    drop(listener);
    let mut client = TcpStream::connect(proxy.address()).await.expect("the proxy accepts");
    let error = read_some(&mut client).await.expect_err("nobody is behind the proxy");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
