//! What a client hears of its action: result, status, message, metadata.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use prost::Message;
use proto::messages;
use proto::wire::action::{Facts, LeftOut};
use proto::wire::cas::HistoricalExecuteResponse;
use proto::wire::protobuf::{Any, Timestamp};
use proto::wire::resourceusage::PosixResourceUsage;
use proto::wire::rev2::{ActionResult, ExecuteResponse, ExecutedActionMetadata};
use proto::{Digest, InstanceName};
use tonic::Status;

use crate::Error;
use crate::action::Task;
use crate::cost::Prices;
use crate::outputs::Collected;
use crate::outputs::inline::Inlined;
use crate::outputs::report::Fields;
use crate::runner::Ran;

/// The moments REv2 ExecutedActionMetadata tells of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    InputFetchStart,
    InputFetchCompleted,
    ExecutionStart,
    ExecutionCompleted,
    OutputUploadStart,
    OutputUploadCompleted,
}

/// The response of an action in the making. The first error wins: what follows
/// from it is not news.
pub(crate) struct Report {
    pub(crate) response: ExecuteResponse,
    pub(crate) result: ActionResult,
    pub(crate) facts: Facts,
    inlined: Inlined,
    metadata: ExecutedActionMetadata,
    /// What was being done last.
    stage: &'static str,
    status: Option<Status>,
    /// For the person who asks why: a line each.
    notes: Vec<String>,
}

impl Report {
    /// Begins now.
    pub(crate) fn new(task: &Task, worker: &str) -> Self {
        Self {
            response: ExecuteResponse::default(),
            result: ActionResult::default(),
            metadata: ExecutedActionMetadata {
                worker: worker.into(),
                queued_timestamp: task.queued,
                worker_start_timestamp: Some(messages::timestamp(SystemTime::now())),
                auxiliary_metadata: task.auxiliary_metadata.clone(),
                ..Default::default()
            },
            facts: Facts::default(),
            inlined: Inlined::default(),
            stage: "starting",
            status: None,
            notes: Vec::new(),
        }
    }

    /// Notes that a moment is now.
    pub(crate) fn at(&mut self, moment: Moment) {
        self.stage = match moment {
            Moment::InputFetchStart => "fetching inputs",
            Moment::ExecutionStart => "running the command",
            Moment::OutputUploadStart => "uploading outputs",
            _ => self.stage,
        };
        let metadata = &mut self.metadata;
        let field = match moment {
            Moment::InputFetchStart => &mut metadata.input_fetch_start_timestamp,
            Moment::InputFetchCompleted => &mut metadata.input_fetch_completed_timestamp,
            Moment::ExecutionStart => &mut metadata.execution_start_timestamp,
            Moment::ExecutionCompleted => &mut metadata.execution_completed_timestamp,
            Moment::OutputUploadStart => &mut metadata.output_upload_start_timestamp,
            Moment::OutputUploadCompleted => &mut metadata.output_upload_completed_timestamp,
        };
        *field = Some(messages::timestamp(SystemTime::now()));
    }

    /// Adds a message about the execution.
    pub(crate) fn attach(&mut self, message: Any) {
        self.metadata.auxiliary_metadata.push(message);
    }

    /// Takes over how the command ended. `took` is how long the runner's call
    /// lasted, for runners that do not say.
    pub(crate) fn ran(&mut self, ran: Ran, took: Duration, timeout: Option<Duration>) {
        // Exit codes are 32 bits in REv2 and 64 between worker and runner.
        self.result.exit_code = i32::try_from(ran.exit_code).unwrap_or(i32::MAX);
        self.metadata.virtual_execution_duration =
            Some(messages::duration(ran.wall_time.unwrap_or(took)));
        let name = "buildbarn.resourceusage.POSIXResourceUsage";
        let usages = ran.resource_usage.iter();
        let mut usages = usages.filter_map(|any| messages::unpack::<PosixResourceUsage>(any, name));
        if let Some(usage) = usages.find(|usage| !usage.termination_signal.is_empty()) {
            self.notes.push(format!(
                "The command was ended by SIG{}.",
                usage.termination_signal
            ));
        }
        self.metadata.auxiliary_metadata.extend(ran.resource_usage);
        if let Some((name, limit)) = ran.exceeded {
            let what = format!("what the command used of {name}");
            self.fail(Error::Limit { what, limit });
        }
        if ran.timed_out {
            self.fail(Error::Timeout(timeout.unwrap_or_default()));
        }
    }

    /// Notes a failure, unless there was one before.
    pub(crate) fn fail(&mut self, error: Error) {
        tracing::debug!(%error, stage = self.stage, "failure");
        if self.status.is_none() {
            self.notes.push(format!(
                "Failed while {} on worker {}: {error}.",
                self.stage, self.metadata.worker
            ));
            self.status = Some(error.into());
        }
    }

    /// Notes what is in output directories but cannot be reported.
    pub(crate) fn left_out(&mut self, collected: &Collected) {
        let left_out = collected.left_out.iter();
        let left_out = left_out.map(|(path, what)| LeftOut {
            path: path.clone(),
            what: (*what).into(),
        });
        self.facts.left_out = left_out.collect();
        self.facts.left_out_more = collected.left_out_more;
        let Some((path, what)) = collected.left_out.first() else {
            return;
        };
        let others = collected.left_out.len() as u64 - 1 + collected.left_out_more;
        let others = match others {
            0 => String::new(),
            others => format!(", and {others} more of this sort"),
        };
        self.notes.push(format!(
            "Left out of the outputs: {path:?}, which is {what}{others}."
        ));
    }

