//! Several groups on one node, and a state machine of the user's own that misbehaves.

use bequest::{GroupError, MachineError, ProposeError, ReadError, Restore, Role, Snapshot, StateMachine};
use bytes::Bytes;

use crate::world::{get, leads, put, TestResult, World, LIMIT};

/// Remembers the last command, in memory; one command is more than it can take.
#[derive(Default)]
struct Last(Bytes);

impl StateMachine for Last {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Bytes {
        assert_ne!(command, b"poison", "cannot digest this");
        std::mem::replace(&mut self.0, Bytes::copy_from_slice(command))
    }

    fn query(&self, _query: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.0.clone())
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Err(MachineError::new("small logs need none"))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Err(MachineError::new("there is no snapshot"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_one_node_share_its_links_and_live_each_for_itself() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    bequest::bootstrap(&world.address(), "notes", &[1, 2], bequest::default_limits()).await?;
    let (one, orders) = world.node(1).await?;
    leads(&orders).await;
    let notes = one.join("notes", Last::default()).await?;
    leads(&notes).await;
    let (two, orders_two) = world.node(2).await?;
    let notes_two = two.join("notes", Last::default()).await?;
    for number in 0..50 {
        put(&orders, &format!("k{number}"), "v").await?;
        notes.propose(format!("n{number}")).await?;
    }
    // One of them moves; the other stays where it is.
    notes.hand_over().await?;
    leads(&notes_two).await;
    assert_eq!(notes_two.propose("from two").await?, "n49");
    assert_eq!(orders.status().role, Role::Leader);
    put(&orders, "k0", "still one").await?;
    // A dead process takes all of its groups with it, to the one heir.
    drop((orders, notes, one));
    leads(&orders_two).await;
    assert_eq!(get(&orders_two, "k0").await?.as_deref(), Some("still one"));
    assert_eq!(notes_two.read("").await?, "from two");
    two.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_panics_stops_its_group_at_the_index_and_no_other() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    bequest::bootstrap(&world.address(), "notes", &[1], bequest::default_limits()).await?;
    let (one, orders) = world.node(1).await?;
    leads(&orders).await;
    let notes = one.join("notes", Last::default()).await?;
    leads(&notes).await;
    notes.propose("fine").await?;
    let poison = tokio::time::timeout(LIMIT, notes.propose("poison")).await?.expect_err("not applied");
    assert_eq!(poison, ProposeError::Unknown, "another release may apply it");
    let mut watch = notes.watch_status();
    let stopped = tokio::time::timeout(LIMIT, watch.wait_for(|status| status.stopped.is_some())).await?;
    let stopped = stopped.and_then(|status| status.stopped).ok_or("stopped")?;
    let named =
        matches!(&stopped, GroupError::Failed { message } if message.contains("index=") && message.contains("digest"));
    assert!(named, "{stopped}");
    let after = notes.propose("fine again").await.expect_err("stopped");
    assert!(matches!(after, ProposeError::Stopped(_)), "{after}");
    let after = notes.read_stale("").await.expect_err("stopped");
    assert!(matches!(after, ReadError::Stopped(_)), "{after}");
    leads(&orders).await;
    put(&orders, "k", "v").await?;
    one.shutdown().await?;
    Ok(())
}
