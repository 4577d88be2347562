//! Which properties of a platform decide where an action goes, and what to tell
//! a client whose action goes nowhere.

use std::collections::BTreeSet;

use proto::{InstanceName, PlatformKey};

/// How many queues an explanation names.
const NEAREST: usize = 3;

/// The platform properties that matching leaves out, of actions and of workers
/// alike: knobs that workers read (limits, network, container options), not
/// kinds of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Those of these names.
    Names(BTreeSet<String>),
    /// All: every worker takes every action of its instance names.
    All,
}

impl Default for Ignored {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}

impl Ignored {
    /// The properties that count.
    #[must_use]
    pub fn key(&self, platform: &PlatformKey) -> PlatformKey {
        match self {
            Self::Names(names) if names.is_empty() => platform.clone(),
            Self::Names(names) => PlatformKey::from_properties(
                platform
                    .properties()
                    .iter()
                    .filter(|(name, _)| !names.contains(name))
                    .cloned(),
            ),
            Self::All => PlatformKey::from_properties([]),
        }
    }
}

/// Says which queues come nearest to what an action asks for, and in what they
/// differ.
pub(super) fn nearest<'a>(
    instance: &InstanceName,
    platform: &PlatformKey,
    queues: impl Iterator<Item = (&'a InstanceName, &'a PlatformKey)>,
) -> String {
    let mut candidates: Vec<_> = queues
        .map(|(prefix, has)| {
            let mut differences = differences(platform, has);
            if instance.strip_prefix(prefix).is_none() {
                differences.push("serves other instance names".to_string());
            }
            (differences, prefix, has)
        })
        .collect();
    if candidates.is_empty() {
        return "there are no workers at all".to_string();
    }
    candidates.sort_by_key(|(differences, prefix, has)| (differences.len(), *prefix, *has));
    let nearest: Vec<_> = candidates
        .iter()
        .take(NEAREST)
        .map(|(differences, prefix, has)| {
            format!(
                "{has} of instance name {prefix:?} ({})",
                differences.join(", ")
            )
        })
        .collect();
    format!("the nearest are: {}", nearest.join("; "))
}

/// One entry for each property that only one side has, or that has another value.
fn differences(wanted: &PlatformKey, has: &PlatformKey) -> Vec<String> {
    let names: BTreeSet<_> = [wanted, has]
        .into_iter()
        .flat_map(|key| key.properties().iter().map(|(name, _)| name))
        .collect();
    let values = |key: &PlatformKey, wanted: &str| -> Vec<String> {
        key.properties()
            .iter()
            .filter(|(name, _)| name == wanted)
            .map(|(_, value)| format!("{value:?}"))
            .collect()
    };
    names
        .into_iter()
        .filter_map(|name| {
            let (asked, offered) = (values(wanted, name), values(has, name));
            if asked == offered {
                None
            } else if offered.is_empty() {
                Some(format!("lacks {name}={}", asked.join("+")))
            } else if asked.is_empty() {
                Some(format!("requires {name}={}", offered.join("+")))
            } else {
                Some(format!(
                    "has {name}={}, not {}",
                    offered.join("+"),
                    asked.join("+")
                ))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn key(properties: &[(&str, &str)]) -> PlatformKey {
        PlatformKey::from_properties(
            properties
                .iter()
                .map(|(name, value)| ((*name).to_string(), (*value).to_string())),
        )
    }

    #[test]
    fn ignored_properties_do_not_count() {
        let platform = key(&[("os", "linux"), ("network", "on"), ("network", "fast")]);
        assert_eq!(Ignored::default().key(&platform), platform);
        let names = Ignored::Names(BTreeSet::from(["network".to_string()]));
        assert_eq!(names.key(&platform), key(&[("os", "linux")]));
        assert_eq!(Ignored::All.key(&platform), key(&[]));
    }

    #[test]
    fn the_nearest_queues_come_first_with_what_differs() {
        let empty = InstanceName::empty();
        let other = InstanceName::new("other").unwrap();
        let far = key(&[("cpu", "arm"), ("os", "windows")]);
        let near = key(&[("os", "windows")]);
        let same = key(&[("os", "linux")]);
        let queues = [(&empty, &far), (&empty, &near), (&other, &same)];
        let text = nearest(&empty, &same, queues.into_iter());
        assert_eq!(
            text,
            "the nearest are: \
             {os=windows} of instance name \"\" (has os=\"windows\", not \"linux\"); \
             {os=linux} of instance name \"other\" (serves other instance names); \
             {cpu=arm, os=windows} of instance name \"\" (requires cpu=\"arm\", has os=\"windows\", not \"linux\")"
        );
        assert_eq!(
            nearest(&empty, &same, std::iter::empty()),
            "there are no workers at all"
        );
    }
}
