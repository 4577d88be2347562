//! What Buildbarn's worker does and its users rely on, as far as other tests do
//! not show it: `docs/buildbarn-worker.md` names them all, row by row.

use std::sync::atomic::AtomicUsize;

use prost::Message;
use proto::wire::cas::HistoricalExecuteResponse;
use proto::wire::completedactionlogger::CompletedAction;
use proto::wire::completedactionlogger::completed_action_logger_server::CompletedActionLoggerServer;
use proto::wire::protobuf::Any;
use proto::wire::resourceusage::MonetaryResourceUsage;
use proto::wire::rev2::{Directory, ExecuteResponse, ExecutedActionMetadata, Tree};
use proto::{Digest, DigestFunction, messages};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use tonic::transport::Server;

use super::execution::code;
use crate::testing::{FakeLogger, Farm, Input, Manners, digest};

fn metadata(response: &ExecuteResponse) -> &ExecutedActionMetadata {
    let result = response.result.as_ref().unwrap();
    result.execution_metadata.as_ref().unwrap()
}

fn auxiliary<M: Message + Default>(response: &ExecuteResponse, name: &str) -> Option<M> {
    let mut all = metadata(response).auxiliary_metadata.iter();
    all.find_map(|any| messages::unpack(any, name))
}

#[tokio::test]
async fn the_environment_directory_and_identity_of_a_slot_are_as_configured() {
    let runner = r#"{"size_class": 4, "instance_name_prefix": "some/prefix",
        "platform": [{"name": "os", "value": "linux"}]}"#;
    let mut farm = Farm::configured(Manners::default(), "{}", runner).await;
    while farm.heard.recv().await.unwrap() != "idle" {}
    let request = farm.scheduler.last.lock().unwrap().clone();
    assert_eq!(request.size_class, 4);
    assert_eq!(request.instance_name_prefix, "some/prefix");
    assert_eq!(request.platform.unwrap().properties[0].name, "os");
    assert_eq!(request.worker_id["node"], "test");
    // The suffix that the scheduler sends comes after the prefix.
    let response = farm.execute(Input::script("true")).await;
    let link = "http://browser/some/prefix/main/blobs/sha256/action/";
    assert!(response.message.contains(link), "{}", response.message);
    farm.end().await;
}

#[tokio::test]
async fn equal_actions_run_at_equal_paths_and_others_at_numbers() {
    let mut farm = Farm::new(Manners::default()).await;
    let names = async |farm: &mut Farm, cached: bool| {
        let mut input = Input::script("basename $(dirname $PWD)");
        input.action.do_not_cache = !cached;
        let task = input.store(&farm.storage);
        let hash = task.action_digest.as_ref().unwrap().hash.clone();
        let result = farm.execute_task(task).await.result.unwrap();
        let stdout = result.stdout_digest.as_ref();
        let stdout = Digest::from_wire(DigestFunction::Sha256, stdout).unwrap();
        let name = farm.storage.get(&stdout).unwrap();
        (String::from_utf8(name.to_vec()).unwrap(), hash)
    };
    for _ in 0..2 {
        let (name, hash) = names(&mut farm, true).await;
        assert_eq!(name.trim(), &hash[..16]);
    }
    let (name, _) = names(&mut farm, false).await;
    name.trim().parse::<u64>().unwrap();
    farm.end().await;
}

