//! Files in YAML, and the tools that deployments are checked with: a Python that
//! `install-clients` has put aside, with what knows Kubernetes.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The folder that `install-clients` fills.
pub const TOOLS: &str = "/opt/hayloft-clients/manifests-1";

/// The Python of these tools.
pub const PYTHON: &str = "/opt/hayloft-clients/manifests-1/bin/python";

/// The documents of a file.
///
/// # Panics
/// It is not one.
#[must_use]
pub fn read(path: &Path) -> Vec<Value> {
    parse(&python(
        "import json, sys, yaml\n\
         with open(sys.argv[1]) as file: print(json.dumps(list(yaml.safe_load_all(file))))",
        path,
    ))
}

/// What a Python program prints about a file.
///
/// # Panics
/// It fails.
#[must_use]
pub fn python(program: &str, path: &Path) -> String {
    let mut command = Command::new(PYTHON);
    let output = command.arg("-c").arg(program).arg(path).output();
    let output = output.expect("Python runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {told}", path.display());
    String::from_utf8(output.stdout).expect("text")
}

fn parse(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("what Python wrote is JSON")
}
