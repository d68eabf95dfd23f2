//! Golden scripts: the order of effects, one rule per file in `tests/scripts`, to be reviewed as a diff.
//!
//! `BEQUEST_UPDATE_GOLDEN=1` writes down what happens as what is expected.

mod decode;
pub mod hold;
mod line;
pub mod peers;
pub mod script;
pub mod stage;
pub mod tale;

use std::path::{Path, PathBuf};

/// Lines that must go and lines that must come, in their places.
fn difference(expected: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    // Length of the longest common part of what lies behind each pair of places.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for one in (0..old.len()).rev() {
        for other in (0..new.len()).rev() {
            common[one][other] = if old[one] == new[other] {
                common[one + 1][other + 1] + 1
            } else {
                common[one + 1][other].max(common[one][other + 1])
            };
        }
    }
    let (mut one, mut other) = (0, 0);
    let mut text = String::new();
    while one < old.len() || other < new.len() {
        let same = one < old.len() && other < new.len() && old[one] == new[other];
        let gone = other == new.len() || (one < old.len() && common[one + 1][other] >= common[one][other + 1]);
        let (mark, line) = match (same, gone) {
            (true, _) => (' ', old[one]),
            (false, true) => ('-', old[one]),
            (false, false) => ('+', new[other]),
        };
        one += usize::from(mark != '+');
        other += usize::from(mark != '-');
        text.push_str(&format!("{mark} {line}\n"));
    }
    text
}

/// Plays a script; what differs from what it expects, or is wrong with it, as text that names file and line.
pub fn check(path: &str, text: &str) -> Result<(), String> {
    let found = stage::play(text).map_err(|failure| format!("{path}:{failure}"))?;
    if found == text {
        return Ok(());
    }
    Err(format!(
        "{path}: something else happens (- expected, + found); BEQUEST_UPDATE_GOLDEN=1 writes it down\n{}",
        difference(text, &found)
    ))
}

/// Where the repository is.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(if cfg!(planted) { "../.." } else { "." })
}

/// The golden scripts.
pub fn scripts() -> Vec<PathBuf> {
    texts(&root().join("tests/scripts"))
}

/// The texts in a folder, in order.
pub fn texts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the scripts are there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

/// A script's own name.
pub fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Its text.
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[cfg_attr(not(planted), test)]
fn every_golden_script_happens_as_written() {
    let update = std::env::var("BEQUEST_UPDATE_GOLDEN").is_ok_and(|value| value == "1");
    let scripts = scripts();
    assert!(!scripts.is_empty(), "no golden scripts");
    let mut complaints = Vec::new();
    for path in scripts {
        let text = read(&path);
        let name = name(&path);
        // An invariant of the world that breaks must name its script too.
        let played = std::panic::catch_unwind(|| {
            if update {
                let found = stage::play(&text).map_err(|failure| format!("{name}:{failure}"))?;
                std::fs::write(&path, found).map_err(|error| format!("{name}: {error}"))
            } else {
                check(&name, &text)
            }
        });
        let panicked = |payload: Box<dyn std::any::Any + Send>| Err(format!("{name}: {}", crate::said(&*payload)));
        if let Err(complaint) = played.unwrap_or_else(panicked) {
            complaints.push(complaint);
        }
    }
    assert!(complaints.is_empty(), "{} scripts fail\n{}", complaints.len(), complaints.join("\n"));
}

const SMALL: &str = "# One node is enough to found nothing and to lead.\nstart n1\nuntil n1 leads\n---\n";

fn small() -> String {
    stage::play(SMALL).expect("it can be played")
}

#[cfg_attr(not(planted), test)]
fn a_script_plays_the_same_twice() {
    let played = small();
    assert!(played.lines().count() > SMALL.lines().count() + 5, "{played}");
    assert_eq!(stage::play(&played).as_ref(), Ok(&played));
    assert_eq!(check("small.txt", &played), Ok(()));
}

