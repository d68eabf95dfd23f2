//! Who a node is: one process, one directory, one cluster.

use crate::world::{init, no_defect, refused, Member, World, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_is_refused_by_its_lock() {
    let mut world = World::start().await;
    let mut twin = Member::new(1, &world.zk, world.dir());
    twin.data_dir.clone_from(&world.nodes[0].data_dir);
    let written = twin.refused().await;
    assert!(written.contains("in use") && written.contains(&twin.data_dir.display().to_string()), "{written}");
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_same_id_is_refused_while_the_first_answers() {
    let mut world = World::start().await;
    let (leader, follower) = world.settled().await;
    for at in [leader, follower] {
        let twin = Member::new(world.nodes[at].id, &world.zk, &world.dir().join("twin"));
        let written = twin.refused().await;
        let told = format!("node already running: id={} address={}", world.nodes[at].id, world.nodes[at].listen);
        assert!(written.contains(&told), "{written}");
        twin.wipe();
    }
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_replaced_stops_as_superseded() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let (leader, _) = world.settled().await;
    let id = world.nodes[leader].id;
    let former = Member::new(id, &world.zk, &world.dir().join("replacement"));
    let former = std::mem::replace(&mut world.nodes[leader], former);
    former.process().pause().await.expect("it runs");
    // It does not answer the probe, so another process may be this node.
    world.nodes[leader].start();
    world.nodes[leader].says("mode", "full").await;
    world.write(5, 10).await;

    former.process().resume().expect("it is paused");
    let ended = tokio::time::timeout(PATIENCE, former.process().wait()).await;
    let log = former.log();
    assert_eq!(ended.ok().and_then(|status| status.code()), Some(1), "{log}");
    assert!(log.contains(&format!("superseded: id={id} incarnation=1 newer=2")), "{log}");
    no_defect(&log);
    world.write(5, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_node_is_refused_and_left_as_it_is() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    let (leader, follower) = world.settled().await;
    world.nodes[follower].kill().await;
    let mut mistaken = Member::new(world.nodes[follower].id + 7, &world.zk, world.dir());
    mistaken.data_dir.clone_from(&world.nodes[follower].data_dir);
    let written = mistaken.refused().await;
    let (found, given) = (world.nodes[follower].id, mistaken.id);
    assert!(written.contains(&found.to_string()) && written.contains(&given.to_string()), "{written}");
    assert!(written.contains("belongs to"), "{written}");
    world.nodes[follower].start();
    world.write(3, 10).await;
    world.nothing_is_lost().await;
    assert_eq!(world.settled().await, (leader, follower), "nothing moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_something_else_is_refused_and_left_as_it_is() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    let (_, follower) = world.settled().await;
    world.nodes[follower].kill().await;
    let photos = world.dir().join("photos");
    let mine = std::mem::replace(&mut world.nodes[follower].data_dir, photos);
    std::fs::create_dir(&world.nodes[follower].data_dir).expect("it can be made");
    let photo = world.nodes[follower].data_dir.join("photo.jpg");
    std::fs::write(&photo, b"not a database").expect("it can be written");
    let written = world.nodes[follower].refused().await;
    assert!(written.contains(&world.nodes[follower].data_dir.display().to_string()), "{written}");
    assert_eq!(std::fs::read(&photo).expect("it is there"), b"not a database");
    world.nodes[follower].data_dir = mine;
    world.nodes[follower].start();
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_is_refused_and_kept() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    world.kill_nodes().await;
    let other = format!("zk://{}/other", world.zookeeper.address());
    init(&other, "1,2", &[]).await;
    let zk = std::mem::replace(&mut world.nodes[0].zk, other);
    let written = world.nodes[0].refused().await;
    assert!(written.contains("other cluster: local uuid="), "{written}");
    world.nodes[0].zk = zk;
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_made_anew_under_its_name_is_not_mixed_with_the_old_one() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    world.kill_nodes().await;
    let operator = world.operator().await;
    operator.delete("").await;
    init(&world.zk, "1,2", &[]).await;
    let written = world.nodes[0].refused().await;
    assert!(written.contains("other group: name=kv local uuid="), "{written}");
    // The old one's data is kept, and the new one serves whoever comes without any.
    let kept = world.nodes[0].data_dir.clone();
    assert!(kept.join("db").is_dir() || kept.read_dir().is_ok_and(|mut files| files.next().is_some()), "{kept:?}");
    let mut fresh = Member::new(1, &world.zk, &world.dir().join("fresh"));
    fresh.start();
    fresh.says("role", "leader").await;
    let absent = fresh.ask("GET", "/kv/k/00001", b"").await.expect("an answer");
    assert_eq!(absent.status, 404, "{absent:?}");
    let twice = refused(world.nodes[0].command()).await;
    assert!(twice.contains("node already running") || twice.contains("other group"), "{twice}");
}
