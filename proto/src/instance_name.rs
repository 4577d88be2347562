//! Instance names: which of a server's tenants a call is about.

use std::fmt;
use std::sync::{Arc, LazyLock};

/// Words that mark the parts of a resource name and so cannot be components of
/// an instance name (REv2, ByteStream naming).
const RESERVED: [&str; 7] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
    "compressed-blobs",
];

/// A valid instance name: components joined by `/`, or empty. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName(Arc<str>);

/// Why a string is no instance name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceNameError {
    /// It begins or ends with `/`, or has two in a row.
    #[error("instance name {0:?} has an empty component")]
    EmptyComponent(String),
    /// A component is a keyword of resource names.
    #[error("instance name {name:?} contains the reserved word {word:?}")]
    Reserved {
        /// The name.
        name: String,
        /// The keyword in it.
        word: &'static str,
    },
    /// It is longer than 4096 bytes or contains NUL or other control characters.
    #[error("instance name is too long or contains control characters")]
    Characters,
}

impl InstanceName {
    /// Validates a name as clients send it. The empty name is valid.
    ///
    /// # Errors
    /// See [`InstanceNameError`].
    pub fn new(name: &str) -> Result<Self, InstanceNameError> {
        if name.len() > 4096 || name.chars().any(char::is_control) {
            return Err(InstanceNameError::Characters);
        }
        if !name.is_empty() {
            for component in name.split('/') {
                if component.is_empty() {
                    return Err(InstanceNameError::EmptyComponent(name.into()));
                }
                if let Some(word) = RESERVED.into_iter().find(|word| *word == component) {
                    return Err(InstanceNameError::Reserved {
                        name: name.into(),
                        word,
                    });
                }
            }
        }
        Ok(Self(name.into()))
    }

    /// The empty name.
    #[must_use]
    pub fn empty() -> Self {
        static EMPTY: LazyLock<InstanceName> = LazyLock::new(|| InstanceName("".into()));
        EMPTY.clone()
    }

    /// The name as messages carry it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows `prefix`, when this name begins with all of its components.
    #[must_use]
    pub fn strip_prefix(&self, prefix: &Self) -> Option<Self> {
        if prefix.0.is_empty() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(&*prefix.0)?;
        if rest.is_empty() {
            Some(Self::empty())
        } else {
            rest.strip_prefix('/').map(|rest| Self(rest.into()))
        }
    }

    /// This name followed by the components of `suffix`.
    #[must_use]
    pub fn join(&self, suffix: &Self) -> Self {
        match (self.0.is_empty(), suffix.0.is_empty()) {
            (true, _) => suffix.clone(),
            (_, true) => self.clone(),
            _ => Self(format!("{}/{}", self.0, suffix.0).into()),
        }
    }

    /// This name and each shorter prefix of it, longest first, down to the empty one.
    pub fn prefixes(&self) -> impl Iterator<Item = Self> + '_ {
        let mut rest = Some(&*self.0);
        std::iter::from_fn(move || {
            let current = rest?;
            rest = if current.is_empty() {
                None
            } else {
                Some(current.rsplit_once('/').map_or("", |(shorter, _)| shorter))
            };
            Some(Self(current.into()))
        })
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> InstanceName {
        InstanceName::new(text).unwrap()
    }

    #[test]
    fn empty_components_reserved_words_and_control_characters_are_refused() {
        for bad in ["/", "a/", "/a", "a//b"] {
            assert!(matches!(
                InstanceName::new(bad),
                Err(InstanceNameError::EmptyComponent(_))
            ));
        }
        assert!(matches!(
            InstanceName::new("a/blobs"),
            Err(InstanceNameError::Reserved { word: "blobs", .. })
        ));
        assert!(InstanceName::new("a\0").is_err());
        assert!(InstanceName::new(&"a".repeat(5000)).is_err());
        assert!(InstanceName::new("blobsy/uploads2").is_ok());
    }

    #[test]
    fn prefixes_are_stripped_by_component() {
        assert_eq!(name("a/b").strip_prefix(&name("a")), Some(name("b")));
        assert_eq!(name("a/b").strip_prefix(&name("a/b")), Some(name("")));
        assert_eq!(name("a/b").strip_prefix(&name("")), Some(name("a/b")));
        assert_eq!(name("ab").strip_prefix(&name("a")), None);
        assert_eq!(name("a").strip_prefix(&name("a/b")), None);
    }

    #[test]
    fn join_undoes_strip_prefix() {
        for (prefix, suffix) in [("", ""), ("a", ""), ("", "b"), ("a/b", "c/d")] {
            let whole = name(prefix).join(&name(suffix));
            assert_eq!(whole.strip_prefix(&name(prefix)), Some(name(suffix)));
        }
    }

    #[test]
    fn prefixes_run_from_longest_to_empty() {
        let all: Vec<String> = name("a/b/c").prefixes().map(|p| p.to_string()).collect();
        assert_eq!(all, ["a/b/c", "a/b", "a", ""]);
        assert_eq!(name("").prefixes().count(), 1);
    }
}
