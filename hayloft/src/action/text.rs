//! What is known of an action, for people.

use std::fmt::Write;

use proto::messages::span;
use proto::wire::rev2;

use super::known::{Known, Listed, Outcome, Source};
use crate::client::listing::{Entry, Kind};
use crate::report::for_terminals;
use crate::stages;

/// The text that `hayloft action` prints. What the action printed is in it as it is.
#[must_use]
pub fn describe(known: &Known) -> Vec<u8> {
    let mut text = Text(String::new());
    text.row("Action", &known.digest.to_string());
    if let Some(command) = &known.command {
        describe_command(&mut text, command);
    }
    if let Some(properties) = platform(known) {
        let pairs = properties.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        text.row("Platform", &pairs.join(", "));
    }
    if let Some(action) = &known.action {
        if let Some(timeout) = action.timeout.as_ref().and_then(span) {
            text.row("Timeout", &format!("{} s", timeout.as_secs_f64()));
        }
        if action.do_not_cache {
            text.row("Cache", "its result is not to be cached");
        }
    }
    match &known.outcome {
        None => text.row(
            "Outcome",
            "none in the action cache; that of an action that failed is found by the link \
             in its message",
        ),
        Some(outcome) => describe_outcome(&mut text, outcome),
    }
    for note in &known.notes {
        text.row("Unknown", note);
    }
    if let Some(inputs) = &known.inputs {
        text.heading(&format!("Inputs: {}", totals(inputs)));
        text.entries("", inputs);
    }
    let Some(outcome) = &known.outcome else {
        return text.0.into_bytes();
    };
    describe_outputs(&mut text, outcome);
    let mut bytes = text.0.into_bytes();
    let mut section = |name: &str, content: &[u8]| {
        if !content.is_empty() {
            bytes.extend_from_slice(format!("\n{name}:\n").as_bytes());
            bytes.extend_from_slice(content);
            if !content.ends_with(b"\n") {
                bytes.push(b'\n');
            }
        }
    };
    section("Standard output", outcome.stdout.as_deref().unwrap_or(b""));
    section("Standard error", outcome.stderr.as_deref().unwrap_or(b""));
    for (name, log) in &outcome.logs {
        section(&format!("The runner's {name}"), log.as_bytes());
    }
    bytes
}

struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0 += &for_terminals(&line.to_string());
        self.0.push('\n');
    }

    /// Further lines of a value stand below its first.
    fn row(&mut self, name: &str, value: &str) {
        let mut name = name;
        for line in value.lines() {
            self.line(format_args!("{name:<12} {line}"));
            name = "";
        }
    }

    fn heading(&mut self, heading: &str) {
        self.line(format_args!(""));
        self.line(format_args!("{heading}"));
    }

    fn entries(&mut self, within: &str, listed: &Listed) {
        for Entry { path, kind } in &listed.entries {
            match kind {
                Kind::File { digest, executable } => {
                    let mark = if *executable { "*" } else { "" };
                    self.blob(&format!("{within}{path}{mark}"), digest.as_ref());
                }
                Kind::Directory { .. } => self.line(format_args!("  {within}{path}/")),
                Kind::Symlink { target } => {
                    self.line(format_args!("  {within}{path} -> {target}"));
                }
            }
        }
        if listed.more() > 0 {
            self.line(format_args!("  … and {} more (--all)", listed.more()));
        }
    }

    fn blob(&mut self, path: &str, digest: Option<&rev2::Digest>) {
        let name = digest.map(|digest| format!("{}-{}", digest.hash, digest.size_bytes));
        self.line(format_args!("  {path:<40}  {}", name.unwrap_or_default()));
    }
}

fn describe_command(text: &mut Text, command: &rev2::Command) {
    let words: Vec<_> = command.arguments.iter().map(|word| quoted(word)).collect();
    text.row("Command", &words.join(" "));
    if !command.working_directory.is_empty() {
        text.row("In", &command.working_directory);
    }
    let variables = command.environment_variables.iter();
    let variables: Vec<_> = variables
        .map(|it| format!("{}={}", it.name, quoted(&it.value)))
        .collect();
    text.row("Environment", &variables.join("\n"));
}

