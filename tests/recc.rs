//! Compilations as recc sends them: no package has recc, so its actions are made here
//! as its `src/actionbuilder.cpp` makes them and go the way its
//! `src/remoteexecutionclient.cpp` takes: GetActionResult, upload, Execute.
//!
//! Two shapes: that of REv2.0 (2021 and before; today with `RECC_REAPI_VERSION=2.0`),
//! with `output_files`, `output_directories` and the platform in the Command alone; and
//! today's, with `output_paths`, the platform in both, and a salt where one is wanted.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use prost::Message;
use proto::wire::rev2;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use tests::action::Action;
use tests::client::{Client, Outcome};
use tests::farm::{Farm, Setup};
use tests::processes::Process;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;
use tests::wait::wait_for;
use tonic::Code;

const PLATFORM: [(&str, &str); 2] = [("ISA", "x86-64"), ("OSFamily", "linux")];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Old,
    New,
}

fn farm() -> Farm {
    let platform = ["--platform", "OSFamily=linux", "--platform", "ISA=x86-64"];
    let setup = Setup::new(As::possible()[0]).arguments(&platform);
    setup.start()
}

fn has_compiler(test: &str) -> bool {
    skip::has(test, &["/usr/bin/g++"])
}

/// A library and a program, in the folders below which recc puts what a command names
/// by `../src`: the working directory is as much of the client's as that takes.
fn sources() -> Tree {
    Tree::new()
        .file("src/scythe.h", "int edge();\n")
        .file(
            "src/scythe.cc",
            "#include \"scythe.h\"\nint edge() { return 42; }\n",
        )
        .file(
            "src/main.cc",
            "#include \"scythe.h\"\n#include <cstdio>\n\
             int main() { std::printf(\"edge %d\\n\", edge()); }\n",
        )
        .folder("build")
}

/// A command that recc sends, with the products that it may have.
fn action(shape: Shape, words: &[&str], tree: &Tree, files: &[&str], folders: &[&str]) -> Action {
    let mut action = Action::new(words.iter().copied())
        .tree(tree)
        .environment("PATH", "/usr/bin:/bin")
        .working_directory("build");
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let platform = action.clone().platform(&PLATFORM);
    #[allow(deprecated)]
    {
        action.command.platform = platform.command.platform;
        match shape {
            Shape::Old => {
                action.command.output_files = owned(files);
                action.command.output_directories = owned(folders);
            }
            Shape::New => {
                action.command.output_paths = owned(&[files, folders].concat());
                action.message.platform = platform.message.platform;
                action.message.salt = "summer".into();
            }
        }
    }
    action
}

/// Asks the action cache, as recc does before all else.
fn known(client: &Client, action: &Action) -> Option<rev2::ActionResult> {
    let (digest, _) = action.blobs();
    let request = rev2::GetActionResultRequest {
        action_digest: Some(digest.to_wire()),
        ..Default::default()
    };
    let mut cache = ActionCacheClient::new(client.inner().channel());
    match client.block_on(cache.get_action_result(request)) {
        Ok(result) => Some(result.into_inner()),
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
            None
        }
    }
}

/// Runs an action that nobody has run, and checks that it is known afterwards.
fn run(client: &Client, action: &Action) -> Outcome {
    assert_eq!(known(client, action), None);
    let outcome = client.run(action).success();
    let result = known(client, action).expect("the result is cached");
    assert_eq!(result.output_files, outcome.result.output_files);
    assert_eq!(result.output_directories, outcome.result.output_directories);
    outcome
}

