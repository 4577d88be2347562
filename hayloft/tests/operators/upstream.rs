//! A scheduler that serves `buildbarn.buildqueuestate` as Buildbarn's does
//! (bb-remote-execution, `pkg/scheduler/in_memory_build_queue.go`), and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use proto::messages::{pack_rev2, timestamp};
use proto::wire::buildqueuestate::build_queue_state_server::BuildQueueState;
use proto::wire::buildqueuestate::*;
use proto::wire::rev2::platform::Property;
use proto::wire::rev2::{self, RequestMetadata, execution_stage};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
pub type Pattern = BTreeMap<String, String>;

/// Two platforms: `linux`, of one size, and `mac`, of sizes 1 and 4.
#[derive(Clone, Default)]
pub struct Upstream {
    pub drains: Arc<Mutex<Vec<(SizeClassQueueName, Pattern)>>>,
    pub killed: Arc<Mutex<Vec<KillOperationsRequest>>>,
    pub terminated: Arc<Mutex<Vec<Pattern>>>,
    pub pages: Arc<Mutex<usize>>,
}

fn platform_name(os: &str) -> PlatformQueueName {
    PlatformQueueName {
        instance_name_prefix: format!("{os}-prefix"),
        platform: Some(rev2::Platform {
            properties: vec![Property {
                name: "OSFamily".into(),
                value: os.into(),
            }],
        }),
    }
}

pub fn queue(os: &str, size_class: u32) -> SizeClassQueueName {
    SizeClassQueueName {
        platform_queue_name: Some(platform_name(os)),
        size_class,
    }
}

pub fn worker(number: usize) -> HashMap<String, String> {
    HashMap::from([
        ("pod".into(), format!("worker-{}", number / 4)),
        ("thread".into(), format!("{number:03}")),
    ])
}

/// In the order in which Buildbarn lists them: by name.
fn operations() -> Vec<OperationState> {
    let invocation = RequestMetadata {
        tool_invocation_id: "an-invocation".into(),
        ..Default::default()
    };
    let operation = |number: usize| OperationState {
        name: format!("operation-{number:04}"),
        invocation_name: Some(InvocationName {
            size_class_queue_name: Some(if number.is_multiple_of(3) {
                queue("mac", 4)
            } else {
                queue("linux", 0)
            }),
            ids: vec![pack_rev2("RequestMetadata", &invocation)],
        }),
        queued_timestamp: Some(timestamp(std::time::SystemTime::UNIX_EPOCH)),
        action_digest: Some(rev2::Digest {
            hash: "ab".repeat(32),
            size_bytes: 7,
        }),
        stage: Some(if number < 30 {
            operation_state::Stage::Executing(())
        } else {
            operation_state::Stage::Queued(())
        }),
        target_id: "//some:target".into(),
        ..Default::default()
    };
    (0..900).map(operation).collect()
}

fn page<T>(
    all: Vec<T>,
    size: u32,
    before: impl Fn(&T) -> bool,
) -> (Vec<T>, Option<PaginationInfo>) {
    let total = all.len();
    let start = all.iter().take_while(|entry| before(entry)).count();
    let entries = all.into_iter().skip(start).take(size as usize).collect();
    let info = PaginationInfo {
        start_index: start as u32,
        total_entries: total as u32,
    };
    (entries, Some(info))
}

#[tonic::async_trait]
impl BuildQueueState for Upstream {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Answer<GetOperationResponse> {
        let name = request.into_inner().operation_name;
        let mut all = operations().into_iter();
        let found = all.find(|operation| operation.name == name);
        let mut operation = found.ok_or_else(|| Status::not_found("Operation was not found"))?;
        operation.name.clear();
        Ok(Response::new(GetOperationResponse {
            operation: Some(operation),
        }))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        let request = request.into_inner();
        *self.pages.lock().unwrap() += 1;
        let mut wanted = operations();
        wanted.retain(|operation| match operation.stage {
            Some(operation_state::Stage::Queued(())) => {
                request.filter_stage == execution_stage::Value::Queued as i32
            }
            _ => request.filter_stage == execution_stage::Value::Executing as i32,
        });
        let after = request.start_after.map(|it| it.operation_name);
        let before = |it: &OperationState| after.as_ref().is_some_and(|after| it.name <= *after);
        let (operations, pagination_info) = page(wanted, request.page_size, before);
        Ok(Response::new(ListOperationsResponse {
            operations,
            pagination_info,
        }))
    }

