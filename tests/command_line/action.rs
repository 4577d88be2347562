//! `hayloft action`: what a farm tells of an action afterwards.

use std::fs;

use serde_json::Value;
use tests::desk::Desk;
use tests::farm::Farm;
use tests::user::As;

/// A farm, a desk, and the options that lead from one to the other.
fn place() -> (Farm, Desk, [String; 4]) {
    let who = As::possible()[0];
    let farm = Farm::start(who);
    let desk = Desk::of(who);
    let options = ["--remote", farm.endpoint(), "--instance", "main"].map(Into::into);
    (farm, desk, options)
}

fn words<'a>(command: &'a str, options: &'a [String], rest: &[&'a str]) -> Vec<&'a str> {
    let options = options.iter().map(String::as_str);
    let rest = rest.iter().copied();
    std::iter::once(command)
        .chain(options)
        .chain(rest)
        .collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name} in {value:#}"))
}

#[test]
fn a_result_in_the_cache_is_told_with_all_that_led_to_it() {
    let (farm, desk, options) = place();
    let input = desk.work().join("input");
    fs::create_dir_all(input.join("deep")).expect("a folder");
    fs::write(input.join("deep/text"), "given\n").expect("a file");
    std::os::unix::fs::symlink("deep/text", input.join("link")).expect("a link");
    let script = "cat deep/text; echo hm >&2; mkdir -p made/sub; echo 1 > made/sub/one; \
        echo it\\'s > single; ln -s single also";
    let more = [
        "--json",
        "--input",
        "input",
        "--output",
        "made",
        "--output",
        "single",
        "--output",
        "also",
        "--env",
        "A=b c",
        "--platform",
        "os=linux",
        "--timeout",
        "60",
        "--",
        "/bin/sh",
        "-c",
        script,
    ];
    let ran = desk.told(words("run", &options, &more));
    let action = text(&ran, "action");

    let told = desk.told(words("action", &options, &["--json", action]));
    assert_eq!(text(&told, "action"), action);
    let command = &told["command"];
    assert_eq!(command["arguments"][2], script, "{told:#}");
    assert_eq!(command["environment"][0]["value"], "b c");
    assert_eq!(
        command["outputs"],
        serde_json::json!(["also", "made", "single"])
    );
    assert_eq!(told["platform"][0]["name"], "os");
    assert_eq!(told["timeout_seconds"], 60.0);
    let inputs = &told["inputs"];
    assert_eq!((&inputs["files"], &inputs["bytes"]), (&1.into(), &6.into()));
    let paths = |list: &Value| -> Vec<String> {
        let entries = list.as_array().expect("a list");
        entries
            .iter()
            .map(|entry| text(entry, "path").into())
            .collect()
    };
    assert_eq!(paths(&inputs["entries"]), ["link", "deep/", "deep/text"]);
    let outcome = &told["outcome"];
    assert_eq!(text(outcome, "source"), "action_cache");
    assert_eq!(outcome["exit_code"], 0);
    assert!(outcome["status"].is_null(), "{outcome:#}");
    assert_eq!(
        (text(outcome, "stdout"), text(outcome, "stderr")),
        ("given\n", "hm\n")
    );
    assert_eq!(text(outcome, "worker"), text(&ran, "worker"));
    for stage in ["queued", "fetching_inputs", "running", "uploading_outputs"] {
        assert!(outcome["seconds"][stage].is_f64(), "{stage}: {outcome:#}");
    }
    assert!(
        outcome["usage"]["maximum_resident_set_bytes"].as_u64() > Some(0),
        "{outcome:#}"
    );
    assert_ne!(text(&outcome["client"], "tool_invocation_id"), "");
    assert_eq!(paths(&outcome["outputs"]), ["single", "made/", "also"]);
    let made = &outcome["outputs"][1]["content"];
    assert_eq!(paths(&made["entries"]), ["sub/", "sub/one"]);
    assert_eq!(told["notes"], serde_json::json!([]));

    // The same for people; the digest in either form.
    let text = desk.printed(words("action", &options, &[&action.replace('/', "-")]));
    for part in [
        r"/bin/sh -c 'cat deep/text; echo hm >&2; mkdir",
        r"echo it\'\''s > single",
        "A='b c'",
        "os=linux",
        "60 s",
        "exit code 0 (in the action cache)",
        "fetching inputs 0.",
        "\n\nInputs: 1 files, 6 B, 1 directories, 1 symbolic links",
        "  link -> deep/text\n",
        "  deep/text ",
        "\n\nOutputs:\n",
        "  made/  1 files, 2 B, 1 directories\n",
        "  made/sub/one ",
        "  also -> single\n",
        "\n\nStandard output:\ngiven\n",
        "\nStandard error:\nhm\n",
    ] {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
    assert!(!text.contains('\u{fffd}'), "{text}");
    farm.stop();
    desk.leave();
}

#[test]
fn an_action_that_failed_is_told_by_the_link_in_its_message() {
    let (farm, desk, options) = place();
    let script = "echo begun; echo complained >&2; kill -SEGV $$";
    let run = words("run", &options, &["--json", "--", "/bin/sh", "-c", script]);
    let output = desk.run(run);
    assert_eq!(output.status.code(), Some(139), "{output:?}");
    let ran: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let message = text(&ran, "message");
    let link = message.split_whitespace().last().expect("a link");
    assert!(link.contains("/historical_execute_response/"), "{message}");

    let told = desk.told(words("action", &options, &["--json", link]));
    assert_eq!(text(&told, "action"), text(&ran, "action"));
    assert_eq!(told["command"]["arguments"][2], script);
    let outcome = &told["outcome"];
    assert_eq!(text(outcome, "source"), "historical_execute_response");
    assert_eq!(
        (text(outcome, "stdout"), text(outcome, "stderr")),
        ("begun\n", "complained\n")
    );
    assert_eq!(text(&outcome["usage"], "termination_signal"), "SEGV");
    let printed = desk.printed(words("action", &options, &[link]));
    assert!(printed.contains("ended by SIGSEGV"), "{printed}");

    // By the action's own digest there is what ran, and no outcome.
    let told = desk.told(words("action", &options, &["--json", text(&ran, "action")]));
    assert!(told["outcome"].is_null(), "{told:#}");
    assert_eq!(told["command"]["arguments"][2], script);

    // A failure of the farm says its link, too.
    let timeout = [
        "--timeout",
        "1",
        "--",
        "/bin/sh",
        "-c",
        "while :; do sleep 9; done",
    ];
    let output = desk.run(words("run", &options, &timeout));
    assert_eq!(output.status.code(), Some(124));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let link = error.split_whitespace().last().expect("a link");
    let told = desk.told(words("action", &options, &["--json", link]));
    assert_eq!(text(&told["outcome"]["status"], "code"), "DeadlineExceeded");
    farm.stop();
    desk.leave();
}

#[test]
fn what_is_no_action_or_not_there_is_said() {
    let (farm, desk, options) = place();
    let ran = desk.told(words(
        "run",
        &options,
        &["--json", "--", "/bin/echo", "text"],
    ));
    let told = desk.told(words("action", &options, &["--json", text(&ran, "action")]));
    let root = text(&told["inputs"], "root");
    for (digest, expected) in [
        (root.to_owned(), "neither an Action nor"),
        (format!("{}/5", "ab".repeat(32)), "cannot fetch"),
        ("text".to_owned(), "neither HASH-SIZE"),
    ] {
        let output = desk.run(words("action", &options, &[&digest]));
        assert!(!output.status.success(), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(expected), "{digest}: {error}");
    }
    farm.stop();
    desk.leave();
}
