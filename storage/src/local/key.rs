//! Whose blob it is.

use std::fmt;

use proto::{Digest, DigestFunction, InstanceName};

/// A blob of one tenant. What one instance name stored another neither reads nor
/// finds, even if it knows the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) tenant: Tenant,
    pub(super) digest: Digest,
}

/// An instance name, shortened: half of its SHA-256, or zeros for the empty one.
/// Names are clients' to choose, without end; so they make neither directories nor
/// entries of a list, but parts of files' names.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tenant([u8; 16]);

impl Tenant {
    pub(super) fn of(instance: &InstanceName) -> Self {
        let mut tenant = [0; 16];
        if !instance.as_str().is_empty() {
            let hash = Digest::of(DigestFunction::Sha256, instance.as_str().as_bytes());
            tenant.copy_from_slice(&hash.hash_bytes()[..16]);
        }
        Self(tenant)
    }

    pub(super) fn key(self, digest: Digest) -> Key {
        Key {
            tenant: self,
            digest,
        }
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Key {
    /// The name of the blob's file: `HASH-SIZE`, and `-TENANT` unless it is the
    /// empty instance name's.
    pub(super) fn file_name(&self) -> String {
        let digest = self.digest;
        if self.tenant.0 == [0; 16] {
            digest.to_string()
        } else {
            format!("{digest}-{:?}", self.tenant)
        }
    }

    /// The inverse of [`Self::file_name`].
    pub(super) fn parse(function: DigestFunction, name: &str) -> Option<Self> {
        let (hash, rest) = name.split_once('-')?;
        let (size, tenant) = match rest.split_once('-') {
            Some((size, tenant)) => (size, Some(tenant)),
            None => (rest, None),
        };
        let mut bytes = [0; 16];
        if let Some(tenant) = tenant {
            for (at, byte) in bytes.iter_mut().enumerate() {
                let digits = tenant.get(2 * at..2 * at + 2)?;
                *byte = u8::from_str_radix(digits, 16).ok()?;
            }
        }
        let digest = Digest::new(function, hash, size.parse().ok()?).ok()?;
        let key = Tenant(bytes).key(digest);
        // Other spellings of a number would give one blob two files.
        (key.file_name() == name).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_names_round_trip_and_tell_tenants_apart() {
        let digest = Digest::of(DigestFunction::Sha256, b"x");
        let name = |instance: &str| {
            let tenant = Tenant::of(&InstanceName::new(instance).unwrap());
            let key = tenant.key(digest);
            let name = key.file_name();
            assert_eq!(Key::parse(DigestFunction::Sha256, &name), Some(key));
            name
        };
        assert_eq!(name(""), digest.to_string());
        assert_ne!(name("a"), name("b"));
        let a = name("a");
        for bad in [
            String::new(),
            a.to_uppercase(),
            a[..a.len() - 1].into(),
            format!("{a}0"),
            format!("{digest}-"),
            format!("{digest}-{}", "0".repeat(32)),
            format!("{}-01", digest.hash()),
            format!("{digest}-é"),
        ] {
            assert_eq!(Key::parse(DigestFunction::Sha256, &bad), None, "{bad}");
        }
    }
}
