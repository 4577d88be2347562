//! The table of `docs/threat-model.md`: which attack is stopped by what. The part of
//! it that the layers' test finds is compared with what the page says; with
//! `HAYLOFT_WRITE_TABLE=1` it is written there instead.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use crate::attacks;
use crate::layers::{BASE, Results, minimal, names};

const BEGIN: &str = "<!-- The following table is written by tests/isolation/table.rs. -->\n";
const END: &str = "<!-- Until here. -->\n";

/// Compares the table of these results, one for each attack, with the page.
pub fn check(results: &[Results]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/threat-model.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the table's begin");
    let (found, after) = rest.split_once(END).expect("the table's end");
    let table = table(results);
    if std::env::var_os("HAYLOFT_WRITE_TABLE").is_some_and(|value| value == "1") {
        let page = format!("{before}{BEGIN}{table}{END}{after}");
        fs::write(&path, page).expect("the page can be written");
        return;
    }
    let lacking = |one: &str, other: &str| -> String {
        let lines: Vec<_> = other.lines().collect();
        one.lines()
            .filter(|line| !lines.contains(line))
            .fold(String::new(), |text, line| text + line + "\n")
    };
    assert!(
        table == found,
        "{} is not what was found (HAYLOFT_WRITE_TABLE=1 writes it).\nFound:\n{}\nWritten:\n{}",
        path.display(),
        lacking(&table, found),
        lacking(found, &table),
    );
}

fn table(results: &[Results]) -> String {
    let mut table = String::from(
        "\n| | attack | each of these stops it | refused without any |\n|---|---|---|---|\n",
    );
    for (attack, results) in attacks::ALL.iter().zip(results) {
        let complete = results.keys().copied().max().unwrap_or_default();
        assert!(
            !results[&complete].0 && !results[&complete].1,
            "attack {} succeeds in the complete sandbox",
            attack.number
        );
        let mut sets = minimal(results, |(did, _)| *did);
        // Where the host itself refuses, what counts is that it need not.
        let by_host = sets.contains(&0);
        if by_host {
            sets = minimal(results, |(did, reached)| *did || *reached);
        }
        let mut ours: Vec<_> = sets
            .iter()
            .map(|set| {
                if *set == BASE {
                    "every sandbox".into()
                } else {
                    names(*set)
                }
            })
            .collect();
        ours.sort_by_key(|text| (text.len(), text.clone()));
        let host = if by_host { "yes" } else { "" };
        let _ = writeln!(
            table,
            "| {} | {} | {} | {host} |",
            attack.number,
            attack.what,
            ours.join("; ")
        );
    }
    table.push('\n');
    table
}
