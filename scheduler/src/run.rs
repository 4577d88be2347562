//! The program.

use std::sync::Arc;
use std::time::SystemTime;

use daemon::{Diagnostics, Shutdown};
use proto::wire::buildqueuestate::build_queue_state_server::BuildQueueStateServer;
use proto::wire::longrunning::operations_server::OperationsServer;
use proto::wire::remoteworker::operation_queue_server::OperationQueueServer;
use proto::wire::rev2::capabilities_server::CapabilitiesServer;
use proto::wire::rev2::execution_server::ExecutionServer;
use proto::wire::scheduler_extension::explanation_server::ExplanationServer;
use storage::ActionCache;
use storage::client::RemoteStorage;
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::config::Config;
use crate::error::Error;
use crate::note::Note;
use crate::queue::{Now, Queue};
use crate::service::capabilities::Announcement;
use crate::service::execution::ExecutionService;
use crate::service::operation_queue::OperationQueueService;
use crate::service::operations::OperationsService;
use crate::service::queue_state::QueueStateService;
use crate::service::route::Router;
use crate::service::{Actions, Authorizers, Dispatcher, Sizes};

/// The variable by which a supervisor tells that it starts the scheduler anew, after
/// one that did not end in order.
pub const RESTARTED: &str = "HAYLOFT_RESTARTED";

/// Runs a scheduler until it is told to stop. Then new calls are refused as
/// UNAVAILABLE, streams end so, and workers' calls are answered.
///
/// # Errors
/// The configuration contradicts itself, an address cannot be used, or a server
/// fails.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let mut settings = config.settings()?;
    let (note, was_left) = Note::leave(config.state_directory.as_deref())?;
    if was_left || std::env::var_os(RESTARTED).is_some() {
        tracing::warn!("started after an unclean end, waiting for workers to report");
        settings.recovery = Some(config.recovery());
    }
    let diagnostics = Diagnostics::start(&config.global, &shutdown)?;
    let cas = &config.content_addressable_storage;
    let storage = Arc::new(RemoteStorage::connect(cas, config.action_cache.as_ref())?);
    let action_cache = config
        .action_cache
        .is_some()
        .then(|| storage.clone() as Arc<dyn ActionCache>);
    let sizes = Sizes {
        action: config.maximum_action_size_bytes,
        command: config.maximum_message_size_bytes,
    };
    let actions = Actions::new(storage, sizes, &settings.ignored);
    let now = Now {
        instant: tokio::time::Instant::now().into_std(),
        wall: SystemTime::now(),
    };
    let random = Box::new(rand::random::<u128>);
    let queue = Queue::new(settings, &config.predeclared()?, random, now);
    let dispatcher = Dispatcher::new(queue, shutdown.clone());

    dispatcher.register(diagnostics.metrics());
    let authorizers = Arc::new(config.authorizers());
    let mut listeners = Vec::new();
    let router = Router::new(&config)?;
    let clients = client_routes(
        dispatcher.clone(),
        actions,
        action_cache,
        router,
        authorizers.clone(),
    );
    for endpoint in &config.client_grpc_servers {
        let routes = endpoint
            .listen()?
            .into_iter()
            .map(|at| (at, clients.clone()));
        listeners.extend(routes);
    }
    let workers = worker_routes(
        dispatcher.clone(),
        config.maximum_message_size_bytes,
        authorizers.clone(),
    );
    for endpoint in &config.worker_grpc_servers {
        let routes = endpoint
            .listen()?
            .into_iter()
            .map(|at| (at, workers.clone()));
        listeners.extend(routes);
    }
    let operators = queue_state_routes(dispatcher.clone(), authorizers);
    for endpoint in &config.build_queue_state_grpc_servers {
        let routes = endpoint
            .listen()?
            .into_iter()
            .map(|at| (at, operators.clone()));
        listeners.extend(routes);
    }
    for (listener, _) in &listeners {
        tracing::info!(address = listener.local_address(), "listening");
    }
    diagnostics.ready(true);
    let servers = listeners.into_iter().map(|(listener, routes)| {
        let diagnostics = diagnostics.clone();
        let shutdown = shutdown.clone();
        async move {
            let served = daemon::serve(listener, routes, diagnostics).await;
            // If one server fails, the others stop too.
            shutdown.cancel();
            served
        }
    });
    let (served, ()) = tokio::join!(futures::future::join_all(servers), dispatcher.drive());
    served.into_iter().collect::<Result<(), _>>()?;
    // What executes on is to be taken over by the next one.
    if !dispatcher.is_executing() {
        note.remove();
    }
    Ok(())
}

/// The services that clients use.
#[must_use]
pub fn client_routes(
    dispatcher: Arc<Dispatcher>,
    actions: Actions,
    action_cache: Option<Arc<dyn ActionCache>>,
    router: Router,
    authorizers: Arc<Authorizers>,
) -> Routes {
    Routes::new(ExecutionServer::new(ExecutionService {
        dispatcher: dispatcher.clone(),
        actions,
        action_cache,
        router,
        authorizers: authorizers.clone(),
    }))
    .add_service(OperationsServer::new(OperationsService(
        dispatcher,
        authorizers.clone(),
    )))
    .add_service(CapabilitiesServer::new(Announcement(authorizers)))
}

