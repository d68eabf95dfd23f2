//! The README says what is there.

const README: &str = include_str!("../README.md");

#[test]
fn the_first_example_is_the_one_that_is_run() {
    let example = include_str!("../examples/embed.rs");
    assert!(README.contains(example.trim_end()), "README.md must hold examples/embed.rs as it is");
    let code = example.lines().count();
    assert!(code < 60, "the first example has {code} lines");
}

#[test]
fn every_file_it_points_to_is_there() {
    let links = README.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let mut found = 0;
    for link in links.filter(|link| !link.starts_with("http")) {
        found += 1;
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
        assert!(path.exists(), "{link} is not there");
    }
    assert!(found > 3, "found={found}");
}
