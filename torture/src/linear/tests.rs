use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::*;

fn at(action: Action, start: u64, end: u64) -> Operation {
    Operation { action, start: Moment(start), end: Some(Moment(end)) }
}

fn unknown(action: Action, start: u64) -> Operation {
    Operation { action, start: Moment(start), end: None }
}

fn read(value: u32, start: u64, end: u64) -> Operation {
    at(Action::Read(Some(value)), start, end)
}

fn write(value: u32, start: u64, end: u64) -> Operation {
    at(Action::Write(Some(value)), start, end)
}

fn contradiction(operations: &[Operation]) -> (usize, Vec<Number>) {
    match check(operations).expect_err("no order explains it") {
        Refutation::Contradiction { operation, instead } => (operation, instead),
        Refutation::Undecided => panic!("so few operations are decided"),
    }
}

#[test]
fn a_read_sees_the_last_write_before_it_or_one_beside_it() {
    assert_eq!(check(&[write(1, 1, 2), read(1, 3, 4)]), Ok(()));
    assert_eq!(check(&[write(1, 1, 2), write(2, 3, 6), read(1, 4, 5)]), Ok(()));
    assert_eq!(check(&[write(1, 1, 2), write(2, 3, 6), read(2, 4, 5)]), Ok(()));
    assert_eq!(check(&[write(1, 1, 2), write(2, 1, 2), read(1, 3, 4)]), Ok(()), "either was the last");
}

#[test]
fn a_read_older_than_an_acknowledged_write_is_refuted() {
    let history = [write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)];
    assert_eq!(contradiction(&history), (2, vec![Some(2)]));
}

#[test]
fn an_acknowledged_write_that_is_missing_is_refuted() {
    let history = [write(1, 1, 2), at(Action::Read(None), 3, 4)];
    assert_eq!(contradiction(&history), (1, vec![Some(1)]));
}

#[test]
fn two_reads_that_saw_a_write_and_then_did_not_are_refuted() {
    let history = [write(1, 1, 2), write(2, 3, 10), read(2, 4, 5), read(1, 6, 7)];
    assert_eq!(contradiction(&history).0, 3);
}

#[test]
fn a_value_read_before_its_write_began_is_refuted() {
    assert_eq!(contradiction(&[read(1, 1, 2), write(1, 3, 4)]).0, 0);
}

#[test]
fn of_two_swaps_from_the_same_value_one_fails() {
    let both = [write(1, 1, 2), at(Action::Swap(Some(1), Some(2)), 3, 6), at(Action::Swap(Some(1), Some(3)), 4, 7)];
    assert_eq!(contradiction(&both).0, 2);
    // Unless the second found what made it possible again.
    let between = write(1, 3, 7);
    assert_eq!(check(&[both[0], both[1], both[2], between]), Ok(()));
}

#[test]
fn an_unknown_write_takes_effect_at_any_later_time_or_never() {
    let late = unknown(Action::Write(Some(9)), 1);
    assert_eq!(check(&[late, write(1, 2, 3), read(1, 4, 5)]), Ok(()), "never, or before");
    assert_eq!(check(&[late, write(1, 2, 3), read(9, 4, 5)]), Ok(()), "late");
    assert_eq!(check(&[late, write(1, 2, 3), read(1, 4, 5), read(9, 6, 7)]), Ok(()), "later");
}

#[test]
fn an_unknown_write_takes_effect_once() {
    let history = [unknown(Action::Write(Some(9)), 1), write(1, 2, 3), read(9, 4, 5), write(2, 6, 7), read(9, 8, 9)];
    assert_eq!(contradiction(&history).0, 4, "it was seen before the write that replaced it");
}

#[test]
fn an_unknown_write_does_not_take_effect_before_it_was_asked_for() {
    let history = [write(1, 1, 2), read(9, 3, 4), unknown(Action::Write(Some(9)), 5)];
    assert_eq!(contradiction(&history).0, 1);
}

#[test]
fn an_unknown_swap_takes_effect_only_on_what_it_expects() {
    let swap = unknown(Action::Swap(Some(1), Some(2)), 3);
    assert_eq!(check(&[write(1, 1, 2), swap, read(2, 4, 5)]), Ok(()));
    assert_eq!(contradiction(&[write(3, 1, 2), swap, read(2, 4, 5)]).0, 2);
}

#[test]
fn unknown_writes_that_nobody_saw_cost_nothing() {
    let mut history: Vec<Operation> = (0..10_000).map(|at| unknown(Action::Write(Some(at + 10)), 1)).collect();
    history.extend([write(1, 2, 3), read(1, 4, 5)]);
    assert_eq!(check(&history), Ok(()));
}

