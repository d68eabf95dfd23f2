//! Where ZooKeeper is: `zk://[user:password@]host[:port],host[:port].../path`.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "zk://";
const DEFAULT_PORT: u16 = 2181;

/// An ensemble, the path below which everything is kept, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The ensemble's members; at least one.
    pub servers: Vec<Server>,
    /// The chroot: an absolute path without a slash at its end, or `/` alone.
    pub chroot: String,
    /// Whom to authenticate as by ZooKeeper's digest scheme. Then nobody else may read or write what is created.
    pub credentials: Option<Credentials>,
}

/// One member of an ensemble.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its name or IP address, without brackets.
    pub host: String,
    /// The port its clients use.
    pub port: u16,
}

/// A user of ZooKeeper's digest scheme.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password; never shown.
    pub password: String,
}

/// What is wrong with an address. Credentials are never repeated in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It is not ours.
    #[error("a ZooKeeper address begins with {SCHEME}, like zk://h1:2181,h2:2181,h3:2181/path")]
    NoScheme,
    /// The part before `@` is not `user:password`.
    #[error("what stands before the @ of a ZooKeeper address must be user:password, with %40 for @, %3A for : and %2F for /")]
    Credentials,
    /// A server has no name.
    #[error("empty server name: servers={servers}; write them as h1:2181,h2:2181")]
    EmptyServer {
        /// The list it is in.
        servers: String,
    },
    /// A server's name is not one.
    #[error("not a host name or IP address: host={host}; an IPv6 address goes in brackets, like [::1]:2181")]
    Host {
        /// The name.
        host: String,
    },
    /// A server's port is not one.
    #[error("not a port: port={port}, server={server}; it is a number from 1 to 65535, {DEFAULT_PORT} if left out")]
    Port {
        /// The port.
        port: String,
        /// The server it belongs to.
        server: String,
    },
    /// A server is named twice.
    #[error("server named twice: server={server}")]
    Twice {
        /// The server.
        server: String,
    },
    /// The path is not one of ZooKeeper's.
    #[error("not a path in ZooKeeper: path={path}, {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Address {
    /// The servers as the client library takes them, separated by commas.
    pub fn servers(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        servers.join(",")
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix(SCHEME).ok_or(AddressError::NoScheme)?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let (credentials, servers) = match authority.rsplit_once('@') {
            Some((credentials, servers)) => (Some(credentials.parse()?), servers),
            None => (None, authority),
        };
        Ok(Self { servers: parse_servers(servers)?, chroot: parse_path(path)?, credentials })
    }
}

/// Without the password, so that it can be logged.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if let Some(credentials) = &self.credentials {
            write!(f, "{}:***@", credentials.user)?;
        }
        f.write_str(&self.servers())?;
        f.write_str(if self.chroot == "/" { "" } else { &self.chroot })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}:***)", self.user)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Credentials {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (user, password) = text.split_once(':').ok_or(AddressError::Credentials)?;
        let user = unescape(user).filter(|user| !user.is_empty() && !user.contains(':'));
        let password = unescape(password).filter(|password| !password.is_empty());
        match (user, password) {
            (Some(user), Some(password)) => Ok(Self { user, password }),
            _ => Err(AddressError::Credentials),
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?];
            bytes.push(u8::try_from(digits[0] * 16 + digits[1]).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn parse_servers(text: &str) -> Result<Vec<Server>, AddressError> {
    let mut servers = Vec::new();
    let mut seen = HashSet::new();
    for part in text.split(',') {
        if part.is_empty() {
            return Err(AddressError::EmptyServer { servers: text.to_owned() });
        }
        let server = parse_server(part)?;
        if !seen.insert(server.clone()) {
            return Err(AddressError::Twice { server: server.to_string() });
        }
        servers.push(server);
    }
    Ok(servers)
}

fn parse_server(text: &str) -> Result<Server, AddressError> {
    let bad_host = || AddressError::Host { host: text.to_owned() };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad_host)?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad_host());
            }
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return Err(bad_host()),
            }
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let is_name = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            // More than one colon is an IPv6 address that lacks its brackets.
            if host.is_empty() || !is_name(host) || port.is_some_and(|port| port.contains(':')) {
                return Err(bad_host());
            }
            (host, port)
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|number| *number != 0)
            .ok_or_else(|| AddressError::Port { port: port.to_owned(), server: text.to_owned() })?,
    };
    Ok(Server { host: host.to_owned(), port })
}

