//! BuildGrid 0.4.4's client, `bgd`, on a farm.
//!
//! It comes from PyPI: with `HAYLOFT_INSTALL=1` these tests install it, else they skip
//! where it is missing.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tests::farm::Farm;
use tests::processes::Process;
use tests::ran::Ran;
use tests::skip;
use tests::user::As;
use tests::wait::{wait_for, wait_for_none};

const BGD: &str = "/opt/hayloft-clients/buildgrid-0.4.4/bin/bgd";

fn has_bgd(test: &str) -> bool {
    skip::has(test, &[BGD])
}

/// A person's folder, with inputs in `in`.
struct Desk {
    folder: TempDir,
    endpoint: String,
}

impl Desk {
    fn at(farm: &Farm) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let inputs = folder.path().join("in");
        fs::create_dir_all(inputs.join("deep")).expect("a folder");
        fs::write(inputs.join("deep/hay.txt"), "hay\n").expect("an input");
        fs::write(inputs.join("run"), "#!/bin/sh\ntr a-z A-Z\n").expect("an input");
        fs::set_permissions(inputs.join("run"), Permissions::from_mode(0o755)).expect("its mode");
        Self {
            folder,
            endpoint: farm.endpoint().replace("grpc://", "http://"),
        }
    }

    /// `bgd GROUP --remote … WORDS`
    fn command(&self, group: &str, words: &[&str]) -> Command {
        let mut command = Command::new(BGD);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.folder.path())
            .args([
                group,
                "--instance-name",
                "meadow",
                "--remote",
                &self.endpoint,
            ])
            .args(words)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn bgd(&self, group: &str, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(group, words))
    }

    fn read(&self, path: &str) -> String {
        let path = self.folder.path().join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs a command that does not end, and returns when it runs.
    fn endless(&self, farm: &Farm, seconds: &str) -> Child {
        let printed = File::create(self.folder.path().join(seconds)).expect("a file");
        let words = ["command", "--", "in", "/bin/sleep", seconds];
        let mut command = self.command("execute", &words);
        command.stdout(printed).stderr(Stdio::null());
        let child = command.spawn().expect("bgd runs");
        wait_for("the command", || sleeping(farm, seconds).pop());
        child
    }

    /// The name of the operation that an endless command is.
    fn operation(&self, seconds: &str) -> String {
        wait_for("the operation's name", || {
            let printed = self.read(seconds);
            let (_, name) = printed.split_once("\nname: \"")?;
            Some(name.split_once('"')?.0.to_owned())
        })
    }
}

/// Commands `/bin/sleep` of that time.
fn sleeping(farm: &Farm, seconds: &str) -> Vec<Process> {
    Process::running(farm.pid(), &["/bin/sleep", seconds])
}

/// A digest that bgd prints as a protobuf message, as `HASH/SIZE`.
fn digest(printed: &str, of: &str) -> String {
    let (_, rest) = printed
        .split_once(&format!("Sent {of}=[hash: \""))
        .unwrap_or_else(|| panic!("no {of} in {printed}"));
    let (hash, rest) = rest.split_once('"').expect("a hash");
    let (_, rest) = rest.split_once("size_bytes: ").expect("a size");
    format!("{hash}/{}", rest.lines().next().expect("a number"))
}

