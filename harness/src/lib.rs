//! Starts and torments real processes: ZooKeeper servers and ensembles, etcd clusters, any other program, and a TCP
//! proxy that breaks connections in chosen ways; and asks nodes over HTTP. For the demo, the nemesis and the tests.
//!
//! Everything listens on the loopback address unless told otherwise, on ports outside the kernel's ephemeral range,
//! and dies with the process that started it, also when that process is killed.
//!
//! ```no_run
//! use bequest_harness::ZooKeeperServer;
//!
//! # async fn example() -> Result<(), bequest_harness::Error> {
//! let mut server = ZooKeeperServer::builder().start().await?;
//! println!("serving on {}", server.address());
//! server.kill().await?; // As by kill -9.
//! server.restart().await?; // Same data, same port.
//! # Ok(())
//! # }
//! ```
//!
//! A missing Java or missing jars is an [`Error`] whose text says what to install; tests let it fail them rather
//! than skip.
#![forbid(unsafe_code)]

pub mod confine;
mod ensemble;
mod error;
mod etcd;
mod gap;
mod http;
mod installation;
pub mod kv;
pub mod network;
mod port;
mod process;
mod program;
mod proxy;
mod served;
mod server;

pub use ensemble::{Ensemble, EnsembleBuilder};
pub use error::Error;
pub use etcd::{Etcd, EtcdBuilder, EtcdMember};
pub use gap::longest_gap;
pub use http::{HttpAnswer, HttpClient, HttpFailure};
pub use hyper::{Method, StatusCode};
pub use installation::Installation;
pub use port::free_port;
pub use process::{Process, ProcessBuilder};
pub use program::{data_folder, html_escaped, interruption};
pub use proxy::{Close, Framing, Proxy};
pub use served::{node_program, serve};
pub use server::{four_letter_word, Mode, ServerInfo, ZooKeeperServer, ZooKeeperServerBuilder};
