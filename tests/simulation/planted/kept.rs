//! Scripts that are kept of planted bugs: with the bug each fails as it is written, without it nothing fails.
//!
//! Where the world or the core changed so much that one does not any more, `BEQUEST_UPDATE_GOLDEN=1` looks for a life that
//! shows its bug and shrinks that; with `BEQUEST_BUG` one of another bug is added.

use std::path::PathBuf;

use super::*;
use crate::decisions::Allowed;
use crate::shrink::{class, Shrunk};
use crate::shrunk::{self, Script, Written};

/// Lives in which a bug is looked for that is stated to be found otherwise.
const LIVES: u64 = 100;

fn named(name: &str) -> Bug {
    *Bug::ALL.iter().find(|bug| format!("{bug:?}") == name).unwrap_or_else(|| panic!("no such bug: {name}"))
}

/// The first life that shows a bug, be it stated to be found by one or not.
fn life(bug: Bug) -> Life {
    let (kind, most) = searched(bug);
    lives(&[bug], kind, most.max(LIVES)).unwrap_or_else(|| panic!("{bug:?} is shown by no life"))
}

/// The first life that shows a bug, made small.
fn shrink_life(bug: Bug) -> Shrunk {
    let (trial, _) = life(bug);
    with(&[bug], || shrunk::shrink_quietly(&trial)).ok().flatten().unwrap_or_else(|| panic!("{bug:?} cannot be shrunk"))
}

fn snake(bug: Bug) -> String {
    let mut text = String::new();
    for symbol in format!("{bug:?}").chars() {
        if symbol.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(symbol.to_lowercase());
    }
    text
}

fn write_anew() {
    let kept = shrunk::kept().into_iter().filter_map(|(_, script)| script.bug);
    for bug in kept.chain(std::env::var("BEQUEST_BUG").ok()) {
        let bug = named(&bug);
        let name = format!("{}.txt", snake(bug));
        let path = PathBuf::from("tests/scripts/shrunk").join(&name);
        let written = Written { shrunk: &shrink_life(bug), bug: Some(format!("{bug:?}")), path: &path };
        std::fs::write(shrunk::folder().join(name), written.to_string()).expect("the folder can be written to");
    }
}

#[test]
fn every_script_kept_of_a_planted_bug_fails_as_written() {
    if std::env::var("BEQUEST_UPDATE_GOLDEN").is_ok_and(|value| value == "1") {
        write_anew();
    }
    let mut played = 0;
    for (path, script) in shrunk::kept() {
        let Some(bug) = script.bug.as_deref().map(named) else { continue };
        let name = golden::name(&path);
        let ended = with(&[bug], || script.trial.run(false)).expect("a run does not panic");
        assert_eq!(ended.failure.as_deref().map(class), Some(script.fails), "{name}");
        let came = ended.came.iter().map(|came| came.name.to_string()).collect();
        assert_eq!(Allowed::Only(came), script.trial.allowed, "{name}: every decision comes true");
        assert_eq!(quietly(|| script.trial.run(false)).failure, None, "{name}, without {bug:?}");
        played += 1;
    }
    assert!(played > 0, "none is kept");
}

#[test]
fn a_life_that_shows_a_bug_is_shrunk_to_a_few_decisions_and_none_of_them_is_in_vain() {
    let bug = Bug::DeposedAnswersDone;
    let shrunk = shrink_life(bug);
    let left = shrunk.ended.came.len();
    assert!(shrunk.minimal && shrunk.from >= 50 && left > 0 && left <= 10, "{left} of {}", shrunk.from);
    let path = PathBuf::from("bug.txt");
    let text = Written { shrunk: &shrunk, bug: Some(format!("{bug:?}")), path: &path }.to_string();
    let script: Script = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    let again = with(&[bug], || script.trial.run(false)).expect("a run does not panic");
    assert_eq!(again.failure, shrunk.ended.failure);
    assert_eq!((again.hash, &again.came), (shrunk.ended.hash, &shrunk.ended.came));
    let Allowed::Only(names) = &script.trial.allowed else { panic!("a script says what is allowed") };
    for name in names {
        let mut rest = names.clone();
        rest.remove(name);
        let trial = Trial { allowed: Allowed::Only(rest), ..script.trial.clone() };
        let ended = with(&[bug], || trial.run(false)).expect("a run does not panic");
        assert_ne!(ended.failure.as_deref().map(class).as_ref(), Some(&script.fails), "without {name}");
    }
}

#[test]
fn a_seed_that_fails_is_written_down_as_a_script_that_fails_in_the_same_way() {
    let bug = Bug::DeposedAnswersDone;
    let (trial, what) = life(bug);
    let path = with(&[bug], || shrunk::tell(&trial)).expect("nothing panics").expect("it is written down");
    let script: Script = golden::read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(script.fails, class(&what));
    let again = with(&[bug], || script.trial.run(false)).expect("a run does not panic");
    assert_eq!(again.failure.as_deref().map(class), Some(script.fails));
}

/// Replays the script that `BEQUEST_KEEP` names, with its bug.
#[test]
fn one_script() {
    if let Some(script) = shrunk::asked_for() {
        choose(script.bug.as_deref().map(named).as_slice());
        shrunk::replay(&script);
    }
}
