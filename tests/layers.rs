//! Input roots over layers: what actions see and may do there, what becomes of
//! their outputs, and that nothing of it reaches the cache or another action. Only
//! farms of root's have them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::action::Action;
use tests::client::{Client, Outcome};
use tests::elf;
use tests::farm::{Farm, Setup};
use tests::seal::Seal;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;
use walkdir::WalkDir;

/// Enough files that a root of them is laid over a layer.
fn inputs() -> Tree {
    let mut tree = Tree::new()
        .executable("in/tool", elf::tiny(17, 1, 8192))
        .link("in/link", "0")
        .folder("in/sub/empty");
    for n in 0..150 {
        tree = tree.file(&format!("in/{n}"), format!("file {n}\n"));
        tree = tree.file(&format!("in/sub/{n}"), format!("nested {n}\n"));
    }
    tree
}

fn layers(farm: &Farm) -> Vec<String> {
    let Ok(entries) = fs::read_dir(farm.build().join("layers")) else {
        return Vec::new();
    };
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.flatten().map(name).collect()
}

/// Inode, mode, owner, group, links, size, modification and change time of every
/// file of a cache: overlays leave even the last alone.
type Audit = BTreeMap<String, (u64, u32, u32, u32, u64, u64, [i64; 4])>;

fn audit(cache: &Path) -> Audit {
    WalkDir::new(cache)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let stat = entry.metadata().expect("a cached file");
            let times = [
                stat.mtime(),
                stat.mtime_nsec(),
                stat.ctime(),
                stat.ctime_nsec(),
            ];
            let facts = (
                stat.ino(),
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.nlink(),
                stat.size(),
                times,
            );
            (entry.path().display().to_string(), facts)
        })
        .collect()
}

/// Puts a layer there, and says what an action sees in it.
fn look(farm: &Farm) -> String {
    let script = "
        set -e
        find in -type f | sort | xargs sha256sum
        find in -printf '%p %y %m %U %G %l\\n' | sort
        ./in/tool || echo tool: $?";
    let action = Action::shell(script).tree(&inputs()).do_not_cache();
    farm.client().run(&action).success().stdout
}

fn run(client: &Client, script: &str, outputs: &[&str]) -> Outcome {
    let mut action = Action::shell(script).tree(&inputs()).do_not_cache();
    for output in outputs {
        action = action.output(output);
    }
    client.run(&action).success()
}

/// The outputs of an action: `d`, `l TARGET`, or a file's content.
fn outputs(client: &Client, outcome: &Outcome) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    client.download(outcome, folder.path());
    WalkDir::new(folder.path())
        .min_depth(1)
        .into_iter()
        .map(|entry| {
            let entry = entry.expect("an output");
            let path = entry.path().strip_prefix(folder.path()).expect("below");
            let kind = entry.file_type();
            let what = if kind.is_dir() {
                "d".into()
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).expect("a link");
                format!("l {}", target.display())
            } else {
                let bytes = fs::read(entry.path()).expect("a file");
                String::from_utf8_lossy(&bytes).into_owned()
            };
            (path.display().to_string(), what)
        })
        .collect()
}

#[test]
fn what_an_action_does_to_its_inputs_is_its_own() {
    if !skip::needs_root("what_an_action_does_to_its_inputs_is_its_own") {
        return;
    }
    let farm = Farm::start(As::Root);
    let before = look(&farm);
    assert!(before.contains("tool: 17"), "{before}");
    let placed = layers(&farm);
    assert_eq!(placed.len(), 1, "{placed:?}");
    farm.wait_until_idle();
    let seal = Seal::record(&farm.cache());
    let recorded = audit(&farm.cache());
    assert!(recorded.len() > 300);
    // Every one of these succeeds: the inputs are the action's.
    let script = "
        set -e
        echo beside > in/beside; mkdir in/sub/new; echo deep > in/sub/new/file
        chmod 600 in/0; echo more >> in/0; test \"$(cat in/0)\" = \"file 0
more\"
        chmod 777 in/1; touch -d @1 in/1; : > in/1
        mv in/2 in/moved; mv in/3 in/sub/3; ln in/4 in/linked; chmod 644 in/4; echo x >> in/linked
        rm in/5; ln -sf ../6 in/5; rm -r in/sub/empty; mkdir in/sub/empty
        rm in/7; mkdir in/7; echo in > in/7/file
        chmod 700 in/tool; cp in/tool in/again; ./in/again || test $? = 17
        chmod 0 in/sub; chmod 755 in/sub
        if mv in/sub/10 in/sub/11; then test ! -e in/sub/10; fi
        chmod 644 in/sub/12; truncate -s 0 in/sub/12; setfattr -n user.x -v y in/sub/13 2>/dev/null || true
        rm -rf in/sub; test ! -e in/sub";
    for _ in 0..2 {
        let _ = run(farm.client(), script, &[]);
    }
    farm.wait_until_idle();
    seal.check();
    assert_eq!(audit(&farm.cache()), recorded);
    assert_eq!(look(&farm), before);
    assert_eq!(layers(&farm), placed);
    farm.stop();
}