#[test]
fn bgd_executes_a_command_and_fetches_what_it_made() {
    if !has_bgd("bgd_executes_a_command_and_fetches_what_it_made") {
        return;
    }
    let farm = Farm::start(As::possible()[0]);
    let desk = Desk::at(&farm);
    let script = "./run < deep/hay.txt > shouted.txt";
    let words = [
        "command",
        "-c",
        "-p",
        "OSFamily",
        "linux",
        "--output-file",
        "shouted.txt",
    ];
    let words = [&words[..], &["--", "in", "/bin/sh", "-c", script]].concat();
    let ran = desk.bgd("execute", &words).assert(0, &["done: true"]);
    assert_eq!(desk.read("testing/shouted.txt"), "HAY\n");
    farm.assert_executed(0, 1, "BuildGrid 0.4.4's bgd: a command");
    // It is in the action cache, and another is not.
    let action = digest(&ran.text, "action");
    let hit = desk.bgd("actioncache", &["get", &action]);
    let hit = hit.assert(0, &["Hit: ", "Result cached with digest="]);
    let miss = desk.bgd("actioncache", &["get", &digest(&ran.text, "command")]);
    miss.assert(0, &["Miss: "]);
    assert!(hit.text.contains(&action[..8]), "{}", hit.text);
    // Asked for again, it is not executed.
    desk.bgd("execute", &words).assert(0, &["done: true"]);
    farm.assert_executed(1, 0, "BuildGrid 0.4.4's bgd: the same again");

    // bgd tells of an exit code in the result alone.
    let words = ["command", "--", "in", "/bin/sh", "-c", "exit 5"];
    desk.bgd("execute", &words).assert(0, &["done: true"]);
    // What is not there is named.
    let dummy = desk.bgd("execute", &["request-dummy", "--wait-for-completion"]);
    assert!(
        dummy
            .text
            .contains("is not in the content addressable storage"),
        "{dummy:?}"
    );
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn bgd_stores_and_fetches_files_and_folders() {
    if !has_bgd("bgd_stores_and_fetches_files_and_folders") {
        return;
    }
    let farm = Farm::start(As::possible()[0]);
    let desk = Desk::at(&farm);
    let told = desk.bgd("capabilities", &[]).assert(0, &[]);
    let json = &told.text[told.text.find('{').expect("JSON")..];
    let told: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(told["executionCapabilities"]["execEnabled"], true, "{told}");
    assert_eq!(told["lowApiVersion"]["major"], 2, "{told}");

    // More than one message holds.
    let large = "straw\n".repeat(1_500_000);
    fs::write(desk.folder.path().join("in/large"), &large).expect("an input");
    let ran = desk.bgd("cas", &["upload-dir", "in"]);
    let ran = ran.assert(0, &["Success: Pushed path=[in/deep/hay.txt]"]);
    let pushed = |path: &str| {
        let words = format!("Pushed path=[{path}] with digest=[");
        let (_, rest) = ran.text.split_once(&words).expect("it was pushed");
        rest.split_once(']').expect("a digest").0.to_owned()
    };
    let fetch = ["download-dir", "--verify", &pushed("in"), "out"];
    desk.bgd("cas", &fetch)
        .assert(0, &["Success: Pulled path=[out]"]);
    assert_eq!(desk.read("out/deep/hay.txt"), "hay\n");
    assert!(desk.read("out/large") == large);
    let program = fs::metadata(desk.folder.path().join("out/run")).expect("a program");
    assert_eq!(program.permissions().mode() & 0o111, 0o111);
    let fetch = ["download-file", "--verify", &pushed("in/large"), "large"];
    desk.bgd("cas", &fetch)
        .assert(0, &["Success: Pulled path=[large]"]);
    assert!(desk.read("large") == large);
    farm.stop();
}

#[test]
fn bgd_looks_at_operations_and_cancels_them() {
    if !has_bgd("bgd_looks_at_operations_and_cancels_them") {
        return;
    }
    let farm = Farm::start(As::possible()[0]);
    let desk = Desk::at(&farm);
    let mut first = desk.endless(&farm, "86383");
    let name = desk.operation("86383");
    let status = desk.bgd("operation", &["status", "--json", &name]);
    let status: Value = serde_json::from_str(&status.assert(0, &[]).text).expect("JSON");
    assert_eq!(status["metadata"]["stage"], "EXECUTING", "{status}");
    desk.bgd("operation", &["cancel", &name])
        .assert(0, &["Operation cancelled"]);
    wait_for_none("the command", || sleeping(&farm, "86383"));
    first.wait().expect("its end");
    let status = desk.bgd("operation", &["status", &name]);
    status.assert(0, &["operation was cancelled by its client"]);

    // Ctrl-C does the same.
    let mut second = desk.endless(&farm, "86384");
    desk.operation("86384");
    let bgd = Pid::from_raw(i32::try_from(second.id()).expect("a process id"));
    kill(bgd, Signal::SIGINT).expect("bgd is there");
    wait_for_none("the command", || sleeping(&farm, "86384"));
    second.wait().expect("its end");
    farm.wait_until_idle();
    farm.stop();
}