#[test]
fn many_unknown_deletions_that_somebody_may_have_seen_are_decided() {
    let mut history = Vec::new();
    for round in 0..40 {
        let begin = 10 * round;
        history.push(write(1, begin, begin + 1));
        history.push(unknown(Action::Write(None), begin + 2));
        let seen = if round % 3 == 0 { None } else { Some(1) };
        history.push(at(Action::Read(seen), begin + 3, begin + 4));
    }
    assert_eq!(check(&history), Ok(()));
    // More were seen after an acknowledged write than were ever asked for.
    let mut greedy = vec![unknown(Action::Write(None), 1)];
    for round in 0..2 {
        greedy.push(write(1, 10 * round + 2, 10 * round + 3));
        greedy.push(at(Action::Read(None), 10 * round + 4, 10 * round + 5));
    }
    assert_eq!(contradiction(&greedy).0, 4);
}

#[test]
fn a_long_history_is_decided() {
    let mut history = Vec::new();
    for number in 0..50_000_u32 {
        let start = u64::from(number) * 10;
        // Four at once: every write overlaps the next three.
        history.push(write(number, start, start + 35));
    }
    history.push(read(49_999, 600_000, 600_001));
    assert_eq!(check(&history), Ok(()));
    history.push(read(1, 600_002, 600_003));
    assert_eq!(contradiction(&history), (50_001, vec![Some(49_999)]));
}

#[test]
fn too_many_open_operations_are_told_and_not_guessed() {
    let mut history: Vec<Operation> = (0..=OPEN_MAX).map(|_| unknown(Action::Write(None), 1)).collect();
    history.push(at(Action::Read(None), 2, 3));
    assert_eq!(check(&history), Err(Refutation::Undecided));
}

/// A key, as stateright's tester asks for it.
#[derive(Clone, Debug, Default)]
struct Key(Number);

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Value(Number),
    Done,
    Conflict,
}

impl SequentialSpec for Key {
    type Op = Action;
    type Ret = Told;

    fn invoke(&mut self, action: &Action) -> Told {
        match *action {
            Action::Read(_) => return Told::Value(self.0),
            Action::Write(value) => self.0 = value,
            Action::Swap(from, _) if from != self.0 => return Told::Conflict,
            Action::Swap(_, to) => self.0 = to,
        }
        Told::Done
    }
}

fn told(action: Action) -> Told {
    match action {
        Action::Read(value) => Told::Value(value),
        Action::Write(_) | Action::Swap(..) => Told::Done,
    }
}

/// What stateright's tester says of the same history. Every operation is a thread's only one: its threads cannot go on
/// after an operation that never ends.
fn judged_by_stateright(operations: &[Operation]) -> bool {
    let mut events = Vec::new();
    for (position, operation) in operations.iter().enumerate() {
        events.push((operation.start, false, position));
        events.extend(operation.end.map(|end| (end, true, position)));
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Key::default());
    for (_, ended, position) in events {
        let action = operations[position].action;
        let step = if ended { tester.on_return(position, told(action)) } else { tester.on_invoke(position, action) };
        step.expect("a well-formed history");
    }
    tester.serialized_history().is_some()
}

fn random_history(random: &mut StdRng) -> Vec<Operation> {
    let value = |random: &mut StdRng| Some(random.random_range(0..4_u32)).filter(|value| *value > 0);
    let mut operations: Vec<Operation> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut moment = 0;
    while operations.len() < 8 || !open.is_empty() {
        moment += 1;
        if operations.len() < 8 && open.len() < 4 && random.random_bool(0.6) {
            let action = match random.random_range(0..5) {
                0 | 1 => Action::Read(value(random)),
                2 | 3 => Action::Write(value(random)),
                _ => Action::Swap(value(random), value(random)),
            };
            open.push(operations.len());
            operations.push(unknown(action, moment));
        } else if !open.is_empty() {
            let position = open.swap_remove(random.random_range(0..open.len()));
            // A read that nobody answered tells nothing.
            let answered = matches!(operations[position].action, Action::Read(_)) || random.random_bool(0.8);
            operations[position].end = answered.then_some(Moment(moment));
        }
    }
    operations
}

#[test]
fn verdicts_equal_those_of_stateright_on_random_histories() {
    let mut verdicts = [0, 0];
    for seed in 0..20_000 {
        let operations = random_history(&mut StdRng::seed_from_u64(seed));
        let ours = check(&operations).is_ok();
        assert_eq!(ours, judged_by_stateright(&operations), "seed={seed} {operations:?}");
        verdicts[usize::from(ours)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 1000), "both verdicts must be met: {verdicts:?}");
}