/// A word as a shell would read it.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_-./=:,+@%".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn describe_outcome(text: &mut Text, outcome: &Outcome) {
    let result = outcome.result();
    let metadata = outcome.metadata();
    let status = outcome.response.status.as_ref();
    let how = match status.filter(|status| status.code != 0) {
        Some(status) => {
            let status = proto::status::from_wire(status);
            crate::client::execution::describe_status(&status)
        }
        None => format!("exit code {}", result.exit_code),
    };
    let source = match outcome.source {
        Source::ActionCache => "in the action cache",
        Source::Historical => "kept by the worker, not in the action cache",
    };
    text.row("Outcome", &format!("{how} ({source})"));
    text.row("Message", &outcome.response.message);
    text.row("Worker", &metadata.worker);
    let known = stages::seconds(&metadata).into_iter();
    let known = known.filter_map(|(name, seconds)| Some((name, seconds?)));
    let known = known.map(|(name, seconds)| format!("{} {seconds:.3} s", name.replace('_', " ")));
    text.row("Took", &known.collect::<Vec<_>>().join(", "));
    if let Some(usage) = stages::usage(&metadata) {
        let seconds = |duration: &Option<_>| {
            let duration = duration.as_ref().and_then(span);
            duration.unwrap_or_default().as_secs_f64()
        };
        let signal = match usage.termination_signal.as_str() {
            "" => String::new(),
            name => format!(", ended by SIG{name}"),
        };
        text.row(
            "Used",
            &format!(
                "{:.3} s of processor time, {:.3} s of it the kernel's; {} of memory{signal}",
                seconds(&usage.user_time) + seconds(&usage.system_time),
                seconds(&usage.system_time),
                bytes(u64::try_from(usage.maximum_resident_set_size).unwrap_or(0)),
            ),
        );
    }
    if let Some(client) = stages::client(&metadata) {
        let tool = client.tool_details.unwrap_or_default();
        let told = [
            format!("{} {}", tool.tool_name, tool.tool_version),
            client.tool_invocation_id,
            client.target_id,
            client.action_mnemonic,
        ];
        let told: Vec<_> = told
            .iter()
            .map(|it| it.trim())
            .filter(|it| !it.is_empty())
            .collect();
        text.row("For", &told.join(", "));
    }
}

fn describe_outputs(text: &mut Text, outcome: &Outcome) {
    let result = outcome.result();
    text.heading("Outputs:");
    for file in &result.output_files {
        let mark = if file.is_executable { "*" } else { "" };
        text.blob(&format!("{}{mark}", file.path), file.digest.as_ref());
    }
    for link in links(&result) {
        text.line(format_args!("  {} -> {}", link.path, link.target));
    }
    for directory in &result.output_directories {
        let within = format!("{}/", directory.path);
        match outcome.directories.get(&directory.path) {
            Some(listed) => {
                text.line(format_args!("  {within}  {}", totals(listed)));
                text.entries(&within, listed);
            }
            None => text.line(format_args!("  {within}")),
        }
    }
    for (name, log) in &outcome.response.server_logs {
        text.blob(&format!("(log) {name}"), log.digest.as_ref());
    }
}

fn totals(listed: &Listed) -> String {
    let totals = &listed.totals;
    let mut all = format!("{} files, {}", totals.files, bytes(totals.bytes));
    for (count, what) in [
        (totals.directories, "directories"),
        (totals.symlinks, "symbolic links"),
        (totals.missing, "directories that are not stored"),
    ] {
        if count > 0 {
            let _ = write!(all, ", {count} {what}");
        }
    }
    all
}

fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// The platform, in the Action as since REv2.2 or in the Command as before; none where
/// neither is known.
#[allow(deprecated, reason = "clients before REv2.2 put it there")]
pub(super) fn platform(known: &Known) -> Option<Vec<(String, String)>> {
    let platform = known.action.as_ref().and_then(|it| it.platform.clone());
    let platform = platform
        .or_else(|| known.command.as_ref().and_then(|it| it.platform.clone()))
        .or_else(|| known.command.as_ref().map(|_| rev2::Platform::default()))?;
    let properties = platform.properties.into_iter();
    Some(properties.map(|it| (it.name, it.value)).collect())
}

/// The outputs that a command declares, in any version's fields.
#[allow(deprecated, reason = "clients before REv2.1 use the older fields")]
pub(super) fn declared(command: &rev2::Command) -> Vec<&String> {
    let older = command
        .output_files
        .iter()
        .chain(&command.output_directories);
    command.output_paths.iter().chain(older).collect()
}

/// The links among the outputs, in any version's fields, each once.
#[allow(deprecated, reason = "clients before REv2.1 read the older fields")]
pub(super) fn links(result: &rev2::ActionResult) -> impl Iterator<Item = &rev2::OutputSymlink> {
    let older = result.output_file_symlinks.iter();
    let older = older.chain(&result.output_directory_symlinks);
    let new = &result.output_symlinks;
    let older = older.filter(|link| !new.iter().any(|it| it.path == link.path));
    new.iter().chain(older)
}
