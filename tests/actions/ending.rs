//! How an action ends that does not end by itself, or cannot begin.

use std::time::Duration;

use tests::action::Action;
use tests::processes::Process;
use tests::tree::Tree;
use tests::wait::{wait_for, wait_for_none};
use tonic::Code;
use tonic_types::StatusExt;

use crate::farm;

/// Prints and writes something, leaves a process in a session of its own, and
/// goes on for ever, deaf to SIGTERM. All its processes bear the marker.
fn endless(marker: &str) -> Action {
    let script = format!(
        "trap '' TERM; echo begun; echo complained >&2; echo half > out/file
         setsid /bin/sh -c 'trap \"\" TERM HUP; while :; do sleep 3600; done; : {marker}' &
         while :; do sleep 3600; done; : {marker}"
    );
    Action::shell(&script).output("out/file")
}

#[test]
fn what_a_command_did_until_its_timeout_comes_back() {
    let farm = farm();
    let marker = tests::secret();
    let action = endless(&marker).timeout(Duration::from_secs(1));
    let outcome = farm.client().run(&action);
    let outcome = outcome.refused(Code::DeadlineExceeded, &["1s"]);
    assert_eq!(outcome.stdout, "begun\n");
    assert_eq!(outcome.stderr, "complained\n");
    let file = outcome
        .output("out/file")
        .digest
        .as_ref()
        .expect("a digest");
    assert_eq!(farm.client().fetch(file), "half\n");
    // Nothing of it runs any more when its end is known.
    let left = Process::mentioning(&marker);
    assert!(left.is_empty(), "{left:#?}");
    // It is not kept: more time may help.
    let again = farm.client().run(&action);
    assert!(!again.cached);
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn a_cancelled_command_is_killed() {
    let farm = farm();
    let marker = tests::secret();
    let running = farm.client().start(&endless(&marker));
    wait_for("the command to run", || {
        (Process::mentioning(&marker).len() >= 2).then_some(())
    });
    let _ = running.cancel().refused(Code::Cancelled, &[]);
    wait_for_none("processes of the action", || Process::mentioning(&marker));
    farm.wait_until_idle();
    // The slot is free again.
    let _ = farm.client().run(&Action::shell("exit 0")).success();
    farm.stop();
}

#[test]
fn every_missing_input_is_named() {
    let farm = farm();
    let marker = tests::secret();
    let tree = Tree::new()
        .file("present", "present")
        .file("deep/er/missing", format!("missing {marker}"))
        .file("missing-too", format!("missing, too {marker}"));
    let action = Action::shell("echo ran").tree(&tree);
    let (digest, blobs) = action.blobs();
    let (missing, present): (Vec<_>, Vec<_>) = blobs
        .into_iter()
        .partition(|(_, bytes)| bytes.starts_with(b"missing"));
    farm.client().upload(present);
    let outcome = farm.client().run_digest(digest);
    let outcome = outcome.refused(Code::FailedPrecondition, &[]);
    let details = outcome.status.get_details_precondition_failure();
    let violations = details.expect("a list of what is missing").violations;
    let mut subjects: Vec<_> = violations
        .iter()
        .inspect(|violation| assert_eq!(violation.r#type, "MISSING"))
        .map(|violation| violation.subject.clone())
        .collect();
    let mut expected: Vec<_> = missing
        .iter()
        .map(|(digest, _)| format!("blobs/{}/{}", digest.hash(), digest.size()))
        .collect();
    subjects.sort();
    expected.sort();
    assert_eq!(subjects, expected);
    assert_eq!(outcome.stdout, "");
    // A client then uploads them and asks again.
    farm.client().upload(missing);
    let outcome = farm.client().run_digest(digest).success();
    assert_eq!(outcome.stdout, "ran\n");
    farm.stop();
}
