//! What is told of faults and defects is there: every row and every defect once, and every test they name.

use std::path::Path;

const TABLE: &str = include_str!("../docs/faults.md");
const ROWS: usize = 72;
const DEFECTS: &str = include_str!("../docs/defects.md");
const PLANTED: &str = include_str!("../recovery/src/planted.rs");

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

/// Heading of each defect, and what is said to keep it from coming back, or why nothing does.
fn defects() -> Vec<(&'static str, &'static str)> {
    let sections = DEFECTS.split("\n### ").skip(1).map(|section| {
        let (heading, text) = section.split_once("\n\n").unwrap_or_else(|| panic!("nothing is told: {section}"));
        let own = text.split("\n## ").next().unwrap_or_default();
        let kept = own.find("\n\nKept by ").or_else(|| own.find("\n\nNo test "));
        (heading, &own[kept.unwrap_or_else(|| panic!("{heading}: neither \"Kept by\" nor \"No test\""))..])
    });
    sections.collect()
}

/// Whether it is written as tests are.
fn is_a_test_s_name(word: &str) -> bool {
    word.contains('_') && word.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
}

/// Looks for every test that is named, in the file named before it, and for every planted bug; says how many there are.
fn look_for_tests(place: &str, told: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = 0;
    let mut file = None;
    for word in quoted(told) {
        if word.contains('/') {
            let bytes = std::fs::read(root.join(word)).unwrap_or_else(|error| panic!("{place}: {word}: {error}"));
            file = Some((word, String::from_utf8_lossy(&bytes).into_owned()));
            tests += usize::from(word.ends_with(".txt"));
        } else if is_a_test_s_name(word) {
            let (path, text) = file.as_ref().unwrap_or_else(|| panic!("{place}: {word} stands behind no file"));
            let at = text.find(&format!("fn {word}()"));
            let at = at.unwrap_or_else(|| panic!("{place}: there is no {word} in {path}"));
            let before = text[..at].trim_end().trim_end_matches("async").trim_end();
            let attribute = before.lines().last().unwrap_or_default();
            assert!(attribute.contains("test"), "{place}: {word} in {path} is no test");
            tests += 1;
        } else if file.as_ref().is_some_and(|(path, _)| *path == "recovery/src/planted.rs") {
            assert!(PLANTED.contains(&format!("\n        {word}: \"")), "{place}: {word} is no planted bug");
            tests += 1;
        }
    }
    tests
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
    let tests: usize = rows().iter().map(|(number, _, shown)| look_for_tests(&format!("row {number}"), shown)).sum();
    assert!(tests > 2 * ROWS, "tests={tests}");
}

#[test]
fn every_defect_names_a_test_that_is_there_or_says_that_there_is_none() {
    let defects = defects();
    for (heading, kept) in &defects {
        let tests = look_for_tests(heading, kept);
        assert!(tests > 0 || kept.starts_with("\n\nNo test "), "{heading}: names no test: {kept}");
    }
    let headings: std::collections::BTreeSet<_> = defects.iter().map(|(heading, _)| heading).collect();
    assert_eq!(headings.len(), defects.len(), "two defects of one name");
    assert!(defects.len() > 30, "defects={}", defects.len());
}
