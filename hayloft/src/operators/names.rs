//! How queues, invocations and workers are called.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use prost::Message;
use proto::messages::unpack;
use proto::wire::buildqueuestate::{PlatformQueueName, SizeClassQueueName};
use proto::wire::protobuf::Any;
use proto::wire::rev2::{Platform, RequestMetadata};
use serde_json::{Value, json};

use crate::cli::operators::Selection;

/// A queue's name: those of one prefix, platform and size class.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueName(SizeClassQueueName);

impl QueueName {
    /// The queue of a size class.
    #[must_use]
    pub fn new(platform_queue: PlatformQueueName, size_class: u32) -> Self {
        Self(SizeClassQueueName {
            platform_queue_name: Some(platform_queue),
            size_class,
        })
    }

    /// That of a message.
    #[must_use]
    pub fn of(name: Option<SizeClassQueueName>) -> Self {
        Self(name.unwrap_or_default())
    }

    /// The message.
    #[must_use]
    pub fn to_wire(&self) -> SizeClassQueueName {
        self.0.clone()
    }

    fn prefix(&self) -> &str {
        let name = self.0.platform_queue_name.as_ref();
        name.map_or("", |name| &name.instance_name_prefix)
    }

    fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        let name = self.0.platform_queue_name.as_ref();
        let platform: Option<&Platform> = name.and_then(|name| name.platform.as_ref());
        let properties = platform.map_or(&[][..], |platform| &platform.properties);
        properties
            .iter()
            .map(|it| (it.name.as_str(), it.value.as_str()))
    }

    /// Whether it is one of those that are meant.
    #[must_use]
    pub fn is_selected(&self, selection: &Selection) -> bool {
        let prefix = selection.prefix.as_deref();
        let mut wanted = selection.platform.iter();
        prefix.is_none_or(|prefix| prefix == self.prefix())
            && selection
                .size_class
                .is_none_or(|it| it == self.0.size_class)
            && wanted.all(|(name, value)| self.properties().any(|it| it == (name, value)))
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let properties = self.properties();
        json!({
            "instance_name_prefix": self.prefix(),
            "platform": properties
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect::<Vec<_>>(),
            "size_class": self.0.size_class,
        })
    }
}

/// `PREFIX{name=value, …}`, and the size class where there are several.
impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.properties().map(|(n, v)| format!("{n}={v}")).collect();
        write!(f, "{}{{{}}}", self.prefix(), pairs.join(", "))?;
        if self.0.size_class != 0 {
            write!(f, " of size {}", self.0.size_class)?;
        }
        Ok(())
    }
}

/// Pairs in a worker's id or a pattern, as `hayloft drain` takes them.
#[must_use]
pub fn pairs(id: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = id.iter().collect();
    let pairs: Vec<_> = sorted.iter().map(|(n, v)| format!("{n}={v}")).collect();
    if pairs.is_empty() {
        "(all)".into()
    } else {
        pairs.join(" ")
    }
}

/// Of `buildbarn.auth.AuthenticationMetadata` and `google.protobuf.Value` in it (as far
/// as that is text), what is shown.
#[derive(Clone, PartialEq, Message)]
struct AuthenticationMetadata {
    #[prost(message, optional, tag = "1")]
    public: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "3")]
    string_value: String,
}

/// Whose something is: one level of an invocation's name.
#[must_use]
pub fn invocation(id: &Any) -> String {
    let rev2 = "build.bazel.remote.execution.v2.RequestMetadata";
    if let Some(metadata) = unpack::<RequestMetadata>(id, rev2) {
        return match metadata.tool_invocation_id.as_str() {
            "" => metadata.correlated_invocations_id,
            tool => tool.into(),
        };
    }
    let caller = unpack::<AuthenticationMetadata>(id, "buildbarn.auth.AuthenticationMetadata");
    if let Some(text) = caller.and_then(|caller| caller.public) {
        return text.string_value;
    }
    if let Some(text) = unpack::<String>(id, "google.protobuf.StringValue") {
        return text;
    }
    let name = id.type_url.rsplit('/').next().unwrap_or_default();
    match name {
        "buildbarn.buildqueuestate.BackgroundLearning" => "background learning".into(),
        other => format!("({other})"),
    }
}

/// Whose something is, the outermost level first; levels without a name are left out.
#[must_use]
pub fn invocations(ids: &[Any]) -> Vec<String> {
    let names = ids.iter().map(invocation);
    names.filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proto::messages::{pack, pack_rev2};
    use proto::wire::buildqueuestate::BackgroundLearning;
    use proto::wire::rev2::platform::Property;

    use super::*;

    fn queue(prefix: &str, size_class: u32) -> QueueName {
        let property = |name: &str, value: &str| Property {
            name: name.into(),
            value: value.into(),
        };
        let name = PlatformQueueName {
            instance_name_prefix: prefix.into(),
            platform: Some(Platform {
                properties: vec![property("arch", "arm"), property("os", "linux")],
            }),
        };
        QueueName::new(name, size_class)
    }

    #[test]
    fn queues_are_selected_by_any_part_of_their_name() {
        let selects = |prefix: Option<&str>, platform: &[(&str, &str)], size_class| {
            let pairs = platform.iter();
            let pairs = pairs.map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            let selection = Selection {
                prefix: prefix.map(Into::into),
                platform: pairs.collect(),
                size_class,
            };
            queue("main", 4).is_selected(&selection)
        };
        assert!(selects(None, &[], None));
        assert!(selects(
            Some("main"),
            &[("os", "linux"), ("arch", "arm")],
            Some(4)
        ));
        assert!(!selects(Some(""), &[], None));
        assert!(!selects(None, &[("os", "linux"), ("arch", "x86")], None));
        assert!(!selects(None, &[], Some(0)));
    }

    #[test]
    fn names_say_all_parts() {
        assert_eq!(
            queue("main", 4).to_string(),
            "main{arch=arm, os=linux} of size 4"
        );
        assert_eq!(QueueName::of(None).to_string(), "{}");
    }

    #[test]
    fn invocations_of_each_kind_have_a_name() {
        let tool = RequestMetadata {
            tool_invocation_id: "tool".into(),
            ..Default::default()
        };
        let correlated = RequestMetadata {
            correlated_invocations_id: "correlated".into(),
            ..Default::default()
        };
        let any = |name: &str, value: &[u8]| Any {
            type_url: format!("type.googleapis.com/{name}"),
            value: value.into(),
        };
        let ids = [
            pack_rev2("RequestMetadata", &correlated),
            pack_rev2("RequestMetadata", &tool),
            pack_rev2("RequestMetadata", &RequestMetadata::default()),
            any(
                "buildbarn.auth.AuthenticationMetadata",
                b"\x0a\x06\x1a\x04user",
            ),
            any("google.protobuf.StringValue", b"\x0a\x04main"),
            pack(&BackgroundLearning {}),
            any("some.Other", b"\xff"),
        ];
        let names = [
            "correlated",
            "tool",
            "user",
            "main",
            "background learning",
            "(some.Other)",
        ];
        assert_eq!(invocations(&ids), names);
    }
}
