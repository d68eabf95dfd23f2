//! Ports that stay ours while nobody listens on them.

use crate::Error;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

// Below this live well-known services.
const PORT_MIN: u32 = 10_000;
// What Linux uses where the file below is unreadable.
const EPHEMERAL_MIN: u32 = 32_768;
const ATTEMPTS_MAX: u32 = 1_000;

/// A port on `ip` that nobody listens on, outside the kernel's ephemeral range.
///
/// The kernel gives ephemeral ports to outgoing connections: while a killed server is down, its port could be taken
/// by one, even by a client that tries to reconnect to that very port and ends up connected to itself. Then the
/// server could not come back.
///
/// # Errors
/// [`Error::NoFreePort`] after a thousand ports that were all in use.
pub fn free_port(ip: IpAddr) -> Result<u16, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let span = ephemeral_min().saturating_sub(PORT_MIN).max(1);
    // Processes that run side by side start far from each other; one process never offers the same port twice in a row.
    let _ = NEXT.compare_exchange(0, scattered(), Ordering::Relaxed, Ordering::Relaxed);
    for _ in 0..ATTEMPTS_MAX {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % span;
        let port = u16::try_from(PORT_MIN + offset).unwrap_or(u16::MAX);
        if TcpListener::bind(SocketAddr::new(ip, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::NoFreePort { tried: ATTEMPTS_MAX })
}

fn ephemeral_min() -> u32 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|min| *min > PORT_MIN + ATTEMPTS_MAX && *min <= u32::from(u16::MAX))
        .unwrap_or(EPHEMERAL_MIN)
}

fn scattered() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "scatters processes; nothing is measured by it")]
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.subsec_nanos());
    (std::process::id().wrapping_mul(2_654_435_761) ^ nanos).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn offered_ports_differ_and_lie_outside_the_ephemeral_range() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ports: Vec<u16> = (0..20).map(|_| free_port(ip).expect("a thousand ports are not all taken")).collect();
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len(), "{ports:?}");
        assert!(ports.iter().all(|port| u32::from(*port) < ephemeral_min()), "{ports:?}");
    }
}
