//! What lines of the log say that they are about: each about an action names its
//! operation, its digest, its invocation and the worker that has it.

use std::fmt;

use daemon::Subject;
use proto::messages::unpack;
use proto::wire::protobuf;
use proto::wire::rev2::RequestMetadata;
use uuid::Uuid;

use super::brief::Brief;
use super::invocation::{InvocationKey, Lineage};
use super::operation::State;
use super::queue::Queue;
use super::task::{Progress, Task, TaskId};

/// A line at a level about a task.
macro_rules! about {
    ($level:ident, $queue:expr, $task:expr, $($line:tt)+) => {
        if tracing::enabled!(tracing::Level::$level) {
            $crate::queue::log::line!($level, $queue.subject($task), $($line)+);
        }
    };
}

/// A line at a level about a [`Subject`].
macro_rules! line {
    ($level:ident, $subject:expr, $($line:tt)+) => {{
        let subject = $subject;
        tracing::event!(
            tracing::Level::$level,
            operation = subject.operation,
            action = subject.action,
            invocation = subject.invocation,
            worker = subject.worker,
            trace = subject.trace,
            $($line)+
        );
    }};
}

pub(crate) use {about, line};

impl Queue {
    /// What lines about a task name. Of several operations it is the first.
    pub(super) fn subject(&self, id: TaskId) -> Subject {
        let Some(task) = self.tasks.get(&id) else {
            return Subject::default();
        };
        let name = task.operations.first();
        let lineage = name.and_then(|name| self.operations.get(name));
        Subject {
            operation: name.map(ToString::to_string).unwrap_or_default(),
            action: task.job.digest.to_string(),
            invocation: lineage.map_or_else(String::new, |one| in_words(&one.lineage)),
            worker: self.worker_of(task),
            trace: trace(task),
        }
    }

    /// The same of an operation.
    #[must_use]
    pub fn subject_of(&self, name: Uuid) -> Subject {
        let Some(operation) = self.operations.get(&name) else {
            return Subject {
                operation: name.to_string(),
                ..Subject::default()
            };
        };
        let task = match operation.state {
            State::Attached(task) => self.subject(task),
            State::Done(_) => Subject::default(),
        };
        Subject {
            operation: name.to_string(),
            action: operation.job.digest.to_string(),
            invocation: in_words(&operation.lineage),
            ..task
        }
    }

    fn worker_of(&self, task: &Task) -> String {
        let worker = match task.progress {
            Progress::Executing(key) => self.workers.get(&key),
            Progress::CacheCheck | Progress::Queued => None,
        };
        worker.map(|w| w.id.to_string()).unwrap_or_default()
    }
}

/// The number of the trace (W3C Trace Context).
fn trace(task: &Task) -> String {
    let told = task.job.brief.as_ref().map(Brief::open).unwrap_or_default();
    let parent = told.w3c_trace_context.get("traceparent");
    let id = parent.and_then(|parent| parent.split('-').nth(1));
    id.unwrap_or_default().to_owned()
}

fn in_words(lineage: &Lineage) -> String {
    let keys: Vec<_> = lineage.iter().map(ToString::to_string).collect();
    keys.join("/")
}

/// The id that it holds; of a message that is not known, its type.
impl fmt::Display for InvocationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = protobuf::Any::from(self);
        let name = "build.bazel.remote.execution.v2.RequestMetadata";
        if let Some(metadata) = unpack::<RequestMetadata>(&any, name) {
            f.write_str(&metadata.correlated_invocations_id)?;
            return f.write_str(&metadata.tool_invocation_id);
        }
        if let Some(text) = unpack::<String>(&any, "google.protobuf.StringValue") {
            return f.write_str(&text);
        }
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::messages::pack_rev2;

    #[test]
    fn invocations_are_named_by_their_ids() {
        let id = |correlated: &str, tool: &str| {
            let metadata = RequestMetadata {
                correlated_invocations_id: correlated.into(),
                tool_invocation_id: tool.into(),
                ..Default::default()
            };
            InvocationKey::from(pack_rev2("RequestMetadata", &metadata))
        };
        let other = InvocationKey::from(protobuf::Any {
            type_url: "type.googleapis.com/some.Message".into(),
            value: b"\xff".into(),
        });
        let lineage: Lineage = [other, id("c", ""), id("", "t")].into();
        assert_eq!(in_words(&lineage), "some.Message/c/t");
    }
}
