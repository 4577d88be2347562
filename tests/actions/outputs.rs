//! What comes back of what a command made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;
use tests::action::Action;
use tests::client::Outcome;
use tests::farm::Farm;
use tests::tree::Tree;
use tonic::Code;

use crate::farm;

/// Fetches the outputs into a folder.
fn download(farm: &Farm, outcome: &Outcome) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    farm.client().download(outcome, folder.path());
    folder
}

/// What is in a folder: `path: text`, `path*: text` where it is executable,
/// `path -> target` for links, `path/` for folders.
fn listing(folder: &Path) -> Vec<String> {
    walkdir::WalkDir::new(folder)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.path().strip_prefix(folder).expect("below it");
            let name = name.to_string_lossy();
            if entry.file_type().is_dir() {
                return format!("{name}/");
            }
            if entry.file_type().is_symlink() {
                let target = fs::read_link(entry.path()).expect("a link");
                return format!("{name} -> {}", target.display());
            }
            let mode = entry.metadata().expect("metadata").permissions().mode();
            let mark = if mode & 0o100 == 0 { "" } else { "*" };
            let text = fs::read_to_string(entry.path()).expect("a text");
            format!("{name}{mark}: {text}")
        })
        .collect()
}

#[test]
fn files_come_back_with_their_bytes_and_mode() {
    let farm = farm();
    let script = "printf plain > plain; printf '#!' > program; chmod +x program
        printf deep > made/for/me/deep; : > empty; printf not > undeclared";
    let mut action = Action::shell(script);
    for output in [
        "plain",
        "program",
        "made/for/me/deep",
        "empty",
        "never-made",
    ] {
        action = action.output(output);
    }
    let outcome = farm.client().run(&action).success();
    let folder = download(&farm, &outcome);
    let expected = [
        "empty: ",
        "made/",
        "made/for/",
        "made/for/me/",
        "made/for/me/deep: deep",
        "plain: plain",
        "program*: #!",
    ];
    assert_eq!(listing(folder.path()), expected);
    farm.stop();
}

#[test]
fn folders_come_back_with_all_that_is_in_them() {
    let farm = farm();
    let script = "mkdir -p tree/a/b tree/empty tree/a/empty none
        printf 1 > tree/1; printf 2 > tree/a/b/2; chmod +x tree/a/b/2; cp tree/1 tree/a/b/one
        ln -s ../1 tree/a/link; ln -s /no/such/place tree/absolute; ln -s a tree/to-folder
        ln -s loop tree/loop";
    let action = Action::shell(script).output("none").output("tree");
    let outcome = farm.client().run(&action).success();
    let folder = download(&farm, &outcome);
    let expected = [
        "none/",
        "tree/",
        "tree/1: 1",
        "tree/a/",
        "tree/a/b/",
        "tree/a/b/2*: 2",
        "tree/a/b/one: 1",
        "tree/a/empty/",
        "tree/a/link -> ../1",
        "tree/absolute -> /no/such/place",
        "tree/empty/",
        "tree/loop -> loop",
        "tree/to-folder -> a",
    ];
    assert_eq!(listing(folder.path()), expected);
    farm.stop();
}

#[test]
fn links_come_back_as_links() {
    let farm = farm();
    let script = "printf x > file; mkdir folder
        ln -s file to-file; ln -s folder to-folder; ln -s no/where dangling";
    let mut action = Action::shell(script);
    for output in ["to-file", "to-folder", "dangling"] {
        action = action.output(output);
    }
    let outcome = farm.client().run(&action).success();
    let folder = download(&farm, &outcome);
    let expected = [
        "dangling -> no/where",
        "to-file -> file",
        "to-folder -> folder",
    ];
    assert_eq!(listing(folder.path()), expected);
    farm.stop();
}

#[test]
fn outputs_are_relative_to_the_working_directory() {
    let farm = farm();
    let action = Action::shell("printf x > out/x; printf y > y")
        .tree(&Tree::new().folder("some/where"))
        .working_directory("some/where")
        .output("out/x")
        .output("y");
    let outcome = farm.client().run(&action).success();
    let mut paths: Vec<_> = outcome
        .result
        .output_files
        .iter()
        .map(|file| &*file.path)
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["out/x", "y"]);
    farm.stop();
}

#[test]
#[allow(deprecated)]
fn clients_of_the_older_protocol_are_served() {
    let farm = farm();
    let mut action = Action::shell(
        "printf x > file; mkdir folder; printf y > folder/y
         ln -s file to-file; ln -s folder to-folder",
    );
    action.command.output_files = ["file", "to-file"].map(Into::into).into();
    action.command.output_directories = ["folder", "to-folder"].map(Into::into).into();
    let outcome = farm.client().run(&action).success();
    let result = &outcome.result;
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(result.output_directories.len(), 1);
    assert_eq!(result.output_file_symlinks[0].path, "to-file");
    assert_eq!(result.output_directory_symlinks[0].path, "to-folder");
    let folder = download(&farm, &outcome);
    let expected = [
        "file: x",
        "folder/",
        "folder/y: y",
        "to-file -> file",
        "to-folder -> folder",
    ];
    assert_eq!(listing(folder.path()), expected);
    farm.stop();
}

#[test]
fn outputs_of_a_command_that_failed_come_back_too() {
    let farm = farm();
    let action = Action::shell("printf why > log; exit 9").output("log");
    let outcome = farm.client().run(&action).exited(9);
    assert_eq!(listing(download(&farm, &outcome).path()), ["log: why"]);
    farm.stop();
}

#[test]
fn an_unchanged_input_can_be_an_output() {
    let farm = farm();
    let tree = Tree::new()
        .file("in/given", "given")
        .executable("program", "#!/bin/sh\n");
    let action = Action::shell("printf made > in/made")
        .tree(&tree)
        .output("in")
        .output("program");
    for _ in 0..2 {
        let outcome = farm.client().run(&action.clone().do_not_cache()).success();
        let expected = [
            "in/",
            "in/given: given",
            "in/made: made",
            "program*: #!/bin/sh\n",
        ];
        assert_eq!(listing(download(&farm, &outcome).path()), expected);
    }
    farm.stop();
}

#[test]
fn what_is_neither_file_nor_folder_nor_link_is_no_output() {
    let farm = farm();
    let action = Action::shell("mkfifo pipe; mkdir folder; mkfifo folder/pipe; : > folder/file");
    let outcome = farm.client().run(&action.clone().output("pipe"));
    let _ = outcome.refused(Code::InvalidArgument, &["pipe"]);
    // Within a folder it is left out: Directory messages cannot say it.
    let outcome = farm.client().run(&action.output("folder")).success();
    assert_eq!(
        listing(download(&farm, &outcome).path()),
        ["folder/", "folder/file: "]
    );
    farm.wait_until_idle();
    farm.stop();
}
