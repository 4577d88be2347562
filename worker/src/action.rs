//! One action through its stages: fetching inputs, running, uploading outputs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use daemon::{CallContext, Subject};
use proto::wire::action::Inline;
use proto::wire::protobuf::{Any, Timestamp};
use proto::wire::remoteworker::desired_state;
use proto::wire::rev2::{self, ExecuteResponse};
use proto::{Digest, DigestFunction, InstanceName};
use storage::{ActionCache, BlobStore};
use tokio::sync::{Semaphore, watch};

use crate::Error;
use crate::build_directory::{BuildDirectories, BuildDirectory};
use crate::cache::{FileCache, Tenant};
use crate::completed_actions::Logger;
use crate::cost::Prices;
use crate::directories::Directories;
use crate::files;
use crate::health::Health;
use crate::layers::{Layers, Subtrees};
use crate::limits;
use crate::memory::Memory;
use crate::metrics::ActionMetrics;
use crate::outputs::{self, Collected, Declared, upload};
use crate::prepare::Prepared;
use crate::promises;
use crate::result::{Moment, Report, browser_link};
use crate::root::Devices;
use crate::runner::{Command, Runner};
use crate::session::Session;
use crate::space::Space;

/// The message that says for whom an action is executed.
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.RequestMetadata";

/// Where an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Started,
    FetchingInputs,
    Running,
    UploadingOutputs,
}

/// An action to execute, its message's fields valid as far as one can see
/// without reading blobs.
pub(crate) struct Task {
    pub(crate) digest: Digest,
    pub(crate) instance: InstanceName,
    pub(crate) queued: Option<Timestamp>,
    pub(crate) auxiliary_metadata: Vec<Any>,
    pub(crate) command: Digest,
    pub(crate) input_root: Digest,
    timeout: Option<Duration>,
    do_not_cache: bool,
    /// What the client wants to find in the result itself.
    inline: Inline,
    /// Old clients give it with the Command.
    pub(crate) platform: Option<rev2::Platform>,
    /// For whom it is executed, and as part of which trace.
    context: CallContext,
    /// The operation that waits for it, as far as the scheduler tells.
    operation: Option<String>,
}

impl Task {
    /// Reads what the scheduler handed out to a worker of this prefix.
    ///
    /// # Errors
    /// A digest, the instance name or the timeout is invalid, or the Action is
    /// absent.
    pub(crate) fn new(
        prefix: &InstanceName,
        message: desired_state::Executing,
        operation: Option<String>,
    ) -> Result<Self, Error> {
        let of = |field| move |source| Error::Digest { field, source };
        let hash = message.action_digest.as_ref().map_or("", |d| &d.hash);
        // Schedulers of before 2022 do not name the function.
        let function = DigestFunction::from_wire(message.digest_function, hash)
            .map_err(of("digest_function"))?;
        let read = |field, digest: Option<&rev2::Digest>| {
            Digest::from_wire(function, digest).map_err(of(field))
        };
        let action = message
            .action
            .as_ref()
            .ok_or(Error::Malformed("the scheduler sent no action"))?;
        let timeout = match &action.timeout {
            None => None,
            Some(timeout) => Some(
                proto::messages::span(timeout)
                    .filter(|span| !span.is_zero())
                    .ok_or(Error::Malformed("timeout of the action is not positive"))?,
            ),
        };
        let name = "hayloft.action.v1.Inline";
        let mut auxiliary_metadata = message.auxiliary_metadata;
        let inline = auxiliary_metadata
            .iter()
            .find_map(|any| proto::messages::unpack(any, name))
            .unwrap_or_default();
        // That was for the worker alone.
        auxiliary_metadata.retain(|any| !any.type_url.ends_with(name));
        let mut metadata = auxiliary_metadata.iter();
        let metadata = metadata.find(|any| any.type_url.ends_with(REQUEST_METADATA));
        let context = CallContext::new(
            metadata.map(|any| &any.value[..]),
            &message.w3c_trace_context,
        );
        Ok(Self {
            digest: read("action_digest", message.action_digest.as_ref())?,
            command: read("command_digest", action.command_digest.as_ref())?,
            input_root: read("input_root_digest", action.input_root_digest.as_ref())?,
            instance: prefix.join(&InstanceName::new(&message.instance_name_suffix)?),
            queued: message.queued_timestamp,
            auxiliary_metadata,
            inline,
            timeout,
            do_not_cache: action.do_not_cache,
            platform: action.platform.clone(),
            context,
            operation,
        })
    }
}

