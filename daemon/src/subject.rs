//! Which action the lines of a log are about.

use serde::{Deserialize, Serialize};
use tonic::metadata::{MetadataMap, MetadataValue};
use tracing::Span;

/// Where a subject travels, as JSON: from one program of this project to another.
const HEADER: &str = "hayloft-subject-bin";

/// The most of each part that is told on, in bytes: headers are limited, and worker
/// ids are not.
const LONGEST: usize = 512;

/// The parts that each line about an action bears. What is not known is empty, and
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Subject {
    /// The operation's name; of several that wait for one execution, the first.
    pub operation: String,
    /// The action's digest, as HASH/SIZE.
    pub action: String,
    /// The ids of the invocation that it is part of.
    pub invocation: String,
    /// The id of the worker that has it.
    pub worker: String,
    /// The number of the trace that it is part of.
    pub trace: String,
}

impl Subject {
    /// What came with a call; an empty one if nothing did.
    #[must_use]
    pub fn received(headers: &MetadataMap) -> Self {
        let value = headers
            .get_bin(HEADER)
            .and_then(|value| value.to_bytes().ok());
        value
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Has it go along with a call.
    pub fn add_to(&self, headers: &mut MetadataMap) {
        let cut = |text: &str| {
            let fits = |(start, char): &(usize, char)| start + char.len_utf8() <= LONGEST;
            let chars = text.char_indices().take_while(fits);
            chars.map(|(_, char)| char).collect()
        };
        let told = Self {
            operation: cut(&self.operation),
            action: cut(&self.action),
            invocation: cut(&self.invocation),
            worker: cut(&self.worker),
            trace: cut(&self.trace),
        };
        // Five texts cannot fail to be JSON.
        if let Ok(json) = serde_json::to_vec(&told) {
            headers.insert_bin(HEADER, MetadataValue::from_bytes(&json));
        }
    }

    /// The span whose lines bear it, whatever level the log begins at.
    #[must_use]
    pub fn span(&self) -> Span {
        let known = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        tracing::error_span!(
            "action",
            operation = known(&self.operation),
            action = known(&self.action),
            invocation = known(&self.invocation),
            worker = known(&self.worker),
            trace = known(&self.trace),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_arrives_as_it_was_sent_but_for_what_is_too_long() {
        let subject = Subject {
            operation: "f5dfb7b4-9df6-4d6a-b5b6-2f6bde8c4e55".into(),
            worker: "ä".repeat(10_000),
            ..Subject::default()
        };
        let mut headers = MetadataMap::new();
        subject.add_to(&mut headers);
        let received = Subject::received(&headers);
        assert_eq!(received.operation, subject.operation);
        assert_eq!(received.worker, "ä".repeat(LONGEST / 2));
        assert_eq!(received.action, "");
    }

    #[test]
    fn calls_of_strangers_are_about_nothing() {
        let mut headers = MetadataMap::new();
        assert_eq!(Subject::received(&headers), Subject::default());
        headers.insert_bin(HEADER, MetadataValue::from_bytes(b"\xff no JSON"));
        assert_eq!(Subject::received(&headers), Subject::default());
    }
}
