//! The page about coming from Buildbarn names keys that there are.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tests::ran::Ran;

use crate::text;

#[test]
fn every_key_that_a_field_of_buildbarns_becomes_exists() {
    let page = text("docs/migration.md");
    let (mut role, mut checked, mut absent) = ("", 0, Vec::new());
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            role = match title {
                "bb_scheduler" | "All programs" => "scheduler",
                "bb_worker" => "worker",
                "bb_runner" => "runner",
                _ => "",
            };
        }
        let columns: Vec<_> = line.trim_matches('|').split(" | ").collect();
        let [theirs, ours] = columns[..] else {
            continue;
        };
        let of_values = theirs.contains("policies:") || theirs.contains("authorizers:");
        if role.is_empty() || ours.trim_start().starts_with('–') || of_values {
            continue;
        }
        // What follows a semicolon or a colon explains.
        let ours = ours.split([';', ':']).next().expect("a text");
        let within = match theirs {
            _ if theirs.contains("of servers:") => "client_grpc_servers.",
            _ if theirs.contains("of clients:") => "content_addressable_storage.",
            _ => "",
        };
        for (at, key) in ours.split('`').enumerate().filter(|(at, _)| at % 2 == 1) {
            let rest = ours.split('`').skip(at + 1).collect::<Vec<_>>().join("`");
            let other = rest.strip_prefix(" of `bb_");
            let role = other.map_or(role, |rest| rest.split('`').next().expect("a name"));
            if key.starts_with("bb_") {
                continue;
            }
            checked += 1;
            if !exists(role, &format!("{within}{key}")) {
                absent.push(format!("{role}: {within}{key}"));
            }
        }
    }
    assert!(checked > 60, "{checked}");
    assert!(absent.is_empty(), "{absent:#?}");
}

#[test]
fn a_key_that_there_is_not_is_noticed() {
    assert!(exists("worker", "runners.endpoint"));
    assert!(!exists("worker", "runners.endpoints"));
    assert!(!exists("worker", "runner.endpoint"));
}

/// Whether a program has a key: given something that no key can be, it complains of that
/// and not of the key. Tables may be in a list, or one of a word's several forms.
fn exists(role: &str, key: &str) -> bool {
    let components: Vec<_> = key.split('.').collect();
    let tables = components.len() - 1;
    (0..1_u32 << tables).any(|lists| {
        let mut config = json!({"no such key": [[1]]});
        for (depth, name) in components.iter().enumerate().rev() {
            config = json!({ *name: config });
            if depth > 0 && lists & (1 << (depth - 1)) != 0 {
                config = json!([config]);
            }
        }
        complains_of_the_value(role, &components, &config)
    })
}

fn complains_of_the_value(role: &str, components: &[&str], config: &Value) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).expect("a file");
    let mut check = Command::new(env!("CARGO_BIN_EXE_hayloft-under-test"));
    let said = Ran::of(check.args([role, "--check"]).arg(&path)).text;
    let Some((_, said)) = said.split_once(": at ") else {
        return false;
    };
    // Of lists' elements the place tells the number.
    let (place, complaint) = said.split_once(": ").expect("PLACE: COMPLAINT");
    let place: String = place
        .split('[')
        .map(|part| part.split_once(']').map_or(part, |p| p.1))
        .collect();
    let last = components.last().expect("a component");
    place.starts_with(&components.join("."))
        && !complaint.starts_with(&format!("unknown field `{last}`"))
}
