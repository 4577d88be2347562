//! Configuration files: TOML, or JSON where the file's name ends in `.json` (so
//! the output of `jsonnet` can be used).
//!
//! Keys are snake_case; camelCase, which Buildbarn's files use, means the same.
//! Keys that a program does not know are refused with their place, and so is a key
//! that one table has in both spellings.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::map::Entry;

use crate::Error;
pub use crate::duration::Duration;

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
    let text = std::fs::read_to_string(path).map_err(|reason| Error::ConfigRead {
        path: path.into(),
        reason,
    })?;
    let json = path.extension().is_some_and(|end| end == "json");
    parse(&text, json, path)
}

/// Prints a configuration as a program takes it, with every default, to standard
/// output as JSON: what `--check` does. Keys (of TLS) are not printed.
///
/// # Errors
/// Standard output does not take it.
pub fn print(config: &impl serde::Serialize) -> Result<(), Error> {
    use std::io::Write as _;
    let text =
        serde_json::to_string_pretty(config).map_err(|error| Error::ConfigPrint(error.into()))?;
    writeln!(std::io::stdout(), "{text}").map_err(Error::ConfigPrint)
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
    let invalid = |key: String, reason: String| Error::ConfigValue {
        path: path.into(),
        key,
        reason,
    };
    let both = |key| invalid(key, "is given in both its spellings".into());
    to_snake_case(&mut value, C::FREE_FORM).map_err(both)?;
    serde_path_to_error::deserialize(value)
        .map_err(|error| invalid(error.path().to_string(), error.into_inner().to_string()))
}

/// Gives the place of a key that one table has twice.
fn to_snake_case(value: &mut Value, free_form: &[&str]) -> Result<(), String> {
    match value {
        Value::Object(object) => {
            for (key, mut value) in std::mem::take(object) {
                let key = snake_case(&key);
                if !free_form.contains(&key.as_str()) {
                    to_snake_case(&mut value, free_form)
                        .map_err(|below| format!("{key}.{below}").replace(".[", "["))?;
                }
                match object.entry(key) {
                    Entry::Vacant(place) => place.insert(value),
                    Entry::Occupied(place) => return Err(place.key().clone()),
                };
            }
        }
        Value::Array(values) => {
            for (at, value) in values.iter_mut().enumerate() {
                to_snake_case(value, free_form).map_err(|below| format!("[{at}].{below}"))?;
            }
        }
        _ => {}
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
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
    fn a_key_in_both_spellings_is_refused_with_its_place() {
        for (text, key) in [
            (
                r#"{"maximumSizeBytes": 5, "maximum_size_bytes": 6}"#,
                "at maximum_size_bytes:",
            ),
            (
                r#"{"maximum_size_bytes": 5,
                    "runners": [{}, {"environmentVariables": {}, "environment_variables": {}}]}"#,
                "at runners[1].environment_variables:",
            ),
        ] {
            let message = read(text, true).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        let free = r#"{"maximum_size_bytes": 5,
                       "runners": [{"environment_variables": {"aB": "1", "a_b": "2"}}]}"#;
        let free = read(free, true).unwrap();
        assert_eq!(free.runners[0].environment_variables.len(), 2);
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let message = read("maximum_size_bytes = ", false)
            .unwrap_err()
            .to_string();
        assert!(message.contains("line 1"), "{message}");
    }
}
