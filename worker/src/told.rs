//! What a slot was told of what it executes, to be told again.
//!
//! `buildbarn.remoteworker` names an execution by the action's digest alone. A
//! scheduler that was restarted in the meantime needs more to go on with it, so a
//! slot repeats what it heard when it was handed the action, beside each report
//! (`hayloft.worker.v1`). Schedulers of another make leave it unread.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;
use proto::wire::remoteworker::{SynchronizeResponse, desired_state};
use proto::wire::rev2::Digest;
use proto::wire::worker_extension::Execution;
use tonic::Response;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::scheduler::State;

/// Where it travels.
const METADATA: &str = "hayloft-execution-bin";

/// What was told of the last action that was handed out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Option<Kept>>>);

/// The action's digest, and what was told besides.
type Kept = (Option<Digest>, Execution);

impl Told {
    /// Adds what was told of the action that the slot reports on; of none, that it
    /// is a slot which could tell.
    pub(crate) fn repeat(&self, state: &State, headers: &mut MetadataMap) {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let execution = match (state, &*told) {
            (State::Executing(of, _) | State::Completed(of, _), Some((digest, execution)))
                if of == digest =>
            {
                execution.encode_to_vec()
            }
            _ => Vec::new(),
        };
        headers.insert_bin(METADATA, MetadataValue::from_bytes(&execution));
    }

    /// The first of the operations that wait for what was handed out last, where
    /// that was told.
    pub(crate) fn operation(&self) -> Option<String> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, execution) = told.as_ref()?;
        execution.operation_names.first().cloned()
    }

    /// Notes what an answer tells: all of an action that it hands out, and which
    /// operations have come to wait for one that goes on.
    pub(crate) fn note(&self, response: &Response<SynchronizeResponse>) {
        let value = response.metadata().get_bin(METADATA);
        let told = value
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| Execution::decode(bytes).ok());
        let desired = response.get_ref().desired_state.as_ref();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match desired.and_then(|desired| desired.worker_state.as_ref()) {
            Some(desired_state::WorkerState::Executing(executing)) => {
                *kept = told.map(|told| (executing.action_digest.clone(), told));
            }
            Some(desired_state::WorkerState::Idle(())) => *kept = None,
            None => {
                if let (Some((_, kept)), Some(told)) = (&mut *kept, told) {
                    kept.operation_names = told.operation_names;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Stage;

    fn digest(hash: &str) -> Option<Digest> {
        Some(Digest {
            hash: hash.into(),
            size_bytes: 1,
        })
    }

    fn answer(
        worker_state: Option<desired_state::WorkerState>,
        names: &[&str],
    ) -> Response<SynchronizeResponse> {
        let desired_state = worker_state.map(|state| proto::wire::remoteworker::DesiredState {
            worker_state: Some(state),
        });
        let mut response = Response::new(SynchronizeResponse {
            desired_state,
            ..Default::default()
        });
        let execution = Execution {
            operation_names: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let value = MetadataValue::from_bytes(&execution.encode_to_vec());
        response.metadata_mut().insert_bin(METADATA, value);
        response
    }

    fn names(told: &Told, state: &State) -> Vec<String> {
        let mut headers = MetadataMap::new();
        told.repeat(state, &mut headers);
        let bytes = headers.get_bin(METADATA).unwrap().to_bytes().unwrap();
        Execution::decode(bytes).unwrap().operation_names
    }

    #[test]
    fn what_was_told_of_an_action_is_told_with_its_reports_alone() {
        let told = Told::default();
        let executing = desired_state::Executing {
            action_digest: digest("a"),
            ..Default::default()
        };
        let executing = desired_state::WorkerState::Executing(executing);
        told.note(&answer(Some(executing), &["x"]));
        let report = |hash| State::Executing(digest(hash), Stage::Running);
        assert_eq!(names(&told, &report("a")), ["x"]);
        assert_eq!(names(&told, &report("b")), [""; 0]);
        assert_eq!(names(&told, &State::Idle), [""; 0]);
        told.note(&answer(None, &["x", "y"]));
        let completed = State::Completed(digest("a"), Box::default());
        assert_eq!(names(&told, &completed), ["x", "y"]);
        told.note(&answer(Some(desired_state::WorkerState::Idle(())), &[]));
        assert_eq!(names(&told, &completed), [""; 0]);
    }
}
