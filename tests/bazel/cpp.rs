//! A C++ workspace: libraries, a binary, a genrule, a tree artifact, tests that pass,
//! fail and never end. A second client finds everything in the cache, a changed header
//! rebuilds what includes it and no more. `bazel/README.md` says what each step prints.

use std::fs;
use std::process::Command;

use tests::farm::{Farm, Setup};
use tests::processes::Process;
use tests::skip::needs_root;
use tests::user::As;

use crate::client::{Workspace, has_bazel, leave};

fn remark(text: String) -> String {
    text + "// A remark.\n"
}

/// Builds and tests everything, and once more as another client.
fn two_clients(farm: &Farm, workspace: &Workspace) {
    let first = workspace.bazel("first", &["build", "//..."]);
    first.assert(0, &["47 processes: 28 internal, 19 remote."]);
    let first = workspace.bazel("first", &["test", "//..."]);
    first.assert(0, &["5 processes: 8 remote.", "4 tests pass."]);
    farm.assert_executed(0, 27, "Bazel 4.2.3: C++ workspace and its tests");
    let second = workspace.bazel("second", &["test", "//..."]);
    let second = second.assert(0, &["51 processes: 27 remote cache hit, 24 internal."]);
    assert_eq!(second.text.matches("(cached) PASSED").count(), 4);
    farm.assert_executed(27, 0, "Bazel 4.2.3: C++ workspace by a second client");
    // What it fetched is what the first one built.
    let program = |client| fs::read(workspace.output(client, "harvest")).expect("the binary");
    assert!(program("first") == program("second"));
    let printed = Command::new(workspace.output("second", "harvest"))
        .arg(workspace.file("field.txt"))
        .output()
        .expect("it runs");
    assert!(printed.stdout.starts_with(b"barley  3\nrye     2\n"));
}

/// A test that fails and one that never ends: their logs arrive, and the second
/// runs no longer.
fn faulty_tests(workspace: &Workspace) {
    let failing = ["test", "--test_output=errors", "//faulty:failing_test"];
    let says = "failing_test: counted 5 sheaves where 7 were bound";
    let failed = ["FAILED in", "1 fails remotely."];
    for _ in 0..2 {
        let build = workspace.bazel("first", &failing);
        build.assert(3, &[&[says], &failed[..]].concat());
    }
    let endless = [
        "test",
        "--test_output=errors",
        "--test_timeout=3",
        "//faulty:endless_test",
    ];
    let build = workspace.bazel("first", &endless);
    build.assert(
        3,
        &[
            "endless_test: waiting for rain",
            "TIMEOUT in",
            "1 fails remotely.",
        ],
    );
    let left = Process::mentioning("endless_test");
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn bazel_builds_on_a_farm_of_root() {
    let name = "bazel_builds_on_a_farm_of_root";
    if !needs_root(name) || !has_bazel(name) {
        return;
    }
    let farm = Setup::new(As::Root).slots(4).start();
    let workspace = Workspace::harvest(&farm);
    two_clients(&farm, &workspace);

    // One file includes it. Its object is the same, so nothing is linked.
    workspace.edit("tally/order.h", remark);
    let build = workspace.bazel("first", &["build", "//..."]);
    build.assert(0, &["2 processes: 1 internal, 1 remote."]);
    // Four include it.
    workspace.edit("words/words.h", remark);
    let build = workspace.bazel("first", &["build", "//..."]);
    build.assert(0, &["5 processes: 1 internal, 4 remote."]);
    // The object changes, its archive, and the three programs with it.
    workspace.edit("tally/order.h", |text| text.replace("kGap = 2", "kGap = 4"));
    let build = workspace.bazel("first", &["build", "//..."]);
    build.assert(0, &["7 processes: 2 internal, 5 remote."]);
    farm.assert_executed(
        27,
        10,
        "Bazel 4.2.3: C++ workspace after changes of headers",
    );
    let printed = Command::new(workspace.output("first", "harvest"))
        .arg(workspace.file("field.txt"))
        .output()
        .expect("it runs");
    assert!(printed.stdout.starts_with(b"barley    3\n"));

    faulty_tests(&workspace);
    leave(farm);
}

#[test]
fn bazel_builds_on_a_farm_of_a_plain_user() {
    if !has_bazel("bazel_builds_on_a_farm_of_a_plain_user") {
        return;
    }
    let farm = Setup::new(As::PlainUser).slots(4).start();
    let workspace = Workspace::harvest(&farm);
    two_clients(&farm, &workspace);
    faulty_tests(&workspace);
    leave(farm);
}
