//! A service half that was taken over (`examples/compromised.rs`).

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use crate::farm::{Mode, built, set_mode};

#[test]
fn a_service_half_can_start_actions_and_nothing_else() {
    for mode in Mode::available("a_service_half_can_start_actions_and_nothing_else") {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let build = folder.path().join("build");
        for directory in [&build, &build.join("1"), &build.join("1/root")] {
            std::fs::create_dir(directory).unwrap();
            set_mode(directory, 0o777);
        }
        std::os::unix::fs::symlink("/tmp", build.join("1/out")).unwrap();
        let program = folder.path().join("compromised");
        let copied = Command::new("cp")
            .arg(built("compromised"))
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        let mut command = Command::new(&program);
        command.arg(&build).stdout(Stdio::piped());
        let range = format!(
            "ids={}:8",
            900_000_000 + std::process::id() % 1_000_000 * 10
        );
        match mode {
            Mode::Same(Some(uid)) => {
                std::os::unix::fs::chown(&build, Some(uid), Some(uid)).unwrap();
                command.arg("ids=same").uid(uid).gid(uid)
            }
            Mode::Same(None) => command.arg("ids=same"),
            Mode::Range | Mode::Subordinate => command.arg(range),
        };
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("an action: Exited(0)\n"), "{mode:?}:\n{text}");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() > 30, "{mode:?}:\n{text}");
        for line in &lines {
            let fine = line.ends_with(": refused") || line.starts_with("an action: ");
            assert!(fine, "{mode:?}: {line}\n{text}");
        }
        // It was ended for what it sent at last, and not by a crash of the launcher.
        assert_eq!(output.status.signal(), None);
        assert!(!output.status.success());
        let left: Vec<_> = std::fs::read_dir(&build).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
