//! Bazel 4.2.3 builds and tests the C++ workspace of `bazel/` on a farm: libraries,
//! a binary, a genrule, a tree artifact, tests that pass, fail and never end. A
//! second client finds everything in the cache, a changed header rebuilds what
//! includes it and no more. `bazel/README.md` says what each step must print.
//!
//! Bazel comes from Debian's packages: with `HAYLOFT_INSTALL=1` these tests install
//! it, else they skip where it is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::farm::{Farm, Setup};
use tests::processes::Process;
use tests::seal::Seal;
use tests::skip::{may_install, needs_root, skip};
use tests::user::As;
use tests::wait::wait_for;

const BAZEL: &str = "/usr/bin/bazel-4";
const NEEDED: [&str; 3] = [
    BAZEL,
    "/usr/share/bazel/tools/platforms/WORKSPACE",
    "/usr/bin/g++",
];

/// Whether there is a Bazel, after it was installed where that is allowed.
fn has_bazel(test: &str) -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    let is_there = || NEEDED.iter().all(|file| Path::new(file).exists());
    let has = *HAS.get_or_init(|| {
        if !is_there() && may_install() {
            let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install-clients");
            let status = Command::new(installer)
                .status()
                .expect("the installer runs");
            assert!(status.success() && is_there(), "Bazel cannot be installed");
        }
        is_there()
    });
    if !has {
        skip(
            test,
            "needs Debian's bazel-bootstrap, bazel-platforms and g++",
        );
    }
    has
}

/// A copy of the workspace, and the clients that build in it.
struct Workspace {
    folder: TempDir,
    endpoint: String,
}

/// How Bazel ended and what it printed.
struct Build {
    code: Option<i32>,
    text: String,
}

impl Build {
    /// Checks the exit code and that these words are in what Bazel printed.
    fn assert(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for word in words {
            assert!(self.text.contains(word), "no {word:?} in:\n{}", self.text);
        }
        self
    }
}

