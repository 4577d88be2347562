//! What images are made of.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::ran::Ran;

use crate::can_run;
use crate::engine::Engine;
use crate::images::{self, build_static, programs, project};

const MIB: u64 = 1 << 20;

#[test]
fn images_are_no_larger_than_their_aims() {
    if !can_run("images_are_no_larger_than_their_aims") {
        return;
    }
    let engine = Engine::shared();
    images::make(&engine);
    for (image, most) in [
        ("hayloft/bb-runner-bare", 6),
        ("hayloft/bb-scheduler", 15),
        ("hayloft/bb-worker", 15),
    ] {
        let size = images::size(&engine, image);
        println!("{image}: {size} bytes, {:.2} MiB", size as f64 / MIB as f64);
        assert!(size <= most * MIB, "{image} has {size} bytes");
    }
}

/// Where the sources are, where cargo puts what it makes and what lies there already is
/// all different from what made the first.
#[test]
fn the_same_sources_give_the_same_runner_in_another_directory() {
    if !can_run("the_same_sources_give_the_same_runner_in_another_directory") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("some/where/else");
    fs::create_dir_all(&copy).expect("a folder");
    for entry in fs::read_dir(project()).expect("the sources") {
        let path = entry.expect("an entry").path();
        let is_source = |name: &str| name != "target" && name != ".git";
        if path
            .file_name()
            .is_some_and(|name| is_source(&name.to_string_lossy()))
        {
            let mut cp = Command::new("cp");
            let _ = Ran::of(cp.arg("-r").arg(&path).arg(&copy)).assert(0, &[]);
        }
    }
    let place = folder.path().join("programs");
    build_static(&copy, &folder.path().join("built"), &place, &["bb_runner"]);
    let read = |place: &Path| fs::read(place.join("bb_runner")).expect("the runner");
    let (first, second) = (read(programs()), read(&place));
    assert!(
        first == second,
        "{} and {} bytes",
        first.len(),
        second.len()
    );
    // Neither tells where it was made.
    let told = String::from_utf8_lossy(&second);
    assert!(!told.contains("some/where/else") && !told.contains(&*folder.path().to_string_lossy()));
}
