//! Failures that are made up, by somebody who watches a real run, and what shrinking leaves of them.

use super::*;
use crate::decisions::Came;
use crate::of_seed;
use crate::shrink::Ended;

/// Watches a run, and says that it failed if these came true in this order.
fn fails_after(trial: &Trial, kinds: &[&str]) -> Ended {
    let mut ended = trial.run(false);
    let mut wanted = kinds.iter().peekable();
    for came in &ended.came {
        wanted.next_if(|kind| **kind == came.name.what);
    }
    let pid = ended.came.len();
    ended.failure = wanted.next().is_none().then(|| format!("I0: Pid({pid}) saw it: it came to {kinds:?}"));
    ended
}

#[test]
fn a_failing_run_is_shrunk_to_what_it_takes_and_its_script_replays_it() {
    const KINDS: [&str; 4] = ["kill", "cut", "power", "wipe"];
    let play = |trial: &Trial| fails_after(trial, &KINDS);
    let trial = (0..200).map(of_seed).find(|trial| play(trial).failure.is_some()).expect("a seed comes to that");
    let shrunk = shrink(&trial, RUNS, play).expect("it fails");
    assert!(shrunk.minimal && shrunk.runs <= RUNS, "{} runs", shrunk.runs);
    let left = &shrunk.ended.came;
    // What is aimed at a step takes what brings that about.
    assert!(left.len() <= 2 * KINDS.len(), "of {} decisions: {left:?}", shrunk.from);
    assert!(shrunk.from > 20 * KINDS.len(), "many were drawn: {}", shrunk.from);

    let path = Path::new("seed.txt");
    let text = Written { shrunk: &shrunk, bug: None, path }.to_string();
    let script: Script = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(script.fails, "I0: Pid(#) saw it");
    assert_eq!((script.trial.seed, script.trial.until), (trial.seed, shrunk.trial.until));
    let again = play(&script.trial);
    assert_eq!(again.failure.as_deref().map(class), Some(script.fails));
    assert_eq!((again.hash, &again.came), (shrunk.ended.hash, left));

    for out in left {
        let rest = left.iter().filter(|came| *came != out).map(|came| came.name.to_string());
        let trial = Trial { allowed: Allowed::Only(rest.collect()), ..script.trial.clone() };
        assert_eq!(play(&trial).failure, None, "without {out:?}");
    }
}

#[test]
fn what_fails_for_no_decision_is_shrunk_to_none() {
    let play = |trial: &Trial| Ended { failure: Some("always".to_owned()), ..trial.run(false) };
    let shrunk = shrink(&of_seed(3), RUNS, play).expect("it fails");
    assert!(shrunk.from > 0 && shrunk.ended.came.is_empty() && shrunk.minimal, "{:?}", shrunk.ended.came);
}

#[test]
fn a_failure_of_another_kind_is_not_taken_for_the_same() {
    let trial = of_seed(3);
    let all = trial.run(false).came.len();
    let play = |trial: &Trial| {
        let ended = trial.run(false);
        let what = if ended.came.len() < all { "I2: something else" } else { "I1: lost" };
        Ended { failure: Some(what.to_owned()), ..ended }
    };
    let shrunk = shrink(&trial, 40, play).expect("it fails");
    assert_eq!(shrunk.ended.came.len(), all);
    assert_eq!(shrunk.runs, 40, "not a run more than allowed");
    assert!(!shrunk.minimal);
    assert!(shrink(&trial, 40, |trial| trial.run(false)).is_none(), "what does not fail cannot be shrunk");
}

#[test]
fn a_fault_that_is_ruled_out_moves_no_other_fault() {
    let faults = |trial: &Trial| -> Vec<(u64, String)> {
        let of_mix = |came: &Came| came.name.to_string().starts_with("faults/");
        trial.run(false).came.iter().filter(|came| of_mix(came)).map(|came| (came.at, came.name.to_string())).collect()
    };
    for seed in 0..10 {
        let trial = of_seed(seed);
        let all = faults(&trial);
        let out = all[all.len() / 3].clone();
        let allowed = Allowed::Without([out.1.clone()].into());
        let others = faults(&Trial { allowed, ..trial });
        let all: Vec<_> = all.into_iter().filter(|fault| *fault != out).collect();
        // How many there are is for the run to say: without a fault as many steps may take longer, or less long.
        let both = all.len().min(others.len());
        assert!(both > 3, "seed {seed}: {all:?}");
        assert_eq!(all[..both], others[..both], "seed {seed} without {out:?}");
    }
}

#[test]
fn no_script_that_is_kept_fails_any_more() {
    let scripts = kept();
    assert!(!scripts.is_empty(), "none is kept");
    for (path, script) in scripts {
        let name = golden::name(&path);
        let ended = script.trial.run(false);
        let Allowed::Only(names) = &script.trial.allowed else { panic!("{name}: a script says what is allowed") };
        println!("{name}: {} of {} decisions came true", ended.came.len(), names.len());
        assert_eq!(ended.failure, None, "{name}");
        // As code and world change, decisions get other names. One that nothing comes of shows nothing.
        assert!(names.is_empty() || !ended.came.is_empty(), "{name}: none of its decisions comes true any more");
    }
}

#[test]
fn failures_are_told_apart_by_their_words_alone() {
    for (failure, expected) in [
        (
            "I5: Pid(7) answered a read from 185, though 186 was known",
            "I5: Pid(#) answered a read from #, though # was known",
        ),
        (
            "Pid(53) stops the group for no fault: damaged in zookeeper: path=/groups/g0",
            "Pid(#) stops the group for no fault: damaged in zookeeper",
        ),
        ("assertion `left == right` failed: I3: ordinal of 13-2\n  left: 1", "I3: ordinal of #-#"),
        (
            "the pointer moved to 107 though chunk 1d2a588d9e6c is missing",
            "the pointer moved to # though chunk # is missing",
        ),
        ("terms ascend: Ballot { format: 1, term: 1 }", "terms ascend: Ballot"),
        ("WALs overlap: previous=Place { ordinal: 7 }", "WALs overlap: previous"),
    ] {
        assert_eq!(class(failure), expected);
    }
}

#[test]
fn what_is_no_script_of_a_run_is_refused() {
    let script = "# It broke.\nseed 3\nmix two\nuntil 70\nfails I1: lost\nkeep faults/3/kill at 7 ms\n---\n";
    let read: Script = script.parse().expect("a script");
    assert_eq!(read.trial.allowed, Allowed::Only(["faults/3/kill".to_owned()].into()));
    assert_eq!((read.trial.seed, read.trial.mix.name, read.trial.until, read.bug), (3, "two", 70, None));
    for (wrong, complaint) in [
        (script.replace("---\n", ""), "no line --- behind the decisions"),
        (script.replace("seed 3\n", ""), "not one line \"seed\""),
        (script.replace("seed 3\n", "seed 3\nseed 4\n"), "not one line \"seed\""),
        (script.replace("until 70", "until many"), "until cannot be \"many\""),
        (script.replace("mix two", "mix up"), "no such mix: \"up\""),
        (script.replace("keep ", "keeps "), "line 6: \"keeps faults/3/kill at 7 ms\" says nothing"),
    ] {
        assert_eq!(wrong.parse::<Script>().expect_err("it is none"), complaint);
    }
}
