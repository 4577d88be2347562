//! Configuration files: TOML, or JSON where the file's name ends in `.json` (so
//! the output of `jsonnet` can be used).
//!
//! Keys are snake_case; camelCase, which Buildbarn's files use, means the same.
//! Keys that a program does not know are refused with their place.

use std::fmt;
use std::path::Path;

use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::Error;

/// The configuration of one program.
pub trait Configuration: DeserializeOwned {
    /// Keys whose tables have keys of the user's own (environment variables,
    /// platform properties), which are left as they are written.
    const FREE_FORM: &'static [&'static str] = &[];
}

/// Reads and validates a configuration file.
///
/// # Errors
/// The file cannot be read, is not of its format, or holds a key or value that
/// the program does not take.
pub fn load<C: Configuration>(path: &Path) -> Result<C, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::ConfigRead {
        path: path.into(),
        source,
    })?;
    let json = path.extension().is_some_and(|end| end == "json");
    parse(&text, json, path)
}

fn parse<C: Configuration>(text: &str, json: bool, path: &Path) -> Result<C, Error> {
    let syntax = |reason: String| Error::ConfigSyntax {
        path: path.into(),
        reason,
    };
    let mut value: Value = if json {
        serde_json::from_str(text).map_err(|error| syntax(error.to_string()))?
    } else {
        toml::from_str(text).map_err(|error| syntax(error.to_string()))?
    };
    to_snake_case(&mut value, C::FREE_FORM);
    serde_path_to_error::deserialize(value).map_err(|error| Error::ConfigValue {
        path: path.into(),
        key: error.path().to_string(),
        reason: error.into_inner().to_string(),
    })
}

fn to_snake_case(value: &mut Value, free_form: &[&str]) {
    match value {
        Value::Object(object) => {
            let entries = std::mem::take(object);
            for (key, mut value) in entries {
                let key = snake_case(&key);
                if !free_form.contains(&key.as_str()) {
                    to_snake_case(&mut value, free_form);
                }
                object.insert(key, value);
            }
        }
        Value::Array(values) => {
            for value in values {
                to_snake_case(value, free_form);
            }
        }
        _ => {}
    }
}

fn snake_case(key: &str) -> String {
    let mut snake = String::with_capacity(key.len() + 4);
    for letter in key.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// A span of time in a configuration: `"500ms"`, `"90s"`, `"30m"`, `"2h"`, or a
/// number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = text.split_at(digits);
        let scale = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let seconds: f64 = number.parse().ok()?;
        std::time::Duration::try_from_secs_f64(seconds * scale)
            .ok()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"90s\", or a number of seconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                Duration::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
                Ok(Duration(std::time::Duration::from_secs(seconds)))
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Duration, E> {
                u64::try_from(seconds)
                    .map(|seconds| Duration(std::time::Duration::from_secs(seconds)))
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(seconds), &self))
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Duration, E> {
                std::time::Duration::try_from_secs_f64(seconds)
                    .map(Duration)
                    .map_err(|_| E::invalid_value(de::Unexpected::Float(seconds), &self))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}s", self.0.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Example {
        maximum_size_bytes: u64,
        #[serde(default)]
        runners: Vec<Runner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Runner {
        #[serde(default)]
        environment_variables: BTreeMap<String, String>,
        grace: Option<Duration>,
    }

    impl Configuration for Example {
        const FREE_FORM: &'static [&'static str] = &["environment_variables"];
    }

    fn read(text: &str, json: bool) -> Result<Example, Error> {
        parse(text, json, Path::new("example"))
    }

    #[test]
    fn toml_and_camel_case_json_mean_the_same() {
        let toml = read(
            "maximum_size_bytes = 5\n[[runners]]\ngrace = \"1.5s\"\n\
             environment_variables = { someName = \"x\" }",
            false,
        );
        let json = read(
            r#"{"maximumSizeBytes": 5,
                "runners": [{"grace": "1.5s", "environmentVariables": {"someName": "x"}}]}"#,
            true,
        );
        let toml = toml.unwrap();
        assert_eq!(toml, json.unwrap());
        assert!(
            toml.runners[0]
                .environment_variables
                .contains_key("someName")
        );
    }

    #[test]
    fn unknown_keys_are_refused_with_their_place() {
        let error = read(
            "maximum_size_bytes = 5\n[[runners]]\ngreace = \"1s\"",
            false,
        )
        .unwrap_err();
        let message = error.to_string();
        assert!(message.contains("runners[0].greace"), "{message}");
        assert!(message.contains("unknown field"), "{message}");
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let message = read("maximum_size_bytes = ", false)
            .unwrap_err()
            .to_string();
        assert!(message.contains("line 1"), "{message}");
    }

    #[test]
    fn durations_have_units_or_are_seconds() {
        let parse = |text: &str| Duration::parse(text).map(|span| span.0.as_millis());
        assert_eq!(parse("500ms"), Some(500));
        assert_eq!(parse("1800s"), Some(1_800_000));
        assert_eq!(parse("2h"), Some(7_200_000));
        assert_eq!(parse("5"), None);
        assert_eq!(parse("-5s"), None);
        assert_eq!(parse("5 s"), None);
        let span: Duration = serde_json::from_str("1.5").unwrap();
        assert_eq!(span.0.as_millis(), 1500);
        assert!(serde_json::from_str::<Duration>("-1").is_err());
    }
}
