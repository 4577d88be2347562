//! Wrong requests: each is refused with the code of its kind and a message that
//! names what is wrong, nothing is executed for it, and nothing of it is left.
//!
//! The codes are those of REv2's Execute: INVALID_ARGUMENT for what is wrong in
//! itself, FAILED_PRECONDITION for what is not there.

mod blobs;
mod directories;
mod paths;
mod requests;

use hayloft::client::blob;
use proto::wire::rev2;
use proto::{Digest, DigestFunction};
use tests::action::Action;
use tests::client::Outcome;
use tests::farm::Farm;
use tests::seal::Seal;
use tests::user::As;
use tonic::Code;
use tonic_types::StatusExt;

/// The code with which every command of these tests would end.
const EXECUTED: i32 = 42;

fn farm() -> Farm {
    Farm::start(As::possible()[0])
}

fn good() -> Action {
    Action::shell(&format!("echo executed; exit {EXECUTED}"))
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

/// Checks that a request was refused for these reasons and not executed.
fn assert_refused(outcome: Outcome, code: Code, words: &[&str]) -> Outcome {
    let outcome = outcome.refused(code, words);
    assert_eq!(
        (outcome.result.exit_code, &*outcome.stdout),
        (0, ""),
        "{outcome:#?}"
    );
    assert!(!outcome.cached);
    outcome
}

/// Checks that a request was refused for want of exactly these blobs.
fn assert_missing(outcome: Outcome, blobs: &[Digest]) {
    let words: Vec<_> = match blobs {
        [one] => vec![one.hash()],
        _ => Vec::new(),
    };
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let outcome = assert_refused(outcome, Code::FailedPrecondition, &words);
    let details = outcome.status.get_details_precondition_failure();
    let mut subjects: Vec<_> = details
        .expect("a list of what is missing")
        .violations
        .into_iter()
        .map(|violation| violation.subject)
        .collect();
    subjects.sort();
    let mut expected: Vec<_> = blobs
        .iter()
        .map(|blob| format!("blobs/{}/{}", blob.hash(), blob.size()))
        .collect();
    expected.sort();
    assert_eq!(subjects, expected);
}

/// Checks that the farm is as if nothing had been asked of it, and does what is
/// right.
fn leave(farm: Farm) {
    farm.wait_until_idle();
    let _ = farm.client().run(&good()).exited(EXECUTED);
    Seal::record(&farm.cache()).check();
    farm.stop();
}

/// Runs a good command with a root Directory of this message.
fn run_with_root(farm: &Farm, root: &rev2::Directory) -> Outcome {
    let root = blob(root);
    farm.client().upload(vec![root.clone()]);
    let mut action = good();
    action.message.input_root_digest = Some(root.0.to_wire());
    farm.client().run(&action)
}
