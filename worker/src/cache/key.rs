//! What names a cached file.

use proto::{Digest, DigestFunction, InstanceName};

/// Whose a cached file is: everybody's, or, where the configuration keeps tenants
/// apart, that of the actions whose instance names begin alike. 16 bytes of the
/// SHA-256 of that beginning, zero for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant([u8; 16]);

impl Tenant {
    /// Everybody.
    pub const SHARED: Self = Self([0; 16]);

    /// The tenant of an instance, told by this many components of its name; all of
    /// them where it has fewer. Zero components tell nobody from anybody.
    #[must_use]
    pub fn of(instance: &InstanceName, components: usize) -> Self {
        if components == 0 {
            return Self::SHARED;
        }
        let name = instance.as_str();
        let end = name.match_indices('/').nth(components - 1);
        let prefix = end.map_or(name, |(end, _)| &name[..end]);
        let digest = Digest::of(DigestFunction::Sha256, prefix.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.hash_bytes()[..16]);
        Self(bytes)
    }
}

/// What a cached file is: a blob, whose, and whether it is executable, since the
/// mode is the inode's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose it is.
    pub tenant: Tenant,
    /// The blob.
    pub digest: Digest,
    /// Whether its mode lets it be executed.
    pub executable: bool,
}

impl Key {
    /// Its name in the cache directory, as Buildbarn's worker spells it: the
    /// function's number, hash and size, separated by `-`, and at the end `+x`
    /// where it is executable and `-x` where it is not; then, where it is not
    /// everybody's, `@` and the tenant in hexadecimal.
    #[must_use]
    pub fn file_name(&self) -> String {
        use std::fmt::Write as _;
        let sign = if self.executable { '+' } else { '-' };
        let mut name = format!(
            "{}-{}{sign}x",
            self.digest.function().to_wire(),
            self.digest
        );
        if self.tenant != Tenant::SHARED {
            name.push('@');
            for byte in self.tenant.0 {
                // Writing to a string cannot fail.
                let _ = write!(name, "{byte:02x}");
            }
        }
        name
    }

    /// The inverse of [`Self::file_name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, tenant) = match name.split_once('@') {
            Some((rest, tenant)) => (rest, parse_tenant(tenant)?),
            None => (name, Tenant::SHARED),
        };
        let (rest, executable) = match rest.strip_suffix("+x") {
            Some(rest) => (rest, true),
            None => (rest.strip_suffix("-x")?, false),
        };
        let (function, rest) = rest.split_once('-')?;
        let (hash, size) = rest.split_once('-')?;
        let function = DigestFunction::ALL
            .into_iter()
            .find(|known| known.to_wire().to_string() == function)?;
        let digest = Digest::new(function, hash, size.parse().ok()?).ok()?;
        let key = Self {
            tenant,
            digest,
            executable,
        };
        // Other spellings of a number would give one file two names.
        (key.file_name() == name).then_some(key)
    }
}

fn parse_tenant(text: &str) -> Option<Tenant> {
    let mut bytes = [0; 16];
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(Tenant(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            tenant: Tenant::SHARED,
            digest: Digest::of(DigestFunction::Sha256, &[1]),
            executable: false,
        }
    }

    fn tenant(name: &str, components: usize) -> Tenant {
        Tenant::of(&InstanceName::new(name).unwrap(), components)
    }

    #[test]
    fn names_are_those_of_buildbarn_and_round_trip() {
        let mut one = key();
        let hash = one.digest.hash();
        assert_eq!(one.file_name(), format!("1-{hash}-1-x"));
        assert_eq!(Key::parse(&one.file_name()), Some(one));
        one.executable = true;
        assert_eq!(one.file_name(), format!("1-{hash}-1+x"));
        assert_eq!(Key::parse(&one.file_name()), Some(one));
        one.tenant = tenant("acme/main", 1);
        assert!(one.file_name().starts_with(&format!("1-{hash}-1+x@")));
        assert_eq!(Key::parse(&one.file_name()), Some(one));
        for bad in [
            String::new(),
            format!("1-{hash}-1"),
            format!("1-{hash}-01-x"),
            format!("99-{hash}-1-x"),
            format!("3-{hash}-1-x"),
            format!("1-{}-1-x", hash.to_uppercase()),
            format!("1-{hash}-1-x@"),
            format!("1-{hash}-1-x@{}", "0".repeat(32)),
            format!("1-{hash}-1-x@{}", "A".repeat(32)),
            format!("1-{hash}-1-x@+{}", "a".repeat(31)),
        ] {
            assert_eq!(Key::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn tenants_are_told_by_the_first_components() {
        assert_eq!(tenant("a/b", 0), Tenant::SHARED);
        assert_eq!(tenant("a/b", 1), tenant("a", 1));
        assert_eq!(tenant("a/b", 1), tenant("a/c/d", 1));
        assert_ne!(tenant("a/b", 1), tenant("b/b", 1));
        assert_ne!(tenant("a/b", 2), tenant("a/c", 2));
        assert_eq!(tenant("a/b/c", 2), tenant("a/b", 3));
        assert_ne!(tenant("", 1), Tenant::SHARED);
    }
}
