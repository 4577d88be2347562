//! Bazel 2.1.0, which npm's `@bazel/bazel-linux_x64` brings with a Java of its own.

use crate::client::{Workspace, has_old_bazel, leave, setup};

#[test]
fn an_older_bazel_builds_and_tests_and_finds_it_cached() {
    if !has_old_bazel("an_older_bazel_builds_and_tests_and_finds_it_cached") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm).with_old_bazel();
    let targets = [
        "//outputs:flour",
        "//outputs:loaf",
        "//outputs:links",
        "//checks:all",
    ];
    let words = [&["test"], &targets[..]].concat();
    // Two files, two trees, a list of one of them, five runs of tests and their XML.
    for (client, count, says) in [
        ("first", 15, "15 processes: 15 remote."),
        ("second", 0, "15 processes: 15 remote cache hit."),
    ] {
        let before = farm.executed();
        let build = workspace.bazel(client, &words);
        build.assert(0, &[says, "3 tests pass."]);
        let flour = workspace.read(client, "outputs/flour.txt");
        assert_eq!(flour, "GRAIN 1\nGRAIN 2\nGRAIN 3\n");
        let link = workspace.read(client, "outputs/links_tree/to_folder/odd");
        assert_eq!(link, "hay\n");
        let built = format!("Bazel 2.1.0: files, trees and tests, {client} client");
        farm.assert_executed(before, count, &built);
    }
    let words = [
        "build",
        "--keep_going",
        "//failures:odd_1",
        "//failures:even_1",
    ];
    let build = workspace.bazel("first", &words);
    build.assert(1, &["odd one 1 broke\n", "Exit 11"]);
    leave(farm);
}
