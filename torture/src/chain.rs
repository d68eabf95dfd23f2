//! Counters and accounts: keys that are changed by compare-and-set alone, every time to a value never used before.
//!
//! So every value names the one it replaced, and from the last value back to the first leads exactly one way. An
//! acknowledged change that is not on it was lost. A value that two acknowledged changes replaced was applied to twice.
//! This is decided without any clock, beside what linearizability says of the same key.

use std::collections::HashMap;

use super::history::{Outcome, Record, Request, Value};

/// What a chain tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Changes that led to the last value.
    pub(crate) length: u64,
    /// Acknowledged changes that did not: lost.
    pub(crate) lost: Vec<String>,
    /// Values replaced by more than one acknowledged change.
    pub(crate) twice: Vec<String>,
    /// A value on the way that nobody set, or that was refused.
    pub(crate) foreign: Option<String>,
}

/// Follows a key back from its last value.
pub(crate) fn follow<'a>(records: impl IntoIterator<Item = &'a Record>, last: &Value) -> Verdict {
    let mut changes: HashMap<&str, (&Value, bool)> = HashMap::new();
    let mut successors: HashMap<&Value, u64> = HashMap::new();
    for record in records {
        let Request::Swap { from, to: Some(to) } = &record.request else { continue };
        if matches!(record.outcome, Outcome::Done | Outcome::Unknown) {
            let acknowledged = record.outcome == Outcome::Done;
            changes.insert(to, (from, acknowledged));
            *successors.entry(from).or_default() += u64::from(acknowledged);
        }
    }
    let mut verdict = Verdict::default();
    let mut value = last;
    while let Some(text) = value {
        // Removed, so that no value is passed twice.
        let Some((from, _)) = changes.remove(text.as_str()) else {
            verdict.foreign = Some(text.clone());
            break;
        };
        verdict.length += 1;
        value = from;
    }
    let lost = changes.into_iter().filter(|(_, (_, acknowledged))| *acknowledged);
    verdict.lost = lost.map(|(value, _)| value.to_owned()).collect();
    verdict.lost.sort_unstable();
    let twice = successors.into_iter().filter(|(_, count)| *count > 1);
    verdict.twice = twice.map(|(value, _)| value.clone().unwrap_or_default()).collect();
    verdict.twice.sort_unstable();
    verdict
}

/// The number a counter's value stands for: `NUMBER TAG`; no value is 0.
pub(crate) fn count(value: Option<&str>) -> Option<u64> {
    value.map_or(Some(0), |value| value.split_once(' ')?.0.parse().ok())
}

/// The balances an account's value stands for: `NUMBER,NUMBER,... TAG`.
pub(crate) fn balances(value: &str) -> Option<Vec<i64>> {
    value.split_once(' ')?.0.split(',').map(|balance| balance.parse().ok()).collect()
}

/// A value of these balances.
pub(crate) fn account(balances: &[i64], tag: u64) -> String {
    let balances: Vec<String> = balances.iter().map(ToString::to_string).collect();
    format!("{} {tag}", balances.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moment;

    fn change(from: Option<&str>, to: &str, outcome: Outcome) -> Record {
        let request = Request::Swap { from: from.map(str::to_owned), to: Some(to.to_owned()) };
        Record { process: 0, key: "c".to_owned(), request, start: Moment(0), end: Moment(1), outcome }
    }

    fn value(text: &str) -> Value {
        Some(text.to_owned())
    }

    #[test]
    fn every_acknowledged_change_leads_to_the_last_value() {
        let records = [
            change(None, "1 a", Outcome::Done),
            change(Some("1 a"), "2 b", Outcome::Unknown),
            change(Some("1 a"), "2 x", Outcome::Unknown),
            change(Some("1 a"), "2 y", Outcome::Conflict(value("2 b"))),
            change(Some("2 b"), "3 c", Outcome::Done),
        ];
        assert_eq!(follow(&records, &value("3 c")), Verdict { length: 3, ..Verdict::default() });
    }

    #[test]
    fn an_acknowledged_change_beside_the_way_is_lost() {
        let records = [change(None, "1 a", Outcome::Done), change(Some("1 a"), "2 b", Outcome::Done)];
        assert_eq!(follow(&records, &value("1 a")).lost, ["2 b"]);
        assert_eq!(follow(&records, &None).lost, ["1 a", "2 b"]);
    }

    #[test]
    fn a_value_replaced_by_two_acknowledged_changes_is_told() {
        let records = [
            change(None, "1 a", Outcome::Done),
            change(Some("1 a"), "2 b", Outcome::Done),
            change(Some("1 a"), "2 c", Outcome::Done),
        ];
        let verdict = follow(&records, &value("2 c"));
        assert_eq!((verdict.twice, verdict.lost), (vec!["1 a".to_owned()], vec!["2 b".to_owned()]));
    }

    #[test]
    fn a_value_that_was_refused_or_never_set_is_foreign() {
        let refused = [change(None, "1 a", Outcome::Refused)];
        assert_eq!(follow(&refused, &value("1 a")).foreign, value("1 a"));
        assert_eq!(follow(&refused, &value("7 z")).foreign, value("7 z"));
    }

    #[test]
    fn values_tell_their_number_and_their_balances() {
        assert_eq!((count(Some("12 3")), count(None), count(Some("x"))), (Some(12), Some(0), None));
        assert_eq!(balances(&account(&[3, -1], 9)), Some(vec![3, -1]));
        assert_eq!(balances("1,2"), None);
    }
}
