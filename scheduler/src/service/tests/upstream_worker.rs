//! Workers of Buildbarn's make: what they say and rely on (bb-remote-execution,
//! `pkg/builder/build_client.go`), call by call. They say nothing beyond
//! `buildbarn.remoteworker`.

use current_state::WorkerState;
use current_state::executing::ExecutionState;
use proto::wire::rpc;
use tonic::Code;

use super::*;

fn completed(code: Code) -> ExecutionState {
    ExecutionState::Completed(ExecuteResponse {
        result: Some(ActionResult::default()),
        status: Some(rpc::Status {
            code: code.into(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// Whether it is to go on with what it does.
fn goes_on(response: &SynchronizeResponse) -> bool {
    response.desired_state.is_none() && response.next_synchronization_at.is_some()
}

#[tokio::test]
async fn from_one_action_to_the_next_and_to_a_pause() {
    let farm = Farm::start(Settings::default()).await;
    let [first, second, third] = ["1", "2", "3"].map(|content| farm.action(content));
    let mut clients = Vec::new();
    for action in [first, second, third] {
        clients.push(farm.execute(action).await);
    }
    let mut worker = farm.worker("upstream");
    let given = worker.take().await;
    assert_eq!(given.action_digest, Some(first.to_wire()));
    // Without these a worker of Buildbarn's refuses to execute.
    assert_eq!(given.digest_function, DigestFunction::Sha256.to_wire());
    assert!(given.queued_timestamp.is_some());
    assert!(given.action.unwrap().timeout.is_some());

    // It tells the last of the stages that it went through meanwhile, each once.
    for state in [
        ExecutionState::Started(()),
        ExecutionState::FetchingInputs(()),
        ExecutionState::Running(()),
        ExecutionState::UploadingOutputs(()),
    ] {
        assert!(goes_on(&worker.report(first, state).await));
    }
    // A result brings the next action.
    let given = executing(worker.report(first, completed(Code::Ok)).await);
    assert_eq!(given.action_digest, Some(second.to_wire()));
    // After a failure it wants to look after itself first; and then asks.
    worker.request.prefer_being_idle = true;
    assert!(is_idle(
        &worker
            .report(second, completed(Code::DeadlineExceeded))
            .await
    ));
    worker.request.prefer_being_idle = false;
    let given = worker.take().await;
    assert_eq!(given.action_digest, Some(third.to_wire()));
    // When it is told to stop it says so with the last result.
    worker.request.prefer_being_idle = true;
    assert!(is_idle(&worker.report(third, completed(Code::Ok)).await));
    for (client, code) in clients
        .iter_mut()
        .zip([Code::Ok, Code::DeadlineExceeded, Code::Ok])
    {
        let status = client.response().await.status.unwrap();
        assert_eq!(Code::from_i32(status.code), code);
    }
}

/// The message has a hash and a size, and several functions have hashes of one length.
#[tokio::test]
async fn what_it_executes_is_known_whatever_digest_function_the_action_has() {
    let farm = Farm::start(Settings::default()).await;
    for function in DigestFunction::ALL {
        let blob = |bytes: &[u8]| Some(Digest::of(function, bytes).to_wire());
        let action = Action {
            platform: Some(platform("linux")),
            command_digest: blob(b"command"),
            input_root_digest: blob(b""),
            ..Default::default()
        };
        let bytes = action.encode_to_vec();
        let digest = Digest::of(function, &bytes);
        farm.memory
            .blobs
            .lock()
            .unwrap()
            .insert(digest, bytes.into());
        let request = ExecuteRequest {
            digest_function: function.to_wire(),
            ..request(digest)
        };
        let client = ExecutionClient::new(farm.connect()).execute(request).await;
        let mut operations = client.unwrap().into_inner();
        let mut worker = farm.worker("upstream");
        let given = worker.take().await;
        assert_eq!(given.digest_function, function.to_wire());
        for state in [ExecutionState::Started(()), ExecutionState::Running(())] {
            assert!(goes_on(&worker.report(digest, state).await), "{function}");
        }
        worker.request.prefer_being_idle = true;
        let response = worker.report(digest, completed(Code::Ok)).await;
        assert!(is_idle(&response), "{function}");
        while !operations.next().await.unwrap().unwrap().done {}
    }
}

#[tokio::test]
async fn one_that_does_something_else_is_told_what_it_has() {
    let farm = Farm::start(Settings::default()).await;
    let [action, other] = ["action", "other"].map(|content| farm.action(content));
    let mut client = farm.execute(action).await;
    let mut worker = farm.worker("upstream");
    let given = worker.take().await;
    // Its answer was lost; or it was started anew; or it has not heard of a change.
    let again = worker.take().await;
    assert_eq!(again, given);
    for state in [ExecutionState::Running(()), completed(Code::Ok)] {
        let again = executing(worker.report(other, state).await);
        assert_eq!(again, given);
    }
    worker.complete(action, 0).await;
    client.response().await;
    // What nobody wants (any more) is to end at once.
    let running = ExecutionState::Running(());
    assert!(is_idle(&worker.report(action, running).await));
    let late = farm.execute(other).await;
    let result = executing(worker.report(action, completed(Code::Ok)).await);
    assert_eq!(result.action_digest, Some(other.to_wire()));
    drop(late);
}

#[tokio::test]
async fn one_of_before_2020_08_is_served() {
    // It has neither size classes nor the wish to be idle, names an instance exactly,
    // and reports nothing but these.
    let farm = Farm::start(Settings::default()).await;
    let action = farm.action("x");
    let request = ExecuteRequest {
        instance_name: "remote-execution".into(),
        ..request(action)
    };
    let mut worker = farm.worker("seed");
    worker.request.instance_name_prefix = "remote-execution".into();
    // A worker of its own queue, which is there from its first call on.
    let mut idle = farm.worker("idle");
    idle.request.instance_name_prefix = "remote-execution".into();
    idle.request.prefer_being_idle = true;
    assert!(is_idle(&idle.call(WorkerState::Idle(())).await.unwrap()));
    let mut client = Client::execute(farm.connect(), request).await.unwrap();
    let given = worker.take().await;
    assert_eq!(given.instance_name_suffix, "");
    let fetching = ExecutionState::FetchingInputs(());
    assert!(goes_on(&worker.report(action, fetching).await));
    let next = farm.action("next");
    let queued = ExecuteRequest {
        instance_name: "remote-execution".into(),
        ..super::request(next)
    };
    let second = Client::execute(farm.connect(), queued).await.unwrap();
    let given = executing(worker.report(action, completed(Code::Ok)).await);
    assert_eq!(given.action_digest, Some(next.to_wire()));
    client.response().await;
    drop(second);
}
