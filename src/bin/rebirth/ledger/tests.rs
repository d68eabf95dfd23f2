use super::*;
use crate::value::{filler_key, unique_key};

fn ledger() -> Ledger {
    Ledger::new(Clock::start(), 2, 2)
}

fn write(ledger: &Ledger, client: u32, slot: u32) -> String {
    let (number, value) = ledger.register_write_began(client, slot);
    ledger.register_write_acknowledged(client, slot, number, 1);
    value
}

fn page(ledger: &Ledger, entries: &[(&str, &str)]) -> Page {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Page { after: String::new(), to: None, entries, start: ledger.clock().now() }
}

#[test]
fn a_register_missing_on_the_leader_is_lost_once_and_not_stale() {
    let ledger = ledger();
    write(&ledger, 0, 0);
    for _ in 0..2 {
        ledger.page_read(REGISTERS, &page(&ledger, &[]), Source::Leader);
        assert_eq!(ledger.totals().lost, 1);
    }
    assert!(
        ledger.violations()[0].what.contains("the leader holds number 0 of r/0000/00"),
        "{:?}",
        ledger.violations()
    );
}

#[test]
fn a_superseded_register_is_not_lost_and_an_older_one_is() {
    let ledger = ledger();
    let old = write(&ledger, 1, 0);
    let (_, unknown) = ledger.register_write_began(1, 0);
    assert_eq!(ledger.page_read(REGISTERS, &page(&ledger, &[("r/0001/00", &unknown)]), Source::Leader), 1);
    assert_eq!(ledger.totals().lost + ledger.totals().stale, 0);
    ledger.page_read(REGISTERS, &page(&ledger, &[("r/0001/00", &old)]), Source::Leader);
    let totals = ledger.totals();
    assert_eq!((totals.lost, totals.stale), (0, 1), "it was observed, not acknowledged");
}

#[test]
fn a_stale_read_is_counted_and_told() {
    let ledger = ledger();
    let old = write(&ledger, 0, 1);
    let new = write(&ledger, 0, 1);
    let start = ledger.clock().now();
    ledger.register_read(1, start, Some(&new));
    assert_eq!(ledger.totals().stale, 0);
    let start = ledger.clock().now();
    ledger.register_read(1, start, Some(&old));
    assert_eq!(ledger.totals().stale, 1);
    assert!(ledger.violations()[0].what.contains("stale read of r/0000/01"), "{:?}", ledger.violations());
}

#[test]
fn what_was_never_written_is_stale() {
    let ledger = ledger();
    let value = write(&ledger, 0, 0);
    ledger.register_read(0, ledger.clock().now(), Some(&value[1..]));
    ledger.register_read(0, ledger.clock().now(), Some(&register_value("r/0000/00", 2)));
    ledger.page_read(UNIQUES, &page(&ledger, &[("u/0000/0000000001", "x")]), Source::Leader);
    assert_eq!(ledger.totals().stale, 3, "{:?}", ledger.violations());
}

#[test]
fn an_acknowledged_unique_key_must_be_there_and_an_unacknowledged_one_may() {
    let ledger = ledger();
    let (acked, unknown) = (unique_key(0, 1), unique_key(0, 2));
    ledger.lasting_write_began(&acked);
    ledger.lasting_write_acknowledged(&acked, 7);
    ledger.lasting_write_began(&unknown);
    let (value, other) = (lasting_value(&acked), lasting_value(&unknown));
    let both = page(&ledger, &[(&acked, &value), (&unknown, &other)]);
    assert_eq!(ledger.page_read(UNIQUES, &both, Source::Leader), 2);
    assert_eq!(ledger.totals().lost + ledger.totals().stale, 0);
    ledger.page_read(UNIQUES, &page(&ledger, &[]), Source::Own { node: 2, as_of: ledger.clock().now() });
    assert_eq!(ledger.totals().lost, 1);
    assert!(ledger.violations()[0].what.contains("node 2's own state lacks an acknowledged key"));
    assert_eq!(ledger.index_max(), 7);
}

#[test]
fn a_page_says_nothing_about_keys_outside_it() {
    let ledger = ledger();
    for count in 1..=3 {
        ledger.lasting_write_began(&unique_key(0, count));
        ledger.lasting_write_acknowledged(&unique_key(0, count), count);
    }
    let (key, value) = (unique_key(0, 2), lasting_value(&unique_key(0, 2)));
    let mut middle = page(&ledger, &[(&key, &value)]);
    middle.after = unique_key(0, 1);
    middle.to = Some(key.clone());
    assert_eq!(ledger.page_read(UNIQUES, &middle, Source::Leader), 1);
    assert_eq!(ledger.totals().lost, 0);
    middle.to = None;
    ledger.page_read(UNIQUES, &middle, Source::Leader);
    assert_eq!(ledger.totals().lost, 1, "the third is within this page");
}

#[test]
fn a_deletion_that_was_undone_is_lost() {
    let ledger = ledger();
    let key = unique_key(1, 1);
    ledger.lasting_write_began(&key);
    ledger.lasting_write_acknowledged(&key, 1);
    ledger.delete_began(&key);
    ledger.page_read(UNIQUES, &page(&ledger, &[]), Source::Leader);
    let there = page(&ledger, &[(&key, &lasting_value(&key))]);
    ledger.page_read(UNIQUES, &there, Source::Leader);
    assert_eq!(ledger.totals().lost, 0, "while it is being deleted either is right");
    ledger.delete_acknowledged(&key, 2);
    let there = page(&ledger, &[(&key, &lasting_value(&key))]);
    ledger.page_read(UNIQUES, &there, Source::Leader);
    assert_eq!(ledger.totals().lost, 1);
}

#[test]
fn a_nodes_own_state_is_judged_by_what_was_acknowledged_before() {
    let ledger = ledger();
    let as_of = ledger.clock().now();
    write(&ledger, 0, 0);
    let filler = filler_key(1);
    ledger.lasting_write_began(&filler);
    ledger.lasting_write_acknowledged(&filler, 1);
    let empty = page(&ledger, &[]);
    ledger.page_read(REGISTERS, &empty, Source::Own { node: 1, as_of });
    ledger.page_read(FILLERS, &empty, Source::Own { node: 1, as_of });
    assert_eq!(ledger.totals().lost, 0);
    ledger.page_read(REGISTERS, &empty, Source::Own { node: 1, as_of: ledger.clock().now() });
    ledger.page_read(FILLERS, &empty, Source::Own { node: 1, as_of: ledger.clock().now() });
    assert_eq!(ledger.totals().lost, 2);
}

#[test]
fn the_longest_gap_reaches_from_the_last_answer_before_to_the_first_after() {
    let acks: Vec<Moment> = [10, 20, 30, 90, 95].map(Moment).to_vec();
    assert_eq!(longest_gap(&acks, Moment(35), Moment(92)).1, Moment(30));
    assert_eq!(longest_gap(&acks, Moment(35), Moment(92)).2, Moment(90));
    assert_eq!(longest_gap(&acks, Moment(12), Moment(28)).0, Duration::from_nanos(10));
    let unanswered = (Duration::from_nanos(105), Moment(95), Moment(200));
    assert_eq!(longest_gap(&acks, Moment(96), Moment(200)), unanswered, "nobody answers any more");
    assert_eq!(longest_gap(&acks, Moment(25), Moment(200)), unanswered);
    assert_eq!(longest_gap(&[], Moment(25), Moment(200)).0, Duration::from_nanos(175));
}
