//! That documentation names tests that exist.

use std::path::Path;

/// All Rust sources below a directory, one after the other.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            all += &std::fs::read_to_string(path).unwrap();
        }
    }
    all
}

#[test]
fn every_row_about_buildbarns_worker_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/buildbarn-worker.md")).unwrap();
    let tests = sources(&root.join("worker/src")) + &sources(&root.join("scheduler/src"));
    let (mut named, mut absent) = (0, Vec::new());
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        // The last column; names of tests have several words.
        let column = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for name in column.split('`').skip(1).step_by(2) {
            if name.contains('/') {
                assert!(root.join(name).exists(), "{name}");
            } else if name.matches('_').count() > 2 {
                named += 1;
                if !tests.contains(&format!("fn {name}()")) {
                    absent.push(name);
                }
            }
        }
    }
    assert!(named > 30, "{named}");
    assert!(absent.is_empty(), "{absent:#?}");
}

#[test]
fn every_row_about_what_stands_beside_buildbarn_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/buildbarn.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let paths: Vec<_> = rows
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('/'))
        .collect();
    assert!(paths.len() > 5, "{paths:?}");
    for path in paths {
        assert!(root.join(path).exists(), "{path}");
    }
}
