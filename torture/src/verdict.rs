//! What a history shows: linearizable or not, lost or not, exactly once or not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::chain;
use super::history::{Outcome, Record, Request, Value};
use super::linear::{self, Action, Number, Operation, Refutation};
use super::load::{ACCOUNTS, ACCOUNTS_SUM, COUNTERS, LAST_PROCESS};

/// Violations told in full; more are counted.
const TOLD_MAX: usize = 20;
/// Operations told around a contradiction.
const AROUND: usize = 12;

/// The judgement of one history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Requests made.
    pub(crate) operations: u64,
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Writes of unknown outcome.
    pub(crate) unknown: u64,
    /// Keys whose linearizability was checked.
    pub(crate) keys: u64,
    /// Acknowledged writes that are gone.
    pub(crate) lost: u64,
    /// Changes applied more than once.
    pub(crate) twice: u64,
    /// Values whose balances do not add up.
    pub(crate) sums: u64,
    /// Keys whose history no order explains, or that could not be decided.
    pub(crate) refuted: u64,
    /// What was found, in words.
    pub(crate) violations: Vec<String>,
}

impl Verdict {
    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.twice + self.sums + self.refuted == 0 && self.violations.is_empty()
    }

    fn told(&mut self, text: String) {
        if self.violations.len() < TOLD_MAX {
            self.violations.push(text);
        }
    }
}

/// Judges a history whose last reads, of every key, are `last`.
pub(crate) fn judge(records: &[Record], last: &BTreeMap<String, Value>) -> Verdict {
    let mut verdict = Verdict { operations: records.len() as u64, ..Verdict::default() };
    for record in records {
        verdict.acknowledged += u64::from(record.is_acknowledged_write());
        verdict.unknown += u64::from(record.outcome == Outcome::Unknown);
        if let (Request::Swap { from, .. }, Outcome::Conflict(current)) = (&record.request, &record.outcome) {
            if from == current {
                verdict.refuted += 1;
                verdict.told(format!("a swap was refused though the key had what it expects: {record:?}"));
            }
        }
        sums(record, &mut verdict);
    }
    let keys = by_key(records, &mut verdict);
    verdict.keys = keys.len() as u64;
    for (key, views) in &keys {
        if is_chain(key) {
            chain(key, views, last, &mut verdict);
        }
        linearizable(key, views, &mut verdict);
    }
    verdict
}

/// What one request tells of one key.
struct View<'a> {
    record: &'a Record,
    /// Of a scan: what it found there.
    scanned: Option<Value>,
}

/// Requests by key. A scan is a read of every key that was ever asked for below its prefix.
fn by_key<'a>(records: &'a [Record], verdict: &mut Verdict) -> BTreeMap<&'a str, Vec<View<'a>>> {
    let mut keys: BTreeMap<&str, Vec<View<'_>>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.request != Request::Scan) {
        keys.entry(&record.key).or_default().push(View { record, scanned: None });
    }
    for record in records {
        let Outcome::Page(pairs) = &record.outcome else { continue };
        let mut found: HashMap<&str, &str> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let below = keys.range_mut(record.key.as_str()..).take_while(|(key, _)| key.starts_with(&record.key));
        for (key, views) in below {
            let value = found.remove(key).map(str::to_owned);
            views.push(View { record, scanned: Some(value) });
        }
        if !found.is_empty() {
            verdict.refuted += 1;
            verdict.told(format!("a scan of {} found what nobody ever wrote: {found:?}", record.key));
        }
    }
    keys
}

fn is_chain(key: &str) -> bool {
    [COUNTERS, ACCOUNTS].iter().any(|prefix| key.starts_with(prefix))
}

