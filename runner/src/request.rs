//! From a request of the wire to one that the launcher accepts.

use std::collections::HashMap;

use proto::wire::{runner, runner_extension};
use proto::{RelativePath, messages};
use sandbox::{IdPair, Limit, Limits};

use crate::error::Error;

/// Most bytes of one argument or variable, its NUL included (`execve(2)`,
/// `MAX_ARG_STRLEN`: 32 pages).
const STRING_BYTES: usize = 32 * 4096;

/// The inner path of the temporary directory, whatever the root.
const TEMPORARY_DIRECTORY: &str = "/tmp";

/// The request of the extension that means what this one of Buildbarn's means.
pub(crate) fn without_timeout(request: runner::RunRequest) -> runner_extension::RunRequest {
    runner_extension::RunRequest {
        arguments: request.arguments,
        environment_variables: request.environment_variables,
        working_directory: request.working_directory,
        stdout_path: request.stdout_path,
        stderr_path: request.stderr_path,
        input_root_directory: request.input_root_directory,
        temporary_directory: request.temporary_directory,
        server_logs_directory: request.server_logs_directory,
        timeout: None,
        overlay: None,
        limits: HashMap::new(),
        user_id: None,
        group_id: None,
    }
}

/// Validates a request. `set_tmpdir`: whether `TMPDIR` is added where the action
/// has a temporary directory and no such variable of its own. `own_id`: whom commands
/// see themselves as where requests say nothing else.
///
/// # Errors
/// [`Error::Field`] naming the field.
pub fn validate(
    request: runner_extension::RunRequest,
    set_tmpdir: bool,
    own_id: u32,
) -> Result<sandbox::RunRequest, Error> {
    let timeout = match &request.timeout {
        None => None,
        Some(timeout) => match messages::span(timeout) {
            Some(span) if !span.is_zero() => Some(span),
            _ => return invalid("timeout", "is not a positive span of time"),
        },
    };
    let working_directory = path("working_directory", &request.working_directory)?;
    let input_root_directory = named("input_root_directory", &request.input_root_directory)?;
    let temporary_directory = path("temporary_directory", &request.temporary_directory)?;
    let stdout_path = named("stdout_path", &request.stdout_path)?;
    let stderr_path = named("stderr_path", &request.stderr_path)?;
    if stdout_path == stderr_path {
        return invalid("stderr_path", "is the stdout_path");
    }
    let (lower_directories, scratch_directory) = overlay(request.overlay.as_ref())?;
    let server_logs_directory = path("server_logs_directory", &request.server_logs_directory)?;
    let arguments = arguments(request.arguments)?;
    let mut environment = environment(request.environment_variables)?;
    let has_tmpdir = environment.iter().any(|(name, _)| name == b"TMPDIR");
    if set_tmpdir && !temporary_directory.is_empty() && !has_tmpdir {
        environment.push((b"TMPDIR".to_vec(), TEMPORARY_DIRECTORY.into()));
    }
    Ok(sandbox::RunRequest {
        arguments,
        environment,
        working_directory,
        input_root_directory,
        lower_directories,
        scratch_directory,
        temporary_directory,
        stdout_path,
        stderr_path,
        server_logs_directory,
        timeout,
        ids: ids(request.user_id, request.group_id, own_id)?,
        limits: limits(&request.limits)?,
    })
}

/// Those asked for, where they are not what there is anyway.
fn ids(user: Option<u32>, group: Option<u32>, own: u32) -> Result<Option<IdPair>, Error> {
    let check = |field, asked: Option<u32>| match asked {
        // setresuid(2): it stands for no id.
        Some(u32::MAX) => invalid(field, "is no id"),
        Some(id) => Ok(id),
        None => Ok(own),
    };
    let ids = IdPair {
        uid: check("user_id", user)?,
        gid: check("group_id", group)?,
    };
    Ok((ids != IdPair::same(own)).then_some(ids))
}

fn limits(asked: &HashMap<String, u64>) -> Result<Limits, Error> {
    const FIELD: &str = "limits";
    let mut limits = Limits::none();
    for (name, value) in asked {
        let Some(limit) = Limit::from_name(name) else {
            return invalid(FIELD, format!("{name:?} is no limit"));
        };
        if limit.is_positive() && *value == 0 {
            return invalid(FIELD, format!("{name} must be at least 1"));
        }
        limits[limit] = Some(*value);
    }
    Ok(limits)
}

/// The directories below the input root, and the one for what is written.
type Layers = (Vec<Vec<u8>>, Vec<u8>);

fn overlay(overlay: Option<&runner_extension::Overlay>) -> Result<Layers, Error> {
    const LOWER: &str = "overlay.lower_directories";
    let Some(overlay) = overlay else {
        return Ok(Layers::default());
    };
    let most = sandbox::MOST_LAYERS - 1;
    if overlay.lower_directories.len() > most {
        return invalid(LOWER, format!("are more than {most}"));
    }
    let lower: Vec<_> = overlay
        .lower_directories
        .iter()
        .map(|text| named(LOWER, text))
        .collect::<Result<_, _>>()?;
    let scratch = named("overlay.scratch_directory", &overlay.scratch_directory)?;
    Ok((lower, scratch))
}

