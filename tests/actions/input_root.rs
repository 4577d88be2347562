//! Farms whose actions see their input root as `/`, and nothing of the host's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tests::action::Action;
use tests::elf;
use tests::farm::{Farm, Setup};
use tests::seal::Seal;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;
use tonic::Code;

fn input_farm(who: As) -> Farm {
    Setup::new(who).arguments(&["--root", "input"]).start()
}

/// An input root of the probe and of the libraries that it is linked to, where
/// it looks for them.
fn userland() -> Tree {
    let probe = tests::program("probe");
    let mut tree = Tree::new().executable("bin/probe", fs::read(&probe).expect("the probe"));
    let output = Command::new("ldd").arg(&probe).output().expect("ldd");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    // `NAME => PATH (ADDRESS)`, and `PATH (ADDRESS)` for the loader.
    let libraries = output
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    for library in libraries {
        let bytes = fs::read(&library).expect("a library");
        let path = library.to_str().expect("UTF-8").trim_start_matches('/');
        tree = tree.executable(path, bytes);
    }
    tree
}

#[test]
fn one_static_program_is_input_root_enough() {
    for who in As::possible() {
        let farm = input_farm(*who);
        let tree = Tree::new().executable("tool", elf::tiny(23, 0, 0));
        for word in ["/tool", "./tool", "tool"] {
            let action = Action::new([word]).environment("PATH", "/").tree(&tree);
            let _ = farm.client().run(&action).exited(23);
        }
        // There is no other program.
        let outcome = farm.client().run(&Action::shell("exit 0").tree(&tree));
        let _ = outcome.refused(Code::InvalidArgument, &["/bin/sh"]);
        farm.wait_until_idle();
        farm.stop();
    }
}

#[test]
fn the_input_root_is_the_root_directory_and_its_user_is_root() {
    for who in As::possible() {
        let farm = input_farm(*who);
        let run = |words: &[&str]| {
            let words = ["/bin/probe"].iter().chain(words).copied();
            let action = Action::new(words).tree(&userland()).do_not_cache();
            farm.client().run(&action).success().stdout
        };
        let names = run(&["list", "/"]);
        let mut names: Vec<_> = names.lines().collect();
        names.retain(|name| !name.starts_with("lib"));
        assert_eq!(names, ["bin", "dev", "proc", "tmp"]);
        assert_eq!(run(&["list", "/bin"]), "probe\n");
        assert_eq!(run(&["list", "/tmp"]), "");
        assert_eq!(run(&["whoami"]), "0 0\n");
        farm.wait_until_idle();
        farm.stop();
    }
}

#[test]
fn outputs_come_from_the_root_and_below() {
    for who in As::possible() {
        let farm = input_farm(*who);
        let action = Action::new(["/bin/probe", "write", "/made/file", "text"])
            .tree(&userland())
            .output("made");
        let outcome = farm.client().run(&action).success();
        let folder = tempfile::tempdir().expect("a folder");
        farm.client().download(&outcome, folder.path());
        let made = fs::read_to_string(folder.path().join("made/file"));
        assert_eq!(made.expect("the output"), "text");
        // What the sandbox supplies is no output.
        let action = action.output("dev").output("proc").output("tmp");
        let outcome = farm.client().run(&action).success();
        let names = outcome.result.output_directories.iter();
        let names: Vec<_> = names.map(|directory| &*directory.path).collect();
        assert!(
            names.contains(&"made") && !names.contains(&"proc"),
            "{names:?}"
        );
        farm.stop();
    }
}

/// In a root of few files too, which elsewhere is linked and can only be replaced.
#[test]
fn inputs_may_be_written_and_nobody_else_sees_it() {
    const BUSYBOX: &str = "/bin/busybox";
    if !skip::has("inputs_may_be_written_and_nobody_else_sees_it", &[BUSYBOX]) {
        return;
    }
    for who in As::possible() {
        let farm = input_farm(*who);
        let tree = Tree::new()
            .executable("bin/sh", fs::read(BUSYBOX).expect("a shell"))
            .link("bin/busybox", "sh")
            .file("etc/hosts", "one\n")
            .executable("etc/script", "#!/bin/sh\n");
        let see = Action::new(["/bin/sh", "-c", "busybox cat /etc/hosts /etc/script"]).tree(&tree);
        let write = "echo two >> /etc/hosts; : > /etc/script; rm /bin/sh";
        let write = Action::new(["/bin/sh", "-c", write])
            .tree(&tree)
            .output("etc");
        let see = see.environment("PATH", "/bin").do_not_cache();
        let before = farm.client().run(&see).success();
        assert_eq!(before.stdout, "one\n#!/bin/sh\n", "{before:#?}");
        let seal = Seal::record(&farm.cache());
        let outcome = farm.client().run(&write).success();
        let folder = tempfile::tempdir().expect("a folder");
        farm.client().download(&outcome, folder.path());
        let read = |name| fs::read_to_string(folder.path().join(name)).expect("an output");
        assert_eq!(
            (&*read("etc/hosts"), &*read("etc/script")),
            ("one\ntwo\n", "")
        );
        let after = farm.client().run(&see).success();
        assert_eq!(after.stdout, before.stdout);
        seal.check();
        farm.stop();
    }
}
