//! Behind Buildbarn's storage, which clients call (bb-storage, `pkg/builder`): it takes
//! a prefix off instance names, passes Execute and WaitExecution on, and gives
//! operations names that lead it back to the scheduler.

use execution_stage::Value as Stage;
use futures::stream::BoxStream;
use proto::wire::buildqueuestate::GetOperationRequest;
use proto::wire::buildqueuestate::build_queue_state_client::BuildQueueStateClient;
use proto::wire::rev2::execution_server::{Execution, ExecutionServer};
use proto::wire::rev2::{RequestMetadata, WaitExecutionRequest};
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Code, Request, Response};

use super::*;

const METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// How a front of some year does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Year {
    /// `forwardingBuildQueue` for each instance name, which stays as it is; operations
    /// are `INSTANCE|NAME`.
    Y2020,
    /// A prefix of instance names, which is taken off; `PREFIX/operations/NAME`, or
    /// `operations/NAME` for the empty one.
    Today,
}

/// The front, with one scheduler for instance names that are or begin with `prefix`.
#[derive(Clone)]
struct Front {
    year: Year,
    prefix: &'static str,
    /// Whether it is configured to pass RequestMetadata on.
    forwards: bool,
    scheduler: Channel,
}

type Operations = BoxStream<'static, Result<Operation, Status>>;

impl Front {
    fn request<T>(&self, from: &MetadataMap, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = from.get_bin(METADATA).filter(|_| self.forwards) {
            request.metadata_mut().insert_bin(METADATA, value.clone());
        }
        request
    }

    fn named(&self, operations: Streaming<Operation>) -> Response<Operations> {
        let front = self.clone();
        let named = operations.map(move |operation| {
            let mut operation = operation?;
            let name = &operation.name;
            operation.name = match (front.year, front.prefix) {
                (Year::Y2020, instance) => {
                    // The front of 2020 takes such a name for a mistake.
                    assert!(!name.contains('|'), "{name}");
                    format!("{instance}|{name}")
                }
                (Year::Today, "") => format!("operations/{name}"),
                (Year::Today, prefix) => format!("{prefix}/operations/{name}"),
            };
            Ok(operation)
        });
        Response::new(named.boxed())
    }
}

#[tonic::async_trait]
impl Execution for Front {
    type ExecuteStream = Operations;
    type WaitExecutionStream = Operations;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Operations>, Status> {
        let (headers, _, mut message) = request.into_parts();
        let instance = InstanceName::new(&message.instance_name).unwrap();
        let prefix = InstanceName::new(self.prefix).unwrap();
        match self.year {
            Year::Y2020 => assert_eq!(message.instance_name, self.prefix),
            Year::Today => {
                message.instance_name = instance.strip_prefix(&prefix).unwrap().to_string()
            }
        }
        let request = self.request(&headers, message);
        let mut scheduler = ExecutionClient::new(self.scheduler.clone());
        Ok(self.named(scheduler.execute(request).await?.into_inner()))
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<Operations>, Status> {
        let (headers, _, message) = request.into_parts();
        let name = match self.year {
            Year::Y2020 => message.name.split_once('|'),
            Year::Today => message
                .name
                .split_once("operations/")
                .map(|(prefix, name)| (prefix.trim_end_matches('/'), name)),
        };
        let (prefix, name) = name.ok_or_else(|| Status::invalid_argument("no such name"))?;
        assert_eq!(prefix, self.prefix);
        let request = self.request(&headers, WaitExecutionRequest { name: name.into() });
        let mut scheduler = ExecutionClient::new(self.scheduler.clone());
        Ok(self.named(scheduler.wait_execution(request).await?.into_inner()))
    }
}

/// Executes an action through a front, leaves, comes back by WaitExecution, and hears
/// the result. `rest`: what the scheduler gets of the instance name.
async fn through(front: Front, farm: &Farm, instance: &str, rest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("front"));
    let listener = daemon::listen(&address).await.unwrap();
    let (year, prefix, forwards) = (front.year, front.prefix, front.forwards);
    let routes = Routes::new(ExecutionServer::new(front));
    let shutdown = Shutdown::new();
    tokio::spawn(daemon::serve(listener, routes, Diagnostics::new(&shutdown)));
    let channel = daemon::connect(&address).unwrap();

    let action = farm.action(&format!("{year:?} {prefix} {forwards}"));
    let mut call = Request::new(ExecuteRequest {
        instance_name: instance.into(),
        ..request(action)
    });
    let metadata = RequestMetadata {
        tool_invocation_id: "an-invocation".into(),
        ..Default::default()
    };
    let header = MetadataValue::from_bytes(&metadata.encode_to_vec());
    call.metadata_mut().insert_bin(METADATA, header);
    let mut client = Client::execute(channel.clone(), call).await.unwrap();
    assert_eq!(client.stage().await, Stage::Queued);
    let name = client.name.clone();
    assert!(name.starts_with(prefix), "{name}");

    // The scheduler's own name, and whose it knows the operation to be.
    let own = name.rsplit(['|', '/']).next().unwrap();
    let asked = GetOperationRequest {
        operation_name: own.into(),
    };
    let mut operator = BuildQueueStateClient::new(farm.connect());
    let state = operator.get_operation(asked).await.unwrap().into_inner();
    let invocation = state.operation.unwrap().invocation_name.unwrap();
    let metadata: RequestMetadata = unpack(
        &invocation.ids[0],
        "build.bazel.remote.execution.v2.RequestMetadata",
    )
    .unwrap();
    let expected = if forwards { "an-invocation" } else { "" };
    assert_eq!(metadata.tool_invocation_id, expected);

    drop(client);
    let mut worker = farm.worker("w");
    let given = worker.take().await;
    assert_eq!(given.action_digest, Some(action.to_wire()));
    assert_eq!(given.instance_name_suffix, rest);
    let mut execution = ExecutionClient::new(channel);
    let wait = WaitExecutionRequest { name: name.clone() };
    let stream = execution.wait_execution(wait).await.unwrap().into_inner();
    let mut returned = Client {
        stream,
        name: String::new(),
    };
    assert_eq!(returned.stage().await, Stage::Executing);
    assert_eq!(returned.name, name);
    worker.complete(action, 3).await;
    assert_eq!(returned.response().await.result.unwrap().exit_code, 3);

    // Names that the scheduler did not give are not found, so that the client asks
    // for the action anew.
    let unknown = name.replace(own, &uuid::Uuid::new_v4().to_string());
    let wait = WaitExecutionRequest { name: unknown };
    let status = execution.wait_execution(wait).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    shutdown.cancel();
}

#[tokio::test]
async fn behind_a_front_of_2020() {
    let farm = Farm::start(Settings::default()).await;
    for forwards in [false, true] {
        let front = Front {
            year: Year::Y2020,
            prefix: "remote-execution",
            forwards,
            scheduler: farm.connect(),
        };
        through(front, &farm, "remote-execution", "remote-execution").await;
    }
}

#[tokio::test]
async fn behind_a_front_of_today() {
    let farm = Farm::start(Settings::default()).await;
    for (prefix, instance, rest) in [
        ("", "", ""),
        ("", "fuse/team", "fuse/team"),
        ("hardlinking", "hardlinking", ""),
        ("a/b", "a/b/team", "team"),
    ] {
        for forwards in [false, true] {
            let front = Front {
                year: Year::Today,
                prefix,
                forwards,
                scheduler: farm.connect(),
            };
            through(front, &farm, instance, rest).await;
        }
    }
}