#[cfg_attr(not(planted), test)]
fn a_wrong_expectation_fails_and_shows_the_difference() {
    let played = small();
    let line = played.lines().find(|line| line.contains("seal b1.n1")).expect("somebody seals").to_owned();
    let wrong = played.replace(&line, "n1  does something else");
    let complaint = check("small.txt", &wrong).expect_err("it must fail");
    assert!(complaint.starts_with("small.txt: "), "{complaint}");
    assert!(complaint.contains(&format!("+ {line}\n")), "{complaint}");
    assert!(complaint.contains("- n1  does something else\n"), "{complaint}");
    let short = played.replace(&format!("{line}\n"), "");
    assert!(check("small.txt", &short).is_err_and(|complaint| complaint.contains(&format!("+ {line}\n"))));
    let long = format!("{played}n1  does more\n");
    assert!(check("small.txt", &long).is_err_and(|complaint| complaint.contains("- n1  does more\n")));
}

#[cfg_attr(not(planted), test)]
fn what_is_no_script_is_refused_with_file_and_line() {
    for (text, complaint) in [
        ("# A rule.\nstart n1\nfly n1\n---\n", "no.txt:3: unknown command: \"fly n1\""),
        ("# A rule.\nstart node1\n---\n", "no.txt:2: unknown command: \"start node1\""),
        ("# A rule.\nuntil n1 flies\n---\n", "no.txt:2: unknown command: \"until n1 flies\""),
        ("# A rule.\n---\nn1  something\n", "no.txt:1: no command"),
        ("# A rule.\n", "no.txt:1: no command"),
        ("# A rule.\nstart n1\n---\n\n# More.\n---\n", "no.txt:5: no command"),
        ("# A rule.\nstart n1\n", "no.txt:1: no line --- behind the commands"),
        ("start n1\n---\n", "no.txt:1: a script begins with its rule, behind a #"),
        ("", "no.txt:1: a script begins with its rule, behind a #"),
        ("# A rule.\nstart n1\nkill n2\n---\n", "no.txt:3: n2 does not run"),
        ("# A rule.\nstart n1\nset nodes 3\n---\n", "no.txt:3: set comes before everything else"),
        ("# A rule.\nset courage 3\n---\n", "no.txt:2: nothing to set: \"courage\""),
    ] {
        assert_eq!(check("no.txt", text), Err(complaint.to_owned()));
    }
    let never = check("no.txt", "# A rule.\nstart n1\nuntil zookeeper holds 9\n---\n").expect_err("it never does");
    assert!(never.starts_with("no.txt:3: still not: zookeeper holds 9; "), "{never}");
}

#[cfg_attr(not(planted), test)]
fn every_command_is_read_as_it_is_written() {
    let written =
        "set nodes 3; start n1 n2; start n1 elsewhere; kill n1; wipe n2; pause n1; continue n1; shut down n1; \
        hand over n1; propose n1; propose n1 x3; open session n1; propose n1 in session; retry n1; read n1; cut n1 n2; \
        cut n1 zookeeper; refuse n1 n2; heal n1 n2; heal n1 zookeeper; mute n1; mute n1 replies; break n1; \
        break n1 leaving 2; expire n1; keep sockets; serve socket; hold n1 disk; hold n1 machine; hold n1 core; hold n1 requests; \
        hold n1 replies; release n1 messages; release n1 messages 2; delete ballot; delete genesis; delete pointer; \
        damage manifest; damage segment 3; found anew; pass 3us; pass 3ms; pass 3s; until n1 leads; until n1 follows; \
        until n1 succeeds; until n1 stops; until n1 ends; until n1 expired; until n1 applied 3; \
        until zookeeper holds 3; until snapshot 3; until answered; until quiet";
    for text in written.split(';').map(str::trim) {
        let command: script::Command = text.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(command.to_string(), text);
    }
}
