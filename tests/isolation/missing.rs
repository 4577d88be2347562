//! On a host that lacks what a required protection rests on, nothing starts, and the
//! runner says what is lacking. Hosts that have it all are made to lack it by a filter
//! (`lacking`) or, for what is no system call, by other means.

use std::fs::File;
use std::process::Stdio;

use serde_json::json;
use tests::user::As;

use crate::lone_runner::Place;

/// What is lacking, and what the refusal names.
const LACKING: [(&str, &str); 9] = [
    ("user_namespace", "user_namespace"),
    ("mount_namespace", "mount_namespace"),
    ("pid_namespace", "pid_namespace"),
    ("ipc_namespace", "ipc_namespace"),
    ("uts_namespace", "uts_namespace"),
    ("network_namespace", "network_namespace"),
    ("landlock_files", "landlock_files"),
    ("seccomp", "seccomp"),
    ("mount_calls", "mount calls"),
];

fn who() -> impl Iterator<Item = As> {
    As::possible().iter().copied()
}

/// Starts the runner of a place by way of other programs.
fn start(place: &Place, through: &[&str], without: &[&str]) -> Result<(), String> {
    let (inner, log) = place.command(&place.config(without, &json!({})));
    let lacking = place.who.command("lacking", place.path());
    let mut words = through.iter().map(|word| match *word {
        "lacking" => lacking.get_program(),
        word => word.as_ref(),
    });
    let mut command = place.who.run(words.next().unwrap_or_default());
    command
        .args(words)
        .arg(inner.get_program())
        .args(inner.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a log"));
    place.start_by(command, &log).map(drop)
}

#[test]
fn a_host_that_lacks_a_layer_is_refused() {
    for who in who() {
        let place = Place::new(who);
        start(&place, &["lacking", "nothing"], &[]).expect("nothing is lacking");
        for (what, named) in LACKING {
            let log = start(&place, &["lacking", what], &[]).expect_err(what);
            assert!(log.contains(named), "{what} is not named: {log}");
        }
    }
}

#[test]
fn the_doctor_says_what_is_missing_why_and_what_to_do() {
    for who in who() {
        let folder = who.folder();
        for (what, named) in LACKING {
            let doctor = who.command("hayloft-under-test", folder.path());
            let output = who
                .command("lacking", folder.path())
                .args([what.as_ref(), doctor.get_program(), "doctor".as_ref()])
                .output()
                .expect("the doctor");
            let text = String::from_utf8(output.stdout).expect("text");
            assert_eq!(output.status.code(), Some(1), "{what}: {text}");
            let (_, tables) = text.split_once("this host gives:").expect("a table");
            let mut lines = tables.lines();
            let row = lines.find(|line| line.contains("  missing  ") && line.contains(named));
            let row = row.unwrap_or_else(|| panic!("no row of {named}: {text}"));
            let why = row.split_once(named).expect("its name").1.trim();
            assert!(why.contains("tried"), "{row}");
            let remedy = lines.next().expect("a remedy");
            assert!(remedy.contains("to get it: "), "{remedy}");
            // Whatever is missing, all protections are told of.
            for protection in sandbox::Protection::ALL {
                assert!(
                    text.contains(&format!("  {protection} ")),
                    "{protection}: {text}"
                );
            }
            let end = text.lines().last().expect("an end");
            assert!(end.starts_with("The sandbox cannot run here: "), "{end}");
        }
    }
}

#[test]
fn what_is_given_up_may_be_lacking() {
    for who in who() {
        let place = Place::new(who);
        for what in ["ipc_namespace", "uts_namespace", "seccomp"] {
            start(&place, &["lacking", what], &[what]).expect(what);
        }
        let both = ["landlock_files", "landlock_scopes"];
        start(&place, &["lacking", "landlock_files"], &both).expect("landlock_files");
        // On a shared network scopes are what is left, and must be there.
        let log = start(
            &place,
            &["lacking", "landlock_files"],
            &["network_namespace"],
        );
        let log = log.expect_err("a shared network");
        assert!(log.contains("landlock"), "{log}");
    }
}

#[test]
fn root_without_its_capabilities_is_refused() {
    if !tests::skip::needs_root("missing::root_without_its_capabilities_is_refused") {
        return;
    }
    let place = Place::new(As::Root);
    for capability in ["setuid", "setgid", "sys_admin"] {
        let drop = format!("-{capability}");
        let through = [
            "setpriv",
            "--bounding-set",
            &drop,
            "--inh-caps",
            &drop,
            "lacking",
            "nothing",
        ];
        let log = start(&place, &through, &[]).expect_err(capability);
        let named = format!("CAP_{}", capability.to_uppercase());
        assert!(log.contains(&named), "{named} is not named: {log}");
    }
}

#[test]
fn unprotected_hardlinks_are_refused() {
    let test = "missing::unprotected_hardlinks_are_refused";
    if !tests::skip::needs_root(test) {
        return;
    }
    let place = Place::new(As::Root);
    let zero = place.path().join("zero");
    std::fs::write(&zero, "0\n").expect("a file");
    // What the runner reads of the setting is another file.
    let script = format!(
        "mount --bind {} /proc/sys/fs/protected_hardlinks && exec \"$@\"",
        zero.display()
    );
    let through = [
        "unshare", "--mount", "sh", "-c", &script, "sh", "lacking", "nothing",
    ];
    let log = start(&place, &through, &[]).expect_err("protected_hardlinks");
    assert!(log.contains("protected_hardlinks"), "{log}");
}
