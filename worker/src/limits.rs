//! Limits that an action asks for by properties of its platform.

use std::collections::{BTreeMap, HashMap};

use proto::wire::rev2::Platform;

use crate::Error;

/// What a command asks for: the properties that `most` names, none of which may be
/// more than that says. Other properties are no business of this.
///
/// # Errors
/// A value that is no number, or too large.
pub(crate) fn asked(
    platform: Option<&Platform>,
    most: &BTreeMap<String, u64>,
) -> Result<HashMap<String, u64>, Error> {
    let mut asked = HashMap::new();
    for property in platform.map_or(&[][..], |platform| &platform.properties) {
        let Some(most) = most.get(&property.name) else {
            continue;
        };
        let value = property.value.parse().ok().filter(|value| value <= most);
        let value = value.ok_or_else(|| Error::Property {
            name: property.name.clone(),
            value: property.value.clone(),
            most: *most,
        })?;
        asked.insert(property.name.clone(), value);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use proto::wire::rev2::platform::Property;

    use super::*;

    #[test]
    fn properties_ask_within_bounds() {
        let most = BTreeMap::from([("memory_bytes".to_owned(), 100)]);
        let platform = |value: &str| Platform {
            properties: [("OSFamily", "Linux"), ("memory_bytes", value)]
                .map(|(name, value)| Property {
                    name: name.into(),
                    value: value.into(),
                })
                .into(),
        };
        let found = asked(Some(&platform("100")), &most).unwrap();
        assert_eq!(found, HashMap::from([("memory_bytes".to_owned(), 100)]));
        for wrong in ["101", "-1", "much", ""] {
            let error = asked(Some(&platform(wrong)), &most).unwrap_err();
            assert!(error.to_string().contains("memory_bytes"), "{error}");
        }
        // Where nothing is to be asked for, it is a property as any other.
        assert!(
            asked(Some(&platform("101")), &BTreeMap::new())
                .unwrap()
                .is_empty()
        );
        assert!(asked(None, &most).unwrap().is_empty());
    }
}
