//! Traces across processes (W3C Trace Context): what a scheduler says an action is
//! part of, and telling it to the runner.

use std::collections::HashMap;
use std::hash::BuildHasher;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// The trace that an action belongs to, if any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Vec<(&'static str, MetadataValue<Ascii>)>);

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

impl Trace {
    /// Reads the headers. What is no header is as if it were not there.
    pub(crate) fn new<S: BuildHasher>(headers: &HashMap<String, String, S>) -> Self {
        let known = [PARENT, STATE].into_iter();
        let read = |name| Some((name, headers.get(name)?.parse().ok()?));
        Self(known.filter_map(read).collect())
    }

    /// The trace's number, for logs: 32 hexadecimal digits.
    pub(crate) fn id(&self) -> Option<&str> {
        let (name, parent) = self.0.first()?;
        let id = parent.to_str().ok()?.split('-').nth(1)?;
        (*name == PARENT).then_some(id)
    }

    /// Adds the headers to a call.
    pub(crate) fn add_to(&self, metadata: &mut MetadataMap) {
        for (name, value) in &self.0 {
            metadata.insert(*name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_passed_on_and_their_trace_is_named() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{id}-00f067aa0ba902b7-01");
        let headers = [
            (PARENT, parent.as_str()),
            (STATE, "a=b"),
            ("authorization", "no"),
        ];
        let headers: HashMap<String, String> = headers.map(|(k, v)| (k.into(), v.into())).into();
        let trace = Trace::new(&headers);
        assert_eq!(trace.id(), Some(id));
        let mut metadata = MetadataMap::new();
        trace.add_to(&mut metadata);
        assert_eq!(metadata.len(), 2);
        assert_eq!(metadata.get(PARENT).unwrap(), parent.as_str());
    }

    #[test]
    fn without_a_trace_there_is_none() {
        assert_eq!(Trace::default().id(), None);
        for wrong in ["", "00", "a\nb"] {
            let headers: HashMap<String, String> = [(PARENT.into(), wrong.into())].into();
            assert_eq!(Trace::new(&headers).id(), None);
        }
    }
}
