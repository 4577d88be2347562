//! Generated message and service types, under short names.
//!
//! REv2, ByteStream, longrunning and Status come from the `bazel-remote-apis`
//! crate; Buildbarn's protocols and Hayloft's own are generated from `proto/`.

pub use bazel_remote_apis::build::bazel::remote::execution::v2 as rev2;
pub use bazel_remote_apis::build::bazel::semver;
pub use bazel_remote_apis::google::bytestream;
pub use bazel_remote_apis::google::longrunning;
pub use bazel_remote_apis::google::protobuf;
pub use bazel_remote_apis::google::rpc;

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery)]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// Scheduler to its action router (`buildbarn.remoteactionrouter`).
    remoteactionrouter, "buildbarn.remoteactionrouter");
generated!(
    /// Worker to scheduler (`buildbarn.remoteworker`).
    remoteworker, "buildbarn.remoteworker");
generated!(
    /// Worker to runner (`buildbarn.runner`).
    runner, "buildbarn.runner");
generated!(
    /// Runner to its installer of temporary directories (`buildbarn.tmp_installer`).
    tmp_installer, "buildbarn.tmp_installer");
generated!(
    /// Operator to scheduler (`buildbarn.buildqueuestate`).
    buildqueuestate, "buildbarn.buildqueuestate");
generated!(
    /// What an action used (`buildbarn.resourceusage`).
    resourceusage, "buildbarn.resourceusage");
generated!(
    /// What Buildbarn keeps in the CAS (`buildbarn.cas`).
    cas, "buildbarn.cas");
generated!(
    /// Worker to whoever collects statistics (`buildbarn.completedactionlogger`).
    completedactionlogger, "buildbarn.completedactionlogger");
generated!(
    /// What Hayloft's worker says and hears of an action (`hayloft.action.v1`).
    action, "hayloft.action.v1");
generated!(
    /// Worker to Hayloft's own runner (`hayloft.runner.v1`).
    runner_extension, "hayloft.runner.v1");
generated!(
    /// Scheduler to clients and operators (`hayloft.scheduler.v1`).
    scheduler_extension, "hayloft.scheduler.v1");
generated!(
    /// Worker to Hayloft's own scheduler (`hayloft.worker.v1`).
    worker_extension, "hayloft.worker.v1");

/// All of Buildbarn's and Hayloft's protocols as a `google.protobuf.FileDescriptorSet`,
/// for gRPC's reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
