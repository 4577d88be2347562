//! `hayloft queue`, `workers`, `drain` and `kill` on a farm. What they do with another
//! scheduler `hayloft/tests/operators/` shows.

use std::process::{Child, Output};

use serde_json::Value;
use tests::desk::Desk;
use tests::farm::{Farm, Setup};
use tests::processes::Process;
use tests::user::As;
use tests::wait::wait_for;

/// A farm of one slot and its operator's desk. Where the farm keeps its state is
/// where `hayloft` looks for one.
struct Place {
    farm: Farm,
    desk: Desk,
}

impl Place {
    fn new() -> Self {
        let who = As::possible()[0];
        let desk = Desk::of(who);
        let state = desk.folder.path().join("hayloft");
        let farm = Setup::new(who).slots(1).directory(&state).start();
        Self { farm, desk }
    }

    fn words(&self, words: &[&str]) -> Output {
        let mut command = self.desk.command(words);
        command.env("XDG_DATA_HOME", self.desk.folder.path());
        command.output().expect("hayloft runs")
    }

    fn printed(&self, words: &[&str]) -> String {
        let output = self.words(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn told(&self, words: &[&str]) -> Value {
        let words = [words, &["--json"]].concat();
        serde_json::from_str(&self.printed(&words)).expect("JSON")
    }

    fn start(&self, script: &str) -> Child {
        let words = ["run", "--no-cache", "--remote", self.farm.endpoint()];
        let words = [&words[..], &["--", "/bin/sh", "-c", script]].concat();
        self.desk.command(words).spawn().expect("hayloft runs")
    }
}

fn operations(told: &Value) -> &[Value] {
    told["operations"].as_array().expect("a list")
}

#[test]
fn an_operator_sees_what_goes_on_drains_and_kills() {
    let place = Place::new();
    let marker = tests::secret();
    let first = place.start(&format!("while :; do sleep 3600; done; : {marker}"));
    wait_for("the first to run", || {
        let told = place.told(&["queue"]);
        let executing = operations(&told).first()?["stage"] == "executing";
        executing.then_some(())
    });
    let second = place.start("echo second");
    let told = wait_for("the second to be queued", || {
        let told = place.told(&["queue"]);
        (operations(&told).len() == 2).then_some(told)
    });
    let [executing, queued] = operations(&told) else {
        panic!("{told:#}");
    };
    assert_eq!(queued["stage"], "queued");
    let queue = &told["queues"][0];
    assert_eq!(
        (&queue["queued"], &queue["executing_workers"]),
        (&1.into(), &1.into()),
        "{queue:#}"
    );
    let name = |operation: &Value| operation["name"].as_str().expect("a name").to_owned();
    let of = |stage: &str| place.told(&["queue", "--stage", stage]);
    assert_eq!(name(&operations(&of("executing"))[0]), name(executing));
    assert_eq!(name(&operations(&of("queued"))[0]), name(queued));
    let one = place.told(&["queue", &name(executing)]);
    assert_eq!(one["action"], executing["action"]);
    assert!(
        one["invocation"].as_array().is_some_and(|it| it.len() == 1),
        "{one:#}"
    );

    // In words, too.
    let text = place.printed(&["queue"]);
    assert!(
        text.contains("1 queued; 1 workers, 1 executing, 0 idle"),
        "{text}"
    );
    assert!(
        text.contains(&name(executing)) && text.contains(&name(queued)),
        "{text}"
    );
    let workers = place.told(&["workers"]);
    assert_eq!(
        workers[0]["operation"]["name"], executing["name"],
        "{workers:#}"
    );
    let id = workers[0]["id"].as_object().expect("pairs");
    let (key, value) = id.iter().next().expect("a pair");
    let pattern = format!("{key}={}", value.as_str().expect("text"));

    // What a drained worker has it finishes, and is given nothing more.
    place.printed(&["drain", &pattern]);
    assert!(place.printed(&["drain"]).contains(&pattern));
    assert_eq!(place.told(&["workers"])[0]["drained"], true);
    let message = ["--message", "not while I am here", "--code", "aborted"];
    place.printed(&[&["kill", &name(executing)], &message[..]].concat());
    let output = first.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(125));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("Aborted: not while I am here"), "{error}");
    wait_for("the command to be gone", || {
        Process::mentioning(&marker).is_empty().then_some(())
    });
    wait_for("the worker to be idle", || {
        place.told(&["workers"])[0]["operation"]
            .is_null()
            .then_some(())
    });
    assert_eq!(operations(&of("queued")).len(), 1);
    place.printed(&["drain", "--remove", &pattern]);
    let output = second.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "second\n");
    assert_eq!(place.told(&["drain"]), serde_json::json!([]));
    let done = place.told(&["queue", "--stage", "completed", "--limit", "1"]);
    assert_eq!(operations(&done).len(), 1);
    assert_eq!(done["more_operations"], true, "{done:#}");

    // Nothing is executing, so this does not wait.
    place.printed(&["drain", "--terminate", "--all-workers"]);
    assert_eq!(place.told(&["workers"])[0]["drained"], true);
    place.farm.stop();
}

#[test]
fn an_operator_is_told_what_is_wrong() {
    let place = Place::new();
    for (words, code, expected) in [
        (&["kill", "no-such-operation"][..], 1, "no-such-operation"),
        (&["queue", "no-such-operation"], 1, "no-such-operation"),
        (&["drain", "--remove"], 1, "say which workers"),
        (&["drain", "--prefix", "other", "a=b"], 1, "no such queue"),
        (&["kill", "--code", "ok", "x"], 2, "no code"),
        (&["kill"], 2, "OPERATION"),
        (&["queue", "--token", "x"], 2, "--scheduler"),
        (
            &["workers", "--scheduler", "unix:/nowhere"],
            1,
            "Unavailable",
        ),
    ] {
        let output = place.words(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(expected), "{words:?}: {error}");
    }
    // Where no farm runs.
    let mut command = place.desk.command(["workers"]);
    command.env("XDG_DATA_HOME", place.desk.work());
    let output = command.output().expect("hayloft runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("no farm runs on"), "{error}");
    place.farm.stop();
}