fn parse_path(text: &str) -> Result<String, AddressError> {
    let wrong = |why| Err(AddressError::Path { path: text.to_owned(), why });
    // One slash at the end is what people type; more would name something.
    let path = text.strip_suffix('/').unwrap_or(text);
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    let parts: Vec<&str> = path[1..].split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return wrong("it has an empty part");
    }
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return wrong("it has a part that is . or ..");
    }
    if path.chars().any(|c| c.is_control() || matches!(u32::from(c), 0xe000..=0xf8ff | 0xfff0..=0xffff)) {
        return wrong("it has characters ZooKeeper does not take");
    }
    if parts[0] == "zookeeper" {
        return wrong("/zookeeper is ZooKeeper's own");
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str, port: u16) -> Server {
        Server { host: host.to_owned(), port }
    }

    #[test]
    fn servers_path_and_credentials_are_taken_apart() {
        let address: Address = "zk://ann:se%3Acret%2F@h1:2182,h-2,[::1]:2183,[fe80::1]/a/b".parse().expect("valid");
        assert_eq!(
            address.servers,
            [server("h1", 2182), server("h-2", 2181), server("::1", 2183), server("fe80::1", 2181)]
        );
        assert_eq!(address.chroot, "/a/b");
        let expected = Credentials { user: "ann".to_owned(), password: "se:cret/".to_owned() };
        assert_eq!(address.credentials, Some(expected));
        assert_eq!(address.servers(), "h1:2182,h-2:2181,[::1]:2183,[fe80::1]:2181");
    }

    #[test]
    fn without_a_path_the_root_is_meant() {
        for text in ["zk://h", "zk://h/"] {
            let address: Address = text.parse().expect("valid");
            assert_eq!((address.chroot.as_str(), address.to_string().as_str()), ("/", "zk://h:2181"));
        }
        assert_eq!("zk://h/a/".parse::<Address>().expect("valid").chroot, "/a");
    }

    #[test]
    fn a_password_is_never_shown() {
        let address: Address = "zk://ann:secret@h/a".parse().expect("valid");
        let shown = format!("{address} {address:?} {:?}", address.credentials);
        assert_eq!(shown, "zk://ann:***@h:2181/a Address(zk://ann:***@h:2181/a) Some(Credentials(ann:***))");
        let error = "zk://ann:secret@h:x/a".parse::<Address>().expect_err("the port is wrong");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        let error = "zk://secret@h/a".parse::<Address>().expect_err("the password is missing");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }

    #[test]
    fn a_bad_address_is_refused_with_the_part_that_is_wrong() {
        let host = |host: &str| AddressError::Host { host: host.to_owned() };
        let port = |port: &str, server: &str| AddressError::Port { port: port.to_owned(), server: server.to_owned() };
        let path = |path: &str, why| AddressError::Path { path: path.to_owned(), why };
        let cases = [
            ("h1:2181/a", AddressError::NoScheme),
            ("zk://", AddressError::EmptyServer { servers: String::new() }),
            ("zk://a,,b", AddressError::EmptyServer { servers: "a,,b".to_owned() }),
            ("zk://:1", host(":1")),
            ("zk://::1", host("::1")),
            ("zk://[::1", host("[::1")),
            ("zk://[h]:1", host("[h]:1")),
            ("zk://[::1]2181", host("[::1]2181")),
            ("zk://a b", host("a b")),
            ("zk://h:0", port("0", "h:0")),
            ("zk://h:65536", port("65536", "h:65536")),
            ("zk://h:", port("", "h:")),
            ("zk://h:x", port("x", "h:x")),
            ("zk://h,h:2181", AddressError::Twice { server: "h:2181".to_owned() }),
            ("zk://ann@h", AddressError::Credentials),
            ("zk://:p@h", AddressError::Credentials),
            ("zk://ann:@h", AddressError::Credentials),
            ("zk://ann:%zz@h", AddressError::Credentials),
            ("zk://ann:%4@h", AddressError::Credentials),
            ("zk://h//", path("//", "it has an empty part")),
            ("zk://h/a//b", path("/a//b", "it has an empty part")),
            ("zk://h/a/../b", path("/a/../b", "it has a part that is . or ..")),
            ("zk://h/a\u{1}", path("/a\u{1}", "it has characters ZooKeeper does not take")),
            ("zk://h/zookeeper/x", path("/zookeeper/x", "/zookeeper is ZooKeeper's own")),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Address>(), Err(expected), "{text}");
        }
    }
}
