//! The history of one key that one client overwrites again and again, and what contradicts a read of it.

use super::clock::Moment;

/// Number of a value of a register. 0 is the absence of any value, before the first write.
pub(crate) type Number = u32;

/// What is known of one value.
#[derive(Clone, Copy, Debug)]
struct Value {
    /// The latest start of an operation on it: its write, or a read that returned it.
    last_start: Moment,
    /// The earliest end of an operation on it; `None` while nothing proves that it took effect.
    first_end: Option<Moment>,
    /// Where it stands in `order`, once it is known to have taken effect.
    place: usize,
    /// Whether its write was acknowledged.
    acknowledged: bool,
    /// Whether it was found lost already; one write is lost once.
    lost: bool,
}

/// The history of one register: every value was written once, with its own number, by one client.
///
/// A read contradicts the history exactly if no order of the operations that respects their times explains it. As all
/// values differ, that is decided by pairs: `v` and `u` contradict each other if each was operated on after the other
/// was proved to be in effect (Gibbons and Korach, *Testing Shared Memories*). A write of unknown outcome may take
/// effect at any later time, even after its successors; it proves nothing until a read has returned it.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    values: Vec<Value>,
    /// Values in the order in which they were proved to be in effect.
    order: Vec<Number>,
    /// For each place in `order` the greatest `last_start` up to it.
    start_max: Vec<Moment>,
}

/// What contradicts a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// Newer values that were acknowledged or observed before the read began; never empty.
    pub(crate) newer: Vec<Number>,
}

impl Default for Register {
    fn default() -> Self {
        let absent =
            Value { last_start: Moment(0), first_end: Some(Moment(0)), place: 0, acknowledged: false, lost: false };
        Self { values: vec![absent], order: vec![0], start_max: vec![Moment(0)] }
    }
}

impl Register {
    /// Notes that a write began; returns the number of its value.
    pub(crate) fn write_began(&mut self, start: Moment) -> Number {
        self.values.push(Value { last_start: start, first_end: None, place: 0, acknowledged: false, lost: false });
        Number::try_from(self.values.len() - 1).expect("fewer than 2^32 writes to a register")
    }

    /// Notes that the write of `number` was acknowledged at `end`.
    ///
    /// Ends must be noted in their order.
    pub(crate) fn write_acknowledged(&mut self, number: Number, end: Moment) {
        self.values[number as usize].acknowledged = true;
        self.proved(number, end);
    }

    /// Notes that a read from `start` to `end` returned `number`; says what contradicts it.
    ///
    /// Ends must be noted in their order. Returns `None` if nothing does.
    pub(crate) fn read(&mut self, number: Number, start: Moment, end: Moment) -> Option<Contradiction> {
        self.proved(number, end);
        self.started(number, start);
        self.contradiction(number, start)
    }

    /// Whether this value was ever written, or is the absence of one.
    pub(crate) fn knows(&self, number: Number) -> bool {
        (number as usize) < self.values.len()
    }

    /// What contradicts a read of `number` that began at `start`: values proved to be in effect before, on which an
    /// operation began after `number` was proved to be in effect.
    pub(crate) fn contradiction(&self, number: Number, start: Moment) -> Option<Contradiction> {
        let value = self.values[number as usize];
        // Nothing proves when a value took effect that nobody has seen: it may be the newest.
        let in_effect = value.first_end?;
        let before = self.order.partition_point(|other| self.proof(*other) < start);
        let earlier = value.place.min(before);
        let is_newer = |other: &&Number| self.values[**other as usize].last_start > in_effect;
        let mut newer = Vec::new();
        if earlier > 0 && self.start_max[earlier - 1] > in_effect {
            newer.extend(self.order[..earlier].iter().filter(is_newer));
        }
        if value.place + 1 < before {
            newer.extend(self.order[value.place + 1..before].iter().filter(is_newer));
        }
        (!newer.is_empty()).then_some(Contradiction { newer })
    }

    /// Marks what a verifying scan found missing; returns how many acknowledged writes are newly lost.
    pub(crate) fn mark_lost(&mut self, contradiction: &Contradiction) -> u64 {
        let mut newly = 0;
        for number in &contradiction.newer {
            let value = &mut self.values[*number as usize];
            if value.acknowledged && !value.lost {
                value.lost = true;
                newly += 1;
            }
        }
        newly
    }

    fn proof(&self, number: Number) -> Moment {
        self.values[number as usize].first_end.unwrap_or(Moment(u64::MAX))
    }

    fn proved(&mut self, number: Number, end: Moment) {
        let value = &mut self.values[number as usize];
        if value.first_end.is_some() {
            return;
        }
        value.first_end = Some(end);
        value.place = self.order.len();
        let start = value.last_start;
        let last = self.start_max.last().copied().unwrap_or_default();
        assert!(self.order.last().is_none_or(|last| self.proof(*last) <= end), "ends must be noted in their order");
        self.order.push(number);
        self.start_max.push(last.max(start));
    }

