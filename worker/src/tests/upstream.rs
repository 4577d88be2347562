//! Peers of Buildbarn's make: a runner that speaks `buildbarn.runner` alone, a scheduler
//! that speaks `buildbarn.remoteworker` alone. What any worker has to do in such company
//! the other tests show; here is what is not Hayloft's worker's usual way.

use proto::messages;
use proto::wire::action::Facts;
use proto::wire::remoteworker::desired_state::WorkerState;
use proto::wire::rev2::ExecuteResponse;
use tonic::Code;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, digest};

const PLAIN: Manners = Manners {
    uid: None,
    refuses: None,
    own_uids: false,
    stopping: false,
    plain: true,
};

fn facts(response: &ExecuteResponse) -> Facts {
    let result = response.result.as_ref().unwrap();
    let metadata = result.execution_metadata.as_ref().unwrap();
    let mut all = metadata.auxiliary_metadata.iter();
    all.find_map(|any| messages::unpack(any, "hayloft.action.v1.Facts"))
        .unwrap()
}

/// An action with more inputs than it takes for layers to be worth their while.
fn large(farm: &Farm, salt: &str) -> Input {
    let mut input = Input::script(&format!(": {salt}; ls | wc -l"));
    for number in 0..200 {
        input = input.file(&farm.storage, &format!("f{number}"), b"same");
    }
    input
}

/// What becomes of the inputs of two actions that have the same: how many were linked,
/// copied, and reused as part of layers, by each.
async fn inputs(manners: Manners) -> [[u64; 3]; 2] {
    let mut farm = Farm::new(manners).await;
    let mut seen = Vec::new();
    for salt in ["first", "second"] {
        let input = large(&farm, salt);
        let response = farm.execute(input).await;
        assert_eq!(code(&response), Code::Ok, "{response:?}");
        let stdout = response.result.as_ref().unwrap().stdout_digest.clone();
        assert_eq!(stdout, Some(digest(b"200\n").to_wire()));
        let facts = facts(&response);
        seen.push([facts.files_linked, facts.files_copied, facts.files_reused]);
    }
    farm.end().await;
    seen.try_into().unwrap()
}

#[tokio::test]
async fn a_plain_runner_of_the_workers_own_user_gets_copies_and_no_layers() {
    assert_eq!(inputs(PLAIN).await, [[0, 200, 0]; 2]);
}

/// It says nothing of itself, and configuration could be wrong; the probe is run
/// through it all the same, and finds that the seal holds.
#[tokio::test]
async fn a_plain_runner_of_another_user_gets_hardlinks_and_no_layers() {
    let name = "a_plain_runner_of_another_user_gets_hardlinks_and_no_layers";
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {name}: only root can run commands as another user");
        return;
    }
    let other = Manners {
        uid: Some(65534),
        ..PLAIN
    };
    assert_eq!(inputs(other).await, [[200, 0, 0]; 2]);
}

#[tokio::test]
async fn a_plain_runner_that_refuses_the_probe_gets_copies() {
    let refusing = Manners {
        refuses: Some(Code::InvalidArgument),
        ..PLAIN
    };
    assert_eq!(inputs(refusing).await, [[0, 200, 0]; 2]);
}

/// Go tells the death by a signal as -1, not as a shell does.
#[tokio::test]
async fn the_exit_code_of_a_plain_runner_is_passed_on() {
    let mut farm = Farm::new(PLAIN).await;
    let response = farm.execute(Input::script("kill -SEGV $$")).await;
    assert_eq!(code(&response), Code::Ok);
    assert_eq!(response.result.unwrap().exit_code, -1);
    assert!(farm.storage.results.lock().unwrap().is_empty());
    farm.end().await;
}

/// A long poll of Buildbarn's ends after two minutes at most, with an answer that says
/// so and a time that is over.
#[tokio::test]
async fn a_scheduler_that_has_nothing_is_asked_again() {
    let mut farm = Farm::new(Manners::default()).await;
    farm.stop_worker().await;
    while farm.heard.try_recv().is_ok() {}
    *farm.scheduler.idle.lock().unwrap() = 3;
    farm.start_worker();
    for _ in 0..4 {
        assert_eq!(farm.heard.recv().await.unwrap(), "idle");
    }
    let response = farm.execute(Input::script("true")).await;
    assert_eq!(code(&response), Code::Ok);
    farm.end().await;
}

/// Schedulers of before 2021-06 leave it to the worker, those of before 2022 name no
/// function, those of before 2021 give no part of the instance name.
#[tokio::test]
async fn a_task_without_timeout_function_and_instance_is_executed() {
    let mut farm = Farm::new(Manners::default()).await;
    let mut input = Input::script("echo ran");
    input.action.timeout = None;
    let mut task = input.store(&farm.storage);
    task.digest_function = 0;
    task.instance_name_suffix.clear();
    task.queued_timestamp = None;
    task.w3c_trace_context.clear();
    let response = farm.execute_task(task).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"ran\n").to_wire()));
    farm.end().await;
}

/// As after a restart of the scheduler, which knows of no action of this worker's.
#[tokio::test]
async fn a_scheduler_that_gives_the_same_action_again_gets_one_result_of_it() {
    let mut farm = Farm::new(Manners::default()).await;
    let path = farm.path("seen");
    let script = format!("until [ -e {} ]; do :; done; echo ran", path.display());
    let task = Input::script(&script).store(&farm.storage);
    let same = WorkerState::Executing(task.clone());
    farm.scheduler.instead.lock().unwrap().push_back(same);
    farm.scheduler.hand_out(task);
    while farm.heard.recv().await.unwrap() != "running" {}
    std::fs::write(path, "").unwrap();
    let response = farm.completed().await;
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(b"ran\n").to_wire()));
    farm.end().await;
}
