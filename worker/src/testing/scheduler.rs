//! A scheduler of one worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use proto::wire::remoteworker::current_state::executing::ExecutionState;
use proto::wire::remoteworker::desired_state::{Executing, WorkerState};
use proto::wire::remoteworker::operation_queue_server::OperationQueue;
use proto::wire::remoteworker::{
    DesiredState, SynchronizeRequest, SynchronizeResponse, current_state,
};
use proto::wire::rev2::ExecuteResponse;
use tokio::sync::{Notify, mpsc};
use tonic::{Code, Request, Response, Status};

/// Hands out what is queued, and passes on what the worker says.
pub(crate) struct FakeScheduler {
    queue: Mutex<VecDeque<Executing>>,
    queued: Notify,
    completed: mpsc::UnboundedSender<ExecuteResponse>,
    heard: mpsc::UnboundedSender<String>,
    /// Answers to calls about an action that executes; none: go on.
    pub(crate) instead: Mutex<VecDeque<WorkerState>>,
    /// Calls to refuse.
    pub(crate) refuse: Mutex<usize>,
    /// Calls to refuse because one is still being held, as our scheduler says it.
    pub(crate) held: Mutex<usize>,
    /// Codes with which to refuse results.
    pub(crate) refuse_results: Mutex<VecDeque<Code>>,
    /// What a worker said last.
    pub(crate) last: Mutex<SynchronizeRequest>,
    /// What to hand out to a worker that prefers being idle.
    pub(crate) insist: Mutex<Option<Executing>>,
    /// Calls that ask for work to answer as if it had been waited for in vain.
    pub(crate) idle: Mutex<usize>,
}

impl FakeScheduler {
    pub(crate) fn new(
        completed: mpsc::UnboundedSender<ExecuteResponse>,
        heard: mpsc::UnboundedSender<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            queued: Notify::new(),
            completed,
            heard,
            instead: Mutex::default(),
            refuse: Mutex::new(0),
            held: Mutex::new(0),
            refuse_results: Mutex::default(),
            last: Mutex::default(),
            insist: Mutex::default(),
            idle: Mutex::default(),
        })
    }

    pub(crate) fn hand_out(&self, task: Executing) {
        self.queue.lock().unwrap().push_back(task);
        self.queued.notify_one();
    }

    async fn next(&self) -> Executing {
        loop {
            let queued = self.queued.notified();
            if let Some(task) = self.queue.lock().unwrap().pop_front() {
                return task;
            }
            queued.await;
        }
    }
}

fn answer(desired: Option<WorkerState>, pause: Duration) -> Response<SynchronizeResponse> {
    Response::new(SynchronizeResponse {
        next_synchronization_at: Some(proto::messages::timestamp(SystemTime::now() + pause)),
        desired_state: desired.map(|state| DesiredState {
            worker_state: Some(state),
        }),
    })
}

#[tonic::async_trait]
impl OperationQueue for FakeScheduler {
    async fn synchronize(
        &self,
        request: Request<SynchronizeRequest>,
    ) -> Result<Response<SynchronizeResponse>, Status> {
        {
            let mut refuse = self.refuse.lock().unwrap();
            if *refuse > 0 {
                *refuse -= 1;
                return Err(Status::unavailable("not now"));
            }
        }
        {
            let mut held = self.held.lock().unwrap();
            if *held > 0 {
                *held -= 1;
                return Err(Status::resource_exhausted(
                    "another call of worker x is being held already",
                ));
            }
        }
        let request = request.into_inner();
        self.last.lock().unwrap().clone_from(&request);
        let state = request.current_state.and_then(|state| state.worker_state);
        let said = match &state {
            None => return Err(Status::invalid_argument("no state")),
            Some(current_state::WorkerState::Idle(())) => "idle",
            Some(current_state::WorkerState::Executing(executing)) => {
                match &executing.execution_state {
                    None => return Err(Status::invalid_argument("no state")),
                    Some(ExecutionState::Started(())) => "started",
                    Some(ExecutionState::FetchingInputs(())) => "fetching inputs",
                    Some(ExecutionState::Running(())) => "running",
                    Some(ExecutionState::UploadingOutputs(())) => "uploading outputs",
                    Some(ExecutionState::Completed(response)) => {
                        if let Some(code) = self.refuse_results.lock().unwrap().pop_front() {
                            return Err(Status::new(code, "too large"));
                        }
                        let _ = self.completed.send(response.clone());
                        "completed"
                    }
                }
            }
        };
        let prefers = if request.prefer_being_idle {
            ", prefers being idle"
        } else {
            ""
        };
        let _ = self.heard.send(format!("{said}{prefers}"));
        if !matches!(said, "idle" | "completed") {
            let instead = self.instead.lock().unwrap().pop_front();
            return Ok(answer(instead, Duration::from_secs(10)));
        }
        if request.prefer_being_idle {
            if let Some(task) = self.insist.lock().unwrap().take() {
                let executing = WorkerState::Executing(task);
                return Ok(answer(Some(executing), Duration::from_secs(10)));
            }
            return Ok(answer(Some(WorkerState::Idle(())), Duration::ZERO));
        }
        {
            let mut idle = self.idle.lock().unwrap();
            if *idle > 0 {
                *idle -= 1;
                return Ok(answer(Some(WorkerState::Idle(())), Duration::ZERO));
            }
        }
        let task = self.next().await;
        Ok(answer(
            Some(WorkerState::Executing(task)),
            Duration::from_secs(10),
        ))
    }
}
