//! What is known of an action, for programs.

use proto::messages::span;
use proto::wire::rev2;
use serde_json::{Value, json};

use super::known::{Known, Listed, Outcome};
use crate::client::listing::{Entry, Kind};
use crate::stages;

/// The object that `hayloft action --json` prints.
#[must_use]
pub fn report(known: &Known) -> Value {
    let digest = known.digest.to_wire();
    let action = known.action.as_ref();
    json!({
        "action": blob(Some(&digest)),
        "digest_function": known.digest.function().name(),
        "command": known.command.as_ref().map(command),
        "platform": super::text::platform(known)
            .map(|properties| json!(properties.into_iter().map(|(name, value)| {
                json!({"name": name, "value": value})
            }).collect::<Vec<_>>())),
        "timeout_seconds": action
            .and_then(|action| span(action.timeout.as_ref()?))
            .map(|timeout| timeout.as_secs_f64()),
        "do_not_cache": action.map(|action| action.do_not_cache),
        "inputs": known.inputs.as_ref().map(|inputs| {
            let root = action.and_then(|action| action.input_root_digest.as_ref());
            let mut listed = listed(inputs);
            listed["root"] = blob(root);
            listed
        }),
        "outcome": known.outcome.as_ref().map(outcome),
        "notes": known.notes,
    })
}

/// `HASH/SIZE`.
fn blob(digest: Option<&rev2::Digest>) -> Value {
    digest
        .map(|digest| format!("{}/{}", digest.hash, digest.size_bytes))
        .into()
}

fn command(command: &rev2::Command) -> Value {
    let environment = command.environment_variables.iter();
    json!({
        "arguments": command.arguments,
        "environment": environment
            .map(|it| json!({"name": it.name, "value": it.value}))
            .collect::<Vec<_>>(),
        "working_directory": command.working_directory,
        "outputs": super::text::declared(command),
    })
}

fn listed(listed: &Listed) -> Value {
    let totals = &listed.totals;
    json!({
        "files": totals.files,
        "bytes": totals.bytes,
        "directories": totals.directories,
        "symlinks": totals.symlinks,
        "directories_missing": totals.missing,
        "entries": listed.entries.iter().map(entry).collect::<Vec<_>>(),
        "more_entries": listed.more(),
    })
}

fn entry(entry: &Entry) -> Value {
    match &entry.kind {
        Kind::File { digest, executable } => json!({
            "path": entry.path,
            "digest": blob(digest.as_ref()),
            "executable": executable,
        }),
        Kind::Directory { digest } => json!({
            "path": format!("{}/", entry.path),
            "digest": blob(digest.as_ref()),
        }),
        Kind::Symlink { target } => json!({"path": entry.path, "target": target}),
    }
}

fn outcome(outcome: &Outcome) -> Value {
    let result = outcome.result();
    let metadata = outcome.metadata();
    let status = outcome.response.status.as_ref();
    let status = status.filter(|status| status.code != 0);
    let text = |bytes: &Option<bytes::Bytes>| {
        bytes
            .as_ref()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let files = result.output_files.iter().map(|file| {
        json!({
            "path": file.path,
            "digest": blob(file.digest.as_ref()),
            "executable": file.is_executable,
        })
    });
    let directories = result.output_directories.iter().map(|directory| {
        json!({
            "path": format!("{}/", directory.path),
            "tree": blob(directory.tree_digest.as_ref()),
            "content": outcome.directories.get(&directory.path).map(listed),
        })
    });
    let links =
        super::text::links(&result).map(|link| json!({"path": link.path, "target": link.target}));
    json!({
        "source": outcome.source.name(),
        "status": status.map(|status| json!({
            "code": format!("{:?}", tonic::Code::from_i32(status.code)),
            "message": status.message,
        })),
        "message": outcome.response.message,
        "exit_code": result.exit_code,
        "worker": metadata.worker,
        "seconds": stages::json(&metadata),
        "usage": stages::usage(&metadata).as_ref().map(stages::usage_json),
        "client": stages::client(&metadata).map(|client| json!({
            "tool_invocation_id": client.tool_invocation_id,
            "target_id": client.target_id,
        })),
        "outputs": files.chain(directories).chain(links).collect::<Vec<_>>(),
        "stdout": text(&outcome.stdout),
        "stderr": text(&outcome.stderr),
        "server_logs": outcome.response.server_logs.iter().map(|(name, log)| json!({
            "name": name,
            "digest": blob(log.digest.as_ref()),
            "text": outcome.logs.get(name),
        })).collect::<Vec<_>>(),
    })
}