    async fn kill_operations(&self, request: Request<KillOperationsRequest>) -> Answer<()> {
        self.killed.lock().unwrap().push(request.into_inner());
        Ok(Response::new(()))
    }

    async fn list_platform_queues(&self, _: Request<()>) -> Answer<ListPlatformQueuesResponse> {
        let state = |size_class, workers_count, indirect| SizeClassQueueState {
            size_class,
            workers_count,
            drains_count: 0,
            root_invocation: Some(InvocationState {
                queued_operations_count: Some(invocation_state::InvocationObjectCount {
                    direct: 0,
                    indirect,
                }),
                executing_workers_count: workers_count.min(1),
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok(Response::new(ListPlatformQueuesResponse {
            platform_queues: vec![
                PlatformQueueState {
                    name: Some(platform_name("linux")),
                    size_class_queues: vec![state(0, 450, 580)],
                },
                PlatformQueueState {
                    name: Some(platform_name("mac")),
                    size_class_queues: vec![state(1, 0, 0), state(4, 0, 290)],
                },
            ],
        }))
    }

    async fn list_invocation_children(
        &self,
        _: Request<ListInvocationChildrenRequest>,
    ) -> Answer<ListInvocationChildrenResponse> {
        Err(Status::internal("not played"))
    }

    async fn list_queued_operations(
        &self,
        _: Request<ListQueuedOperationsRequest>,
    ) -> Answer<ListQueuedOperationsResponse> {
        Err(Status::internal("not played"))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Answer<ListWorkersResponse> {
        use list_workers_request::filter::Type;
        let request = request.into_inner();
        let Some(Type::All(name)) = request.filter.and_then(|filter| filter.r#type) else {
            return Err(Status::invalid_argument("Unknown filter type"));
        };
        let count = if name == queue("linux", 0) { 450 } else { 0 };
        let all = (0..count).map(|number| WorkerState {
            id: worker(number),
            current_operation: (number == 7).then(|| operations().remove(1)),
            drained: number == 8,
            ..Default::default()
        });
        let key = |id: &HashMap<String, String>| id["thread"].clone();
        let after = request.start_after.map(|after| key(&after.worker_id));
        let before = |it: &WorkerState| after.as_ref().is_some_and(|after| key(&it.id) <= *after);
        let (workers, pagination_info) = page(all.collect(), request.page_size, before);
        Ok(Response::new(ListWorkersResponse {
            workers,
            pagination_info,
        }))
    }

    async fn terminate_workers(&self, request: Request<TerminateWorkersRequest>) -> Answer<()> {
        let pattern = request.into_inner().worker_id_pattern.into_iter().collect();
        self.terminated.lock().unwrap().push(pattern);
        Ok(Response::new(()))
    }

    async fn list_drains(&self, request: Request<ListDrainsRequest>) -> Answer<ListDrainsResponse> {
        let name = request.into_inner().size_class_queue_name.unwrap();
        let drains = self.drains.lock().unwrap();
        let of_queue = drains.iter().filter(|(queue, _)| *queue == name);
        let drains = of_queue.map(|(_, pattern)| DrainState {
            worker_id_pattern: pattern.clone().into_iter().collect(),
            created_timestamp: None,
        });
        Ok(Response::new(ListDrainsResponse {
            drains: drains.collect(),
        }))
    }

    async fn add_drain(&self, request: Request<AddOrRemoveDrainRequest>) -> Answer<()> {
        let request = request.into_inner();
        let pattern = request.worker_id_pattern.into_iter().collect();
        let drain = (request.size_class_queue_name.unwrap(), pattern);
        self.drains.lock().unwrap().push(drain);
        Ok(Response::new(()))
    }

    async fn remove_drain(&self, request: Request<AddOrRemoveDrainRequest>) -> Answer<()> {
        let request = request.into_inner();
        let pattern = request.worker_id_pattern.into_iter().collect();
        let drain = (request.size_class_queue_name.unwrap(), pattern);
        self.drains.lock().unwrap().retain(|one| *one != drain);
        Ok(Response::new(()))
    }
}
