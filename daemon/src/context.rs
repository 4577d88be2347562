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

    /// The trace's number, for logs: 32 hexadecimal digits. None where there is no
    /// trace.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        let parent = self.0.get(TRACE_CONTEXT[0])?.to_str().ok()?;
        let id = parent.split('-').nth(1)?;
        (id.len() == 32).then_some(id)
    }

    /// Adds it to a call that does not go through a [`Channel`](crate::Channel).
    pub fn add_to(&self, metadata: &mut tonic::metadata::MetadataMap) {
        metadata.as_mut().extend(self.0.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataMap;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn trace(parent: &str) -> HashMap<String, String> {
        let headers = [
            ("traceparent", parent),
            ("tracestate", "a=b"),
            ("authorization", "no"),
        ];
        headers.map(|(k, v)| (k.into(), v.into())).into()
    }

    #[test]
    fn a_context_arrives_as_it_was_sent_and_nothing_else_does() {
        let parent = format!("00-{ID}-00f067aa0ba902b7-01");
        let context = CallContext::new(Some(b"\x0a\x01x"), &trace(&parent));
        assert_eq!(context.trace_id(), Some(ID));
        let mut headers = MetadataMap::new();
        context.add_to(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers.get("traceparent").unwrap(), parent.as_str());
        headers.insert("authorization", "no".parse().unwrap());
        let mut again = MetadataMap::new();
        CallContext::received(&headers).add_to(&mut again);
        assert_eq!(again.len(), 3);
        let told = again.get_bin(REQUEST_METADATA.as_str()).unwrap();
        assert_eq!(&told.to_bytes().unwrap()[..], b"\x0a\x01x");
    }

    #[test]
    fn without_a_trace_there_is_no_number_of_one() {
        assert_eq!(CallContext::default().trace_id(), None);
        for wrong in ["", "00", "00-123-4-01", "a\nb"] {
            let context = CallContext::new(None, &trace(wrong));
            assert_eq!(context.trace_id(), None, "{wrong:?}");
        }
    }
}
