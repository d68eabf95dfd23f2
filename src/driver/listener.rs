//! Accepts connections on the peer port, and lets nobody hold on to it without saying who they are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::handshake::{self, read_hello};
use super::peers::{Peers, HANDSHAKE_LIMIT};
use crate::replica::event::{Incarnation, NodeId};
use crate::wire::frame::FrameError;
use crate::wire::handshake::{HandshakeError, Welcome};

// Connections that have not said yet who they are, in all and from one address. A node needs a handful at a time.
const STRANGERS_MAX: usize = 64;
const STRANGERS_OF_ADDRESS_MAX: usize = 32;
// Wait when no connection can be accepted, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts for ever.
pub(super) async fn listen(peers: Peers, listener: TcpListener) {
    let strangers = Strangers::default();
    let mut refused = false;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Once for each shortage: it may last, and the log may be on a disk.
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, "cannot accept peer connections, trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        refused = false;
        let Some(stranger) = strangers.admit(address.ip()) else {
            peers.shared.counters.count_turned_away();
            continue;
        };
        let peers = peers.clone();
        tokio::spawn(async move {
            let mut stream = stream;
            let result = timeout(HANDSHAKE_LIMIT, welcome(&peers, &mut stream)).await;
            drop(stranger);
            // Counted before the connection is closed: whoever sees it closed finds it counted.
            match result.unwrap_or(Err(HandshakeError::Deadline)) {
                Ok(Some((peer, incarnation))) => drop(peers.establish(peer, incarnation, stream)),
                Ok(None) => {}
                Err(error) => {
                    if error.is_bad_frame() {
                        peers.shared.counters.count_bad_frame();
                    }
                    tracing::debug!(%address, %error, "peer connection closed");
                }
            }
        });
    }
}

/// Answers whoever connected; returns whom there is to be a link with.
async fn welcome(peers: &Peers, stream: &mut TcpStream) -> Result<Option<(NodeId, Incarnation)>, HandshakeError> {
    stream.set_nodelay(true).map_err(FrameError::Ended)?;
    let hello = read_hello(stream).await?;
    let (me, nonce, identity) = (peers.shared.me, peers.shared.nonce, peers.identity());
    if hello.is_probe() {
        handshake::write(stream, &Welcome::new(me, nonce, identity, None)).await?;
        return Ok(None);
    }
    let (peer, incarnation) = (hello.node(), hello.incarnation());
    let objection = hello.objection(me, identity).or_else(|| {
        let takes = peers.would_establish(peer, incarnation);
        (!takes).then_some("an incarnation that has ended")
    });
    if let Some(objection) = objection {
        peers.shared.counters.count_handshake_refused();
        tracing::debug!(peer = peer.0, objection, "link refused");
    }
    handshake::write(stream, &Welcome::new(me, nonce, identity, objection)).await?;
    Ok(objection.is_none().then_some((peer, incarnation)))
}

/// Counts connections that have not said who they are.
#[derive(Clone, Default)]
struct Strangers {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

struct Stranger {
    address: IpAddr,
    strangers: Strangers,
}

impl Strangers {
    fn admit(&self, address: IpAddr) -> Option<Stranger> {
        let mut counts = self.counts();
        let all: usize = counts.values().sum();
        let count = counts.entry(address).or_default();
        if all >= STRANGERS_MAX || *count >= STRANGERS_OF_ADDRESS_MAX {
            if *count == 0 {
                counts.remove(&address);
            }
            return None;
        }
        *count += 1;
        Some(Stranger { address, strangers: self.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut counts = self.strangers.counts();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}
