//! Platform properties that promise an action something about its sandbox. One that
//! cannot be kept is refused rather than passed over: a build that counts on it would
//! quietly come out wrong.
//!
//! BuildStream sends them (`_create_platform` of its `sandbox/_sandboxreapi.py`):
//! `unixUID` and `unixGID` where a project says whose user its commands are,
//! `remoteApisSocketPath` where they want to call the farm themselves.

use proto::wire::rev2::Platform;
use proto::wire::rev2::platform::Property;
use proto::wire::runner_extension::DescribeResponse;

use crate::Error;

/// Whom a command is to see itself as, where that is not whom the runner takes anyway.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

/// What the runner is to be told so that an action has what it is promised, by what the
/// runner says of itself. One that says nothing is as its operator says, whose worker's
/// platform was matched.
///
/// # Errors
/// The first property that would not be kept.
pub(crate) fn keep(
    platform: Option<&Platform>,
    runner: Option<&DescribeResponse>,
) -> Result<Ids, Error> {
    let mut ids = Ids::default();
    let Some((runner, own)) = runner.and_then(|runner| Some((runner, runner.user_id?))) else {
        return Ok(ids);
    };
    for property in platform.map_or(&[][..], |platform| &platform.properties) {
        let id = match &*property.name {
            "unixUID" => &mut ids.user,
            "unixGID" => &mut ids.group,
            "remoteApisSocketPath" => {
                return Err(broken(property, "commands cannot call the farm here"));
            }
            _ => continue,
        };
        match property.value.parse() {
            Ok(asked) if asked == own => {}
            Ok(u32::MAX) | Err(_) => return Err(broken(property, "it is no id")),
            Ok(asked) if runner.any_ids => *id = Some(asked),
            Ok(_) => {
                let own = format!("commands run as user and group {own} here");
                return Err(broken(property, &own));
            }
        }
    }
    Ok(ids)
}

fn broken(property: &Property, reason: &str) -> Error {
    Error::Promise {
        name: property.name.clone(),
        value: property.value.clone(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str, value: &str, runner: &DescribeResponse) -> Result<Ids, String> {
        let platform = Platform {
            properties: [("OSFamily", "linux"), (name, value)]
                .map(|(name, value)| Property {
                    name: name.into(),
                    value: value.into(),
                })
                .into(),
        };
        keep(Some(&platform), Some(runner)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_runner_does_not_give_is_refused_by_name() {
        let runner = |user_id| DescribeResponse {
            user_id: Some(user_id),
            ..Default::default()
        };
        for name in ["unixUID", "unixGID"] {
            assert_eq!(kept(name, "0", &runner(0)), Ok(Ids::default()));
            assert_eq!(kept(name, "1234", &runner(1234)), Ok(Ids::default()));
            for wrong in ["1234", "-1", "root", ""] {
                let refusal = kept(name, wrong, &runner(0)).unwrap_err();
                assert!(refusal.contains(name), "{refusal}");
            }
        }
        let refusal = kept("remoteApisSocketPath", "run/farm.sock", &runner(0)).unwrap_err();
        assert!(refusal.contains("remoteApisSocketPath"), "{refusal}");
    }

    #[test]
    fn a_runner_that_gives_any_ids_is_told_which() {
        let runner = DescribeResponse {
            user_id: Some(0),
            any_ids: true,
            ..Default::default()
        };
        let (user, group) = (Some(1234), None);
        assert_eq!(kept("unixUID", "1234", &runner), Ok(Ids { user, group }));
        let (user, group) = (None, Some(1234));
        assert_eq!(kept("unixGID", "1234", &runner), Ok(Ids { user, group }));
        assert_eq!(kept("unixUID", "0", &runner), Ok(Ids::default()));
        for wrong in ["4294967295", "4294967296", "-1", "root", ""] {
            let refusal = kept("unixUID", wrong, &runner).unwrap_err();
            assert!(refusal.ends_with("it is no id"), "{refusal}");
        }
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
        assert!(keep(Some(&platform), None).is_ok());
        assert!(keep(Some(&platform), Some(&DescribeResponse::default())).is_ok());
    }
}
