//! Each target with its seeds, and with what a generator makes of those: the same in
//! each run, and more where `HAYLOFT_FUZZ_INPUTS` says how many.

use std::path::{Path, PathBuf};

use fuzz::{TARGETS, Target};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// How many inputs are made of the seeds of a target.
const INPUTS: usize = 2000;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}

/// Where an input that makes a target panic is left.
struct Culprit<'a>(&'a str, &'a [u8]);

impl Drop for Culprit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{} fails with {hex}", self.0);
        }
    }
}

fn try_one((name, target): (&str, Target), input: &[u8]) {
    let _culprit = Culprit(name, input);
    target(input);
}

fn run(name: &str) {
    let target = TARGETS.into_iter().find(|(known, _)| *known == name);
    let target = target.expect("a target");
    let mut files: Vec<_> = std::fs::read_dir(corpus(name))
        .expect("a corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let seeds: Vec<_> = files
        .iter()
        .map(|path| std::fs::read(path).expect("a seed"))
        .collect();
    assert!(seeds.len() >= 3, "few seeds");
    for seed in &seeds {
        try_one(target, seed);
    }
    let inputs = std::env::var("HAYLOFT_FUZZ_INPUTS").ok();
    let inputs = inputs.map_or(INPUTS, |inputs| inputs.parse().expect("a number"));
    let seed = std::env::var("HAYLOFT_FUZZ_SEED").ok();
    let seed = seed.map_or(1, |seed| seed.parse().expect("a number"));
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..inputs {
        let input = fuzz::mutate(&mut random, &seeds);
        try_one(target, &input);
    }
}

#[test]
fn names() {
    run("names");
}

#[test]
fn runner_messages() {
    run("runner_messages");
}

#[test]
fn sandbox_messages() {
    run("sandbox_messages");
}

#[test]
fn scheduler_calls() {
    run("scheduler_calls");
}

#[test]
fn storage_calls() {
    run("storage_calls");
}
