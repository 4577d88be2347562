//! Generates Rust from the protocols under `proto/`, without a `protoc`.

use std::path::Path;

const PROTOCOLS: [&str; 12] = [
    "buildbarn/buildqueuestate.proto",
    "buildbarn/cas.proto",
    "buildbarn/completedactionlogger.proto",
    "buildbarn/remoteactionrouter.proto",
    "buildbarn/remoteworker.proto",
    "buildbarn/resourceusage.proto",
    "buildbarn/runner.proto",
    "buildbarn/tmp_installer.proto",
    "hayloft/action.proto",
    "hayloft/runner.proto",
    "hayloft/scheduler.proto",
    "hayloft/worker.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let root = Path::new("proto");
    let descriptors = protox::compile(PROTOCOLS, [root, &root.join("stub")])?;
    // Everything the protocols import is the bazel-remote-apis crate's, so that
    // an ExecuteResponse is one type wherever it travels.
    let google = "::bazel_remote_apis::google";
    let mut messages = tonic_prost_build::Config::new();
    // Any carries a message's full name.
    messages.enable_type_names();
    tonic_prost_build::configure()
        .extern_path(
            ".build.bazel.remote.execution.v2",
            "::bazel_remote_apis::build::bazel::remote::execution::v2",
        )
        .extern_path(".google.rpc", format!("{google}::rpc"))
        .extern_path(".google.protobuf.Any", format!("{google}::protobuf::Any"))
        .extern_path(
            ".google.protobuf.Duration",
            format!("{google}::protobuf::Duration"),
        )
        .extern_path(
            ".google.protobuf.Timestamp",
            format!("{google}::protobuf::Timestamp"),
        )
        .compile_fds_with_config(descriptors, messages)?;
    // For reflection, what the stubs only name is there in full.
    let told = protox::Compiler::new([root, &root.join("reflected")])?
        .include_imports(true)
        .open_files(PROTOCOLS)?
        .encode_file_descriptor_set();
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), told)?;
    Ok(())
}
