//! The model is sharp: without any one of the protocol's rules something promised is broken, and the checker finds it.

use stateright::{Checker, HasDiscoveries, Model};

use crate::succession::{Bounds, Broken, Succession};
use crate::{told, CALM};

/// A rule, how far to look, and what breaks without it.
const TABLE: &[(Broken, Bounds, &str)] = &[
    (Broken::NoFence, CALM, "I2"),
    (Broken::NoFence, CALM, "I1"),
    (Broken::CreateIfAbsent, CALM, "I2"),
    (Broken::CreateIfAbsent, CALM, "I1"),
    (Broken::NoPredecessor, Bounds { terms: 1, window: 2, kills: 1, late: 2, ..CALM }, "I3"),
    (Broken::ReadBeforeSeal, CALM, "I1"),
    (Broken::TrimByApplied, Bounds { snapshots: 1, ..CALM }, "I3"),
    (Broken::AcknowledgeEarly, CALM, "I1"),
    (Broken::NoReplay, CALM, "I1"),
    (Broken::BelieveAnyServer, Bounds { proposals: 1, breaks: 1, late: 0, lags: 1, ..CALM }, "I1"),
    (Broken::NoClosingCheck, Bounds { terms: 3, late: 0, snapshots: 2, ..CALM }, "I1"),
    (Broken::SkipByIndex, CALM, "I3"),
    (Broken::UnknownIsFailed, CALM, "I7"),
    (Broken::UnknownIsDone, CALM, "I1"),
    (Broken::BallotByNode, Bounds { terms: 1, twins: 1, ..CALM }, "I4"),
];

#[test]
fn without_any_one_rule_a_promise_is_broken() {
    for (broken, bounds, property) in TABLE {
        let model = Succession::new(*bounds, std::slice::from_ref(broken));
        let until = HasDiscoveries::AnyOf([*property].into());
        let checker = model.checker().finish_when(until).spawn_bfs().join();
        let Some(path) = checker.discovery(property) else {
            panic!("{broken:?}: {property} holds in all {} states", checker.unique_state_count());
        };
        let steps = path.clone().into_actions().len();
        println!("{broken:?}: {property} is broken after {steps} steps\n{}", told(path));
    }
}

/// The table says nothing if these bounds break anything by themselves.
#[test]
fn with_all_rules_the_same_runs_break_nothing() {
    for (broken, bounds, _) in TABLE {
        let checker = Succession::new(*bounds, &[]).checker().spawn_bfs().join();
        let broken_all_the_same: Vec<_> = checker.discoveries().into_keys().collect();
        assert!(broken_all_the_same.is_empty(), "bounds of {broken:?}: {broken_all_the_same:?}");
    }
}

/// The mark catches who read a WAL short, and nobody does while the other rules hold: a second line of defence.
#[test]
fn without_the_mark_alone_nothing_is_broken() {
    let bounds = Bounds { wipes: 1, breaks: 1, lags: 1, ..CALM };
    let checker = Succession::new(bounds, &[Broken::NoMark]).checker().threads(2).spawn_bfs().join();
    let broken: Vec<_> = checker.discoveries().into_keys().collect();
    assert!(broken.is_empty(), "{broken:?}");
}