/// The service that workers use. Their reports hold whole action results, so the
/// library's limit of 4 MiB to a message is too little.
#[must_use]
pub fn worker_routes(
    dispatcher: Arc<Dispatcher>,
    maximum_message_size: u64,
    authorizers: Arc<Authorizers>,
) -> Routes {
    let limit = usize::try_from(maximum_message_size).unwrap_or(usize::MAX);
    let service = OperationQueueService(dispatcher, authorizers);
    let routes = Routes::new(OperationQueueServer::new(service).max_decoding_message_size(limit));
    daemon::reflect(
        routes,
        &[OperationQueueServer::<OperationQueueService>::NAME],
    )
}

/// The services that operators use.
#[must_use]
pub fn queue_state_routes(dispatcher: Arc<Dispatcher>, authorizers: Arc<Authorizers>) -> Routes {
    let service = QueueStateService(dispatcher, authorizers);
    let routes = Routes::new(BuildQueueStateServer::new(service.clone()))
        .add_service(ExplanationServer::new(service));
    daemon::reflect(
        routes,
        &[
            BuildQueueStateServer::<QueueStateService>::NAME,
            ExplanationServer::<QueueStateService>::NAME,
        ],
    )
}

#[cfg(test)]
mod tests {
    use daemon::Channel;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    /// What an endpoint's reflection tells of its services, all of whose messages
    /// it must know.
    async fn services(channel: Channel) -> Vec<String> {
        let mut client = ServerReflectionClient::new(channel);
        let mut ask = async |question| {
            let request = ServerReflectionRequest {
                message_request: Some(question),
                ..Default::default()
            };
            let asked = client.server_reflection_info(futures::stream::iter([request]));
            let mut answers = asked.await.unwrap().into_inner();
            let answer = answers.message().await.unwrap().unwrap();
            answer.message_response.unwrap()
        };
        let list = ask(MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(list) = list else {
            panic!("no list: {list:?}");
        };
        let names: Vec<_> = list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect();
        let platform = "build.bazel.remote.execution.v2.Platform".to_string();
        for symbol in names.iter().chain([&platform]) {
            let symbol = MessageRequest::FileContainingSymbol(symbol.clone());
            let told = ask(symbol).await;
            let MessageResponse::FileDescriptorResponse(file) = told else {
                panic!("no file: {told:?}");
            };
            let bytes = &file.file_descriptor_proto[0];
            let has = |name: &[u8]| bytes.windows(name.len()).any(|part| part == name);
            assert!(!has(b"opaque"), "a stub is told of");
        }
        let mut names = names;
        names.sort();
        names
    }

    use super::*;
    use daemon::Address;
    use proto::wire::buildqueuestate::build_queue_state_client::BuildQueueStateClient;
    use proto::wire::remoteworker::operation_queue_client::OperationQueueClient;
    use proto::wire::rev2::capabilities_client::CapabilitiesClient;
    use tonic::Code;

    #[tokio::test]
    async fn clients_and_workers_have_an_endpoint_each_and_both_stop_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let address = |name: &str| Address::Unix(folder.path().join(name));
        let path = folder.path().join("scheduler.toml");
        let config = format!(
            "client_grpc_servers = ['{}']\nworker_grpc_servers = ['{}']\n\
             build_queue_state_grpc_servers = ['{}']\n\
             content_addressable_storage = '{}'",
            address("clients"),
            address("workers"),
            address("operators"),
            address("storage"),
        );
        std::fs::write(&path, config).unwrap();
        let config = daemon::config::load(&path).unwrap();
        let shutdown = Shutdown::new();
        let program = tokio::spawn(run(config, shutdown.clone()));
        while !folder.path().join("operators").exists() {
            tokio::task::yield_now().await;
        }

        let channel = |name| daemon::connect(&address(name)).unwrap();
        let mut client = CapabilitiesClient::new(channel("clients"));
        client
            .get_capabilities(proto::wire::rev2::GetCapabilitiesRequest::default())
            .await
            .unwrap();
        let call = proto::wire::remoteworker::SynchronizeRequest::default();
        let mut worker = OperationQueueClient::new(channel("workers"));
        let status = worker.synchronize(call.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "it is served");
        let mut worker = OperationQueueClient::new(channel("clients"));
        let status = worker.synchronize(call).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::Unimplemented,
            "clients cannot be workers"
        );
        let mut operator = BuildQueueStateClient::new(channel("operators"));
        operator.list_platform_queues(()).await.unwrap();

        assert_eq!(
            services(channel("operators")).await,
            [
                "buildbarn.buildqueuestate.BuildQueueState",
                "hayloft.scheduler.v1.Explanation",
            ]
        );
        assert_eq!(
            services(channel("workers")).await,
            ["buildbarn.remoteworker.OperationQueue"]
        );

        shutdown.cancel();
        program.await.unwrap().unwrap();
    }
}
