//! The conversation with the scheduler.

use prost::Message as _;
use proto::wire::remoteworker::desired_state::WorkerState;
use proto::wire::rev2::RequestMetadata;
use tonic::Code;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, digest};

#[tokio::test]
async fn a_short_action_costs_one_call() {
    let mut farm = Farm::new(Manners::default()).await;
    for salt in ["1", "2", "3"] {
        let input = Input::script(&format!(": {salt}"));
        farm.execute(input).await;
    }
    // The first action may be long to start on a busy machine; what counts is
    // that nothing is said twice and that results bring the next action.
    let mut heard = Vec::new();
    while heard.iter().filter(|said| *said == "completed").count() < 3 {
        heard.push(farm.heard.recv().await.unwrap());
    }
    assert_eq!(heard[0], "idle");
    assert_eq!(heard.iter().filter(|said| *said == "idle").count(), 1);
    farm.end().await;
}

#[tokio::test]
async fn stages_that_last_are_told() {
    let mut farm = Farm::new(Manners::default()).await;
    // The command goes on until it is seen to run.
    let path = farm.path("seen");
    let script = format!("until [ -e {} ]; do :; done", path.display());
    let task = Input::script(&script).store(&farm.storage);
    farm.scheduler.hand_out(task);
    while farm.heard.recv().await.unwrap() != "running" {}
    std::fs::write(path, "").unwrap();
    assert_eq!(code(&farm.completed().await), Code::Ok);
    farm.end().await;
}

#[tokio::test]
async fn an_action_that_is_no_longer_wanted_is_killed_and_cleaned() {
    let mut farm = Farm::new(Manners::default()).await;
    let path = farm.path("pid");
    let shown = path.display();
    let script = format!("echo $$ > {shown}.new; mv {shown}.new {shown}; while :; do :; done");
    let task = Input::script(&script).store(&farm.storage);
    farm.scheduler.hand_out(task);
    let pid = loop {
        match std::fs::read_to_string(&path) {
            Ok(pid) => break pid,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let process = std::path::Path::new("/proc").join(pid.trim()).join("exe");
    assert!(process.read_link().is_ok());
    let idle = WorkerState::Idle(());
    farm.scheduler.instead.lock().unwrap().push_back(idle);
    // Nothing is reported of it, and the next one is taken.
    let response = farm.execute(Input::script("echo next")).await;
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"next\n").to_wire()));
    // The link of a process that is dead leads nowhere, reaped or not.
    while process.read_link().is_ok() {
        tokio::task::yield_now().await;
    }
    farm.end().await;
}

#[tokio::test]
async fn another_action_can_take_the_place_of_the_present_one() {
    let mut farm = Farm::new(Manners::default()).await;
    let first = Input::script("while :; do :; done").store(&farm.storage);
    let second = Input::script("echo instead").store(&farm.storage);
    let instead = WorkerState::Executing(second);
    farm.scheduler.instead.lock().unwrap().push_back(instead);
    let response = farm.execute_task(first).await;
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"instead\n").to_wire()));
    farm.end().await;
}

#[tokio::test]
async fn a_worker_told_to_stop_finishes_delivers_and_leaves() {
    let mut farm = Farm::new(Manners::default()).await;
    let path = farm.path("stopping");
    let script = format!("until [ -e {} ]; do :; done; echo done", path.display());
    let task = Input::script(&script).store(&farm.storage);
    farm.scheduler.hand_out(task);
    while farm.heard.recv().await.unwrap() != "running" {}
    farm.shutdown.cancel();
    std::fs::write(path, "").unwrap();
    let response = farm.completed().await;
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"done\n").to_wire()));
    while farm.heard.recv().await.unwrap() != "completed, prefers being idle" {}
    farm.end().await;
}

#[tokio::test]
async fn a_worker_told_to_stop_executes_what_it_is_told_to_all_the_same() {
    let mut farm = Farm::new(Manners::default()).await;
    while farm.heard.recv().await.unwrap() != "idle" {}
    let task = Input::script("echo last").store(&farm.storage);
    *farm.scheduler.insist.lock().unwrap() = Some(task);
    farm.shutdown.cancel();
    let response = farm.completed().await;
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"last\n").to_wire()));
    farm.end().await;
}

