//! The commands for operators, with a scheduler that is not Hayloft's ([`upstream`]).

#![allow(clippy::unwrap_used)]

mod upstream;

use std::process::{Command, Output};

use daemon::{Address, Diagnostics};
use proto::wire::buildqueuestate::build_queue_state_server::BuildQueueStateServer;
use proto::wire::buildqueuestate::kill_operations_request;
use serde_json::Value;
use tonic::service::Routes;

use upstream::{Pattern, Upstream, queue, worker};

/// A scheduler that is running, and how it is called upon.
struct Place {
    upstream: Upstream,
    address: String,
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("scheduler"));
        let upstream = Upstream::default();
        let listener = runtime.block_on(daemon::listen(&address)).unwrap();
        let routes = Routes::new(BuildQueueStateServer::new(upstream.clone()));
        runtime.spawn(daemon::serve(listener, routes, Diagnostics::default()));
        Self {
            upstream,
            address: address.to_string(),
            _folder: folder,
            _runtime: runtime,
        }
    }

    fn output(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hayloft"));
        command.args(words).args(["--scheduler", &self.address]);
        command.output().unwrap()
    }

    fn printed(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn told(&self, words: &[&str]) -> Value {
        let words = [words, &["--json"]].concat();
        serde_json::from_str(&self.printed(&words)).unwrap()
    }
}

fn names(told: &Value) -> Vec<&str> {
    let all = told["operations"].as_array().unwrap().iter();
    all.map(|operation| operation["name"].as_str().unwrap())
        .collect()
}

#[test]
fn queues_and_operations_are_listed_page_by_page() {
    let place = Place::new();
    let text = place.printed(&["queue", "--limit", "2"]);
    let expected = "linux-prefix{OSFamily=linux}: 580 queued; 450 workers, 1 executing, 0 idle\n\
        mac-prefix{OSFamily=mac} of size 1: 0 queued; 0 workers, 0 executing, 0 idle\n\
        mac-prefix{OSFamily=mac} of size 4: 290 queued; 0 workers, 0 executing, 0 idle\n\
        \nexecuting:\n  operation-0000  abab";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(text.matches("… and more (--limit)").count(), 2, "{text}");
    assert_eq!(*place.upstream.pages.lock().unwrap(), 2);

    let all = place.told(&["queue", "--stage", "queued", "--limit", "100000"]);
    let expected: Vec<_> = (30..900)
        .map(|number| format!("operation-{number:04}"))
        .collect();
    assert_eq!(names(&all), expected);
    assert_eq!(all["more_operations"], false);
    let mac = [
        "queue",
        "--platform",
        "OSFamily=mac",
        "--stage",
        "queued",
        "--limit",
        "250",
    ];
    let of_one = place.told(&mac);
    assert_eq!(names(&of_one).len(), 250);
    assert!(names(&of_one)[249] > "operation-0700");
    assert_eq!(of_one["queues"].as_array().unwrap().len(), 2);

    let one = place.told(&["queue", "operation-0031"]);
    assert_eq!(one["name"], "operation-0031");
    assert_eq!(one["invocation"], serde_json::json!(["an-invocation"]));
    let text = place.printed(&["queue", "operation-0031"]);
    for part in [
        "//some:target",
        "an-invocation",
        "queued",
        "linux-prefix{OSFamily=linux}",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let output = place.output(&["queue", "no-such"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("NotFound: Operation was not found"),
        "{error}"
    );
}

#[test]
fn workers_are_listed_page_by_page() {
    let place = Place::new();
    let told = place.told(&["workers"]);
    let workers = told.as_array().unwrap();
    assert_eq!(workers.len(), 450);
    for (number, shown) in workers.iter().enumerate() {
        assert_eq!(shown["id"], serde_json::json!(worker(number)));
        assert_eq!(shown["drained"], number == 8);
    }
    let text = place.printed(&["workers"]);
    assert!(
        text.contains("  pod=worker-1 thread=007  executing: operation-0001  "),
        "{text}"
    );
    assert!(
        text.contains("  pod=worker-2 thread=008  idle, drained\n"),
        "{text}"
    );
}

#[test]
fn drains_are_added_to_the_queues_selected_listed_and_removed() {
    let place = Place::new();
    let drains = || place.upstream.drains.lock().unwrap().clone();
    let pattern = Pattern::from([("pod".to_string(), "worker-1".to_string())]);
    place.printed(&["drain", "--size-class", "4", "pod=worker-1"]);
    assert_eq!(drains(), [(queue("mac", 4), pattern.clone())]);
    place.printed(&["drain", "--prefix", "linux-prefix", "--all-workers"]);
    assert_eq!(drains()[1], (queue("linux", 0), Pattern::new()));
    let text = place.printed(&["drain"]);
    let expected = "linux-prefix{OSFamily=linux}: (all)\n\
        mac-prefix{OSFamily=mac} of size 4: pod=worker-1\n";
    assert_eq!(text, expected);
    // Of every queue, whether it has such a drain or not.
    place.printed(&["drain", "--remove", "pod=worker-1"]);
    assert_eq!(drains(), [(queue("linux", 0), Pattern::new())]);
    place.printed(&["drain", "--terminate", "pod=worker-1"]);
    assert_eq!(*place.upstream.terminated.lock().unwrap(), [pattern]);
}

#[test]
fn operations_are_killed_by_name_and_where_nobody_will_execute_them() {
    use kill_operations_request::filter::Type;
    let place = Place::new();
    let killed = || std::mem::take(&mut *place.upstream.killed.lock().unwrap());
    place.printed(&[
        "kill",
        "a",
        "b",
        "--code",
        "DEADLINE_EXCEEDED",
        "--message",
        "too long",
    ]);
    let both = killed();
    let filters = both
        .iter()
        .map(|it| it.filter.clone().unwrap().r#type.unwrap());
    let names = ["a", "b"].map(|name| Type::OperationName(name.into()));
    assert_eq!(filters.collect::<Vec<_>>(), names);
    let status = both[0].status.clone().unwrap();
    assert_eq!((status.code, status.message.as_str()), (4, "too long"));
    // Those of `linux` have workers, those of the smaller `mac` are none.
    place.printed(&["kill", "--queued-without-workers"]);
    let queues = killed();
    assert_eq!(queues.len(), 1);
    let filter = queues[0].filter.clone().unwrap().r#type;
    assert_eq!(
        filter,
        Some(Type::SizeClassQueueWithoutWorkers(queue("mac", 4)))
    );
}
