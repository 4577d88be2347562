//! Killing the process that writes, at random moments: everything it acknowledged is
//! there, or, where there is no room for all, went by the rules.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{MIB, blob, gather, open, root, sha256, stream};
use proto::wire::rev2::ActionResult;
use rand::RngExt;
use storage::local::Actions;
use storage::{ActionCache, BlobStore, Error};

/// Set in the process that is killed: the directory to write to.
const DIRECTORY: &str = "HAYLOFT_TEST_CRASH_DIRECTORY";
/// What the store may hold, in bytes.
const ROOM: &str = "HAYLOFT_TEST_CRASH_ROOM";
/// And with which number to begin.
const FIRST: &str = "HAYLOFT_TEST_CRASH_FIRST";

const ROUNDS: u64 = 12;
const LAST: u64 = ROUNDS - 1;

/// Mostly small, every sixteenth streamed.
fn size(number: u64) -> usize {
    if number.is_multiple_of(16) {
        (100 << 10) + number as usize
    } else {
        1 + (number as usize * 37) % 5000
    }
}

fn result(number: u64) -> ActionResult {
    ActionResult {
        exit_code: i32::try_from(number).unwrap(),
        stdout_raw: vec![number as u8; number as usize % 3000],
        ..Default::default()
    }
}

/// Not a test of its own: the process that writes until it is killed. Each
/// acknowledged number is a line on its standard output.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let directory = Path::new(&directory);
    let room = std::env::var(ROOM).unwrap().parse().unwrap();
    let blobs = open(directory, room);
    let actions = Actions::open(&directory.join("actions"), 64 * MIB).unwrap();
    let write = |number: u64| {
        let (blobs, actions) = (&blobs, &actions);
        async move {
            let (digest, bytes) = blob(number, size(number));
            // By either way that clients have.
            if number.is_multiple_of(3) {
                let written = blobs.write_batch(root(), vec![(digest, bytes)]).await;
                written.unwrap().remove(0).unwrap();
            } else {
                let written = blobs.write(root(), digest, stream(&bytes, 30_000)).await;
                written.unwrap();
            }
            let action = sha256(&number.to_le_bytes());
            let updated = actions.update(root(), action, result(number)).await;
            updated.unwrap();
            writeln!(std::io::stdout(), "\nstored {number}").unwrap();
        }
    };
    // Several at a time, for ever.
    futures::future::join_all((0..4).map(|lane| async move {
        for step in 0.. {
            write(first + lane + 4 * step).await;
        }
    }))
    .await;
}

/// Runs the writer until so many numbers have come and a moment more, kills it, and
/// gives all that it acknowledged, in that order.
fn written(directory: &Path, room: u64, first: u64, wanted: usize) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(ROOM, room.to_string())
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let number = |line: &str| line.strip_prefix("stored ")?.parse::<u64>().ok();
    let mut heard: Vec<u64> = lines
        .by_ref()
        .filter_map(|line| number(&line.unwrap()))
        .take(wanted)
        .collect();
    // Up to half a millisecond: some writes long.
    std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..500)));
    child.kill().unwrap();
    heard.extend(lines.filter_map(|line| number(&line.unwrap())));
    child.wait().unwrap();
    assert!(heard.len() >= wanted, "the writer died by itself");
    heard
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored: Vec<u64> = Vec::new();
    for round in 0..ROUNDS {
        // Some are killed as soon as they have begun.
        let wanted = rand::rng().random_range(1..600);
        let heard = written(folder.path(), 1 << 30, round * 100_000, wanted);
        let heard_before = stored.len();
        stored.extend(heard);
        // What earlier rounds stored is looked at in the last one again.
        let looked_at = match round {
            0..LAST => &stored[heard_before..],
            _ => &stored,
        };

        let blobs = open(folder.path(), 1 << 30);
        let actions = Actions::open(&folder.path().join("actions"), 64 * MIB).unwrap();
        for number in looked_at {
            let digest = blob(*number, size(*number)).0;
            let read = blobs.read(root(), digest, 0, None).await.unwrap();
            assert_eq!(sha256(&gather(read).await.unwrap()), digest);
            let action = sha256(&number.to_le_bytes());
            let got = actions.get(root(), action).await.unwrap();
            assert_eq!(got, Some(result(*number)), "{number} of round {round}");
        }
        assert_eq!(blobs.damaged(), 0);
        assert!(!folder.path().join("actions.damaged").exists());
    }
    println!("{} were stored", stored.len());
    assert!(stored.len() > 2000, "{}", stored.len());
}

#[tokio::test]
async fn a_store_that_is_full_has_what_was_stored_last_after_kill_9() {
    let room = 4 * MIB;
    let folder = tempfile::tempdir().unwrap();
    for round in 0..4 {
        // More than there is room for, each time.
        let wanted = 600 + rand::rng().random_range(0..200);
        let heard = written(folder.path(), room, round * 100_000, wanted);
        let blobs = open(folder.path(), room);
        assert!(blobs.size() <= room);
        let mut later = 0;
        for number in heard.iter().rev() {
            let digest = blob(*number, size(*number)).0;
            // Those under way at the end may have taken room, and a file's time is no
            // finer than the kernel's tick: the order is not sharp.
            later += digest.size().next_multiple_of(4096);
            let read = blobs.read_batch(root(), &[digest]).await.unwrap().remove(0);
            match read {
                Ok(bytes) => assert_eq!(sha256(&bytes), digest),
                Err(Error::NotFound(_)) => {
                    assert!(later > room / 2, "{number} went before its time");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(later > room);
        assert_eq!(blobs.damaged(), 0);
    }
}
