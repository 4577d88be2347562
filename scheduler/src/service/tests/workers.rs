//! What workers see.

use current_state::WorkerState;
use tonic::Code;

use super::*;

#[tokio::test]
async fn a_lost_workers_action_is_executed_by_another() {
    let farm = Farm::start(Settings {
        worker_expiry: Duration::ZERO,
        ..Settings::default()
    })
    .await;
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    for name in ["a", "b", "c"] {
        let given = farm.worker(name).take().await;
        assert_eq!(given.action_digest, Some(action.to_wire()));
    }
    let status = client.response().await.status.unwrap();
    assert_eq!(Code::from_i32(status.code), Code::Unavailable);
    assert!(status.message.contains("{host=b}"), "{}", status.message);
}

#[tokio::test]
async fn a_worker_whose_connection_broke_while_idle_is_given_nothing() {
    let farm = Farm::start(Settings::default()).await;
    let mut worker = farm.worker("a");
    let held = tokio::spawn(async move { worker.take().await });
    farm.until(|| farm.dispatcher.held() == 1).await;
    let duplicate = farm.worker("a").call(WorkerState::Idle(())).await;
    assert_eq!(duplicate.unwrap_err().code(), Code::ResourceExhausted);
    held.abort();
    farm.until(|| farm.dispatcher.held() == 0).await;
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    assert_eq!(client.stage().await, execution_stage::Value::Queued);
    farm.worker("a").take().await;
}

#[tokio::test]
async fn an_idle_workers_call_is_answered_when_its_time_is_up() {
    let farm = Farm::start(Settings {
        idle_poll: Duration::from_millis(1),
        ..Settings::default()
    })
    .await;
    let answer = farm.worker("a").call(WorkerState::Idle(())).await.unwrap();
    assert!(is_idle(&answer));
}

#[tokio::test]
async fn each_stage_of_an_execution_is_acknowledged_without_a_new_state() {
    use current_state::executing::ExecutionState;
    let farm = Farm::start(Settings::default()).await;
    let action = farm.action("x");
    let _client = farm.execute(action).await;
    let mut worker = farm.worker("a");
    worker.take().await;
    for state in [
        ExecutionState::Started(()),
        ExecutionState::FetchingInputs(()),
        ExecutionState::Running(()),
        ExecutionState::UploadingOutputs(()),
    ] {
        let response = worker.report(action, state).await;
        assert_eq!(response.desired_state, None);
        assert!(response.next_synchronization_at.is_some());
    }
}

#[tokio::test]
async fn the_platform_of_a_command_counts_where_the_action_has_none() {
    let farm = Farm::start(Settings::default()).await;
    #[expect(deprecated, reason = "that is where older clients put it")]
    let command = Command {
        platform: Some(platform("linux")),
        ..Default::default()
    };
    let command = farm.memory.put(&command.encode_to_vec());
    let action = farm.store(Action {
        command_digest: Some(command.to_wire()),
        ..action_of("")
    });
    let _client = farm.execute(action).await;
    let given = farm.worker("a").take().await;
    assert_eq!(given.action_digest, Some(action.to_wire()));
    assert_eq!(
        given.action.unwrap().platform,
        None,
        "the action stays as it is"
    );
}
