//! Requests, Actions and Commands that are wrong in themselves: digests, words,
//! variables, timeouts, platforms.

use hayloft::client::blob;
use proto::wire::rev2;
use tests::action::Action;
use tests::farm::Setup;
use tests::tree::Tree;
use tests::user::As;
use tonic::Code;

use crate::{assert_refused, digest_of, farm, good, leave};

#[test]
fn digests_that_are_none_are_refused() {
    let farm = farm();
    let hash = digest_of(b"x").hash();
    let long = "f".repeat(1000);
    for (hash, size, function, word) in [
        ("", 1, 1, "hash"),
        (&hash[1..], 1, 1, &hash[1..]),
        (&hash.to_uppercase(), 1, 1, &hash.to_uppercase()[..8]),
        (&hash.replace(&hash[..1], "g"), 1, 1, "g"),
        ("../../../../etc/passwd", 1, 0, "passwd"),
        (&long, 1, 0, "ffff"),
        (&hash, -1, 1, "-1"),
        (&hash, i64::MIN, 1, "-9223372036854775808"),
        // Functions that this farm does not compute: VSO, MURMUR3, and none at all.
        (&hash, 1, 4, "4"),
        (&hash, 1, 7, "7"),
        (&hash, 1, 12345, "12345"),
    ] {
        let request = rev2::ExecuteRequest {
            action_digest: Some(rev2::Digest {
                hash: hash.into(),
                size_bytes: size,
            }),
            digest_function: function,
            ..Default::default()
        };
        let outcome = farm.client().start_request(request).wait();
        assert_refused(outcome, Code::InvalidArgument, &[word]);
    }
    let nothing = rev2::ExecuteRequest::default();
    let outcome = farm.client().start_request(nothing).wait();
    assert_refused(outcome, Code::InvalidArgument, &["digest"]);
    leave(farm);
}

#[test]
fn actions_without_what_an_action_needs_are_refused() {
    let farm = farm();
    let client = farm.client();
    let (_, blobs) = good().blobs();
    client.upload(blobs);
    let (root, _) = Tree::new().blobs();
    let command = blob(&good().command).0;
    for (message, word) in [
        (
            rev2::Action {
                input_root_digest: Some(root.to_wire()),
                ..Default::default()
            },
            "command",
        ),
        (
            rev2::Action {
                command_digest: Some(command.to_wire()),
                ..Default::default()
            },
            "input",
        ),
    ] {
        let action = blob(&message);
        client.upload(vec![action.clone()]);
        assert_refused(client.run_digest(action.0), Code::InvalidArgument, &[word]);
    }
    let outcome = client.run(&Action::new([""; 0]));
    assert_refused(outcome, Code::InvalidArgument, &["argument"]);
    leave(farm);
}

#[test]
fn words_and_variables_that_no_program_can_get_are_refused() {
    let farm = farm();
    let client = farm.client();
    for words in [&["/bin/sh", "a\0b"][..], &["/bin/\0sh"], &[""]] {
        let outcome = client.run(&Action::new(words.iter().copied()));
        assert_refused(outcome, Code::InvalidArgument, &[]);
    }
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
        let outcome = client.run(&good().environment(name, value));
        assert_refused(outcome, Code::InvalidArgument, &["nvironment"]);
    }
    leave(farm);
}

#[test]
fn timeouts_that_are_none_are_refused() {
    let farm = farm();
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (i64::MIN, 0),
        (i64::MAX, 0),
    ] {
        let outcome = farm.client().run(&good().timeout_of(seconds, nanos));
        assert_refused(outcome, Code::InvalidArgument, &["timeout"]);
    }
    leave(farm);
}

#[test]
fn a_platform_that_nobody_serves_is_named() {
    let setup = Setup::new(As::possible()[0]);
    let farm = setup.arguments(&["--platform", "OSFamily=linux"]).start();
    let outcome = farm
        .client()
        .run(&good().platform(&[("OSFamily", "plan9")]));
    assert_refused(
        outcome,
        Code::FailedPrecondition,
        &["OSFamily", "plan9", "linux"],
    );
    // Properties must be in their order, and a name and value twice are once too often.
    for properties in [&[("b", "1"), ("a", "1")][..], &[("a", "1"), ("a", "1")]] {
        let outcome = farm.client().run(&good().platform(properties));
        assert_refused(outcome, Code::InvalidArgument, &["latform"]);
    }
    farm.wait_until_idle();
    farm.stop();
}
