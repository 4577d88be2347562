//! Platforms: what an action asks of a worker, as a key.

use std::fmt;
use std::sync::Arc;

use crate::digest::shorten;
use crate::wire::rev2;

/// The properties of a platform, sorted strictly by name and value: equal keys
/// are equal platforms. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformKey(Arc<[(String, String)]>);

/// Why a message's platform is no key (REv2 Platform: sorted, no duplicates).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A property comes after one that sorts later.
    #[error("platform property {name:?}={value:?} is not in sorted order")]
    Unsorted {
        /// The property's name, shortened when overlong.
        name: String,
        /// Its value, shortened when overlong.
        value: String,
    },
    /// The same property twice.
    #[error("platform property {name:?}={value:?} is given twice")]
    Duplicate {
        /// The property's name, shortened when overlong.
        name: String,
        /// Its value, shortened when overlong.
        value: String,
    },
    /// More than 1,000 properties.
    #[error("platform has {0} properties, more than the 1000 allowed")]
    TooMany(usize),
    /// More than 64 KiB of names and values.
    #[error("platform properties have {0} bytes, more than the {MAXIMUM_BYTES} allowed")]
    TooLarge(usize),
}

/// What the names and values of a platform may have together. They are kept for each
/// queue, and are labels of metrics.
const MAXIMUM_BYTES: usize = 64 << 10;

impl PlatformKey {
    /// The key of a message's platform; none at all is the platform without properties.
    ///
    /// # Errors
    /// The properties are not strictly sorted, or there are too many.
    pub fn from_wire(platform: Option<&rev2::Platform>) -> Result<Self, PlatformError> {
        let properties = platform.map_or(&[][..], |platform| &platform.properties);
        if properties.len() > 1000 {
            return Err(PlatformError::TooMany(properties.len()));
        }
        let sizes = properties.iter().map(|it| it.name.len() + it.value.len());
        let size = sizes.sum();
        if size > MAXIMUM_BYTES {
            return Err(PlatformError::TooLarge(size));
        }
        for pair in properties.windows(2) {
            let [a, b] = pair else { continue };
            let named = || (shorten(&b.name), shorten(&b.value));
            match (&a.name, &a.value).cmp(&(&b.name, &b.value)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    let (name, value) = named();
                    return Err(PlatformError::Duplicate { name, value });
                }
                std::cmp::Ordering::Greater => {
                    let (name, value) = named();
                    return Err(PlatformError::Unsorted { name, value });
                }
            }
        }
        Ok(Self(
            properties
                .iter()
                .map(|property| (property.name.clone(), property.value.clone()))
                .collect(),
        ))
    }

    /// The key of properties in any order; duplicates count once.
    pub fn from_properties(properties: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut properties: Vec<_> = properties.into_iter().collect();
        properties.sort();
        properties.dedup();
        Self(properties.into())
    }

    /// The properties, sorted.
    #[must_use]
    pub fn properties(&self) -> &[(String, String)] {
        &self.0
    }

    /// The REv2 message.
    #[must_use]
    pub fn to_wire(&self) -> rev2::Platform {
        rev2::Platform {
            properties: self
                .0
                .iter()
                .map(|(name, value)| rev2::platform::Property {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
        }
    }
}

/// `name=value` pairs, comma-separated, in braces.
impl fmt::Display for PlatformKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name}={value}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for PlatformKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(properties: &[(&str, &str)]) -> rev2::Platform {
        rev2::Platform {
            properties: properties
                .iter()
                .map(|(name, value)| rev2::platform::Property {
                    name: (*name).into(),
                    value: (*value).into(),
                })
                .collect(),
        }
    }

    #[test]
    fn sorted_properties_round_trip() {
        let wire = platform(&[("a", "1"), ("a", "2"), ("b", "0")]);
        let key = PlatformKey::from_wire(Some(&wire)).unwrap();
        assert_eq!(key.to_wire(), wire);
        assert_eq!(key.to_string(), "{a=1, a=2, b=0}");
        assert_eq!(PlatformKey::from_wire(None).unwrap().to_string(), "{}");
    }

    #[test]
    fn unsorted_and_duplicate_properties_are_refused_by_name() {
        assert_eq!(
            PlatformKey::from_wire(Some(&platform(&[("b", "0"), ("a", "1")]))),
            Err(PlatformError::Unsorted {
                name: "a".into(),
                value: "1".into()
            })
        );
        assert_eq!(
            PlatformKey::from_wire(Some(&platform(&[("a", "1"), ("a", "1")]))),
            Err(PlatformError::Duplicate {
                name: "a".into(),
                value: "1".into()
            })
        );
    }

    #[test]
    fn configured_properties_are_sorted_for_the_user() {
        let key = PlatformKey::from_properties([
            ("b".to_string(), "1".to_string()),
            ("a".to_string(), "2".to_string()),
        ]);
        assert_eq!(key.properties()[0].0, "a");
    }
}
