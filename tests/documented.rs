//! That documentation names tests that exist.

use std::fs;
use std::path::Path;

use walkdir::WalkDir;

#[test]
fn every_row_about_clients_names_a_test_that_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(here.join("../docs/clients.md")).expect("the page");
    let sources: String = WalkDir::new(here)
        .into_iter()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "rs"))
        .map(|entry| fs::read_to_string(entry.path()).expect("a source"))
        .collect();
    let is_test = |name: &&str| sources.contains(&format!("#[test]\nfn {name}()"));
    // A table's second line, and the header above it, are no rows.
    let rows: Vec<_> = docs
        .lines()
        .filter(|line| line.starts_with("| ") && *line != "| what | test |")
        .collect();
    assert!(rows.len() > 20, "{rows:#?}");
    for row in rows {
        let (_, column) = row
            .trim_end_matches(" |")
            .rsplit_once(" | ")
            .expect("a row has columns");
        let names: Vec<_> = column.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test in {row}");
        let absent: Vec<_> = names.iter().filter(|name| !is_test(name)).collect();
        assert!(absent.is_empty(), "{absent:#?} in {row}");
    }
}
