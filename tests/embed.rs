//! The README's first example, run as it stands.

use std::process::Command;

use bequest_harness::{free_port, ZooKeeperServer};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_example_counts_across_lives_of_its_only_node() -> Result<(), Box<dyn std::error::Error>> {
    let server = ZooKeeperServer::builder().start().await?;
    let scratch = tempfile::tempdir()?;
    // The test runs beside the example's binary: target/PROFILE/deps/TEST, target/PROFILE/examples/embed.
    let test = std::env::current_exe()?;
    let profile = test.parent().and_then(|deps| deps.parent()).ok_or("a test lies in target/PROFILE/deps")?;
    let example = profile.join("examples/embed");
    // `cargo test` builds it beside the tests; `cargo test --test embed` alone does not.
    assert!(example.exists(), "{} is missing: run `cargo build --example embed` first", example.display());
    let address = format!("zk://{}/a/new/path", server.address());
    let run = |life: u32| {
        let listen = format!("127.0.0.1:{}", free_port([127, 0, 0, 1].into())?);
        // In its third life with an empty disk.
        let dir = scratch.path().join(if life < 3 { "data" } else { "other" });
        let output = Command::new(&example).args([&address, &listen]).arg(dir).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err::<_, Box<dyn std::error::Error>>(format!("life {life}: {} {text} {errors}", output.status).into())
        }
    };
    for life in 1..=3 {
        let sum = life * 5;
        assert_eq!(run(life)?, format!("sum: {sum}\nread: {sum}\n"));
    }
    Ok(())
}
