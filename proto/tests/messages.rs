//! All messages and calls of Buildbarn's protocols, against what was written down from
//! Buildbarn's own files (`messages/fields.txt`), and against bytes that a script made
//! of that without this project's code (`messages/encode.py`, `messages/bytes.txt`).
//! `golden.rs` has the messages of each action byte by byte.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use prost::{Message, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use proto::wire::{
    buildqueuestate as state, cas, completedactionlogger as logger, remoteactionrouter as router,
    remoteworker as worker, resourceusage as usage, runner, tmp_installer as installer,
};

const FIELDS: &str = include_str!("messages/fields.txt");
const BYTES: &str = include_str!("messages/bytes.txt");

/// `message NAME` and `service NAME`, each with its lines in order.
fn written_down() -> BTreeMap<String, Vec<String>> {
    let (buildbarns, _) = FIELDS.split_once("\nonly for bytes\n").unwrap();
    let lines = buildbarns.lines().filter(|line| !line.starts_with('#'));
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in lines.filter(|line| !line.is_empty()) {
        if line.starts_with("message ") || line.starts_with("service ") {
            current = line.into();
            assert!(all.insert(current.clone(), Vec::new()).is_none(), "{line}");
        } else {
            all.get_mut(&current).unwrap().push(line.into());
        }
    }
    all
}

/// The same of what this project generates code from.
fn generated() -> BTreeMap<String, Vec<String>> {
    let set = FileDescriptorSet::decode(proto::wire::DESCRIPTORS).unwrap();
    let mut all = BTreeMap::new();
    let ours = |file: &&prost_types::FileDescriptorProto| file.package().starts_with("buildbarn.");
    for file in set.file.iter().filter(ours) {
        for message in &file.message_type {
            describe(file.package(), message, &mut all);
        }
        for service in &file.service {
            let calls = service.method.iter().map(|method| {
                let stream = |streams: bool| if streams { "stream " } else { "" };
                format!(
                    "{} {}{} {}{}",
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type().trim_start_matches('.'),
                    stream(method.server_streaming()),
                    method.output_type().trim_start_matches('.'),
                )
            });
            let name = format!("service {}.{}", file.package(), service.name());
            all.insert(name, calls.collect());
        }
    }
    all
}

fn describe(within: &str, message: &DescriptorProto, all: &mut BTreeMap<String, Vec<String>>) {
    let name = format!("{within}.{}", message.name());
    let is_entry = |it: &&DescriptorProto| it.options.as_ref().is_some_and(|it| it.map_entry());
    let entries: Vec<_> = message.nested_type.iter().filter(is_entry).collect();
    let mut lines = Vec::new();
    for field in &message.field {
        let oneof = field.oneof_index.map(|index| {
            let oneof = &message.oneof_decl[usize::try_from(index).unwrap()];
            format!(" oneof {}", oneof.name())
        });
        let entry = entries
            .iter()
            .find(|entry| field.type_name() == format!(".{name}.{}", entry.name()));
        let kind = match (entry, field.label()) {
            (Some(entry), _) => {
                let [key, value] = &entry.field[..] else {
                    panic!("{name}: an entry is a key and a value");
                };
                format!("map<{},{}>", kind(key), kind(value))
            }
            (None, Label::Repeated) => format!("repeated {}", kind(field)),
            (None, _) => kind(field),
        };
        let line = format!("{kind} {}{}", field.name(), oneof.unwrap_or_default());
        lines.push((field.number(), format!("{} {line}", field.number())));
    }
    for range in &message.reserved_range {
        for number in range.start()..range.end() {
            lines.push((number, format!("reserved {number}")));
        }
    }
    lines.sort();
    let lines = lines.into_iter().map(|(_, line)| line).collect();
    all.insert(format!("message {name}"), lines);
    for nested in message.nested_type.iter().filter(|it| !is_entry(it)) {
        describe(&name, nested, all);
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    let name = field.type_name().trim_start_matches('.');
    match field.r#type() {
        Type::Message => name.into(),
        Type::Enum => format!("enum {name}"),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    }
}

#[test]
fn messages_and_calls_are_buildbarns() {
    let (written, generated) = (written_down(), generated());
    let names = |all: &BTreeMap<String, Vec<String>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&written), names(&generated));
    for (name, lines) in written {
        assert_eq!(lines, generated[&name], "{name}");
    }
}

/// Reads all bytes there are of a message, finds its fields in them, and writes them.
fn check<M: Message + Default + Name + Debug>(checked: &mut BTreeSet<String>) {
    let name = M::full_name();
    let lines = BYTES.lines().filter_map(|line| line.split_once(' '));
    let mut count = 0;
    for (_, hex) in lines.filter(|(of, _)| *of == name) {
        let bytes: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let message = M::decode(&bytes[..]).unwrap();
        let text = format!("{message:?}");
        for field in scalars(&name) {
            assert!(text.contains(&field), "{name}: no {field} in {text}");
        }
        // A field that is not known would be lost here.
        assert_eq!(message.encode_to_vec(), bytes, "{text}");
        count += 1;
    }
    assert!(count > 0, "no bytes of {name}");
    checked.insert(name);
}

