//! The protocol of succession, explored completely within bounds; and what each of its rules is there for.
//!
//! The bounds of the ordinary tests are small. `cargo test --release --no-default-features --test model -- --ignored
//! --nocapture` explores the large ones, as `scripts/nightly` does; `docs/proof.md` has the numbers.

// Nothing of a test program is exported; `pub` says what other files of it use.
#![allow(unreachable_pub)]

mod rules;
mod succession;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};
use succession::{Action, Bounds, Occurrence, State, Succession};

const THREADS: usize = 2;

/// Nothing happens but leaderships that follow each other.
const CALM: Bounds = Bounds {
    terms: 2,
    proposals: 2,
    window: 1,
    kills: 0,
    wipes: 0,
    breaks: 0,
    late: 1,
    twins: 0,
    lags: 0,
    snapshots: 0,
};

/// The steps of a path, one per line.
fn told(path: Path<State, Action>) -> String {
    let mut text = String::new();
    for (state, action) in path.into_vec() {
        match action {
            Some(action) => text += &format!("  {action:?}\n"),
            None => text += &format!("{state:#?}\n"),
        }
    }
    text
}

/// Explores everything within bounds: nothing is violated. Adds up what was reached.
fn explore(name: &str, bounds: Bounds, reached: &mut [u64]) {
    let model = Succession::new(bounds, &[]);
    let occurrences = model.occurrences.clone();
    let began = Instant::now();
    let checker = model.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        panic!("{name}: {property} is violated:\n{}", told(path));
    }
    assert!(checker.is_done(), "{name}: not explored to the end");
    // Only what held to the end is told as a number.
    println!(
        "{name}: {} states, {} steps between them, depth {}, {:.1} s\n  {bounds:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    for (sum, occurrence) in reached.iter_mut().zip(Occurrence::ALL) {
        *sum += occurrences.count(*occurrence);
    }
}

/// Explores several bounds; together they reach everything worth to be reached.
fn explore_all(runs: &[(&str, Bounds)]) {
    let mut reached = vec![0; Occurrence::ALL.len()];
    for (name, bounds) in runs {
        explore(name, *bounds, &mut reached);
    }
    let mut missing = Vec::new();
    for (count, occurrence) in reached.into_iter().zip(Occurrence::ALL) {
        println!("{count:>12}  {}", occurrence.text());
        if count == 0 {
            missing.push(occurrence.text());
        }
    }
    assert!(missing.is_empty(), "never reached, so nothing was proven of it: {missing:?}");
}

#[test]
fn every_short_run_keeps_the_invariants() {
    explore_all(&[
        ("deaths", Bounds { window: 2, kills: 1, wipes: 1, ..CALM }),
        ("lost disks", Bounds { wipes: 2, ..CALM }),
        ("connections", Bounds { window: 2, breaks: 1, late: 2, ..CALM }),
        ("a server behind", Bounds { proposals: 1, kills: 1, breaks: 1, lags: 1, ..CALM }),
        ("twins", Bounds { proposals: 1, breaks: 1, twins: 1, ..CALM }),
        ("archive", Bounds { proposals: 1, kills: 1, snapshots: 2, ..CALM }),
        ("three terms", Bounds { terms: 3, proposals: 1, late: 0, snapshots: 2, ..CALM }),
    ]);
}

/// Three terms, three proposals, two lost disks; and, with a little less of that, everything else at once.
#[test]
#[ignore = "minutes, and gigabytes of memory"]
fn every_long_run_keeps_the_invariants() {
    const LONG: Bounds = Bounds { terms: 3, proposals: 3, wipes: 2, ..CALM };
    explore_all(&[
        ("lost disks", LONG),
        ("archive", Bounds { proposals: 2, snapshots: 2, ..LONG }),
        ("connections", Bounds { proposals: 2, wipes: 1, breaks: 1, ..LONG }),
        ("a server behind", Bounds { proposals: 1, wipes: 1, breaks: 1, lags: 1, late: 0, ..LONG }),
        ("twins", Bounds { proposals: 1, wipes: 1, twins: 1, ..LONG }),
        ("pipelined", Bounds { window: 2, wipes: 1, kills: 1, late: 2, proposals: 2, ..LONG }),
    ]);
}
