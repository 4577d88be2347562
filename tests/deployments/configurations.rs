//! Configurations are what the programs take.

use std::fs;

use serde_json::Value;
use tests::ran::Ran;
use tests::user::As;
use tests::{skip, yaml};

use crate::files;

#[test]
fn every_program_takes_its_configuration() {
    let who = As::PlainUser;
    let folder = who.folder();
    let mut roles = Vec::new();
    for path in files("deploy/config", ".toml") {
        let name = path.file_stem().expect("a name").to_string_lossy();
        let role = name.split('-').next().expect("a word").to_owned();
        // None of the containers is root's.
        let mut check = who.command("hayloft-under-test", folder.path());
        let text = fs::read_to_string(&path).expect("a configuration");
        let copy = folder.path().join(path.file_name().expect("a name"));
        fs::write(&copy, text).expect("a copy");
        let _ = Ran::of(check.args([&role, "--check"]).arg(&copy)).assert(0, &["{"]);
        roles.push(role);
    }
    let known = [
        "runner",
        "runner",
        "runner",
        "scheduler",
        "worker",
        "worker",
    ];
    assert_eq!(roles, known);
}

/// Buildbarn's own program is not here to read them: that they evaluate, and name the
/// peers that there are.
#[test]
fn what_is_for_buildbarns_storage_evaluates() {
    if !skip::has("what_is_for_buildbarns_storage_evaluates", &[yaml::PYTHON]) {
        return;
    }
    let evaluate = "import sys, _jsonnet; print(_jsonnet.evaluate_file(sys.argv[1]))";
    let mut names = Vec::new();
    for path in files("deploy/config", ".jsonnet") {
        let config: Value = serde_json::from_str(&yaml::python(evaluate, &path)).expect("JSON");
        let server = &config["grpcServers"][0]["listenAddresses"][0];
        names.push(server.as_str().expect("an address").to_owned());
        for part in ["contentAddressableStorage", "actionCache"] {
            assert!(config[part]["backend"].is_object(), "{}", path.display());
        }
    }
    assert_eq!(names, [":8980", ":8981"]);
}