#[tokio::test]
async fn nothing_is_asked_for_while_the_runner_is_not_ready() {
    let mut farm = Farm::new(Manners::default()).await;
    while farm.heard.recv().await.unwrap() != "idle" {}
    farm.stop_worker().await;
    while farm.heard.try_recv().is_ok() {}
    std::fs::write(farm.path("unready"), "").unwrap();
    let task = Input::script("true").store(&farm.storage);
    farm.scheduler.hand_out(task);
    farm.start_worker();
    // It is asked again and again, each time with a directory to look for.
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        for entry in std::fs::read_dir(farm.path("build")).unwrap().flatten() {
            if entry.path().join("check_readiness").exists() {
                seen.insert(entry.file_name());
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(farm.heard.try_recv().is_err());
    std::fs::remove_file(farm.path("unready")).unwrap();
    assert_eq!(code(&farm.completed().await), Code::Ok);
    farm.end().await;
}

#[tokio::test]
async fn tests_that_find_the_machine_broken_take_it_out_of_service() {
    let runner = r#"{"maximum_consecutive_test_infrastructure_failures": 2}"#;
    let mut farm = Farm::configured(Manners::default(), "{}", runner).await;
    let broken = |salt: &str| {
        Input::script(&format!("echo {salt} > test.infrastructure_failure"))
            .outputs(&["test.infrastructure_failure"])
    };
    let fine = Input::script("true");
    assert_eq!(code(&farm.execute(broken("1")).await), Code::Ok);
    assert_eq!(code(&farm.execute(fine).await), Code::Ok);
    assert_eq!(code(&farm.execute(broken("2")).await), Code::Ok);
    let cached = farm.storage.results.lock().unwrap().len();
    let response = farm.execute(broken("3")).await;
    assert_eq!(code(&response), Code::Unavailable, "{response:?}");
    assert_eq!(response.result.unwrap().output_files.len(), 1);
    assert_eq!(farm.storage.results.lock().unwrap().len(), cached);
    farm.stop_worker().await;
    let said: Vec<String> = std::iter::from_fn(|| farm.heard.try_recv().ok()).collect();
    // No more work is asked for with the last result, nor after it.
    let asks = |said: &&String| ["idle", "completed"].contains(&said.as_str());
    assert!(said.iter().filter(asks).count() <= 4, "{said:?}");
    assert!(said.last().unwrap().ends_with("prefers being idle"));
    farm.kill_runner();
}

#[tokio::test]
async fn an_action_costs_what_its_time_does() {
    let runner = r#"{"costs_per_second": {"rent": {"currency": "EUR", "cost": 1000}}}"#;
    let mut farm = Farm::configured(Manners::default(), "{}", runner).await;
    let response = farm.execute(Input::script("true")).await;
    let name = "buildbarn.resourceusage.MonetaryResourceUsage";
    let usage: MonetaryResourceUsage = auxiliary(&response, name).unwrap();
    let metadata = metadata(&response);
    let moment = |moment: &Option<_>| messages::system_time(moment.as_ref().unwrap()).unwrap();
    let took = moment(&metadata.worker_completed_timestamp)
        .duration_since(moment(&metadata.worker_start_timestamp));
    let rent = &usage.expenses["rent"];
    assert_eq!(rent.currency, "EUR");
    assert!((rent.cost - took.unwrap().as_secs_f64() * 1000.0).abs() < 1e-3);
    farm.end().await;
}

#[tokio::test]
async fn what_the_scheduler_says_of_a_client_is_in_the_result() {
    let mut farm = Farm::new(Manners::default()).await;
    let mut task = Input::script("true").store(&farm.storage);
    let said = Any {
        type_url: "type.googleapis.com/build.bazel.remote.execution.v2.RequestMetadata".into(),
        value: b"\x12\x01x".to_vec(),
    };
    task.auxiliary_metadata = vec![said.clone()];
    let response = farm.execute_task(task).await;
    let all = &metadata(&response).auxiliary_metadata;
    assert_eq!(all[0], said);
    for name in [
        "hayloft.runner.v1.DescribeResponse",
        "buildbarn.resourceusage.POSIXResourceUsage",
        "hayloft.action.v1.Facts",
    ] {
        assert!(all.iter().any(|any| any.type_url.ends_with(name)), "{name}");
    }
    farm.end().await;
}

#[tokio::test]
async fn messages_say_what_failed_and_where_and_link_to_the_browser() {
    let mut farm = Farm::new(Manners::default()).await;
    let response = farm.execute(Input::script("kill -SEGV $$")).await;
    assert_eq!(code(&response), Code::Ok);
    let signal = "The command was ended by SIGSEGV.\nAction details (uncached result): \
        http://browser/main/blobs/sha256/historical_execute_response/";
    assert!(response.message.starts_with(signal), "{}", response.message);
    let missing = Input::script("true").file_of("in", digest(b"absent"));
    let response = farm.execute(missing).await;
    assert_eq!(code(&response), Code::FailedPrecondition);
    let failed = r#"Failed while fetching inputs on worker {"node":"test"}: "#;
    assert!(response.message.starts_with(failed), "{}", response.message);
    farm.end().await;
}

#[tokio::test]
async fn what_was_moved_is_told_and_only_what_was() {
    use proto::wire::action::Facts;
    let mut farm = Farm::new(Manners::default()).await;
    let name = "hayloft.action.v1.Facts";
    let input = |salt: &str| {
        let script = format!(": {salt}; cat a b > out");
        Input::script(&script).outputs(&["out"])
    };
    let first = input("1")
        .file(&farm.storage, "a", b"aaa")
        .file(&farm.storage, "b", b"bb");
    let facts: Facts = auxiliary(&farm.execute(first).await, name).unwrap();
    assert_eq!((facts.files_linked, facts.files_copied), (0, 2));
    assert_eq!((facts.blobs_fetched, facts.bytes_fetched), (2, 5));
    assert_eq!((facts.blobs_uploaded, facts.bytes_uploaded), (1, 5));
    let second = input("2")
        .file(&farm.storage, "a", b"aaa")
        .file(&farm.storage, "b", b"cccc");
    let facts: Facts = auxiliary(&farm.execute(second).await, name).unwrap();
    assert_eq!((facts.blobs_fetched, facts.bytes_fetched), (1, 4));
    farm.end().await;
}

#[tokio::test]
async fn directories_are_stored_whatever_the_client_asks_for_if_so_configured() {
    let worker = r#"{"force_upload_trees_and_directories": true}"#;
    let mut farm = Farm::configured(Manners::default(), worker, "{}").await;
    let input = Input::script("mkdir -p d/sub; echo x > d/sub/f").outputs(&["d"]);
    let response = farm.execute(input).await;
    let result = response.result.unwrap();
    let directory = &result.output_directories[0];
    let blob = |digest: &Option<_>| {
        let digest = Digest::from_wire(DigestFunction::Sha256, digest.as_ref()).unwrap();
        farm.storage.get(&digest).unwrap()
    };
    let tree = Tree::decode(blob(&directory.tree_digest)).unwrap();
    let root = Directory::decode(blob(&directory.root_directory_digest)).unwrap();
    assert_eq!(tree.root.as_ref(), Some(&root));
    let sub = Directory::decode(blob(&root.directories[0].digest)).unwrap();
    assert_eq!(tree.children, [sub]);
    farm.end().await;
}

/// A service that is told of completed actions, as the configuration names it.
fn logger(breaks: usize) -> (tempfile::TempDir, mpsc::UnboundedReceiver<CompletedAction>) {
    let directory = tempfile::tempdir().unwrap();
    let socket = UnixListener::bind(directory.path().join("logger")).unwrap();
    let (sender, heard) = mpsc::unbounded_channel();
    let service = CompletedActionLoggerServer::new(FakeLogger {
        heard: sender,
        breaks: AtomicUsize::new(breaks),
    });
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(socket)));
    (directory, heard)
}

