//! Who may do what, by instance name.
//!
//! A service has an [`Authorizer`] for each kind of call and asks it with the caller
//! ([`Principal::of`]) and the instance name of the call. It is asked by an `async`
//! method although no rule here waits: one that asks an identity provider will.

use proto::InstanceName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tonic::Status;

use crate::Principal;

/// Whom a kind of call is allowed; keys are Buildbarn's (bb-storage,
/// `pkg/proto/configuration/auth`), except `rules`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Authorizer {
    /// Everybody.
    Allow {},
    /// Nobody.
    Deny {},
    /// Everybody, for instance names that begin with one of these.
    InstanceNamePrefix {
        /// The prefixes; an empty one is every name's.
        allowed_instance_name_prefixes: Vec<Prefix>,
    },
    /// Whom one of these rules allows it.
    Rules(Vec<Rule>),
}

/// Allows callers what is in some instance names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The callers: `anonymous`, `user:UID`, `group:GID`, `certificate:NAME`. Absent:
    /// everybody.
    #[serde(default)]
    pub principals: Option<Vec<String>>,
    /// The prefixes of the instance names. Absent: any name.
    #[serde(default)]
    pub instance_name_prefixes: Option<Vec<Prefix>>,
}

/// A prefix of instance names, by whole components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(InstanceName);

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = InstanceName::new(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(name))
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Default for Authorizer {
    fn default() -> Self {
        Self::Allow {}
    }
}

impl Authorizer {
    /// Whether a caller may do `what` (as in "synchronize") with an instance name.
    ///
    /// # Errors
    /// PERMISSION_DENIED, naming caller, call and instance name.
    pub async fn authorize(
        &self,
        what: &str,
        caller: &Principal,
        instance: &InstanceName,
    ) -> Result<(), Status> {
        if self.allows(caller, Some(instance)) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{caller} may not {what} in instance name \"{instance}\""
        )))
    }

    /// Whether a caller may do `what` where that is not of one instance name: it must
    /// be allowed for all.
    ///
    /// # Errors
    /// PERMISSION_DENIED, naming caller and call.
    pub async fn authorize_all(&self, what: &str, caller: &Principal) -> Result<(), Status> {
        if self.allows(caller, None) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{caller} may not {what} in every instance name"
        )))
    }

    /// Whether a caller may do `what` in some instance name: for calls that do not say
    /// in which, and name what only those know who could begin it.
    ///
    /// # Errors
    /// PERMISSION_DENIED, naming caller and call.
    pub async fn authorize_any(&self, what: &str, caller: &Principal) -> Result<(), Status> {
        let allowed = match self {
            Self::Allow {} => true,
            Self::Deny {} => false,
            Self::InstanceNamePrefix {
                allowed_instance_name_prefixes,
            } => !allowed_instance_name_prefixes.is_empty(),
            Self::Rules(rules) => rules.iter().any(|rule| {
                let names = rule.instance_name_prefixes.as_ref();
                rule.is_of(caller) && names.is_none_or(|names| !names.is_empty())
            }),
        };
        if allowed {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{caller} may not {what} in any instance name"
        )))
    }

    fn allows(&self, caller: &Principal, instance: Option<&InstanceName>) -> bool {
        match self {
            Self::Allow {} => true,
            Self::Deny {} => false,
            Self::InstanceNamePrefix {
                allowed_instance_name_prefixes,
            } => any(allowed_instance_name_prefixes, instance),
            Self::Rules(rules) => rules.iter().any(|rule| {
                let names = rule.instance_name_prefixes.as_ref();
                rule.is_of(caller) && names.is_none_or(|names| any(names, instance))
            }),
        }
    }
}

impl Rule {
    fn is_of(&self, caller: &Principal) -> bool {
        let principals = self.principals.as_ref();
        principals.is_none_or(|names| names.iter().any(|name| caller.is(name)))
    }
}

/// None: every instance name there is.
fn any(prefixes: &[Prefix], instance: Option<&InstanceName>) -> bool {
    let every = InstanceName::empty();
    let instance = instance.unwrap_or(&every);
    prefixes
        .iter()
        .any(|Prefix(prefix)| instance.strip_prefix(prefix).is_some())
}
