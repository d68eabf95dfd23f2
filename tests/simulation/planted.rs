//! Every planted bug is found: within a stated number of simulated lives, or by a golden script that is named.
//!
//! `BEQUEST_SEEDS` says in how many lives to look for every bug, the stated numbers aside; `BEQUEST_BUG` names one bug to
//! look for alone. With `--nocapture` the table of what was found is printed.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bequest_recovery::planted::{choose, Bug};

use crate::mix::{self, Mix, MIXES};
use crate::world::World;
use crate::{complaint, golden, run, said, schedules, setting, steps, THREADS};

/// Lives without a bug; that there is nothing to be found is for other tests to show.
const CONTROLS: u64 = 30;

/// How a bug is found.
#[derive(Clone, Copy, Debug)]
enum By {
    /// By one of the first lives of the suite.
    Lives(u64),
    /// By one of the first lives of this kind.
    LivesOf(&'static str, u64),
    /// By this golden script: something else happens in it than is written there.
    Script(&'static str),
    /// Not at all, because it breaks nothing: another rule covers the one left out.
    Covered(&'static str),
    /// Not yet, for this reason. It is no part of what is claimed.
    Open(&'static str),
}

/// How each bug is found at the latest.
fn by(bug: Bug) -> By {
    use Bug::*;
    match bug {
        AnyIncarnationIsHeard | OldMessagesToANewLife => By::Open(
            "It takes a disk that brings back a suffix cut off since, at exactly the WAL's end, and a heartbeat to the \
             life before.",
        ),
        LateSealForgotten => By::Open(
            "A seal is issued again until its outcome is definite; one that lands after that is not brought about.",
        ),
        ClosingCheckIgnored => By::Open("It takes a successor that still lists while the next one trims."),
        PassOverTwoSessions => By::Open(
            "It takes a new session that moves to a server that lags behind its own opening, in the middle of a pass.",
        ),
        ReadBeforeOwnTerm => By::Covered(
            "A leader stands once everything in the sealed WALs is in its machine's queue (`Replica::stand`), and \
             what it acknowledged itself it has applied: a query behind that in the queue sees both.",
        ),
        TermsFromPeers => By::Covered(
            "Peers send no term that the ballot did not show first: the rule is there for damaged and forged messages.",
        ),
        TokenOfAnotherTerm => By::Covered(
            "Every way out of a leadership answers its callers `Unknown` before an entry of another term can take \
             the place of theirs (`Replica::release`).",
        ),
        PassBehindWhatIsCommitted => By::Script("entries_and_the_order_to_fetch_in_one_step.txt"),
        ApplyInTheMiddleOfARestore => By::Script("a_restore_is_not_disturbed_by_a_write_that_ends.txt"),
        // The order of requests is the rule.
        PassWithoutOpening => By::Script("a_damaged_segment_stops_the_group.txt"),
        SealBySupersededProcess => By::LivesOf("twins", 50),
        _ => By::Lives(50),
    }
}

/// What showed a bug.
struct Found {
    life: Option<(u64, &'static str, String)>,
    schedules: Vec<(&'static str, String)>,
    scripts: Vec<String>,
}

fn mix_named(name: &str) -> &'static Mix {
    MIXES.iter().find(|mix| mix.name == name).unwrap_or_else(|| panic!("no such mix: {name}"))
}

/// The first life that shows the bug, and what it showed.
fn lives(bugs: &[Bug], kind: Option<&'static str>, most: u64) -> Option<(u64, &'static str, String)> {
    (0..most).find_map(|seed| {
        let mix = kind.map_or_else(|| mix::of_seed(seed), mix_named);
        let lived = with(bugs, || World::new(seed, mix, false).live(steps()));
        lived.err().map(|what| (seed + 1, mix.name, what))
    })
}

/// The golden scripts in which something else happens.
fn scripts(bugs: &[Bug]) -> Vec<String> {
    let differs = |path: &std::path::PathBuf| {
        let (name, text) = (golden::name(path), golden::read(path));
        let played = with(bugs, || golden::check(&name, &text));
        (!matches!(played, Ok(Ok(())))).then_some(name)
    };
    golden::scripts().iter().filter_map(differs).collect()
}

/// The schedules in which something breaks, and what.
fn broken(bugs: &[Bug]) -> Vec<(&'static str, String)> {
    let plays = schedules::ALL.iter();
    plays.filter_map(|(name, play)| with(bugs, play).err().map(|what| (*name, what))).collect()
}

/// Does something with these bugs planted; what it said if it panicked.
fn with<T>(bugs: &[Bug], act: impl FnOnce() -> T) -> Result<T, String> {
    choose(bugs);
    let result = catch_unwind(AssertUnwindSafe(act));
    choose(&[]);
    result.map_err(|payload| said(&*payload))
}

fn look_for(bug: Bug, lives_each: Option<u64>) -> Found {
    let (kind, most) = match by(bug) {
        By::Lives(most) => (None, most),
        By::LivesOf(kind, most) => (Some(kind), most),
        By::Script(_) | By::Covered(_) | By::Open(_) => (None, 0),
    };
    let bugs = &[bug];
    Found {
        life: lives(bugs, kind, lives_each.unwrap_or(most)),
        schedules: broken(bugs),
        scripts: scripts(bugs),
    }
}

fn row(bug: Bug, found: &Found) -> String {
    if let (By::Covered(why) | By::Open(why), None) = (by(bug), &found.life) {
        return format!("| `{bug:?}` | {} | {why} |", bug.words());
    }
    let life = match &found.life {
        Some((life, mix, what)) => {
            let what: String = what.lines().next().unwrap_or_default().chars().take(100).collect();
            format!("life {life} ({mix}): `{}`", what.replace('|', "/").replace('`', ""))
        }
        None => String::new(),
    };
    let scripts = match &found.scripts[..] {
        [] => String::new(),
        [first, rest @ ..] => format!("{} ({} in all)", first.trim_end_matches(".txt"), rest.len() + 1),
    };
    format!("| `{bug:?}` | {} | {life} | {scripts} |", bug.words())
}

/// The core with no bug in it, in the same lives: what is found there says nothing about bugs.
#[test]
fn where_no_bug_is_planted_nothing_is_found() {
    let (next, most) = (AtomicUsize::new(0), setting("BEQUEST_SEEDS").unwrap_or(CONTROLS));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
                if seed >= most {
                    return;
                }
                if let (_, _, Err(what)) = run(seed, false) {
                    wrong.lock().unwrap_or_else(PoisonError::into_inner).push(complaint(seed, &what));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_planted_bug_is_found() {
    let lives_each = setting("BEQUEST_SEEDS");
    let only = std::env::var("BEQUEST_BUG").ok();
    let wanted = |bug: &&Bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let bugs: Vec<Bug> = Bug::ALL.iter().filter(wanted).copied().collect();
    assert!(!bugs.is_empty(), "no such bug: {only:?}");
    // What goes wrong is expected to, and told in the table.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let table = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(bug) = bugs.get(at).copied() else { return };
                let found = look_for(bug, lives_each);
                table.lock().unwrap_or_else(PoisonError::into_inner).insert(bug, found);
            });
        }
    });
    drop(std::panic::take_hook());
    let table = table.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for (bug, found) in &table {
        println!("{}", row(*bug, found));
        let as_stated = match by(*bug) {
            By::Lives(_) | By::LivesOf(..) => found.life.is_some(),
            By::Script(name) => found.scripts.iter().any(|script| script == name),
            // Else it was not covered after all.
            By::Covered(_) => found.life.is_none() && found.scripts.is_empty(),
            By::Open(_) => true,
        };
        if !as_stated {
            wrong.push((bug, by(*bug)));
        }
    }
    assert!(wrong.is_empty(), "not as stated: {wrong:#?}");
}