#[tokio::test]
async fn a_logger_is_told_of_each_action_until_it_says_that_it_heard() {
    let (directory, mut heard) = logger(1);
    let worker = format!(
        r#"{{"completed_action_loggers": [{{"client": "unix:{}/logger",
            "add_instance_name_prefix": "site"}}]}}"#,
        directory.path().display()
    );
    let mut farm = Farm::configured(Manners::default(), &worker, "{}").await;
    let good = farm.execute(Input::script("true")).await;
    let bad = farm.execute(Input::script("exit 3")).await;
    // What the broken stream took along comes again.
    let first = heard.recv().await.unwrap();
    let mut again = heard.recv().await.unwrap();
    if again.uuid != first.uuid {
        again = heard.recv().await.unwrap();
    }
    assert_eq!(again, first);
    assert_eq!(first.instance_name, "site/main");
    assert_eq!(first.digest_function, DigestFunction::Sha256.to_wire());
    let response = |action: CompletedAction| {
        let historical: HistoricalExecuteResponse = action.historical_execute_response.unwrap();
        historical.execute_response.unwrap()
    };
    assert_eq!(response(first.clone()), good);
    let mut second = heard.recv().await.unwrap();
    while second.uuid == first.uuid {
        second = heard.recv().await.unwrap();
    }
    assert_eq!(response(second), bad);
    farm.end().await;
}

/// Beyond Buildbarn, whose worker never does.
#[tokio::test]
async fn what_the_client_wants_inline_is_in_its_answer_and_not_in_the_cache() {
    use proto::wire::action::Inline;
    let mut farm = Farm::new(Manners::default()).await;
    let script = "echo out; echo err >&2; echo a > a; echo b > b; head -c 200000 /dev/zero > large";
    let inline = Inline {
        stdout: true,
        stderr: false,
        output_files: vec!["b".into(), "large".into()],
    };
    let input = Input::script(script).outputs(&["a", "b", "large"]);
    let mut task = input.store(&farm.storage);
    task.auxiliary_metadata = vec![messages::pack(&inline)];
    let response = farm.execute_task(task).await;
    let result = response.result.clone().unwrap();
    assert_eq!(result.stdout_raw, b"out\n");
    assert_eq!(result.stdout_digest, Some(digest(b"out\n").to_wire()));
    assert!(result.stderr_raw.is_empty());
    let contents = |position: usize| result.output_files[position].contents.as_slice();
    assert_eq!(
        [contents(0), contents(1), contents(2)],
        [b"", b"b\n".as_slice(), b""]
    );
    assert!(auxiliary::<Inline>(&response, "hayloft.action.v1.Inline").is_none());
    let cached = farm
        .storage
        .results
        .lock()
        .unwrap()
        .values()
        .next()
        .cloned();
    assert!(cached.unwrap().stdout_raw.is_empty());
    farm.end().await;
}
