//! Spans of time in configuration files.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