#[tokio::test]
async fn a_worker_told_to_stop_takes_its_leave_when_its_last_call_is_forgotten() {
    let mut farm = Farm::new(Manners::default()).await;
    while farm.heard.recv().await.unwrap() != "idle" {}
    *farm.scheduler.held.lock().unwrap() = 2;
    farm.stop_worker().await;
    assert_eq!(
        farm.heard.try_recv().as_deref(),
        Ok("idle, prefers being idle")
    );
    farm.kill_runner();
}

#[tokio::test]
async fn a_result_that_is_refused_gives_way_to_a_short_one_and_then_to_none() {
    let mut farm = Farm::new(Manners::default()).await;
    let refuse = |farm: &Farm, codes: &[Code]| {
        farm.scheduler.refuse_results.lock().unwrap().extend(codes);
    };
    refuse(&farm, &[Code::Unavailable, Code::OutOfRange]);
    let response = farm.execute(Input::script("echo long")).await;
    assert_eq!(code(&response), Code::ResourceExhausted);
    let message = response.status.unwrap().message;
    assert!(message.contains("too large"), "{message}");
    assert_eq!(response.result, None);
    refuse(&farm, &[Code::OutOfRange; 2]);
    let lost = Input::script("echo lost").store(&farm.storage);
    farm.scheduler.hand_out(lost);
    let response = farm.execute(Input::script("echo next")).await;
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"next\n").to_wire()));
    farm.end().await;
}

#[tokio::test]
async fn a_result_is_delivered_when_the_scheduler_is_back() {
    let mut farm = Farm::new(Manners::default()).await;
    let path = farm.path("away");
    let script = format!("until [ -e {} ]; do :; done; echo kept", path.display());
    let task = Input::script(&script).store(&farm.storage);
    farm.scheduler.hand_out(task);
    while farm.heard.recv().await.unwrap() != "running" {}
    *farm.scheduler.refuse.lock().unwrap() = 1;
    std::fs::write(path, "").unwrap();
    let response = farm.completed().await;
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"kept\n").to_wire()));
    farm.end().await;
}

#[tokio::test]
async fn tasks_that_make_no_sense_are_refused() {
    let mut farm = Farm::new(Manners::default()).await;
    let mut task = Input::script("true").store(&farm.storage);
    task.action = None;
    assert_eq!(code(&farm.execute_task(task).await), Code::InvalidArgument);
    let mut task = Input::script("true").store(&farm.storage);
    task.action.as_mut().unwrap().command_digest = None;
    let response = farm.execute_task(task).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    assert!(response.status.unwrap().message.contains("command_digest"));
    // A scheduler of before 2022 does not name the digest function.
    let mut task = Input::script("true").store(&farm.storage);
    task.digest_function = 0;
    assert_eq!(code(&farm.execute_task(task).await), Code::Ok);
    farm.end().await;
}

#[tokio::test]
async fn files_outlive_a_restart_of_the_worker() {
    let mut farm = Farm::new(Manners::default()).await;
    let input = || Input::script("cat in").file(&farm.storage, "in", b"kept");
    let (first, second) = (input(), input());
    farm.execute(first).await;
    farm.stop_worker().await;
    farm.storage.blobs.lock().unwrap().remove(&digest(b"kept"));
    let mut second = second;
    second.action.salt = b"again".to_vec();
    let task = second.store(&farm.storage);
    farm.start_worker();
    assert_eq!(code(&farm.execute_task(task).await), Code::Ok);
    farm.end().await;
}

