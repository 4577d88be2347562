//! A worker between fake peers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::{Diagnostics, Shutdown};
use proto::wire::remoteworker::desired_state::Executing;
use proto::wire::remoteworker::operation_queue_server::OperationQueueServer;
use proto::wire::rev2::ExecuteResponse;
use proto::wire::runner::runner_server::RunnerServer;
use proto::wire::runner_extension::runner_extension_server::RunnerExtensionServer;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{Disk, FakeRunner, FakeScheduler, FakeStorage, Input, Manners};
use crate::{Config, Error};

/// A worker of one slot, its peers, and the directories they share.
pub(crate) struct Farm {
    pub(crate) storage: Arc<FakeStorage>,
    pub(crate) scheduler: Arc<FakeScheduler>,
    pub(crate) heard: mpsc::UnboundedReceiver<String>,
    completed: mpsc::UnboundedReceiver<ExecuteResponse>,
    /// Goes before the directory it is mounted in.
    _disk: Option<Disk>,
    directory: tempfile::TempDir,
    pub(crate) shutdown: Shutdown,
    pub(crate) diagnostics: Diagnostics,
    worker: Option<JoinHandle<Result<(), Error>>>,
    runner: Option<tokio::runtime::Runtime>,
    scheduler_server: JoinHandle<()>,
    /// Of the worker, and of its runner.
    pub(crate) settings: [serde_json::Map<String, serde_json::Value>; 2],
}

impl Farm {
    pub(crate) async fn new(manners: Manners) -> Self {
        Self::configured(manners, "{}", "{}").await
    }

    /// A farm whose worker has these settings besides, and its runner these: JSON
    /// objects.
    pub(crate) async fn configured(manners: Manners, worker: &str, runner: &str) -> Self {
        Self::begin(manners, [worker, runner], None).await
    }

    /// A farm with a file system in memory, of these options, at one of its
    /// directories: `.`, `build`, `cache`. It takes root.
    pub(crate) async fn on_disk(manners: Manners, worker: &str, at: &str, options: &str) -> Self {
        Self::begin(manners, [worker, "{}"], Some((at, options))).await
    }

    async fn begin(manners: Manners, settings: [&str; 2], disk: Option<(&str, &str)>) -> Self {
        let settings = settings.map(|json| serde_json::from_str(json).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let mut mounted = None;
        let mut mount = |path: &str| {
            if let Some((_, options)) = disk.filter(|(at, _)| *at == path) {
                mounted = Some(Disk::small(&directory.path().join(path), options));
            }
        };
        mount(".");
        // Commands of other users pass through.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
        for name in ["build", "cache"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            mount(name);
        }
        let (completed_sender, completed) = mpsc::unbounded_channel();
        let (heard_sender, heard) = mpsc::unbounded_channel();
        let scheduler = FakeScheduler::new(completed_sender, heard_sender);
        let socket = UnixListener::bind(directory.path().join("scheduler")).unwrap();
        let service = OperationQueueServer::from_arc(Arc::clone(&scheduler));
        let scheduler_server = tokio::spawn(async move {
            let server = Server::builder().add_service(service);
            let _ = server
                .serve_with_incoming(UnixListenerStream::new(socket))
                .await;
        });
        let runner = Some(start_runner(directory.path(), manners));
        let mut farm = Self {
            storage: FakeStorage::new(),
            scheduler,
            heard,
            completed,
            _disk: mounted,
            directory,
            shutdown: Shutdown::new(),
            diagnostics: Diagnostics::new(&Shutdown::new()),
            worker: None,
            runner,
            scheduler_server,
            settings,
        };
        farm.start_worker();
        farm
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn start_worker(&mut self) {
        let path = |name: &str| self.path(name).display().to_string();
        let mut runner = serde_json::json!({
            "endpoint": format!("unix:{}", path("runner")),
            "worker_id": {"node": "test"},
            "environment_variables": {"FROM": "worker", "BOTH": "worker"},
        });
        let mut config = serde_json::json!({
            "content_addressable_storage": "unused:1",
            "scheduler": format!("unix:{}", path("scheduler")),
            "build_directory_path": path("build"),
            "cache_directory_path": path("cache"),
            "browser_url": "http://browser",
        });
        let [of_worker, of_runner] = self.settings.clone();
        runner.as_object_mut().unwrap().extend(of_runner);
        config["runners"] = serde_json::json!([runner]);
        config.as_object_mut().unwrap().extend(of_worker);
        let config: Config = serde_json::from_value(config).unwrap();
        self.shutdown = Shutdown::new();
        self.diagnostics = Diagnostics::new(&self.shutdown);
        let storage = Arc::clone(&self.storage);
        self.worker = Some(tokio::spawn(crate::worker::serve(
            config,
            storage.clone(),
            storage,
            self.diagnostics.clone(),
        )));
    }

    /// Ends the runner in the middle of whatever it does.
    pub(crate) fn kill_runner(&mut self) {
        std::fs::remove_file(self.path("runner")).unwrap();
        self.runner.take().unwrap().shutdown_background();
    }

    /// Starts a runner where there is none.
    pub(crate) fn start_runner(&mut self, manners: Manners) {
        self.runner = Some(start_runner(self.directory.path(), manners));
    }

    /// Stops the worker as SIGTERM does.
    pub(crate) async fn stop_worker(&mut self) {
        self.shutdown.cancel();
        self.worker.take().unwrap().await.unwrap().unwrap();
    }

    /// Stores an action, has it executed and returns what the client hears.
    pub(crate) async fn execute(&mut self, input: Input) -> ExecuteResponse {
        let task = input.store(&self.storage);
        self.execute_task(task).await
    }

    pub(crate) async fn execute_task(&mut self, task: Executing) -> ExecuteResponse {
        self.scheduler.hand_out(task);
        self.completed().await
    }

    /// The next result that the worker delivers.
    pub(crate) async fn completed(&mut self) -> ExecuteResponse {
        self.completed.recv().await.unwrap()
    }

    /// Stops the worker and checks that nothing is left behind.
    pub(crate) async fn end(mut self) {
        self.stop_worker().await;
        // Nobody holds the cache any more.
        let names = |directory: PathBuf| -> Vec<String> {
            let entries = std::fs::read_dir(directory).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).collect()
        };
        assert!(names(self.path("build")).is_empty());
        assert!(names(self.path("cache/incoming")).is_empty());
        self.kill_runner();
        self.scheduler_server.abort();
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // Dropping a runtime waits, which a test's own runtime must not.
        if let Some(runner) = self.runner.take() {
            runner.shutdown_background();
        }
    }
}

/// Serves on a runtime of its own, whose end ends connections too.
pub(crate) fn start_runner(directory: &Path, manners: Manners) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let context = runtime.enter();
    let socket = UnixListener::bind(directory.join("runner")).unwrap();
    let runner = FakeRunner {
        build_directory: directory.join("build"),
        manners,
        refused: Arc::default(),
    };
    let server = Server::builder()
        .add_service(RunnerServer::new(runner.clone()))
        .add_service(RunnerExtensionServer::new(runner));
    runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(socket)));
    drop(context);
    runtime
}
