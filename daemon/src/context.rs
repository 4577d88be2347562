//! For whom a call is made, and as part of which trace.
//!
//! What a program does for an action it does within the action's [`CallContext`]
//! ([`CallContext::scope`]); each call that goes out through a [`Channel`](crate::Channel)
//! meanwhile carries it in its headers. Tasks that are spawned begin without one.

use std::collections::HashMap;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// REv2's RequestMetadata, serialised, in base64.
const REQUEST_METADATA: HeaderName =
    HeaderName::from_static("build.bazel.remote.execution.v2.requestmetadata-bin");

/// W3C Trace Context.
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

tokio::task_local! {
    static CURRENT: CallContext;
}

/// What calls carry beside their messages.
#[derive(Clone, Debug, Default)]
pub struct CallContext(HeaderMap);

impl CallContext {
    /// That of a call that came in.
    #[must_use]
    pub fn received(headers: &tonic::metadata::MetadataMap) -> Self {
        let headers: &HeaderMap = headers.as_ref();
        let mut context = HeaderMap::new();
        let names = TRACE_CONTEXT.map(HeaderName::from_static);
        for name in names.into_iter().chain([REQUEST_METADATA]) {
            if let Some(value) = headers.get(&name) {
                context.insert(name, value.clone());
            }
        }
        Self(context)
    }

    /// That of an action: REv2's RequestMetadata, serialised, where the client gave
    /// one, and the headers of its trace. Headers that cannot be sent, or are of
    /// something else, are left out.
    #[must_use]
    pub fn new(request_metadata: Option<&[u8]>, trace: &HashMap<String, String>) -> Self {
        let mut context = HeaderMap::new();
        if let Some(metadata) = request_metadata {
            let value = tonic::metadata::BinaryMetadataValue::from_bytes(metadata);
            if let Ok(value) = HeaderValue::from_bytes(value.as_encoded_bytes()) {
                context.insert(REQUEST_METADATA, value);
            }
        }
        for name in TRACE_CONTEXT {
            if let Some(value) = trace.get(name)
                && let Ok(value) = HeaderValue::from_str(value)
            {
                context.insert(name, value);
            }
        }
        Self(context)
    }

    /// That of the task that runs; an empty one outside of all.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs something within this context.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Adds the current context to a request's headers; what is there stays.
    pub(crate) fn add_current(headers: &mut HeaderMap) {
        let _ = CURRENT.try_with(|context| {
            for (name, value) in &context.0 {
                headers.entry(name).or_insert_with(|| value.clone());
            }
        });
    }
}