/// A path below the build directory (or the input root), possibly empty.
pub(crate) fn path(field: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    match RelativePath::new(text) {
        Ok(path) => Ok(path.to_string().into()),
        Err(error) => invalid(field, error.to_string()),
    }
}

/// A path below the build directory that is not that itself.
fn named(field: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    match path(field, text)? {
        path if path.is_empty() => invalid(field, "is empty"),
        path => Ok(path),
    }
}

fn arguments(arguments: Vec<String>) -> Result<Vec<Vec<u8>>, Error> {
    if arguments.first().is_none_or(String::is_empty) {
        return invalid("arguments", "name no command");
    }
    for (index, argument) in arguments.iter().enumerate() {
        text("arguments", &format!("argument {index}"), argument, 1)?;
    }
    Ok(arguments.into_iter().map(String::into_bytes).collect())
}

/// Name and value.
type Variable = (Vec<u8>, Vec<u8>);

/// The environment, sorted: the map that it came in has no order, and a command
/// should not see a random one.
fn environment(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<Variable>, Error> {
    const FIELD: &str = "environment_variables";
    let mut environment = Vec::new();
    for (name, value) in variables {
        if name.is_empty() || name.contains('=') {
            return invalid(FIELD, format!("{name:?} is no name of a variable"));
        }
        text(FIELD, "a variable's name", &name, 1)?;
        // Name, equals sign, value and NUL are one string.
        text(FIELD, &name, &value, name.len() + 2)?;
        environment.push((name.into_bytes(), value.into_bytes()));
    }
    environment.sort();
    Ok(environment)
}

/// Checks what becomes (with `more` bytes) one string of `execve(2)`.
fn text(field: &'static str, what: &str, text: &str, more: usize) -> Result<(), Error> {
    if text.contains('\0') {
        return invalid(field, format!("{what} contains a NUL byte"));
    }
    if text.len().saturating_add(more) > STRING_BYTES {
        return invalid(
            field,
            format!(
                "{what} has {} bytes, more than a process can be given ({STRING_BYTES})",
                text.len()
            ),
        );
    }
    Ok(())
}

fn invalid<T>(field: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Field {
        field,
        reason: reason.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::protobuf;
    use runner_extension::RunRequest;
    use std::time::Duration;

    fn request() -> RunRequest {
        RunRequest {
            arguments: vec!["true".into()],
            stdout_path: "1/stdout".into(),
            stderr_path: "1/stderr".into(),
            input_root_directory: "1/root".into(),
            temporary_directory: "1/tmp".into(),
            server_logs_directory: "1/server_logs".into(),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut RunRequest)) -> String {
        let mut request = request();
        change(&mut request);
        let error = validate(request, false, 0).unwrap_err();
        assert!(matches!(error, Error::Field { .. }));
        error.to_string()
    }

    #[test]
    fn a_request_keeps_what_it_says() {
        let mut request = request();
        request.working_directory = "./a//b".into();
        request.environment_variables =
            [("B".into(), "=2".into()), ("A".into(), String::new())].into();
        request.timeout = Some(protobuf::Duration {
            seconds: 1,
            nanos: 500_000_000,
        });
        let valid = validate(request, false, 0).unwrap();
        assert_eq!(valid.working_directory, b"a/b");
        assert_eq!(valid.stdout_path, b"1/stdout");
        assert_eq!(valid.timeout, Some(Duration::from_millis(1500)));
        let expected: [(Vec<u8>, Vec<u8>); 2] =
            [(b"A".into(), Vec::new()), (b"B".into(), b"=2".into())];
        assert_eq!(valid.environment, expected);
    }

    #[test]
    fn ids_are_asked_for_only_where_they_differ() {
        let ids = |user_id, group_id| {
            let request = RunRequest {
                user_id,
                group_id,
                ..request()
            };
            validate(request, false, 1000).map(|request| request.ids)
        };
        let pair = |uid, gid| Some(IdPair { uid, gid });
        assert_eq!(ids(None, None).unwrap(), None);
        assert_eq!(ids(Some(1000), Some(1000)).unwrap(), None);
        assert_eq!(ids(Some(0), None).unwrap(), pair(0, 1000));
        assert_eq!(ids(None, Some(7)).unwrap(), pair(1000, 7));
        for (user, group, field) in [
            (Some(u32::MAX), None, "user_id: "),
            (None, Some(u32::MAX), "group_id: "),
        ] {
            let error = ids(user, group).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn paths_stay_where_they_belong() {
        type Field = fn(&mut RunRequest) -> &mut String;
        let fields: [(&str, Field); 6] = [
            ("working_directory", |r| &mut r.working_directory),
            ("stdout_path", |r| &mut r.stdout_path),
            ("stderr_path", |r| &mut r.stderr_path),
            ("input_root_directory", |r| &mut r.input_root_directory),
            ("temporary_directory", |r| &mut r.temporary_directory),
            ("server_logs_directory", |r| &mut r.server_logs_directory),
        ];
        for (name, field) in fields {
            for bad in ["/etc", "..", "a/../../b", "a\0b"] {
                let message = refused(|request| *field(request) = bad.into());
                assert!(message.starts_with(&format!("{name}: ")), "{message}");
            }
        }
        assert!(refused(|r| r.stdout_path.clear()).starts_with("stdout_path: "));
        assert!(refused(|r| r.stderr_path = "1/./stdout".into()).starts_with("stderr_path: "));
        assert!(refused(|r| r.input_root_directory = ".".into()).contains("is empty"));
    }

    #[test]
    fn arguments_and_variables_are_what_a_process_can_be_given() {
        assert!(refused(|r| r.arguments.clear()).starts_with("arguments: "));
        assert!(refused(|r| r.arguments = vec![String::new()]).starts_with("arguments: "));
        assert!(refused(|r| r.arguments.push("a\0".into())).contains("argument 1"));
        let long = "a".repeat(STRING_BYTES);
        assert!(refused(|r| r.arguments.push(long.clone())).contains("argument 1 has 131072"));
        let mut fits = request();
        fits.arguments.push(long[1..].into());
        validate(fits, false, 0).unwrap();
        for (name, value) in [
            ("", "x"),
            ("A=B", "x"),
            ("A\0", "x"),
            ("A", "\0"),
            ("A", &long),
        ] {
            let message = refused(|request| {
                request
                    .environment_variables
                    .insert(name.into(), value.into());
            });
            assert!(message.starts_with("environment_variables: "), "{message}");
        }
    }

    #[test]
    fn an_overlay_names_its_directories() {
        assert!(
            validate(request(), false, 0)
                .unwrap()
                .scratch_directory
                .is_empty()
        );
        let overlay = |lower: &[&str], scratch: &str| {
            Some(runner_extension::Overlay {
                lower_directories: lower.iter().map(ToString::to_string).collect(),
                scratch_directory: scratch.into(),
            })
        };
        let mut layered = request();
        layered.overlay = overlay(&["layers/1", "layers/2"], "1/scratch");
        let valid = validate(layered, false, 0).unwrap();
        assert_eq!(valid.lower_directories, [b"layers/1", b"layers/2"]);
        assert_eq!(valid.scratch_directory, b"1/scratch");
        for (lower, scratch, message) in [
            (&["a"][..], "", "overlay.scratch_directory: is empty"),
            (&["a"], "/etc", "overlay.scratch_directory: "),
            (&["../a"], "s", "overlay.lower_directories: "),
            (&[""], "s", "overlay.lower_directories: is empty"),
            (
                &["a"; 500],
                "s",
                "overlay.lower_directories: are more than 499",
            ),
        ] {
            let refusal = refused(|request| request.overlay = overlay(lower, scratch));
            assert!(refusal.starts_with(message), "{refusal}");
        }
    }

    #[test]
    fn limits_have_names_and_amounts() {
        let with = |name: &str, value| {
            let mut request = request();
            request.limits.insert(name.into(), value);
            request
        };
        let valid = validate(with("memory_bytes", 7), false, 0).unwrap();
        assert_eq!(valid.limits[Limit::Memory], Some(7));
        for (name, value) in [("memory", 7), ("processes", 0)] {
            let error = validate(with(name, value), false, 0).unwrap_err();
            assert!(error.to_string().starts_with("limits: "), "{error}");
        }
    }

    #[test]
    fn a_timeout_is_positive() {
        for (seconds, nanos) in [(0, 0), (-1, 0), (0, -1), (1, 1_000_000_000)] {
            let timeout = Some(protobuf::Duration { seconds, nanos });
            assert!(refused(|request| request.timeout = timeout).starts_with("timeout: "));
        }
        assert_eq!(validate(request(), false, 0).unwrap().timeout, None);
    }

    #[test]
    fn tmpdir_is_set_unless_the_action_sets_it() {
        let tmpdir = |request, set| {
            let environment = validate(request, set, 0).unwrap().environment;
            let found = environment.into_iter().find(|(name, _)| name == b"TMPDIR");
            found.map(|(_, value)| String::from_utf8(value).unwrap())
        };
        assert_eq!(tmpdir(request(), false), None);
        assert_eq!(tmpdir(request(), true).unwrap(), "/tmp");
        let mut own = request();
        own.environment_variables
            .insert("TMPDIR".into(), "/own".into());
        assert_eq!(tmpdir(own, true).unwrap(), "/own");
        let mut none = request();
        none.temporary_directory.clear();
        assert_eq!(tmpdir(none, true), None);
    }
}