impl Task {
    /// What lines of the log say that they are about.
    pub(crate) fn subject(&self, worker: &str) -> Subject {
        let mut metadata = self.auxiliary_metadata.iter();
        let metadata = metadata
            .find_map(|any| proto::messages::unpack::<rev2::RequestMetadata>(any, REQUEST_METADATA))
            .unwrap_or_default();
        Subject {
            operation: self.operation.clone().unwrap_or_default(),
            action: self.digest.to_string(),
            invocation: metadata.tool_invocation_id,
            worker: worker.to_owned(),
            trace: self.context.trace_id().unwrap_or_default().to_owned(),
        }
    }
}

/// What executing actions takes, shared by all slots of the process.
pub(crate) struct Services {
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) action_cache: Arc<dyn ActionCache>,
    pub(crate) cache: Arc<FileCache>,
    pub(crate) directories: Directories,
    pub(crate) commands: Memory<(Tenant, Digest), rev2::Command>,
    pub(crate) builds: Arc<BuildDirectories>,
    pub(crate) space: Space,
    pub(crate) layers: Arc<Layers>,
    pub(crate) subtrees: Subtrees,
    /// Bounds the uploads under way.
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) output_limits: outputs::Limits,
    /// Whether Directory messages are stored whatever the client says.
    pub(crate) force_directories: bool,
    pub(crate) browser_url: Option<String>,
    pub(crate) metrics: ActionMetrics,
    pub(crate) loggers: Vec<Arc<Logger>>,
}

/// Executes actions for one slot.
pub(crate) struct Executor {
    pub(crate) services: Arc<Services>,
    /// The slot's worker id, as results name it.
    pub(crate) worker: String,
    /// Variables that every command gets; the Command's own win.
    pub(crate) environment: BTreeMap<String, String>,
    /// Made in every input root.
    pub(crate) devices: Arc<Devices>,
    pub(crate) prices: Prices,
    pub(crate) health: Health,
    /// Limits that actions may ask for, and the most of each.
    pub(crate) maximum_limits: BTreeMap<String, u64>,
}

impl Executor {
    /// Executes an action and stores its outputs and its result. Whatever goes
    /// wrong is in the response. Dropping the future kills the command and
    /// cleans up.
    ///
    /// # Errors
    /// [`Error::NotBegun`] alone: with another session it can be tried again.
    pub(crate) async fn execute(
        &self,
        task: &Task,
        session: &Session,
        stage: &watch::Sender<Stage>,
    ) -> Result<ExecuteResponse, Error> {
        let executing = self.execute_in_context(task, session, stage);
        task.context.clone().scope(executing).await
    }

    async fn execute_in_context(
        &self,
        task: &Task,
        session: &Session,
        stage: &watch::Sender<Stage>,
    ) -> Result<ExecuteResponse, Error> {
        let _executing = self.services.metrics.executing();
        let mut report = Report::new(task, &self.worker);
        if let Some(description) = &session.description {
            report.attach(description.clone());
        }
        match self.stages(task, session, stage, &mut report).await {
            Ok(()) => {}
            Err(error @ Error::NotBegun(_)) => return Err(error),
            Err(error) => report.fail(error),
        }
        if let Err(error) = self.health.judge(report.output_files()) {
            report.fail(error);
        }
        report.complete(&self.prices);
        self.record(task, &mut report).await;
        report.inline();
        let response = report.response();
        report.log();
        self.services.metrics.observe(&response);
        for logger in &self.services.loggers {
            logger.log(task, &response);
        }
        Ok(response)
    }

    async fn stages(
        &self,
        task: &Task,
        session: &Session,
        stage: &watch::Sender<Stage>,
        report: &mut Report,
    ) -> Result<(), Error> {
        stage.send_replace(Stage::FetchingInputs);
        report.at(Moment::InputFetchStart);
        let services = &*self.services;
        let mut prepared = services.prepare(task, session.inputs).await?;
        let command = self.command(task, session, &prepared)?;
        // Equal actions get equal paths, where their results are shared.
        let named = (!task.do_not_cache).then_some(&task.digest);
        let runner = Arc::clone(&session.runner);
        let again = session.uses_directories_again();
        let build = self.services.builds.make(named, runner, again).await?;
        let making =
            prepared
                .inputs
                .make(&services.cache, &services.layers, &task.instance, &build);
        let overlay = making.await?;
        let root = build.input_root();
        self.devices
            .make(&root.map_err(Error::file("open", build.name()))?)?;
        prepared.inputs.account(&mut report.facts);
        report.at(Moment::InputFetchCompleted);

        stage.send_replace(Stage::Running);
        report.at(Moment::ExecutionStart);
        let start = tokio::time::Instant::now();
        let command = Command {
            build: build.name().into(),
            overlay,
            ..command
        };
        let ran = session.runner.run(command).await;
        report.at(Moment::ExecutionCompleted);
        if ran.is_ok() && again {
            build.end();
        }
        match ran {
            Ok(ran) => report.ran(ran, start.elapsed(), task.timeout),
            Err(status) if Runner::has_not_begun(&status) => return Err(Error::NotBegun(status)),
            // What it wrote until then is still wanted.
            Err(status) => report.fail(Error::Runner(status)),
        }

        stage.send_replace(Stage::UploadingOutputs);
        report.at(Moment::OutputUploadStart);
        let places = prepared.declared.places();
        let entries = services.output_limits.entries;
        let gathering = prepared
            .inputs
            .gather(&services.cache, &build, places, entries);
        if let Err(error) = gathering.await {
            report.fail(error);
        }
        if let Err(error) = self
            .upload(task, session, &build, &prepared.declared, report)
            .await
        {
            report.strip_digests();
            report.fail(error);
        }
        report.at(Moment::OutputUploadCompleted);
        drop(prepared.inputs);
        Ok(())
    }

