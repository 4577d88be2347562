//! Bazel, on the containers of the example for the RBE image of Ubuntu 16.04.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tests::ran::Ran;
use tests::skip;

use crate::can_run;
use crate::farm::Farm;
use crate::images::project;

const BAZEL: &str = "/usr/bin/bazel-4";
const PLATFORMS: &str = "/usr/share/bazel/tools/platforms";

/// The example's own workspace, as it stands: what it asks for is what the worker of the
/// compose file has.
#[test]
fn bazel_builds_the_example_in_a_container_with_the_runner_installed() {
    let name = "bazel_builds_the_example_in_a_container_with_the_runner_installed";
    let files = [BAZEL, PLATFORMS, "/usr/bin/g++", "/usr/bin/zip"];
    if !can_run(name) || !skip::has(name, &files) {
        return;
    }
    let farm = Farm::start("rbe-ubuntu1604");
    let workspace = Workspace::new();
    let endpoint = format!("--remote_executor={}", farm.endpoint("storage"));
    let built = workspace.bazel(&["test", "--config=remote", &endpoint, "//..."]);
    let built = built.assert(0, &["//:barn_test", "PASSED"]);
    assert!(!built.text.contains("local"), "{}", built.text);
    let log = workspace
        .folder
        .path()
        .join("base/execroot/bazel_rbe_ubuntu1604");
    let log = log.join("bazel-out/k8-fastbuild/testlogs/barn_test/test.log");
    let told = fs::read_to_string(log).expect("the test's log");
    // In a sandbox, and in the container's userland.
    assert!(told.contains("sandboxed: yes"), "{told}");
    // A second client has it all from the cache.
    let second = Workspace::new();
    let again = second.bazel(&["test", "--config=remote", &endpoint, "//..."]);
    let again = again.assert(0, &["remote cache hit"]);
    assert!(!again.text.contains(" remote,"), "{}", again.text);
}

/// A copy of the example, and the client that builds it.
struct Workspace {
    folder: TempDir,
}

impl Workspace {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hayloft-bazel-")
            .tempdir()
            .expect("a folder");
        let mut copy = Command::new("cp");
        copy.arg("-r")
            .arg(project().join("examples/bazel-rbe-ubuntu1604"));
        let _ = Ran::of(copy.arg(folder.path().join("copy"))).assert(0, &[]);
        Self { folder }
    }

    fn bazel(&self, words: &[&str]) -> Ran {
        let (word, words) = words.split_first().expect("a command");
        let place = |name: &str| self.folder.path().join(name);
        fs::create_dir_all(place("home")).expect("a home");
        // What Bazel's own tools would download: tests/bazel/README.md.
        let stand_ins = [
            "remote_coverage_tools",
            "rules_cc",
            "rules_java",
            "rules_proto",
        ];
        let repositories = project().join("tests/bazel/repositories");
        let overrides = stand_ins.map(|name| {
            format!(
                "--override_repository={name}={}",
                repositories.join(name).display()
            )
        });
        let mut command = Command::new(BAZEL);
        command
            .env_clear()
            .env("HOME", place("home"))
            .env("PATH", "/usr/bin:/bin")
            .arg("--batch")
            .arg("--host_jvm_args=-Xmx512m")
            .arg(format!("--output_user_root={}", place("user").display()))
            .arg(format!("--output_base={}", place("base").display()))
            .arg(word)
            .args(overrides)
            .arg(format!("--override_repository=platforms={PLATFORMS}"))
            .args(["--symlink_prefix=/", "--nosandbox_debug"])
            .args(words)
            .current_dir(place("copy"))
            .stdin(Stdio::null());
        Ran::of(&mut command)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Bazel makes its outputs read-only, folders too.
        let mut writable = Command::new("chmod");
        let _ = writable
            .args(["-R", "u+w"])
            .arg::<&Path>(self.folder.path())
            .status();
    }
}