/// How the plain fields of a message look, as `encode.py` fills them.
fn scalars(message: &str) -> Vec<String> {
    let written = written_down();
    let lines = written[&format!("message {message}")].iter();
    lines
        .filter_map(|line| {
            let [number, kind, name] = line.split(' ').collect::<Vec<_>>()[..] else {
                return None;
            };
            let number: i64 = number.parse().ok()?;
            Some(match kind {
                "string" => format!("{name}: \"{name}\""),
                "bool" => format!("{name}: true"),
                "uint32" => format!("{name}: {}", 0xFFFF_FF00 + number),
                "uint64" => format!("{name}: {}", u64::MAX - 0xFF + number.unsigned_abs()),
                "int32" | "int64" => format!("{name}: {}", -1000 - number),
                "double" => format!("{name}: {number}.125"),
                _ => return None,
            })
        })
        .collect()
}

macro_rules! check_all {
    ($($message:ty),* $(,)?) => {{
        let mut checked = BTreeSet::new();
        $(check::<$message>(&mut checked);)*
        checked
    }};
}

#[test]
fn every_message_is_read_from_and_written_as_bytes_made_elsewhere() {
    let checked = check_all![
        worker::SynchronizeRequest,
        worker::CurrentState,
        worker::current_state::Executing,
        worker::SynchronizeResponse,
        worker::DesiredState,
        worker::desired_state::Executing,
        runner::CheckReadinessRequest,
        runner::RunRequest,
        runner::RunResponse,
        installer::InstallTemporaryDirectoryRequest,
        usage::FilePoolResourceUsage,
        usage::PosixResourceUsage,
        usage::MonetaryResourceUsage,
        usage::monetary_resource_usage::Expense,
        usage::InputRootResourceUsage,
        cas::HistoricalExecuteResponse,
        logger::CompletedAction,
        router::RouteActionRequest,
        router::RouteActionResponse,
        state::PaginationInfo,
        state::PlatformQueueName,
        state::SizeClassQueueName,
        state::InvocationName,
        state::OperationState,
        state::SizeClassQueueState,
        state::PlatformQueueState,
        state::InvocationState,
        state::invocation_state::InvocationObjectCount,
        state::InvocationChildState,
        state::WorkerState,
        state::DrainState,
        state::GetOperationRequest,
        state::GetOperationResponse,
        state::ListOperationsRequest,
        state::list_operations_request::StartAfter,
        state::ListOperationsResponse,
        state::KillOperationsRequest,
        state::kill_operations_request::Filter,
        state::ListPlatformQueuesResponse,
        state::ListInvocationChildrenRequest,
        state::ListInvocationChildrenResponse,
        state::ListQueuedOperationsRequest,
        state::list_queued_operations_request::StartAfter,
        state::ListQueuedOperationsResponse,
        state::ListWorkersRequest,
        state::list_workers_request::Filter,
        state::list_workers_request::StartAfter,
        state::ListWorkersResponse,
        state::TerminateWorkersRequest,
        state::ListDrainsRequest,
        state::ListDrainsResponse,
        state::AddOrRemoveDrainRequest,
        state::BackgroundLearning,
    ];
    let written = written_down();
    let messages = written
        .keys()
        .filter_map(|name| name.strip_prefix("message "));
    let messages: BTreeSet<String> = messages.map(Into::into).collect();
    assert_eq!(checked, messages);
}

/// Peers of before 2020-08: `CheckReadiness` took an Empty, `Run` had no directory for
/// logs, Synchronize neither size classes nor the wish to be idle.
#[test]
fn messages_of_older_peers_are_read() {
    let readiness = runner::CheckReadinessRequest::decode(&b""[..]).unwrap();
    assert_eq!(readiness.path, "");
    let run = runner::RunRequest::decode(&b"\x0a\x01a\x22\x01o\x2a\x01e\x32\x01r"[..]).unwrap();
    assert_eq!(run.server_logs_directory, "");
    // 32 bits of exit code, negative ones being written as 64 (varints).
    let bytes = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert_eq!(
        runner::RunResponse::decode(&bytes[..]).unwrap().exit_code,
        -1
    );
    let request = worker::SynchronizeRequest::decode(&b"\x12\x04main\x22\x02\x0a\x00"[..]).unwrap();
    assert_eq!(request.instance_name_prefix, "main");
    assert!(!request.prefer_being_idle);
    // `buildbarn.cas.UncachedActionResult`, as what takes its place.
    let bytes = b"\x0a\x04\x0a\x02ab\x1a\x02\x10\x01";
    let kept = cas::HistoricalExecuteResponse::decode(&bytes[..]).unwrap();
    assert!(kept.execute_response.unwrap().cached_result);
}
