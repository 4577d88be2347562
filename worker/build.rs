//! Compiles the probe that tests a runner's seal: a static program of its own,
//! since it must run in an input root that holds nothing else.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let source = "src/seal/probe.rs";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let output = PathBuf::from(variable("OUT_DIR")).join("seal_probe");
    // With an explicit target, flags of the surrounding build do not apply, and
    // +crt-static takes effect for this one program.
    let status = Command::new(variable("RUSTC"))
        .args(["--edition", "2024", "--crate-name", "seal_probe"])
        .args(["--crate-type", "bin", "--target", &variable("TARGET")])
        .args(["-C", "target-feature=+crt-static", "-C", "panic=abort"])
        .args(["-C", "opt-level=z", "-C", "strip=symbols", "-C", "lto"])
        .arg("-o")
        .arg(&output)
        .arg(source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("cannot compile {source}: {other:?}"),
    }
}