    fn started(&mut self, number: Number, start: Moment) {
        let value = &mut self.values[number as usize];
        if start <= value.last_start {
            return;
        }
        value.last_start = start;
        for max in &mut self.start_max[value.place..] {
            if *max >= start {
                break;
            }
            *max = start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(moment: u64) -> Moment {
        Moment(moment)
    }

    #[test]
    fn a_read_older_than_an_acknowledged_write_is_contradicted() {
        let mut register = Register::default();
        let first = register.write_began(at(1));
        register.write_acknowledged(first, at(2));
        let second = register.write_began(at(3));
        register.write_acknowledged(second, at(4));
        assert_eq!(register.read(second, at(5), at(6)), None);
        let found = register.read(first, at(7), at(8)).expect("the second write was acknowledged before");
        assert_eq!(found.newer, [second]);
    }

    #[test]
    fn a_read_older_than_an_observed_write_is_contradicted_though_its_outcome_was_unknown() {
        let mut register = Register::default();
        let first = register.write_began(at(1));
        register.write_acknowledged(first, at(2));
        let second = register.write_began(at(3));
        assert_eq!(register.read(first, at(4), at(5)), None, "the second write need not have taken effect yet");
        assert_eq!(register.read(second, at(6), at(7)), None, "it may have by now");
        let found = register.read(first, at(8), at(9)).expect("somebody saw the second write before");
        assert_eq!(found.newer, [second]);
    }

    #[test]
    fn a_read_beside_a_write_may_return_either() {
        let mut register = Register::default();
        let first = register.write_began(at(1));
        register.write_acknowledged(first, at(2));
        let second = register.write_began(at(3));
        register.write_acknowledged(second, at(10));
        assert_eq!(register.read(first, at(4), at(11)), None);
        assert_eq!(register.read(second, at(5), at(12)), None);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_land_after_its_successor() {
        let mut register = Register::default();
        let unknown = register.write_began(at(1));
        let second = register.write_began(at(2));
        register.write_acknowledged(second, at(3));
        assert_eq!(register.read(second, at(4), at(5)), None);
        assert_eq!(register.read(unknown, at(6), at(7)), None, "a late write");
        let found = register.read(second, at(8), at(9)).expect("the late write was seen on top of it");
        assert_eq!(found.newer, [unknown]);
    }

    #[test]
    fn a_missing_value_is_contradicted_and_lost_once() {
        let mut register = Register::default();
        let first = register.write_began(at(1));
        register.write_acknowledged(first, at(2));
        let found = register.read(0, at(3), at(4)).expect("the first write was acknowledged");
        assert_eq!(register.mark_lost(&found), 1);
        assert_eq!(register.mark_lost(&found), 0);
    }

    #[test]
    fn a_write_proved_only_after_the_read_began_contradicts_nothing() {
        let mut register = Register::default();
        let first = register.write_began(at(1));
        register.write_acknowledged(first, at(10));
        assert_eq!(register.contradiction(0, at(5)), None);
        assert!(register.contradiction(0, at(11)).is_some());
    }

    /// The definition, by brute force: some order of all operations that respects their times explains every read.
    fn explained(operations: &[(Number, bool, u64, Option<u64>)]) -> bool {
        fn place(rest: &mut Vec<(Number, bool, u64, Option<u64>)>, current: Number) -> bool {
            let first_end = rest.iter().filter_map(|op| op.3).min();
            if first_end.is_none() {
                return true;
            }
            for index in 0..rest.len() {
                let operation = rest[index];
                let may_be_next = first_end.is_none_or(|end| operation.2 <= end);
                if !may_be_next || (!operation.1 && operation.0 != current) {
                    continue;
                }
                rest.swap_remove(index);
                let explained = place(rest, operation.0);
                rest.push(operation);
                let last = rest.len() - 1;
                rest.swap(index, last);
                if explained {
                    return true;
                }
            }
            false
        }
        place(&mut operations.to_vec(), 0)
    }

    #[test]
    fn verdicts_equal_those_of_brute_force_on_random_histories() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};
        let (mut contradicted, mut clean) = (0, 0);
        for seed in 0..4000 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut register = Register::default();
            let mut operations = Vec::new();
            // Operations as (number, is a write, start, end), at most three at once, one of them the writer's.
            let mut open: Vec<(Number, bool, u64)> = Vec::new();
            let mut found = false;
            for tick in 1..24 {
                let writing = open.iter().any(|operation| operation.1);
                if open.len() < 3 && random.random_bool(0.6) {
                    let write = !writing && random.random_bool(0.5);
                    let number = if write { register.write_began(at(tick)) } else { Number::MAX };
                    open.push((number, write, tick));
                } else if !open.is_empty() {
                    let (number, write, start) = open.swap_remove(random.random_range(0..open.len()));
                    if !write {
                        let number = random.random_range(0..register.values.len()) as Number;
                        found |= register.read(number, at(start), at(tick)).is_some();
                        operations.push((number, false, start, Some(tick)));
                    } else if random.random_bool(0.7) {
                        register.write_acknowledged(number, at(tick));
                        operations.push((number, true, start, Some(tick)));
                    } else {
                        operations.push((number, true, start, None));
                    }
                }
            }
            operations.extend(open.iter().filter(|op| op.1).map(|op| (op.0, true, op.2, None)));
            // A register remembers that a write began even where no end is known; both judge the same operations.
            assert_eq!(found, !explained(&operations), "seed={seed} {operations:?}");
            if found {
                contradicted += 1;
            } else {
                clean += 1;
            }
        }
        assert!(contradicted > 200 && clean > 200, "contradicted={contradicted} clean={clean}: both must be met");
    }
}