    /// Takes over the outputs.
    pub(crate) fn outputs(&mut self, fields: Fields) {
        self.result = ActionResult {
            exit_code: self.result.exit_code,
            ..fields.result
        };
        self.response.server_logs = fields.server_logs;
        self.inlined = fields.inlined;
    }

    /// Adds a line to the message that people are shown.
    pub(crate) fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// Takes out everything that names a blob, when blobs could not be stored:
    /// the client shall hear of that, rather than of blobs that it cannot find.
    #[allow(deprecated, reason = "clients before REv2.1 read the older fields")]
    pub(crate) fn strip_digests(&mut self) {
        let result = &mut self.result;
        result.output_files.clear();
        result.output_directories.clear();
        result.output_symlinks.clear();
        result.output_file_symlinks.clear();
        result.output_directory_symlinks.clear();
        result.stdout_digest = None;
        result.stderr_digest = None;
        self.response.server_logs.clear();
        self.inlined = Inlined::default();
    }

    /// Whether the action cache may hold the result (besides what the Action
    /// says about it).
    pub(crate) fn succeeded(&self) -> bool {
        self.status.is_none() && self.result.exit_code == 0
    }

    /// Ends now: the metadata goes into the result.
    pub(crate) fn complete(&mut self, prices: &Prices) {
        let now = SystemTime::now();
        let metadata = &mut self.metadata;
        let start = metadata.worker_start_timestamp.as_ref();
        let start = start.and_then(messages::system_time).unwrap_or(now);
        metadata.worker_completed_timestamp = Some(messages::timestamp(now));
        metadata
            .auxiliary_metadata
            .push(messages::pack(&self.facts));
        let took = now.duration_since(start).unwrap_or_default();
        metadata.auxiliary_metadata.extend(prices.usage(took));
        self.result.execution_metadata = Some(metadata.clone());
    }

    /// Puts into the result what the client wants to find there.
    pub(crate) fn inline(&mut self) {
        std::mem::take(&mut self.inlined).put(&mut self.result);
    }

    /// Writes how it went: for an action that failed to be executed so that
    /// operators see it, otherwise for those who look closely.
    pub(crate) fn log(&self) {
        let metadata = &self.metadata;
        let took = |start: &Option<Timestamp>, end: &Option<Timestamp>| {
            let start = start.as_ref().and_then(messages::system_time)?;
            let end = end.as_ref().and_then(messages::system_time)?;
            end.duration_since(start).ok()
        };
        let fetching = took(
            &metadata.input_fetch_start_timestamp,
            &metadata.input_fetch_completed_timestamp,
        );
        let running = took(
            &metadata.execution_start_timestamp,
            &metadata.execution_completed_timestamp,
        );
        let uploading = took(
            &metadata.output_upload_start_timestamp,
            &metadata.output_upload_completed_timestamp,
        );
        let exit_code = self.result.exit_code;
        match &self.status {
            None => tracing::debug!(
                exit_code,
                ?fetching,
                ?running,
                ?uploading,
                "action completed"
            ),
            Some(status) => tracing::info!(
                code = ?status.code(),
                error = status.message(),
                stage = self.stage,
                ?fetching,
                ?running,
                ?uploading,
                "action failed"
            ),
        }
    }

    /// The names of the output files.
    pub(crate) fn output_files(&self) -> impl Iterator<Item = &str> {
        let files = self.result.output_files.iter();
        files.map(|file| file.path.as_str())
    }

    /// The response, as far as it is known.
    pub(crate) fn response(&self) -> ExecuteResponse {
        let status = self.status.clone().unwrap_or_else(|| Status::ok(""));
        ExecuteResponse {
            result: Some(self.result.clone()),
            status: Some(proto::status::to_wire(&status)),
            message: self.notes.join("\n"),
            ..self.response.clone()
        }
    }

    /// The response as a blob for the browser, and its digest.
    pub(crate) fn historical(&self, action: Digest) -> (Digest, Vec<u8>) {
        let message = HistoricalExecuteResponse {
            action_digest: Some(action.to_wire()),
            execute_response: Some(self.response()),
        };
        let bytes = message.encode_to_vec();
        (Digest::of(action.function(), &bytes), bytes)
    }
}

/// How results name a worker: its id as JSON, as Buildbarn's.
pub(crate) fn worker_name(id: &BTreeMap<String, String>) -> String {
    serde_json::to_string(id).unwrap_or_default()
}

/// Where a person can look at an action, in the form that Buildbarn's browser
/// serves.
pub(crate) fn browser_link(
    browser: &str,
    instance: &InstanceName,
    kind: &str,
    digest: Digest,
) -> String {
    let mut url = browser.trim_end_matches('/').to_string();
    if !instance.as_str().is_empty() {
        url.push('/');
        url.push_str(instance.as_str());
    }
    format!("{url}/blobs/{}/{kind}/{digest}/", digest.function())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::DigestFunction;

    #[test]
    fn links_have_the_form_of_buildbarns_browser() {
        let digest = Digest::of(DigestFunction::Sha256, b"x");
        let link = |browser, instance: &str| {
            let instance = InstanceName::new(instance).unwrap();
            browser_link(browser, &instance, "action", digest)
        };
        let hash = digest.hash();
        assert_eq!(
            link("http://b/", "main"),
            format!("http://b/main/blobs/sha256/action/{hash}-1/")
        );
        assert_eq!(
            link("http://b", ""),
            format!("http://b/blobs/sha256/action/{hash}-1/")
        );
    }

    #[test]
    fn a_worker_is_named_by_its_id_in_order() {
        let id = [("thread", "1"), ("node", "a")];
        let id = id.map(|(k, v)| (k.to_string(), v.to_string())).into();
        assert_eq!(worker_name(&id), r#"{"node":"a","thread":"1"}"#);
    }
}
