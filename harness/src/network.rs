//! Hosts as network namespaces, and cables to them that can be cut. The network must be this program's own: see
//! [`confine`](crate::confine).

use std::net::IpAddr;

use crate::confine::run;

/// Makes a host.
///
/// # Errors
/// In words, if `ip` refuses.
pub fn add_host(host: &str) -> Result<(), String> {
    run("ip", &["netns", "add", host])?;
    run("ip", &["-n", host, "link", "set", "lo", "up"])
}

/// What runs a program on a host.
#[must_use]
pub fn on_host(host: &str) -> Vec<String> {
    vec!["nsenter".to_owned(), format!("--net=/run/netns/{host}"), "--".to_owned()]
}

/// Makes a cable to a host, with this address there. Both its ends are called `device`; the near one is not up yet.
///
/// # Errors
/// In words, if `ip` refuses.
pub fn add_cable(device: &str, host: &str, far: IpAddr) -> Result<(), String> {
    run("ip", &["link", "add", device, "type", "veth", "peer", "name", device, "netns", host])?;
    run("ip", &["-n", host, "addr", "add", &format!("{far}/24"), "dev", device])?;
    run("ip", &["-n", host, "link", "set", device, "up"])
}

/// Makes a switch called `bridge`, with this address on this side.
///
/// # Errors
/// In words, if `ip` refuses.
pub fn add_switch(near: IpAddr) -> Result<(), String> {
    run("ip", &["link", "add", "bridge", "type", "bridge"])?;
    run("ip", &["addr", "add", &format!("{near}/24"), "dev", "bridge"])?;
    run("ip", &["link", "set", "bridge", "up"])
}

/// Connects a cable's near end to the switch.
///
/// # Errors
/// In words, if `ip` refuses.
pub fn plug(device: &str) -> Result<(), String> {
    run("ip", &["link", "set", device, "master", "bridge", "up"])
}

/// Takes a cable's carrier away, at the end that is not the host's: packets vanish and nobody is told.
///
/// # Errors
/// In words, if `ip` refuses.
pub fn cut(device: &str) -> Result<(), String> {
    run("ip", &["link", "set", device, "down"])
}

/// Gives it back.
///
/// # Errors
/// In words, if `ip` refuses.
pub fn join(device: &str) -> Result<(), String> {
    run("ip", &["link", "set", device, "up"])
}
