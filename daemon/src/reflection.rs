//! gRPC's reflection (`grpc.reflection.v1` and `v1alpha`), for tools such as grpcurl:
//! which services there are, and their messages.

use tonic::service::Routes;
use tonic_reflection::server::Builder;

/// Adds reflection to an endpoint that serves these of Buildbarn's and Hayloft's own
/// services. Those that are REv2's and Google's clients know.
#[must_use]
pub fn reflect(routes: Routes, services: &[&str]) -> Routes {
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(proto::wire::DESCRIPTORS)
            .include_reflection_service(false);
        let services = services.iter();
        services.fold(builder, |builder, name| builder.with_service_name(*name))
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        // The descriptors are the program's own, and a test reads them.
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "no reflection");
            routes
        }
    }
}
