//! The bare runner, whose actions bring their whole file system.

use std::fs;

use tests::action::Action;
use tests::tree::Tree;

use crate::can_run;
use crate::farm::Farm;
use crate::images::BUSYBOX;

/// All that an action has is what it brought, and what the sandbox supplies.
#[test]
fn the_bare_image_runs_actions_that_bring_their_userland() {
    if !can_run("the_bare_image_runs_actions_that_bring_their_userland") {
        return;
    }
    let farm = Farm::start("buildstream");
    let platform = farm.platform();
    let platform: Vec<_> = platform
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let applets = ["sh", "cat", "id", "ls", "test"];
    let userland = applets.into_iter().fold(
        Tree::new()
            .executable("bin/busybox", fs::read(BUSYBOX).expect("busybox"))
            .file("etc/crop", "barley\n"),
        |tree, name| tree.link(&format!("bin/{name}"), "busybox"),
    );
    let run = |script: &str| {
        let action = Action::new(["/bin/sh", "-c", script])
            .environment("PATH", "/bin")
            .platform(&platform)
            .tree(&userland)
            .output("etc/grown");
        farm.client().run(&action).success()
    };
    let outcome = run("cat /etc/crop; echo wheat > /etc/grown; ls /; \
                       test -c /dev/null && test -d /proc/self && echo supplied");
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"barley"), "{outcome:#?}");
    assert!(lines.contains(&"supplied"), "{outcome:#?}");
    // The runner's own root has neither what it came with nor what is mounted there.
    for absent in ["bb_runner", "worker", "config", "usr"] {
        assert!(!lines.contains(&absent), "{outcome:#?}");
    }
    let grown = outcome.output("etc/grown").digest.as_ref();
    assert_eq!(farm.client().fetch(grown.expect("a digest")), "wheat\n");
    // The next one has the inputs as they were.
    assert!(!run("ls /etc").stdout.contains("grown"));
}