fn linearizable(key: &str, views: &[View<'_>], verdict: &mut Verdict) {
    let mut numbers = Numbers::default();
    let mut operations = Vec::new();
    let mut of = Vec::new();
    for view in views {
        if let Some(operation) = operation(view, &mut numbers) {
            operations.push(operation);
            of.push(view.record);
        }
    }
    let text = match linear::check(&operations) {
        Ok(()) => return,
        Err(Refutation::Undecided) => format!("{key}: not decided, too many requests were open at once"),
        Err(Refutation::Contradiction { operation, instead }) => {
            // What is wrong in the end, when nobody writes any more, is wrong for good. Chains count what they lost.
            verdict.lost += u64::from(of[operation].process == LAST_PROCESS && !is_chain(key));
            let instead: Vec<String> = instead.into_iter().map(|number| numbers.text(number)).collect();
            format!(
                "{key}: no order explains {:?}; it could have found {instead:?}. Around it:\n{}",
                of[operation],
                around(&of, of[operation])
            )
        }
    };
    verdict.refuted += 1;
    verdict.told(text);
}

fn around(records: &[&Record], found: &Record) -> String {
    let mut near: Vec<&&Record> = records.iter().collect();
    near.sort_by_key(|record| record.start);
    let place = near.iter().position(|record| **record == found).unwrap_or(0);
    let (from, to) = (place.saturating_sub(AROUND), (place + AROUND / 2).min(near.len()));
    let lines: Vec<String> = near[from..to].iter().map(|record| format!("  {record:?}")).collect();
    lines.join("\n")
}

/// The numbers of a key's values.
#[derive(Default)]
struct Numbers {
    numbers: HashMap<String, u32>,
}

impl Numbers {
    fn number(&mut self, value: &Value) -> Number {
        let next = u32::try_from(self.numbers.len()).expect("fewer than 2^32 values of a key");
        value.as_ref().map(|text| *self.numbers.entry(text.clone()).or_insert(next))
    }

    fn text(&self, number: Number) -> String {
        let known = self.numbers.iter().find(|(_, known)| Some(**known) == number);
        known.map_or_else(|| "nothing".to_owned(), |(text, _)| text.clone())
    }
}

/// What a request did to its key; `None` if it tells nothing.
fn operation(view: &View<'_>, numbers: &mut Numbers) -> Option<Operation> {
    let record = view.record;
    let action = match (&record.request, &record.outcome) {
        (_, Outcome::Refused) | (Request::Read | Request::Scan, Outcome::Unknown) => return None,
        (_, Outcome::Page(_)) => Action::Read(numbers.number(view.scanned.as_ref()?)),
        // A refusal with the current value is a read of it.
        (_, Outcome::Value(value) | Outcome::Conflict(value)) => Action::Read(numbers.number(value)),
        (Request::Write(value), Outcome::Done | Outcome::Unknown) => Action::Write(numbers.number(value)),
        (Request::Swap { from, to }, Outcome::Done | Outcome::Unknown) => {
            Action::Swap(numbers.number(from), numbers.number(to))
        }
        (Request::Read | Request::Scan, Outcome::Done) => return None,
    };
    let end = (record.outcome != Outcome::Unknown).then_some(record.end);
    Some(Operation { action, start: record.start, end })
}

fn chain(key: &str, views: &[View<'_>], last: &BTreeMap<String, Value>, verdict: &mut Verdict) {
    let Some(value) = last.get(key) else { return };
    let found = chain::follow(views.iter().map(|view| view.record), value);
    verdict.lost += found.lost.len() as u64;
    verdict.twice += found.twice.len() as u64;
    if !found.lost.is_empty() {
        verdict.told(format!("{key}: acknowledged and lost: {:?}; it ends as {value:?}", found.lost));
    }
    if !found.twice.is_empty() {
        verdict.told(format!("{key}: replaced more than once: {:?}", found.twice));
    }
    if let Some(foreign) = found.foreign {
        verdict.refuted += 1;
        verdict.told(format!("{key}: nobody can have set {foreign:?}"));
    } else if key.starts_with(COUNTERS) && chain::count(value.as_deref()) != Some(found.length) {
        verdict.twice += 1;
        verdict.told(format!("{key}: it counts {value:?}, and was changed {} times", found.length));
    }
}

fn sums(record: &Record, verdict: &mut Verdict) {
    if !record.key.starts_with(ACCOUNTS) {
        return;
    }
    let (Outcome::Value(Some(value)) | Outcome::Conflict(Some(value))) = &record.outcome else { return };
    let sum = chain::balances(value).map(|balances| balances.iter().sum::<i64>());
    if sum != Some(ACCOUNTS_SUM) {
        verdict.sums += 1;
        verdict.told(format!("{}: {value:?} does not add up to {ACCOUNTS_SUM}", record.key));
    }
}

/// Keys whose own state on a node differs from what was read last; in words.
pub(crate) fn differences(node: u64, own: &BTreeMap<String, String>, last: &BTreeMap<String, Value>) -> Vec<String> {
    let keys: BTreeSet<&String> = own.keys().chain(last.keys()).collect();
    let differing = keys.into_iter().filter(|key| own.get(*key) != last.get(*key).and_then(Option::as_ref));
    let lines = differing.map(|key| {
        let (own, read) = (own.get(key), last.get(key).and_then(Option::as_ref));
        format!("node {node}'s own state has {key}={own:?}, and the leader read {read:?}")
    });
    lines.take(TOLD_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moment;
    use crate::load::SETS;

    fn record(key: &str, times: (u64, u64), request: Request, outcome: Outcome) -> Record {
        let (start, end) = (Moment(times.0), Moment(times.1));
        Record { process: times.0, key: key.to_owned(), request, start, end, outcome }
    }

    fn some(text: &str) -> Value {
        Some(text.to_owned())
    }

    fn last(key: &str, value: Value) -> BTreeMap<String, Value> {
        BTreeMap::from([(key.to_owned(), value)])
    }

    #[test]
    fn a_history_without_faults_is_clean() {
        let set = format!("{SETS}0/1");
        let history = [
            record("r/0", (1, 2), Request::Write(some("1")), Outcome::Done),
            record("r/0", (3, 4), Request::Swap { from: some("1"), to: some("2") }, Outcome::Done),
            record("r/0", (5, 6), Request::Swap { from: some("1"), to: some("3") }, Outcome::Conflict(some("2"))),
            record("r/0", (7, 8), Request::Write(None), Outcome::Unknown),
            record(&set, (1, 2), Request::Write(some("4")), Outcome::Done),
            record(SETS, (3, 4), Request::Scan, Outcome::Page(vec![(set.clone(), "4".to_owned())])),
            record("r/0", (9, 10), Request::Read, Outcome::Value(None)),
        ];
        let verdict = judge(&history, &last("r/0", None));
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.operations, verdict.acknowledged, verdict.unknown, verdict.keys), (7, 3, 1, 2));
    }

    #[test]
    fn a_conflict_that_shows_an_older_value_is_refuted() {
        let history = [
            record("r/0", (1, 2), Request::Write(some("1")), Outcome::Done),
            record("r/0", (3, 4), Request::Write(some("2")), Outcome::Done),
            record("r/0", (5, 6), Request::Swap { from: some("9"), to: some("3") }, Outcome::Conflict(some("1"))),
        ];
        assert_eq!(judge(&history, &BTreeMap::new()).refuted, 1);
    }

    #[test]
    fn a_scan_that_misses_an_acknowledged_key_is_refuted_and_the_key_lost_if_it_is_gone_in_the_end() {
        let set = format!("{SETS}0/1");
        let mut history = vec![
            record(&set, (1, 2), Request::Write(some("4")), Outcome::Done),
            record(SETS, (3, 4), Request::Scan, Outcome::Page(Vec::new())),
        ];
        let verdict = judge(&history, &last(&set, some("4")));
        assert_eq!((verdict.refuted, verdict.lost), (1, 0), "{verdict:?}");
        history[1] = record(&set, (3, 4), Request::Read, Outcome::Value(None));
        history[1].process = LAST_PROCESS;
        let verdict = judge(&history, &last(&set, None));
        assert_eq!((verdict.refuted, verdict.lost), (1, 1), "{verdict:?}");
    }

    #[test]
    fn a_scan_that_finds_what_nobody_wrote_is_refuted() {
        let history = [record(SETS, (3, 4), Request::Scan, Outcome::Page(vec![("s/x".to_owned(), "1".to_owned())]))];
        assert_eq!(judge(&history, &BTreeMap::new()).refuted, 1);
    }

    #[test]
    fn a_counter_that_lost_an_acknowledged_change_is_told() {
        let key = format!("{COUNTERS}0");
        let swap = |from: Value, to: &str| Request::Swap { from, to: some(to) };
        let history = [
            record(&key, (1, 2), swap(None, "1 a"), Outcome::Done),
            record(&key, (3, 4), swap(some("1 a"), "2 b"), Outcome::Done),
        ];
        assert!(judge(&history, &last(&key, some("2 b"))).is_clean());
        assert_eq!(judge(&history, &last(&key, some("1 a"))).lost, 1);
    }

    #[test]
    fn a_counter_that_counts_more_than_its_changes_is_told() {
        let key = format!("{COUNTERS}0");
        let request = Request::Swap { from: None, to: some("2 a") };
        let history = [record(&key, (1, 2), request, Outcome::Done)];
        assert_eq!(judge(&history, &last(&key, some("2 a"))).twice, 1);
    }

    #[test]
    fn balances_that_do_not_add_up_are_told() {
        let key = format!("{ACCOUNTS}0");
        let torn = Outcome::Value(some(&chain::account(&[ACCOUNTS_SUM, 1], 5)));
        assert_eq!(judge(&[record(&key, (1, 2), Request::Read, torn)], &BTreeMap::new()).sums, 1);
    }

    #[test]
    fn a_node_whose_own_state_differs_is_told() {
        let own = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let read = BTreeMap::from([("a".to_owned(), some("1")), ("b".to_owned(), None), ("c".to_owned(), some("3"))]);
        let differing = differences(2, &own, &read);
        assert_eq!(differing.len(), 2, "{differing:?}");
    }
}
