//! Whose an execution is, from what clients tell about themselves.

use proto::messages;
use proto::wire::rev2::RequestMetadata;
use serde::{Deserialize, Serialize};

use crate::queue::InvocationKey;

/// What makes executions one invocation: a level of the tree. Named as Buildbarn's
/// (bb-remote-execution, pkg/proto/configuration/scheduler, InvocationKeyExtractor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyExtractor {
    /// The `correlated_invocations_id` of REv2's RequestMetadata: several runs of
    /// build tools for one purpose.
    CorrelatedInvocationsId,
    /// Its `tool_invocation_id`: one run of a build tool.
    ToolInvocationId,
}

impl KeyExtractor {
    /// A client that tells no id is one with all that tell none: so it has no more
    /// than its share.
    fn key(self, metadata: &RequestMetadata) -> InvocationKey {
        let mut id = RequestMetadata::default();
        match self {
            Self::CorrelatedInvocationsId => {
                id.correlated_invocations_id
                    .clone_from(&metadata.correlated_invocations_id);
            }
            Self::ToolInvocationId => {
                id.tool_invocation_id
                    .clone_from(&metadata.tool_invocation_id);
            }
        }
        messages::pack_rev2("RequestMetadata", &id).into()
    }
}

/// The invocation that an execution belongs to, the outermost first.
#[must_use]
pub fn keys(extractors: &[KeyExtractor], metadata: &RequestMetadata) -> Vec<InvocationKey> {
    let keys = extractors.iter().map(|extractor| extractor.key(metadata));
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::messages::unpack;
    use proto::wire::protobuf;

    #[test]
    fn each_level_holds_its_own_id_alone() {
        let metadata = RequestMetadata {
            tool_invocation_id: "tool".into(),
            correlated_invocations_id: "correlated".into(),
            target_id: "//a:b".into(),
            ..Default::default()
        };
        let both = [
            KeyExtractor::CorrelatedInvocationsId,
            KeyExtractor::ToolInvocationId,
        ];
        let unpacked: Vec<RequestMetadata> = keys(&both, &metadata)
            .iter()
            .map(|key| {
                let name = "build.bazel.remote.execution.v2.RequestMetadata";
                unpack(&protobuf::Any::from(key), name).unwrap()
            })
            .collect();
        let correlated = RequestMetadata {
            correlated_invocations_id: "correlated".into(),
            ..Default::default()
        };
        let tool = RequestMetadata {
            tool_invocation_id: "tool".into(),
            ..Default::default()
        };
        assert_eq!(unpacked, [correlated, tool]);
        assert!(keys(&[], &metadata).is_empty());
    }
}
