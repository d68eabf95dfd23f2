//! Every planted bug is found: within a stated number of simulated lives, or by a schedule or golden script that is named.
//! What another rule covers is found together with that one.
//!
//! `BEQUEST_SEEDS` says in how many lives to look for every bug, the stated numbers aside; `BEQUEST_BUG` and
//! `BEQUEST_SCHEDULE` name one bug to look for alone, and one schedule, with `BEQUEST_TRACE=1` line by line. With `--nocapture` the table of what was found is printed.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bequest_recovery::planted::{choose, Bug};

use crate::mix::{self, Mix};
use crate::shrink::Trial;
use crate::{complaint, golden, of_seed, quietly, said, schedules, setting, THREADS};

mod kept;

/// Lives without a bug; that there is nothing to be found is for other tests to show.
const CONTROLS: u64 = 30;

/// How a bug is found.
#[derive(Clone, Copy, Debug)]
enum By {
    /// By one of the first lives of the suite.
    Lives(u64),
    /// By one of the first lives of this kind.
    LivesOf(&'static str, u64),
    /// By this schedule: an invariant breaks in it.
    Schedule(&'static str),
    /// By this golden script: something else happens in it than is written there.
    Script(&'static str),
    /// Not at all, for this reason: what this other bug leaves out covers the rule. Without both of them an invariant breaks
    /// in this schedule.
    Covered(&'static str, Bug, &'static str),
    /// It is there to be planted beside another, which it covers.
    Cover,
}

/// How each bug is found at the latest.
fn by(bug: Bug) -> By {
    use Bug::*;
    match bug {
        LateSealForgotten => By::Schedule("a_seal_that_lands_late_is_given_back"),
        PassOverTwoSessions => By::Schedule("a_pass_ends_with_its_session"),
        ClosingCheckIgnored => By::Schedule("what_a_pass_misses_is_not_believed_once_the_ballot_moved"),
        AnyIncarnationIsHeard => By::Schedule("a_heartbeat_to_an_earlier_life_commits_nothing"),
        TermsFromPeers => By::Schedule("a_term_that_no_ballot_showed_deafens_nobody"),
        OldMessagesToANewLife => By::Covered(
            "Only a heartbeat tells what to commit without telling what of, and heartbeats leave in the step that made \
                  them, behind every link that came up in it (`Core::step`).",
            TimeBeforeEvents,
            "a_heartbeat_due_as_a_new_life_is_met_commits_nothing",
        ),
        ReadBeforeOwnTerm => By::Covered(
            "A leader stands once everything in the sealed WALs is in its machine's queue (`Replica::stand`), and \
                  what it acknowledged itself it has applied: a query behind that in the queue sees both.",
            SuccessorKnowsNoCommit,
            "a_read_sees_what_was_replayed",
        ),
        TokenOfAnotherTerm => By::Covered(
            "Every way out of a leadership answers its callers `Unknown` before an entry of another term can take \
                  the place of theirs (`Replica::release`).",
            TokensOutliveLeadership,
            "a_deposed_leader_answers_nothing_as_done",
        ),
        SuccessorKnowsNoCommit | TokensOutliveLeadership | TimeBeforeEvents => By::Cover,
        PassBehindWhatIsCommitted => By::Script("entries_and_the_order_to_fetch_in_one_step.txt"),
        ApplyInTheMiddleOfARestore => By::Script("a_restore_is_not_disturbed_by_a_write_that_ends.txt"),
        PassWithoutOpening => By::Schedule("a_pass_is_opened_on_its_own_session"),
        ReadByAnEarlierFence => By::Schedule("a_read_is_not_confirmed_by_what_was_asked_before_it"),
        DeposedAnswersDone => By::Schedule("a_deposed_leader_answers_nothing_as_done"),
        SealBySupersededProcess => By::LivesOf("twins", 50),
        UnrefusedIsDone => By::LivesOf("shared", 50),
        _ => By::Lives(50),
    }
}

type Life = (Trial, String);
type Schedule = (&'static str, String);

/// What showed a bug.
struct Found {
    life: Option<Life>,
    schedules: Vec<Schedule>,
    scripts: Vec<String>,
    /// The schedules that showed it beside the bug it is covered by.
    pair: Vec<Schedule>,
}

fn mix_named(name: &str) -> &'static Mix {
    mix::named(name).unwrap_or_else(|| panic!("no such mix: {name}"))
}

/// The first life that shows the bug, and what it showed.
fn lives(bugs: &[Bug], kind: Option<&'static str>, most: u64) -> Option<Life> {
    (0..most).find_map(|seed| {
        let trial = of_seed(seed);
        let trial = Trial { mix: kind.map_or(trial.mix, mix_named), ..trial };
        let ended = with(bugs, || trial.run(false)).ok()?;
        ended.failure.map(|what| (trial, what))
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
fn broken(bugs: &[Bug]) -> Vec<Schedule> {
    let only = std::env::var("BEQUEST_SCHEDULE").ok();
    let plays = schedules::ALL.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name));
    plays.filter_map(|(name, play)| with(bugs, play).err().map(|what| (*name, what))).collect()
}

/// Does something with these bugs planted; what it said if it panicked.
fn with<T>(bugs: &[Bug], act: impl FnOnce() -> T) -> Result<T, String> {
    choose(bugs);
    let result = quietly(|| catch_unwind(AssertUnwindSafe(act)));
    choose(&[]);
    result.map_err(|payload| said(&*payload))
}

/// In which kind of lives a bug is looked for, and in how many.
fn searched(bug: Bug) -> (Option<&'static str>, u64) {
    match by(bug) {
        By::Lives(most) => (None, most),
        By::LivesOf(kind, most) => (Some(kind), most),
        By::Script(_) | By::Schedule(_) | By::Covered(..) | By::Cover => (None, 0),
    }
}

fn look_for(bug: Bug, lives_each: Option<u64>) -> Found {
    let (kind, most) = searched(bug);
    let pair = match by(bug) {
        By::Covered(_, beside, _) => broken(&[bug, beside]),
        _ => Vec::new(),
    };
    let bugs = &[bug];
    let life = lives(bugs, kind, lives_each.unwrap_or(most));
    Found { life, schedules: broken(bugs), scripts: scripts(bugs), pair }
}

/// The beginning of what was said, fit for a table.
fn short(what: &str) -> String {
    let what: String = what.lines().next().unwrap_or_default().chars().take(100).collect();
    what.replace('|', "/").replace('`', "")
}

/// The life that showed something, or else the schedule, the one that was stated if it did.
fn shown(life: Option<&Life>, schedules: &[Schedule], stated: &str) -> String {
    let schedule = schedules.iter().find(|(name, _)| *name == stated).or(schedules.first());
    match (life, schedule) {
        (Some((trial, what)), _) => format!("life {} ({}): `{}`", trial.seed + 1, trial.mix.name, short(what)),
        (None, Some((name, what))) => format!("schedule {name}: `{}`", short(what)),
        (None, None) => String::new(),
    }
}

fn row(bug: Bug, found: &Found) -> String {
    let stated = match by(bug) {
        By::Schedule(name) | By::Covered(_, _, name) => name,
        _ => "",
    };
    let by_itself = shown(found.life.as_ref(), &found.schedules, stated);
    if let By::Covered(why, beside, _) = by(bug) {
        let pair = shown(None, &found.pair, stated);
        return format!(
            "| `{bug:?}` | {} | {why} | `{beside:?}`: {} | {pair} |{by_itself}",
            bug.words(),
            beside.words()
        );
    }
    let scripts = match &found.scripts[..] {
        [] => String::new(),
        [first, rest @ ..] => format!("{} ({} in all)", first.trim_end_matches(".txt"), rest.len() + 1),
    };
    format!("| `{bug:?}` | {} | {by_itself} | {scripts} |", bug.words())
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
                if let Some(what) = of_seed(seed).run(false).failure {
                    wrong.lock().unwrap_or_else(PoisonError::into_inner).push(complaint(seed, &what));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(broken(&[]), [], "schedules");
}

#[test]
fn every_planted_bug_is_found() {
    let lives_each = setting("BEQUEST_SEEDS");
    let only = std::env::var("BEQUEST_BUG").ok();
    let wanted = |bug: &&Bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let bugs: Vec<Bug> = Bug::ALL.iter().filter(wanted).copied().collect();
    assert!(!bugs.is_empty(), "no such bug: {only:?}");
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
    let table = table.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for (bug, found) in &table {
        println!("{}", row(*bug, found));
        let breaks = |in_these: &[Schedule], name: &str| in_these.iter().any(|(schedule, _)| *schedule == name);
        let as_stated = match by(*bug) {
            By::Lives(_) | By::LivesOf(..) => found.life.is_some(),
            By::Schedule(name) => breaks(&found.schedules, name),
            By::Script(name) => found.scripts.iter().any(|script| script == name),
            // Else it was not covered after all, or not by that.
            By::Covered(_, _, name) => {
                let alone = found.life.is_some() || !found.schedules.is_empty() || !found.scripts.is_empty();
                !alone && breaks(&found.pair, name)
            }
            // In scripts something else may happen: that is no rule of its own.
            By::Cover => found.life.is_none() && found.schedules.is_empty(),
        };
        if !as_stated {
            wrong.push((bug, by(*bug), &found.schedules, &found.scripts));
        }
    }
    assert!(wrong.is_empty(), "not as stated: {wrong:#?}");
}
