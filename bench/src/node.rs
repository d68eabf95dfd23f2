//! The processes of our own side: two nodes, and the load, made on the leader through the library.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bequest::{DiskSync, Group, Mode, Node, Role};
use bequest_harness::free_port;
use bequest_storage::{kv_answer, kv_response, KvAnswer, KvCommand, KvQuery, KvResponse};
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::load::{self, Measured, Target, Timing};
use crate::options::Place;
use crate::plan::{Case, IN_FLIGHT_MAX};
use crate::values::{keys, Values, READ_BYTES};

/// The group that is measured.
pub(crate) const GROUP: &str = "bench";
/// What a node accepts at once: the most that is ever in flight here, which is above its default in bytes.
pub(crate) const PROPOSAL_BYTES_IN_FLIGHT: usize = IN_FLIGHT_MAX * (64 * 1024 + 1024);

const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// What the leader's process is told to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Wait until both nodes are linked.
    Pair,
    /// Write every key that is read.
    Fill,
    /// Make a load.
    Measure(Case, Timing),
}

/// What it answers.
pub(crate) type Report = Result<Measured, String>;

/// Opens a node and joins the group.
pub(crate) async fn open(id: u64, place: &Place) -> Result<(Node, Group)> {
    let port = free_port([127, 0, 0, 1].into())?;
    let synced = if place.synced { DiskSync::BeforeAcknowledging } else { DiskSync::Background };
    let builder = Node::builder(id).keeper(&place.keeper).listen(format!("127.0.0.1:{port}")).data_dir(&place.disk);
    let builder = builder.configure(|config| {
        config.disk_sync = synced;
        config.proposal_bytes_in_flight = PROPOSAL_BYTES_IN_FLIGHT;
    });
    let node = builder.open().await?;
    let group = node.join_key_value(GROUP).await?;
    Ok((node, group))
}

/// The leader's process: does what it is told over the connection it makes, and ends with it.
pub(crate) async fn lead(place: &Place) -> Result<()> {
    let (node, group) = open(1, place).await?;
    wait_for(&group, |group| group.status().role == Role::Leader).await.context("it does not lead")?;
    let (orders, mut answers) = TcpStream::connect(place.control).await?.into_split();
    let mut orders = BufReader::new(orders).lines();
    let target = Arc::new(Library { group, values: Values::new(place.seed) });
    let numbers = Arc::<AtomicU64>::default();
    while let Some(line) = orders.next_line().await? {
        let outcome = obey(&target, &numbers, serde_json::from_str(&line)?).await;
        let mut line = serde_json::to_string::<Report>(&outcome.map_err(|error| format!("{error:#}")))?;
        line.push('\n');
        answers.write_all(line.as_bytes()).await?;
    }
    node.shutdown().await?;
    Ok(())
}

async fn obey(target: &Arc<Library>, numbers: &Arc<AtomicU64>, order: Order) -> Result<Measured> {
    match order {
        Order::Pair => {
            let full = |group: &Group| group.status().role == Role::Leader && group.status().mode == Mode::Full;
            wait_for(&target.group, full).await.context("the nodes are not linked")?;
        }
        Order::Fill => load::fill(target, numbers, keys(READ_BYTES), READ_BYTES).await?,
        Order::Measure(case, timing) => return load::measure(target, numbers, case, timing).await,
    }
    Ok(Measured::default())
}

async fn wait_for(group: &Group, holds: impl Fn(&Group) -> bool) -> Result<()> {
    let mut watch = group.watch_status();
    let held = async {
        while !holds(group) {
            watch.changed().await.context("the node has ended")?;
        }
        Ok(())
    };
    tokio::time::timeout(START_LIMIT, held).await?
}

/// The follower's process: gives back any leadership while the other node is there to take it. It ends with the one
/// that started it.
pub(crate) async fn follow(place: &Place) -> Result<()> {
    let (node, group) = open(2, place).await?;
    let parent = rustix::process::getppid();
    while rustix::process::getppid() == parent {
        tokio::time::sleep(POLL).await;
        let status = group.status();
        if status.role == Role::Leader && status.mode == Mode::Full {
            // Refused means that it goes on leading until the next try.
            let _ = group.hand_over().await;
        }
    }
    node.shutdown().await?;
    Ok(())
}

/// The library, used as any service would.
#[derive(Debug)]
struct Library {
    group: Group,
    values: Values,
}

impl Target for Library {
    async fn write(&self, _worker: usize, number: u64, bytes: usize) -> Result<(), String> {
        let command = KvCommand::put(Values::key(number, bytes), self.values.value(number, bytes));
        let answer = self.group.propose(command.encode_to_vec()).await.map_err(|error| error.to_string())?;
        match KvResponse::decode(answer).map(|response| response.response) {
            Ok(Some(kv_response::Response::Done(_))) => Ok(()),
            other => Err(format!("not done: {other:?}")),
        }
    }

    async fn read(&self, _worker: usize, number: u64) -> Result<(), String> {
        let query = KvQuery::get(Values::key(number, READ_BYTES));
        let answer = self.group.read(query.encode_to_vec()).await.map_err(|error| error.to_string())?;
        match KvAnswer::decode(answer).map(|answer| answer.answer) {
            Ok(Some(kv_answer::Answer::Value(found)))
                if found.value.as_ref().is_some_and(|value| value.len() == READ_BYTES) =>
            {
                Ok(())
            }
            other => Err(format!("not found: {other:?}")),
        }
    }
}

/// Arguments that start a node of a pair.
pub(crate) fn arguments(which: &str, place: &Place) -> Vec<std::ffi::OsString> {
    let disk: &Path = &place.disk;
    let mut words: Vec<std::ffi::OsString> = vec![
        which.into(),
        "--keeper".into(),
        (&place.keeper).into(),
        "--disk".into(),
        disk.into(),
        "--control".into(),
        place.control.to_string().into(),
        "--seed".into(),
        place.seed.to_string().into(),
    ];
    if place.synced {
        words.push("--synced".into());
    }
    words
}
