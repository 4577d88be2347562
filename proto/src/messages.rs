//! Protobuf's well-known types, to and from Rust's own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::{Message, Name};

use crate::wire::protobuf;

/// The message of a moment. Moments before 1970 become 1970.
#[must_use]
pub fn timestamp(time: SystemTime) -> protobuf::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    protobuf::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// The moment of a message; none where it lies before 1970 or out of range.
#[must_use]
pub fn system_time(timestamp: &protobuf::Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u32::try_from(timestamp.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// The message of a span of time.
#[must_use]
pub fn duration(span: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// The span of a message; none where it is negative or malformed.
#[must_use]
pub fn span(duration: &protobuf::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

/// Packs a message whose type knows its name.
#[must_use]
pub fn pack<M: Message + Name>(message: &M) -> protobuf::Any {
    protobuf::Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

/// Packs a REv2 message, whose generated type does not know its name: `name` is
/// the one within `build.bazel.remote.execution.v2`.
#[must_use]
pub fn pack_rev2<M: Message>(name: &str, message: &M) -> protobuf::Any {
    protobuf::Any {
        type_url: format!("type.googleapis.com/build.bazel.remote.execution.v2.{name}"),
        value: message.encode_to_vec(),
    }
}

/// The message in an `Any`, when it is of the full name given.
#[must_use]
pub fn unpack<M: Message + Default>(any: &protobuf::Any, full_name: &str) -> Option<M> {
    let (_, name) = any.type_url.rsplit_once('/')?;
    if name != full_name {
        return None;
    }
    M::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::resourceusage::PosixResourceUsage;

    #[test]
    fn times_round_trip_and_invalid_ones_are_none() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        assert_eq!(system_time(&timestamp(time)), Some(time));
        let span_ = Duration::from_millis(1500);
        assert_eq!(span(&duration(span_)), Some(span_));
        let negative = protobuf::Duration {
            seconds: -1,
            nanos: 0,
        };
        assert_eq!(span(&negative), None);
        let malformed = protobuf::Duration {
            seconds: 0,
            nanos: 1_000_000_000,
        };
        assert_eq!(span(&malformed), None);
    }

    #[test]
    fn packed_messages_carry_their_full_name() {
        let usage = PosixResourceUsage {
            page_faults: 3,
            ..Default::default()
        };
        let any = pack(&usage);
        assert_eq!(
            any.type_url,
            "type.googleapis.com/buildbarn.resourceusage.POSIXResourceUsage"
        );
        let back = unpack::<PosixResourceUsage>(&any, "buildbarn.resourceusage.POSIXResourceUsage");
        assert_eq!(back, Some(usage));
        assert_eq!(unpack::<PosixResourceUsage>(&any, "other"), None);
    }
}
