//! The scheduler as a peer: what a slot tells it, and what it answers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use daemon::Channel;
use proto::wire::remoteworker::current_state::executing::ExecutionState;
use proto::wire::remoteworker::operation_queue_client::OperationQueueClient;
use proto::wire::remoteworker::{
    CurrentState, SynchronizeRequest, SynchronizeResponse, current_state, desired_state,
};
use proto::wire::rev2::{self, ExecuteResponse};
use proto::{InstanceName, PlatformKey};
use tonic::{Request, Status};

use crate::action::Stage;
use crate::told::Told;

/// Longest time between two calls, whatever the scheduler says.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The scheduler, to one slot.
#[derive(Clone)]
pub(crate) struct Scheduler {
    pub(crate) client: OperationQueueClient<Channel>,
    pub(crate) worker_id: BTreeMap<String, String>,
    pub(crate) prefix: InstanceName,
    pub(crate) platform: PlatformKey,
    pub(crate) told: Told,
    pub(crate) size_class: u32,
}

/// What a slot is doing.
pub(crate) enum State {
    Idle,
    Executing(Option<rev2::Digest>, Stage),
    Completed(Option<rev2::Digest>, Box<ExecuteResponse>),
}

/// What a slot is to do.
pub(crate) struct Reply {
    /// Go on calling after this time.
    pub(crate) pause: Duration,
    pub(crate) desired: Desired,
}

/// See [`Reply`].
pub(crate) enum Desired {
    /// What it does already.
    Unchanged,
    Idle,
    Execute(Box<desired_state::Executing>),
}

impl Scheduler {
    /// Says what the slot does and hears what it should do. Blocks while the slot
    /// is idle, or becomes so, and may be given work.
    ///
    /// # Errors
    /// The scheduler is away or refuses.
    pub(crate) async fn synchronize(
        &self,
        state: &State,
        prefer_being_idle: bool,
    ) -> Result<Reply, Status> {
        let request = SynchronizeRequest {
            worker_id: self.worker_id.clone().into_iter().collect(),
            instance_name_prefix: self.prefix.to_string(),
            platform: Some(self.platform.to_wire()),
            current_state: Some(state.to_wire()),
            size_class: self.size_class,
            prefer_being_idle,
        };
        let mut request = Request::new(request);
        self.told.repeat(state, request.metadata_mut());
        let response = self.client.clone().synchronize(request).await?;
        self.told.note(&response);
        Reply::from_wire(response.into_inner())
    }
}

impl State {
    fn to_wire(&self) -> CurrentState {
        let executing = |digest: &Option<rev2::Digest>, state| {
            current_state::WorkerState::Executing(current_state::Executing {
                action_digest: digest.clone(),
                execution_state: Some(state),
            })
        };
        let state = match self {
            Self::Idle => current_state::WorkerState::Idle(()),
            Self::Executing(digest, stage) => executing(
                digest,
                match stage {
                    Stage::Started => ExecutionState::Started(()),
                    Stage::FetchingInputs => ExecutionState::FetchingInputs(()),
                    Stage::Running => ExecutionState::Running(()),
                    Stage::UploadingOutputs => ExecutionState::UploadingOutputs(()),
                },
            ),
            Self::Completed(digest, response) => {
                executing(digest, ExecutionState::Completed((**response).clone()))
            }
        };
        CurrentState {
            worker_state: Some(state),
        }
    }
}

impl Reply {
    fn from_wire(response: SynchronizeResponse) -> Result<Self, Status> {
        let pause = response
            .next_synchronization_at
            .as_ref()
            .and_then(proto::messages::system_time)
            .and_then(|next| next.duration_since(SystemTime::now()).ok())
            .unwrap_or_default()
            .min(LONGEST_PAUSE);
        let desired = match response.desired_state {
            None => Desired::Unchanged,
            Some(desired) => match desired.worker_state {
                None => {
                    return Err(Status::invalid_argument(
                        "the scheduler's answer has a desired state of no known kind",
                    ));
                }
                Some(desired_state::WorkerState::Idle(())) => Desired::Idle,
                Some(desired_state::WorkerState::Executing(executing)) => {
                    Desired::Execute(Box::new(executing))
                }
            },
        };
        Ok(Self { pause, desired })
    }
}
