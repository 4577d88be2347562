//! Which clients may write the action cache.

use proto::InstanceName;
use proto::instance_name::InstanceNameError;
use serde::{Deserialize, Serialize};

/// Which clients may write the action cache: of no instance name, of all, or of
/// those below some prefixes. Workers write at an endpoint of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Updates {
    /// Nobody's.
    #[default]
    Never,
    /// Everybody's.
    Always,
    /// Those of these instance names and of names that begin with one of them and a
    /// slash.
    Below(Vec<InstanceName>),
}

/// As configurations have it: false, true, or prefixes.
#[derive(Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "expected true, false, or a list of instance name prefixes"
)]
enum Written {
    Switch(bool),
    Prefixes(Vec<String>),
}

impl Updates {
    /// Whether those of this instance name may.
    #[must_use]
    pub fn allows(&self, instance: &InstanceName) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Below(prefixes) => prefixes
                .iter()
                .any(|prefix| instance.strip_prefix(prefix).is_some()),
        }
    }
}

impl TryFrom<Written> for Updates {
    type Error = InstanceNameError;

    fn try_from(written: Written) -> Result<Self, InstanceNameError> {
        Ok(match written {
            Written::Switch(false) => Self::Never,
            Written::Switch(true) => Self::Always,
            Written::Prefixes(names) => {
                let names = names.iter().map(|name| InstanceName::new(name));
                Self::Below(names.collect::<Result<_, _>>()?)
            }
        })
    }
}

impl From<Updates> for Written {
    fn from(updates: Updates) -> Self {
        match updates {
            Updates::Never => Self::Switch(false),
            Updates::Always => Self::Switch(true),
            Updates::Below(names) => {
                Self::Prefixes(names.iter().map(ToString::to_string).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_allowed_by_prefix() {
        let allowed = |text: &str| {
            let updates: Updates = serde_json::from_str(text).unwrap();
            let printed = serde_json::to_string(&updates).unwrap();
            assert_eq!(serde_json::from_str::<Updates>(&printed).unwrap(), updates);
            ["", "ci", "ci/main", "cinema", "dev"]
                .map(|name| updates.allows(&InstanceName::new(name).unwrap()))
        };
        assert_eq!(allowed("false"), [false; 5]);
        assert_eq!(allowed("true"), [true; 5]);
        assert_eq!(allowed("[]"), [false; 5]);
        assert_eq!(allowed(r#"["ci"]"#), [false, true, true, false, false]);
        assert_eq!(allowed(r#"[""]"#), [true; 5]);
        for bad in ["1", r#""ci""#, r#"["blobs"]"#] {
            assert!(serde_json::from_str::<Updates>(bad).is_err(), "{bad}");
        }
    }
}