#[tokio::test]
async fn a_runner_that_dies_costs_the_action_and_not_the_worker() {
    let mut farm = Farm::new(Manners::default()).await;
    let task = Input::script("while :; do :; done").store(&farm.storage);
    farm.scheduler.hand_out(task);
    while farm.heard.recv().await.unwrap() != "running" {}
    farm.kill_runner();
    let response = farm.completed().await;
    // Which schedulers may answer by giving it to another worker.
    assert_eq!(code(&response), Code::Internal, "{response:?}");
    // Until there is one again, it asks for no work.
    while farm.heard.recv().await.unwrap() != "completed, prefers being idle" {}
    farm.start_runner(Manners::default());
    let response = farm.execute(Input::script("echo again")).await;
    assert_eq!(code(&response), Code::Ok);
    farm.end().await;
}

#[tokio::test]
async fn an_action_that_a_stopping_runner_refuses_is_begun_by_the_next() {
    let stopping = Manners {
        stopping: true,
        ..Manners::default()
    };
    let mut farm = Farm::new(stopping).await;
    let response = farm.execute(Input::script("echo once >> out").outputs(&["out"]));
    let response = response.await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let outputs = &response.result.unwrap().output_files;
    assert_eq!(outputs[0].digest, Some(digest(b"once\n").to_wire()));
    farm.end().await;
}

#[tokio::test]
async fn an_action_waits_for_a_runner_that_is_replaced() {
    let mut farm = Farm::new(Manners::default()).await;
    farm.kill_runner();
    farm.scheduler
        .hand_out(Input::script("echo again").store(&farm.storage));
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    farm.start_runner(Manners::default());
    let response = farm.completed().await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    farm.end().await;
}

#[tokio::test]
async fn without_room_on_the_disk_a_slot_asks_for_no_work() {
    let short = format!(r#"{{"minimum_free_space_bytes": {}}}"#, u64::MAX);
    let mut farm = Farm::configured(Manners::default(), &short, "{}").await;
    let says = |farm: &Farm, line: &str| farm.diagnostics.metrics().to_text().contains(line);
    while !says(&farm, "hayloft_worker_disk_full 1") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(farm.heard.try_recv().is_err());
    // A worker that is content with less does what waited.
    farm.stop_worker().await;
    let script = Input::script("true").store(&farm.storage);
    farm.scheduler.hand_out(script);
    farm.settings = Default::default();
    farm.start_worker();
    assert_eq!(code(&farm.completed().await), Code::Ok);
    assert!(says(&farm, "hayloft_worker_disk_full 0"));
    farm.end().await;
}

#[tokio::test]
async fn what_an_action_needs_is_asked_for_on_behalf_of_its_client() {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    let client = RequestMetadata {
        tool_invocation_id: "an invocation".into(),
        ..Default::default()
    };
    let bytes = client.encode_to_vec();
    let name = "build.bazel.remote.execution.v2.requestmetadata-bin";
    for plain in [false, true] {
        let mut farm = Farm::new(Manners {
            plain,
            ..Manners::default()
        })
        .await;
        let input = Input::script("cat in > out").outputs(&["out"]);
        let mut task = input.file(&farm.storage, "in", b"in").store(&farm.storage);
        task.w3c_trace_context
            .insert("traceparent".into(), parent.clone());
        let packed = proto::messages::pack_rev2("RequestMetadata", &client);
        task.auxiliary_metadata.push(packed);
        let action = task.action_digest.clone().unwrap().hash;
        assert_eq!(code(&farm.execute_task(task).await), Code::Ok);
        let contexts = std::mem::take(&mut *farm.storage.contexts.lock().unwrap());
        // The Command, the root, a file; what is missing, the output; the result.
        assert!(contexts.len() >= 5, "{}", contexts.len());
        for context in contexts {
            assert_eq!(context.get("traceparent").unwrap(), parent.as_str());
            let told = context.get_bin(name).unwrap().to_bytes().unwrap();
            assert_eq!(&told[..], bytes);
        }
        let called = std::fs::read_to_string(farm.path("called")).unwrap();
        assert!(called.contains(&parent), "{called}");
        assert!(called.contains("an invocation"), "{called}");
        // Another runner than ours is not told what its log could say.
        for part in [&action, "node"] {
            assert_eq!(called.contains(part), !plain, "{part}: {called}");
        }
        farm.end().await;
    }
}