    #[allow(deprecated, reason = "clients before REv2.2 give the platform there")]
    fn command(
        &self,
        task: &Task,
        session: &Session,
        prepared: &Prepared,
    ) -> Result<Command, Error> {
        let command = &prepared.command;
        if command.arguments.is_empty() {
            return Err(Error::Malformed("the command has no arguments"));
        }
        let platform = task.platform.as_ref().or(command.platform.as_ref());
        let ids = promises::keep(platform, session.runner.description())?;
        let mut environment: HashMap<String, String> =
            self.environment.clone().into_iter().collect();
        for variable in &command.environment_variables {
            environment.insert(variable.name.clone(), variable.value.clone());
        }
        Ok(Command {
            arguments: command.arguments.clone(),
            environment,
            working_directory: prepared.declared.working_directory.to_string(),
            build: String::new(),
            timeout: task.timeout,
            limits: limits::asked(platform, &self.maximum_limits)?,
            ids,
            overlay: None,
            subject: task.subject(&self.worker),
        })
    }

    async fn upload(
        &self,
        task: &Task,
        session: &Session,
        build: &Arc<BuildDirectory>,
        declared: &Arc<Declared>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut collected = self.collect(task, session, build, declared).await?;
        let error = collected.error.take();
        report.left_out(&collected);
        let function = task.digest.function();
        let (outputs, inline) = (Arc::clone(declared), task.inline.clone());
        let reporting = files::blocking(!collected.has_directories(), move || {
            outputs::report::report(collected, &outputs, function, &inline)
        });
        let (fields, blobs) = reporting.await?;
        report.outputs(fields);
        let services = &self.services;
        let (store, uploads) = (&services.store, &services.uploads);
        let uploaded = upload::upload(store, &task.instance, uploads, build, blobs).await?;
        report.facts.blobs_uploaded = uploaded.blobs;
        report.facts.bytes_uploaded = uploaded.bytes;
        // What can be reported is, and the client hears that it is not all.
        if let Some(error) = error {
            report.fail(error);
        }
        Ok(())
    }

    /// Collects what the action left; where the worker may not read it, the
    /// runner is asked once to change that.
    async fn collect(
        &self,
        task: &Task,
        session: &Session,
        build: &Arc<BuildDirectory>,
        declared: &Arc<Declared>,
    ) -> Result<Collected, Error> {
        let function = task.digest.function();
        let limits = self.services.output_limits;
        let collected = outputs::collect(build, declared, function, limits).await?;
        if collected.denied && session.runner.reclaim(build.name()).await.is_ok() {
            return outputs::collect(build, declared, function, limits).await;
        }
        Ok(collected)
    }

    /// Stores the result where it belongs: the action cache, if everything went
    /// well and may be cached; otherwise the CAS, where a person can look at it.
    /// The outputs are stored already.
    async fn record(&self, task: &Task, report: &mut Report) {
        let services = &self.services;
        let cache = !task.do_not_cache && report.succeeded();
        let (kind, digest) = if cache {
            let stored = services
                .action_cache
                .update(&task.instance, task.digest, report.result.clone())
                .await;
            if let Err(error) = stored {
                report.fail(Error::storage("storing the result in the action cache")(
                    error,
                ));
                return;
            }
            ("action", task.digest)
        } else {
            let (digest, bytes) = report.historical(task.digest);
            let stored = services
                .store
                .write_batch(&task.instance, vec![(digest, bytes.into())])
                .await
                .and_then(|results| results.into_iter().collect::<Result<(), _>>());
            if let Err(error) = stored {
                // The client gets its answer all the same.
                tracing::warn!(%error, "cannot store a response for the browser");
                return;
            }
            ("historical_execute_response", digest)
        };
        let sort = if cache { "cached" } else { "uncached" };
        // What is not cached can be found by this digest alone (`hayloft action`).
        let browser = services.browser_url.as_deref();
        if let Some(browser) = browser.or((!cache).then_some("")) {
            let link = browser_link(browser, &task.instance, kind, digest);
            report.note(format!("Action details ({sort} result): {link}"));
        }
    }
}
