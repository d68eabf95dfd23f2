//! Our own side, seen from the program that measures: two processes, and what they are told.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bequest::{bootstrap, default_limits, Limits};
use bequest_harness::Process;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::load::Measured;
use crate::node::{arguments, Order, Report, GROUP};
use crate::options::Place;

/// 4,096 entries of 64 KiB are in flight at once, and more than these must fit.
pub(crate) const WAL_BYTES: u64 = 768 << 20;
const START_LIMIT: Duration = Duration::from_secs(90);

/// A leader and a follower. Dropping it kills both.
#[derive(Debug)]
pub(crate) struct Pair {
    leader: Process,
    _follower: Process,
    control: BufReader<TcpStream>,
}

impl Pair {
    /// Creates a group of two at `keeper`, starts both nodes and waits until they are linked.
    pub(crate) async fn start(keeper: String, synced: bool, dir: &Path, seed: u64) -> Result<Self> {
        let limits = Limits { wal_bytes: WAL_BYTES, ..default_limits() };
        bootstrap(&keeper, GROUP, &[1, 2], limits).await?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let control = listener.local_addr()?;
        let start = |which: &str| -> Result<Process> {
            let place = Place { keeper: keeper.clone(), disk: dir.join(which), synced, control, seed };
            let program = std::env::current_exe().context("cannot find this program")?;
            let builder = Process::builder(program).name(which).args(arguments(which, &place));
            Ok(builder.log(dir.join(format!("{which}.log"))).spawn()?)
        };
        let leader = start("lead")?;
        // It connects when it leads.
        let connection = tokio::select! {
            connection = tokio::time::timeout(START_LIMIT, listener.accept()) => connection,
            status = leader.wait() => {
                anyhow::bail!("the leader's process ended, {status}; the end of its log:\n{}", leader.log_tail())
            }
        };
        let (connection, _) = connection.map_err(|_| leader.not_ready("it to lead", START_LIMIT))??;
        connection.set_nodelay(true)?;
        let mut pair = Self { leader, _follower: start("follow")?, control: BufReader::new(connection) };
        pair.order(Order::Pair).await?;
        Ok(pair)
    }

    /// Tells the leader's process what to do, and waits until it is done.
    pub(crate) async fn order(&mut self, order: Order) -> Result<Measured> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        self.control.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        if self.control.read_line(&mut answer).await? == 0 {
            self.leader.check_running()?;
            anyhow::bail!("the leader's process hung up; the end of its log:\n{}", self.leader.log_tail());
        }
        serde_json::from_str::<Report>(&answer)?.map_err(anyhow::Error::msg)
    }
}
