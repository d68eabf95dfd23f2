//! What is too large is refused before anything is sent.

use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_proposal_is_refused_with_its_size_and_the_limit() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    let (leader, _) = world.settled().await;
    let before = world.nodes[leader].status().await;

    // As large as a body may be; with its key it is a larger proposal than there may be.
    let largest = vec![b'x'; bequest::PROPOSAL_BYTES_MAX];
    let answer = world.nodes[leader].ask("PUT", "/kv/large", &largest).await.expect("an answer");
    let told = answer.json();
    assert_eq!((answer.status, &told["error"]), (413, &json!("too_large")), "{told}");
    let (size, limit) = (told["size"].as_u64(), told["limit"].as_u64());
    assert!(limit >= Some(bequest::PROPOSAL_BYTES_MAX as u64) && size > limit, "{told}");

    // Just as large as fits.
    let fits = vec![b'x'; bequest::PROPOSAL_BYTES_MAX - 64];
    let answer = world.nodes[leader].ask("PUT", "/kv/fits", &fits).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");

    world.write(3, 10).await;
    let after = world.nodes[leader].status().await;
    assert_eq!(before["term"], after["term"], "no leadership ended over it: {after}");
    let gone = world.nodes[leader].ask("GET", "/kv/large", b"").await.expect("an answer");
    assert_eq!(gone.status, 404, "{gone:?}");
    world.nothing_is_lost().await;
}
