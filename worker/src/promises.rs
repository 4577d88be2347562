//! Platform properties that promise an action something about its sandbox. One that
//! is not kept is refused rather than passed over: a build that counts on it would
//! quietly come out wrong.
//!
//! BuildStream sends them (`_create_platform` of its `sandbox/_sandboxreapi.py`):
//! `unixUID` and `unixGID` where a project says whose user its commands are,
//! `remoteApisSocketPath` where they want to call the farm themselves.

use proto::wire::rev2::Platform;
use proto::wire::runner_extension::DescribeResponse;

use crate::Error;

/// Checks what an action is promised against what the runner says of itself. A runner
/// that says nothing is as its operator says, whose worker's platform was matched.
///
/// # Errors
/// The first property that would not be kept.
pub(crate) fn check(
    platform: Option<&Platform>,
    runner: Option<&DescribeResponse>,
) -> Result<(), Error> {
    let Some(id) = runner.and_then(|runner| runner.user_id) else {
        return Ok(());
    };
    for property in platform.map_or(&[][..], |platform| &platform.properties) {
        let reason = match &*property.name {
            "unixUID" | "unixGID" if property.value.parse() != Ok(id) => {
                format!("commands run as user and group {id} here")
            }
            "remoteApisSocketPath" => "commands cannot call the farm here".into(),
            _ => continue,
        };
        return Err(Error::Promise {
            name: property.name.clone(),
            value: property.value.clone(),
            reason,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::wire::rev2::platform::Property;

    use super::*;

    #[test]
    fn what_a_runner_does_not_give_is_refused_by_name() {
        let refusal = |name: &str, value: &str, user_id| {
            let platform = Platform {
                properties: [("OSFamily", "linux"), (name, value)]
                    .map(|(name, value)| Property {
                        name: name.into(),
                        value: value.into(),
                    })
                    .into(),
            };
            let runner = DescribeResponse {
                user_id,
                ..Default::default()
            };
            let checked = check(Some(&platform), Some(&runner));
            checked.err().map(|error| error.to_string())
        };
        for name in ["unixUID", "unixGID"] {
            assert_eq!(refusal(name, "0", Some(0)), None);
            assert_eq!(refusal(name, "1234", Some(1234)), None);
            for wrong in ["1234", "-1", "root", ""] {
                let refusal = refusal(name, wrong, Some(0)).unwrap();
                assert!(refusal.contains(name), "{refusal}");
            }
        }
        let refusal = refusal("remoteApisSocketPath", "run/farm.sock", Some(0)).unwrap();
        assert!(refusal.contains("remoteApisSocketPath"), "{refusal}");
    }

    #[test]
    fn a_runner_that_says_nothing_is_as_its_operator_says() {
        let property = |name: &str| Property {
            name: name.into(),
            value: "7".into(),
        };
        let platform = Platform {
            properties: vec![property("remoteApisSocketPath"), property("unixUID")],
        };
        assert!(check(Some(&platform), None).is_ok());
        assert!(check(Some(&platform), Some(&DescribeResponse::default())).is_ok());
    }
}
