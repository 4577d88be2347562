//! What is cached, and for whom.

use tests::farm::Farm;

use crate::client::{Workspace, has_bazel, leave, setup};

/// What may be run remotely is, all else by Bazel itself.
const MIXED: [&str; 3] = [
    "build",
    "--spawn_strategy=remote,local",
    "--genrule_strategy=remote,local",
];
/// Bazel itself runs everything.
const LOCAL: [&str; 4] = [
    "build",
    "--spawn_strategy=local",
    "--genrule_strategy=local",
    "--remote_upload_local_results",
];

/// A farm whose clients write the action cache.
fn trusting() -> Farm {
    setup().arguments(&["--allow-action-cache-updates"]).start()
}

/// Whether two clients have the same of an output that is never twice the same.
fn shared(workspace: &Workspace, name: &str) -> bool {
    let [first, second] =
        ["first", "second"].map(|client| workspace.read(client, &format!("caching/{name}.txt")));
    first == second
}

/// Whether a client's output was made on the farm, where no host has its name.
fn remote(workspace: &Workspace, name: &str) -> bool {
    let made = workspace.read("first", &format!("caching/{name}.txt"));
    made.starts_with("localhost\n")
}

#[test]
fn bazels_tags_decide_what_is_cached_and_where_it_runs() {
    if !has_bazel("bazels_tags_decide_what_is_cached_and_where_it_runs") {
        return;
    }
    let farm = trusting();
    let workspace = Workspace::features(&farm);
    let words = [&MIXED[..], &["//caching:all"]].concat();
    let build = workspace.bazel("first", &words);
    build.assert(0, &["6 processes: 1 internal, 2 local, 3 remote."]);
    farm.assert_executed(0, 3, "Bazel 4.2.3: five targets, two of them for no farm");
    let build = workspace.bazel("second", &words);
    build.assert(0, &["2 remote cache hit", "1 local", "2 remote"]);
    farm.assert_executed(3, 2, "Bazel 4.2.3: the same by a second client");
    for (name, is_remote, is_shared) in [
        ("plain", true, true),
        ("no_cache", true, false),
        ("no_remote", false, false),
        // Not run remotely, but its result is uploaded.
        ("no_remote_exec", false, true),
        ("no_remote_cache", true, false),
    ] {
        assert_eq!(remote(&workspace, name), is_remote, "{name}");
        assert_eq!(shared(&workspace, name), is_shared, "{name}");
    }
    leave(farm);
}

#[test]
fn bazels_local_results_are_cached_where_that_is_allowed() {
    if !has_bazel("bazels_local_results_are_cached_where_that_is_allowed") {
        return;
    }
    let words = [&LOCAL[..], &["//caching:plain"]].concat();
    let farm = trusting();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel("first", &words);
    build.assert(0, &["2 processes: 1 internal, 1 local."]);
    let build = workspace.bazel("second", &words);
    build.assert(0, &["2 processes: 1 remote cache hit, 1 internal."]);
    assert!(shared(&workspace, "plain"));
    farm.assert_executed(0, 0, "Bazel 4.2.3: a local action, its result uploaded");
    leave(farm);

    // Where it is not, the build goes on, and says so.
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel("first", &words);
    build.assert(0, &["1 local.", "PERMISSION_DENIED"]);
    leave(farm);
}

#[test]
fn bazel_uses_a_farm_as_a_cache_alone() {
    if !has_bazel("bazel_uses_a_farm_as_a_cache_alone") {
        return;
    }
    let words = [&LOCAL[..], &["//outputs:flour", "//outputs:links"]].concat();
    let farm = trusting();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel_with_cache("first", &words);
    build.assert(0, &["4 processes: 1 internal, 3 local."]);
    let build = workspace.bazel_with_cache("second", &words);
    build.assert(0, &["4 processes: 3 remote cache hit, 1 internal."]);
    let flour = workspace.read("second", "outputs/flour.txt");
    assert_eq!(flour, "GRAIN 1\nGRAIN 2\nGRAIN 3\n");
    farm.assert_executed(0, 0, "Bazel 4.2.3: with the farm for a cache alone");
    leave(farm);

    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel_with_cache("first", &words);
    // It wants to know before it builds.
    let words = "not authorized to write local results to the remote cache";
    assert_ne!(build.code, Some(0), "{}", build.text);
    assert!(build.text.contains(words), "{}", build.text);
    // One that only reads is content.
    let reads = "--noremote_upload_local_results";
    let build = workspace.bazel_with_cache("first", &["build", reads, "//outputs:grain"]);
    build.assert(0, &[]);
    leave(farm);
}
