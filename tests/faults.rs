//! The table of faults says what is there: every row once, and every test it names.

use std::path::Path;

const TABLE: &str = include_str!("../docs/faults.md");
const ROWS: usize = 72;

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Number, fault and tests of each row.
fn rows() -> Vec<(usize, &'static str, &'static str)> {
    let cells = TABLE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ");
        Some((cells.next()?.parse().ok()?, cells.next()?, cells.next()?))
    });
    cells.collect()
}

#[test]
fn every_fault_has_one_row_and_every_row_a_test_or_a_reason() {
    let rows = rows();
    let numbers: Vec<usize> = rows.iter().map(|(number, _, _)| *number).collect();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    for (number, fault, shown) in rows {
        assert!(!fault.is_empty(), "row {number}");
        let tested =
            quoted(shown).any(|word| word.starts_with("tests/") || word.contains("/tests") || word.contains("src/"));
        assert!(tested || shown.starts_with("None"), "row {number} names neither a test nor a reason: {shown}");
    }
}

#[test]
fn every_test_the_table_names_is_in_the_file_it_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = 0;
    for (number, _, shown) in rows() {
        let mut file = None;
        for word in quoted(shown) {
            if word.contains('/') {
                let text = std::fs::read_to_string(root.join(word));
                file = Some((word, text.unwrap_or_else(|error| panic!("row {number}: {word}: {error}"))));
                tests += usize::from(word.ends_with(".txt"));
            } else if word.contains('_')
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
            {
                let (path, text) =
                    file.as_ref().unwrap_or_else(|| panic!("row {number}: {word} stands behind no file"));
                let place = text.find(&format!("fn {word}()"));
                let place = place.unwrap_or_else(|| panic!("row {number}: there is no {word} in {path}"));
                let before = text[..place].trim_end().trim_end_matches("async").trim_end();
                let attribute = before.lines().last().unwrap_or_default();
                assert!(attribute.contains("test"), "row {number}: {word} in {path} is no test");
                tests += 1;
            }
        }
    }
    assert!(tests > 2 * ROWS, "tests={tests}");
}
