//! Whose an execution is, from what clients tell about themselves.

use prost::Message as _;
use proto::wire::protobuf;
use proto::wire::rev2::RequestMetadata;
use proto::{InstanceName, messages};
use serde::{Deserialize, Serialize};

use crate::queue::InvocationKey;

/// What makes executions one invocation: a level of the tree. Named as Buildbarn's
/// (bb-remote-execution, pkg/proto/configuration/scheduler, InvocationKeyExtractor),
/// but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyExtractor {
    /// Who calls, as far as the listener knows.
    AuthenticationMetadata,
    /// The `correlated_invocations_id` of REv2's RequestMetadata: several runs of
    /// build tools for one purpose.
    CorrelatedInvocationsId,
    /// Its `tool_invocation_id`: one run of a build tool.
    ToolInvocationId,
    /// The instance name.
    InstanceName,
}

/// What there is to know of whoever asks for an execution.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What the client tells about itself, if anything.
    pub metadata: Option<RequestMetadata>,
    /// Who the connection is from.
    pub principal: String,
    /// The instance name.
    pub instance: InstanceName,
}

impl KeyExtractor {
    /// A client that tells no id is one with all that tell none: so it has no more
    /// than its share.
    fn key(self, caller: &Caller) -> InvocationKey {
        let mut id = RequestMetadata::default();
        let told = caller.metadata.as_ref();
        match self {
            Self::AuthenticationMetadata => {
                let metadata = AuthenticationMetadata {
                    public: Some(Text {
                        string_value: caller.principal.clone(),
                    }),
                };
                return protobuf::Any {
                    type_url: "type.googleapis.com/buildbarn.auth.AuthenticationMetadata".into(),
                    value: metadata.encode_to_vec(),
                }
                .into();
            }
            Self::InstanceName => {
                return protobuf::Any {
                    type_url: "type.googleapis.com/google.protobuf.StringValue".into(),
                    value: caller.instance.to_string().encode_to_vec(),
                }
                .into();
            }
            Self::CorrelatedInvocationsId => {
                id.correlated_invocations_id = told
                    .map(|told| told.correlated_invocations_id.clone())
                    .unwrap_or_default();
            }
            Self::ToolInvocationId => {
                id.tool_invocation_id = told
                    .map(|told| told.tool_invocation_id.clone())
                    .unwrap_or_default();
            }
        }
        messages::pack_rev2("RequestMetadata", &id).into()
    }
}

/// The invocation that an execution belongs to, the outermost first.
#[must_use]
pub fn keys(extractors: &[KeyExtractor], caller: &Caller) -> Vec<InvocationKey> {
    let keys = extractors.iter().map(|extractor| extractor.key(caller));
    keys.collect()
}

/// Of Buildbarn's message of this name (bb-storage, pkg/proto/auth), what is shown.
#[derive(Clone, PartialEq, prost::Message)]
struct AuthenticationMetadata {
    #[prost(message, optional, tag = "1")]
    public: Option<Text>,
}

/// A `google.protobuf.Value` that is a text.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "3")]
    string_value: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::messages::unpack;
    use proto::wire::protobuf;

    #[test]
    fn each_level_holds_its_own_id_alone() {
        let caller = Caller {
            metadata: Some(RequestMetadata {
                tool_invocation_id: "tool".into(),
                correlated_invocations_id: "correlated".into(),
                target_id: "//a:b".into(),
                ..Default::default()
            }),
            principal: "user:7".into(),
            instance: InstanceName::new("main").unwrap(),
        };
        let both = [
            KeyExtractor::CorrelatedInvocationsId,
            KeyExtractor::ToolInvocationId,
        ];
        let unpacked: Vec<RequestMetadata> = keys(&both, &caller)
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
        assert!(keys(&[], &caller).is_empty());
        let others = [
            KeyExtractor::AuthenticationMetadata,
            KeyExtractor::InstanceName,
        ];
        for (key, text) in keys(&others, &caller).iter().zip(["user:7", "main"]) {
            assert!(protobuf::Any::from(key).value.ends_with(text.as_bytes()));
        }
    }
}