impl Workspace {
    fn copy(farm: &Farm) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hayloft-bazel-")
            .tempdir()
            .expect("a folder");
        let status = Command::new("cp")
            .arg("-r")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bazel"))
            .arg(folder.path().join("copy"))
            .status();
        assert!(status.expect("cp runs").success());
        Self {
            folder,
            endpoint: farm.endpoint().into(),
        }
    }

    fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("copy/workspace").join(path)
    }

    /// Bazel as one of several clients, each with a home and outputs of its own.
    fn bazel(&self, client: &str, words: &[&str]) -> Build {
        let client = self.folder.path().join(client);
        fs::create_dir_all(client.join("home")).expect("a home");
        let (command, words) = words.split_first().expect("a command");
        let output = Command::new(BAZEL)
            .env_clear()
            .env("HOME", client.join("home"))
            .env("PATH", "/usr/bin:/bin")
            .arg(format!(
                "--output_user_root={}",
                client.join("user").display()
            ))
            .arg(format!("--output_base={}", client.join("base").display()))
            .args([command, "--config=remote"])
            .arg(format!("--remote_executor={}", self.endpoint))
            .args(words)
            .current_dir(self.file(""))
            .output()
            .expect("Bazel runs");
        let text = [output.stdout, output.stderr].concat();
        Build {
            code: output.status.code(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }

    /// What a client has built.
    fn output(&self, client: &str, path: &str) -> PathBuf {
        let outputs = "base/execroot/harvest/bazel-out/k8-fastbuild/bin";
        self.folder.path().join(client).join(outputs).join(path)
    }

    /// Changes a source file.
    fn edit(&self, path: &str, change: impl FnOnce(String) -> String) {
        let before = fs::read_to_string(self.file(path)).expect("a source file");
        let after = change(before.clone());
        assert_ne!(before, after, "nothing was changed");
        fs::write(self.file(path), after).expect("the changed file");
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Bazel makes its outputs read-only, folders too.
        let _ = Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(self.folder.path())
            .status();
    }
}

fn remark(text: String) -> String {
    text + "// A remark.\n"
}

/// Builds and tests everything, and once more as another client.
fn two_clients(workspace: &Workspace) {
    let first = workspace.bazel("first", &["build", "//..."]);
    first.assert(0, &["47 processes: 28 internal, 19 remote."]);
    let first = workspace.bazel("first", &["test", "//..."]);
    first.assert(0, &["5 processes: 8 remote.", "4 tests pass."]);
    let second = workspace.bazel("second", &["test", "//..."]);
    let second = second.assert(0, &["51 processes: 27 remote cache hit, 24 internal."]);
    assert_eq!(second.text.matches("(cached) PASSED").count(), 4);
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

fn leave(farm: Farm) {
    farm.wait_until_idle();
    Seal::record(&farm.cache()).check();
    farm.stop();
}

#[test]
fn bazel_builds_on_a_farm_of_root() {
    let name = "bazel_builds_on_a_farm_of_root";
    if !needs_root(name) || !has_bazel(name) {
        return;
    }
    let farm = Setup::new(As::Root).slots(4).start();
    let workspace = Workspace::copy(&farm);
    two_clients(&workspace);

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
    let workspace = Workspace::copy(&farm);
    two_clients(&workspace);
    faulty_tests(&workspace);
    leave(farm);
}

/// Genrules that take a second each, and one thing that needs all of them.
fn add_slow_package(workspace: &Workspace) {
    let folder = workspace.file("slow");
    fs::create_dir(&folder).expect("a package");
    let rules = r#"
[genrule(
    name = "part_%d" % number,
    outs = ["%d.txt" % number],
    cmd = "sleep 1; echo %d > $@" % number,
) for number in range(24)]

genrule(
    name = "whole",
    srcs = [":part_%d" % number for number in range(24)],
    outs = ["whole.txt"],
    cmd = "cat $(SRCS) > $@",
)
"#;
    fs::write(folder.join("BUILD"), rules).expect("its rules");
}

#[test]
fn bazel_builds_on_while_the_scheduler_is_killed_and_nothing_runs_twice() {
    let name = "bazel_builds_on_while_the_scheduler_is_killed_and_nothing_runs_twice";
    if !has_bazel(name) {
        return;
    }
    let farm = Setup::new(As::possible()[0])
        .slots(4)
        .environment("HAYLOFT_LOG", "info,worker=debug")
        .start();
    let workspace = Workspace::copy(&farm);
    add_slow_package(&workspace);
    std::thread::scope(|scope| {
        let build = scope.spawn(|| workspace.bazel("first", &["build", "//slow:whole"]));
        for enough in [4, 12] {
            wait_for("actions to run", || {
                (farm.executions().len() >= enough).then_some(())
            });
            let scheduler = farm.role("scheduler");
            kill(Pid::from_raw(scheduler.pid), Signal::SIGKILL).expect("it is there");
            wait_for("its end", || (!scheduler.is_there()).then_some(()));
        }
        let build = build.join().expect("Bazel ends");
        build.assert(0, &["26 processes: ", "Build completed successfully"]);
    });
    let whole = fs::read_to_string(workspace.output("first", "slow/whole.txt"));
    assert_eq!(whole.expect("it is built").lines().count(), 24);
    let executions = farm.executions();
    assert_eq!(executions.len(), 25);
    assert!(
        executions.values().all(|count| *count == 1),
        "{executions:#?}"
    );
    // Twice a scheduler took over what it found.
    let adopted = farm.log().matches("adopted what a worker executes").count();
    assert!(adopted >= 2, "{adopted} were adopted:\n{}", farm.log());
    leave(farm);
}

#[test]
fn bazel_is_told_which_platform_a_farm_lacks() {
    if !has_bazel("bazel_is_told_which_platform_a_farm_lacks") {
        return;
    }
    let platform = ["--platform", "ISA=x86-64", "--platform", "OSFamily=plan9"];
    let farm = Setup::new(As::possible()[0]).arguments(&platform).start();
    let workspace = Workspace::copy(&farm);
    let build = workspace.bazel("first", &["build", "//tools:all"]);
    assert_ne!(build.code, Some(0), "{}", build.text);
    for word in ["OSFamily", "plan9", "linux"] {
        assert!(build.text.contains(word), "no {word:?} in:\n{}", build.text);
    }
    leave(farm);
}