#[test]
fn outputs_in_reused_subtrees_are_collected_as_the_action_left_them() {
    if !skip::needs_root("outputs_in_reused_subtrees_are_collected_as_the_action_left_them") {
        return;
    }
    let farm = Farm::start(As::Root);
    let _ = look(&farm);
    // Single files in the midst of inputs, changed, untouched, removed, moved, new.
    let script = "
        echo changed > in/new.o; chmod 644 in/0; echo more >> in/0; rm in/1
        mv in/2 in/sub/moved; mkdir -p in/made/deep; echo made > in/made/deep/file
        rm in/3; mkdir in/3; echo in > in/3/file; ln -s 4 in/soft
        rm -r in/sub/empty; mkdir in/sub/empty; chmod 0 in/made/deep/file in/made/deep";
    let wanted = [
        "in/new.o",
        "in/0",
        "in/1",
        "in/2",
        "in/sub/moved",
        "in/made",
        "in/3",
        "in/soft",
        "in/5",
        "in/sub/empty",
        "in/link",
        "other/none",
    ];
    let outcome = run(farm.client(), script, &wanted);
    let found = outputs(farm.client(), &outcome);
    let expected: BTreeMap<String, String> = [
        ("in", "d"),
        ("in/0", "file 0\nmore\n"),
        ("in/3", "d"),
        ("in/3/file", "in\n"),
        ("in/5", "file 5\n"),
        ("in/link", "l 0"),
        ("in/made", "d"),
        ("in/made/deep", "d"),
        ("in/made/deep/file", "made\n"),
        ("in/new.o", "changed\n"),
        ("in/soft", "l 4"),
        ("in/sub", "d"),
        ("in/sub/empty", "d"),
        ("in/sub/moved", "file 2\n"),
    ]
    .map(|(path, what)| (path.into(), what.into()))
    .into();
    assert_eq!(found, expected);
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn an_output_directory_that_is_a_reused_subtree_is_whole() {
    if !skip::needs_root("an_output_directory_that_is_a_reused_subtree_is_whole") {
        return;
    }
    let farm = Farm::start(As::Root);
    let _ = look(&farm);
    let script = "
        rm in/sub/0; rm in/sub/1; echo other > in/sub/1; echo new > in/sub/new; rm -r in/sub/empty
        rm in/sub/2; mkdir in/sub/2; echo in > in/sub/2/file; rm in/link; mv in/3 in/4";
    let found = outputs(farm.client(), &run(farm.client(), script, &["in"]));
    let text = |path: &str| found.get(&format!("in/{path}")).map(|text| &**text);
    for absent in ["sub/0", "sub/empty", "link", "3"] {
        assert_eq!(text(absent), None, "{absent}");
    }
    for (path, what) in [
        ("sub/1", "other\n"),
        ("sub/new", "new\n"),
        ("sub/2", "d"),
        ("sub/2/file", "in\n"),
        ("4", "file 3\n"),
    ] {
        assert_eq!(text(path), Some(what), "{path}");
    }
    for n in 5..150 {
        assert_eq!(text(&n.to_string()), Some(&*format!("file {n}\n")));
        assert_eq!(text(&format!("sub/{n}")), Some(&*format!("nested {n}\n")));
    }
    // The same once more, of a directory that replaced one of the inputs'.
    let script = "rm -r in/sub; mkdir in/sub; echo only > in/sub/only";
    let found = outputs(
        farm.client(),
        &run(farm.client(), script, &["in/sub", "in/sub/7"]),
    );
    let found: Vec<_> = found.into_iter().collect();
    let expected = [("in", "d"), ("in/sub", "d"), ("in/sub/only", "only\n")];
    assert_eq!(
        found,
        expected.map(|(path, what)| (path.into(), what.into()))
    );
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn actions_over_the_same_layers_do_not_see_one_another() {
    if !skip::needs_root("actions_over_the_same_layers_do_not_see_one_another") {
        return;
    }
    let farm = Setup::new(As::Root).slots(4).start();
    let before = look(&farm);
    let recorded = audit(&farm.cache());
    thread::scope(|scope| {
        for me in 0..12 {
            let client = farm.client().clone();
            scope.spawn(move || {
                let script = format!(
                    "set -e
                    test \"$(cat in/0)\" = 'file 0'; chmod 644 in/0; rm in/1
                    for n in $(seq 100); do
                        echo {me} > in/0; echo {me} > in/1
                        test $(cat in/0 in/1 | sort -u) = {me}; rm in/1
                    done; echo {me} > in/mine"
                );
                let outcome = run(&client, &script, &["in/mine", "in/1"]);
                let found = outputs(&client, &outcome);
                assert_eq!(found["in/mine"], format!("{me}\n"));
                assert!(!found.contains_key("in/1"));
            });
        }
    });
    farm.wait_until_idle();
    assert_eq!(audit(&farm.cache()), recorded);
    assert_eq!(look(&farm), before);
    farm.stop();
}

#[test]
fn roots_that_are_nearly_alike_share_a_layer() {
    if !skip::needs_root("roots_that_are_nearly_alike_share_a_layer") {
        return;
    }
    let farm = Farm::start(As::Root);
    let _ = look(&farm);
    let placed = layers(&farm);
    let tree = inputs()
        .file("in/0", "another")
        .file("in/sub/more/file", "more");
    let action = Action::shell("cat in/0 in/sub/more/file; ls in | wc -l; cat in/1")
        .tree(&tree)
        .do_not_cache();
    let seen = farm.client().run(&action).success().stdout;
    assert_eq!(seen, "anothermore153\nfile 1\n");
    assert_eq!(layers(&farm), placed);
    assert!(look(&farm).contains("in/0 f 444 1000 1000"));
    farm.stop();
}

#[test]
fn a_worker_that_was_killed_makes_its_layers_anew() {
    if !skip::needs_root("a_worker_that_was_killed_makes_its_layers_anew") {
        return;
    }
    let farm = Farm::start(As::Root);
    let before = look(&farm);
    let inodes = |farm: &Farm| {
        let names = layers(farm).into_iter();
        let inode = |name| fs::metadata(farm.build().join("layers").join(name));
        let inodes: Vec<_> = names.filter_map(|name| inode(name).ok()).collect();
        inodes
            .iter()
            .map(MetadataExt::ctime_nsec)
            .collect::<Vec<_>>()
    };
    let placed = inodes(&farm);
    let worker = Pid::from_raw(farm.role("worker").pid);
    kill(worker, Signal::SIGKILL).expect("the worker is there");
    assert_eq!(look(&farm), before);
    assert_ne!(inodes(&farm), placed);
    Seal::record(&farm.cache()).check();
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn an_input_root_that_is_the_root_directory_can_be_laid_over_layers() {
    if !skip::needs_root("an_input_root_that_is_the_root_directory_can_be_laid_over_layers") {
        return;
    }
    let farm = Setup::new(As::Root).arguments(&["--root", "input"]).start();
    for _ in 0..3 {
        let action = Action::new(["/in/tool"]).tree(&inputs()).do_not_cache();
        let action = action.output("in/7").output("dev");
        let outcome = farm.client().run(&action).exited(17);
        assert!(outcome.result.output_directories.is_empty());
        assert_eq!(outcome.result.output_files.len(), 1);
    }
    assert_eq!(layers(&farm).len(), 1);
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn an_action_that_renames_input_directories_can_do_without_layers() {
    if !skip::needs_root("an_action_that_renames_input_directories_can_do_without_layers") {
        return;
    }
    let farm = Farm::start(As::Root);
    let client = farm.client();
    let _ = look(&farm);
    let rename = "perl -e 'rename(q(in/sub), q(moved)) or print qq($!\\n)'; cat moved/7 in/sub/7";
    let action = |value: &str| {
        let action = Action::shell(rename).tree(&inputs()).do_not_cache();
        action.platform(&[("input_root_layers", value)])
    };
    // As on overlays in general, whose tools then copy.
    let outcome = client.run(&action("true"));
    assert_eq!(outcome.stdout, "Invalid cross-device link\nnested 7\n");
    let outcome = client.run(&action("false"));
    assert_eq!(outcome.stdout, "nested 7\n", "{outcome:#?}");
    let outcome = client.run(&action("perhaps"));
    assert_eq!(outcome.status.code(), tonic::Code::InvalidArgument);
    farm.stop();
}
