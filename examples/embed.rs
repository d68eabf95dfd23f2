//! A replicated counter: a node, a group, and a state machine in memory. Run it with a ZooKeeper address like
//! `zk://127.0.0.1:2181/demo`, an address for the peer port like `127.0.0.1:7001`, and a directory.
use bequest::{MachineError, Node, Restore, Role, Snapshot, StateMachine};
use bytes::Bytes;

/// Commands are numbers to add; every answer is the sum.
#[derive(Clone, Default)]
struct Counter(i64);

impl StateMachine for Counter {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Bytes {
        // Whatever the bytes are, every replica must do the same with them.
        self.0 = self.0.wrapping_add(String::from_utf8_lossy(command).parse().unwrap_or(0));
        self.0.to_string().into()
    }
    fn query(&self, _query: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.0.to_string().into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(self.clone()))
    }
    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(Restored(self, 0)))
    }
}

impl Snapshot for Counter {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        chunk(self.0.to_string().into())
    }
}

struct Restored<'a>(&'a mut Counter, i64);

impl Restore for Restored<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        self.1 = String::from_utf8_lossy(&chunk).parse().map_err(|_| MachineError::new("not a number"))?;
        Ok(())
    }
    fn finish(self: Box<Self>, _applied: u64, _rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        self.0 .0 = self.1;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [zookeeper, listen, dir] = &arguments[..] else { return Err("usage: embed ZOOKEEPER LISTEN DIR".into()) };
    let node = Node::builder(1).keeper(zookeeper).listen(listen).data_dir(dir).open().await?;
    node.bootstrap("counter", &[1, 2]).await?;
    let group = node.join("counter", Counter::default()).await?;
    group.watch_status().wait_for(|status| status.role == Role::Leader).await;
    println!("sum: {}", String::from_utf8_lossy(&group.propose("5").await?));
    println!("read: {}", String::from_utf8_lossy(&group.read("").await?));
    Ok(node.shutdown().await?)
}
