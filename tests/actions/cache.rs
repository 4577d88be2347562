//! Which results are kept and found again.

use proto::wire::rev2;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use tests::action::Action;
use tests::farm::Farm;
use tonic::{Code, Status};

use crate::farm;

/// An action whose output is another one each time it runs.
fn different_each_time() -> Action {
    Action::shell("cat /proc/sys/kernel/random/uuid | tee id").output("id")
}

fn lookup(farm: &Farm, action: &Action) -> Result<rev2::ActionResult, Status> {
    let client = farm.client();
    let request = rev2::GetActionResultRequest {
        action_digest: Some(action.blobs().0.to_wire()),
        ..Default::default()
    };
    let mut cache = ActionCacheClient::new(client.inner().channel());
    let result = client.block_on(cache.get_action_result(request));
    result.map(tonic::Response::into_inner)
}

#[test]
fn a_result_is_kept_and_found_again() {
    let farm = farm();
    let action = different_each_time();
    assert_eq!(lookup(&farm, &action).unwrap_err().code(), Code::NotFound);
    let first = farm.client().run(&action).success();
    let again = farm.client().run(&action).success();
    assert_eq!((first.cached, again.cached), (false, true));
    assert_eq!(first.stdout, again.stdout);
    assert_eq!(first.output("id"), again.output("id"));
    let found = lookup(&farm, &action).expect("it is in the cache");
    assert_eq!(found.output_files, first.result.output_files);
    farm.stop();
}

#[test]
fn a_result_that_is_not_to_be_cached_is_not() {
    let farm = farm();
    let action = different_each_time().do_not_cache();
    let first = farm.client().run(&action).success();
    let again = farm.client().run(&action).success();
    assert_eq!((first.cached, again.cached), (false, false));
    assert_ne!(first.stdout, again.stdout);
    assert_eq!(lookup(&farm, &action).unwrap_err().code(), Code::NotFound);
    farm.stop();
}

#[test]
fn a_client_may_ask_for_a_fresh_result() {
    let farm = farm();
    let mut action = different_each_time();
    let first = farm.client().run(&action).success();
    action.skip_cache_lookup = true;
    let fresh = farm.client().run(&action).success();
    assert!(!fresh.cached);
    assert_ne!(first.stdout, fresh.stdout);
    // It takes the place of the first.
    action.skip_cache_lookup = false;
    let again = farm.client().run(&action).success();
    assert_eq!((again.cached, again.stdout), (true, fresh.stdout));
    farm.stop();
}

#[test]
fn the_result_of_a_command_that_failed_is_not_kept() {
    let farm = farm();
    let action = Action::shell("cat /proc/sys/kernel/random/uuid; exit 1");
    let first = farm.client().run(&action).exited(1);
    let again = farm.client().run(&action).exited(1);
    assert!(!again.cached);
    assert_ne!(first.stdout, again.stdout);
    assert_eq!(lookup(&farm, &action).unwrap_err().code(), Code::NotFound);
    farm.stop();
}