fn builds_a_program(shape: Shape) {
    let farm = farm();
    let client = farm.client();
    let mut tree = sources();
    for name in ["main", "scythe"] {
        let (source, object) = (format!("../src/{name}.cc"), format!("{name}.o"));
        let words = ["/usr/bin/g++", "-MMD", "-c", &source, "-o", &object];
        // recc names what a compiler might leave, whether it does or not.
        let notes = [format!("{name}.d"), format!("{name}.gcno")];
        let mut products = vec![&*notes[0], &*notes[1], &object];
        products.sort_unstable();
        let outcome = run(client, &action(shape, &words, &tree, &products, &[]));
        let paths: Vec<_> = outcome
            .result
            .output_files
            .iter()
            .map(|file| &*file.path)
            .collect();
        assert_eq!(paths, [&*notes[0], &object], "{outcome:#?}");
        let dependencies = client.fetch(outcome.output(&notes[0]).digest.as_ref().expect("one"));
        let dependencies = String::from_utf8_lossy(&dependencies);
        assert!(dependencies.contains("../src/scythe.h"), "{dependencies}");
        let object_file = client.fetch(outcome.output(&object).digest.as_ref().expect("one"));
        tree = tree.file(&format!("build/{object}"), object_file);
    }
    let words = ["/usr/bin/g++", "main.o", "scythe.o", "-o", "../bin/harvest"];
    let link = action(shape, &words, &tree.folder("bin"), &["../bin/harvest"], &[]);
    let outcome = run(client, &link);
    let program = outcome.output("../bin/harvest");
    assert!(program.is_executable);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("harvest");
    fs::write(&path, client.fetch(program.digest.as_ref().expect("one"))).expect("a program");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    let printed = Command::new(path).output().expect("it runs");
    assert_eq!(printed.stdout, b"edge 42\n");
    farm.assert_executed(
        0,
        3,
        &format!("recc's {shape:?} shape: two objects and a program"),
    );
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn a_program_is_built_by_reccs_old_actions() {
    if has_compiler("a_program_is_built_by_reccs_old_actions") {
        builds_a_program(Shape::Old);
    }
}

#[test]
fn a_program_is_built_by_reccs_new_actions() {
    if has_compiler("a_program_is_built_by_reccs_new_actions") {
        builds_a_program(Shape::New);
    }
}

#[test]
fn folders_that_recc_is_told_to_fetch_come_as_trees() {
    let farm = farm();
    let client = farm.client();
    for shape in [Shape::Old, Shape::New] {
        // RECC_OUTPUT_DIRECTORIES_OVERRIDE, and RECC_FORCE_REMOTE for any command.
        let script =
            "mkdir -p ../out/deep && echo hay > ../out/deep/file && ln -s deep ../out/link";
        let words = ["/bin/sh", "-c", script];
        let outcome = run(client, &action(shape, &words, &sources(), &[], &["../out"]));
        let result = &outcome.result;
        assert!(result.output_files.is_empty(), "{result:#?}");
        let [directory] = &result.output_directories[..] else {
            panic!("{result:#?}");
        };
        assert_eq!(directory.path, "../out");
        // recc takes the Tree apart by itself.
        let tree = client.fetch(directory.tree_digest.as_ref().expect("a tree"));
        let tree = rev2::Tree::decode(tree).expect("a Tree");
        let root = tree.root.expect("a root");
        let names: Vec<_> = root.directories.iter().map(|node| &*node.name).collect();
        assert_eq!(names, ["deep"]);
        assert_eq!(
            (&*root.symlinks[0].name, &*root.symlinks[0].target),
            ("link", "deep")
        );
        let [deep] = &tree.children[..] else {
            panic!("{:#?}", tree.children);
        };
        let file = deep.files[0].digest.as_ref().expect("a digest");
        assert_eq!(client.fetch(file), "hay\n");
    }
    farm.assert_executed(0, 2, "recc's shapes: a folder");
    farm.stop();
}

#[test]
fn reccs_failing_compilation_is_told_and_not_kept() {
    if !has_compiler("reccs_failing_compilation_is_told_and_not_kept") {
        return;
    }
    let farm = farm();
    let client = farm.client();
    let tree = sources().file("src/blunt.cc", "int main() { return edge }\n");
    for shape in [Shape::Old, Shape::New] {
        let words = ["/usr/bin/g++", "-c", "../src/blunt.cc", "-o", "blunt.o"];
        let action = action(shape, &words, &tree, &["blunt.o"], &[]);
        assert_eq!(known(client, &action), None);
        let outcome = client.run(&action).exited(1);
        assert!(
            outcome.stderr.contains("../src/blunt.cc:1:21: error: "),
            "{outcome:#?}"
        );
        assert!(outcome.result.output_files.is_empty());
        assert_eq!(known(client, &action), None);
    }
    farm.assert_executed(0, 2, "recc's shapes: a compilation that fails");
    farm.stop();
}

#[test]
fn recc_that_is_interrupted_cancels_what_it_runs() {
    let farm = farm();
    let client = farm.client();
    for shape in [Shape::Old, Shape::New] {
        let words = ["/bin/sleep", "86387"];
        let action = action(shape, &words, &sources(), &["never.o"], &[]);
        let running = client.start(&action);
        let sleeps = || Process::running(farm.pid(), &words);
        wait_for("the command", || sleeps().pop());
        let _ = running.cancel().refused(Code::Cancelled, &[]);
        wait_for("its end", || sleeps().is_empty().then_some(()));
    }
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn recc_in_the_root_of_its_project_names_it_by_a_dot() {
    let farm = farm();
    let client = farm.client();
    for shape in [Shape::Old, Shape::New] {
        let words = ["/bin/sh", "-c", "cat src/scythe.h > scythe.txt"];
        let mut action = action(shape, &words, &sources(), &["scythe.txt"], &[]);
        action.command.working_directory = ".".into();
        let outcome = run(client, &action);
        let file = outcome.output("scythe.txt").digest.as_ref().expect("one");
        assert_eq!(client.fetch(file), "int edge();\n");
    }
    // What recc does not say is not made up: no platform, no such farm.
    let mut action = Action::shell("exit 0");
    action = action.timeout(Duration::from_secs(10));
    let _ = client
        .run(&action)
        .refused(Code::FailedPrecondition, &["OSFamily"]);
    farm.stop();
}
