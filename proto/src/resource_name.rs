//! ByteStream resource names (REv2, "ContentAddressableStorage" and ByteStream).

use std::fmt;

use crate::digest::{Digest, DigestError, DigestFunction};
use crate::instance_name::{InstanceName, InstanceNameError};

/// How the bytes of a stream are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// As they are.
    Identity,
    /// zstd frames.
    Zstd,
}

/// What a ByteStream call is about.
///
/// Read: `[INSTANCE/]blobs/[FUNCTION/]HASH/SIZE`. Write:
/// `[INSTANCE/]uploads/UUID/blobs/[FUNCTION/]HASH/SIZE[/…]`. Compressed streams
/// say `compressed-blobs/zstd` in place of `blobs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceName {
    /// The tenant.
    pub instance: InstanceName,
    /// The client's name for one upload; none in names to read.
    pub upload: Option<String>,
    /// How the stream is encoded.
    pub compressor: Compressor,
    /// The blob, uncompressed.
    pub digest: Digest,
}

/// Why a string is no resource name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceNameError {
    /// It has not the form of the names above.
    #[error("resource name {0:?} is neither [INSTANCE/]blobs/HASH/SIZE nor an upload of that form")]
    Form(String),
    /// Its compressor is not zstd.
    #[error("compressor {0:?} is not supported")]
    Compressor(String),
    /// Its instance name is invalid.
    #[error(transparent)]
    InstanceName(#[from] InstanceNameError),
    /// Its digest is invalid.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl ResourceName {
    /// The name under which a blob is read.
    #[must_use]
    pub fn read(instance: InstanceName, digest: Digest) -> Self {
        Self {
            instance,
            upload: None,
            compressor: Compressor::Identity,
            digest,
        }
    }

    /// The name under which a blob is written; `upload` is a UUID of the client's.
    #[must_use]
    pub fn write(instance: InstanceName, upload: String, digest: Digest) -> Self {
        Self {
            instance,
            upload: Some(upload),
            compressor: Compressor::Identity,
            digest,
        }
    }

    /// Parses the name of a blob to read.
    ///
    /// # Errors
    /// See [`ResourceNameError`].
    pub fn parse_read(name: &str) -> Result<Self, ResourceNameError> {
        let parts: Vec<&str> = split(name)?;
        let at = parts
            .iter()
            .position(|part| matches!(*part, "blobs" | "compressed-blobs"))
            .ok_or_else(|| form(name))?;
        let (compressor, digest, rest) = blob(name, &parts[at..])?;
        if !rest.is_empty() {
            return Err(form(name));
        }
        Ok(Self {
            instance: instance(name, &parts[..at])?,
            upload: None,
            compressor,
            digest,
        })
    }

    /// Parses the name of an upload. What follows the size is ignored, as REv2 asks.
    ///
    /// # Errors
    /// See [`ResourceNameError`].
    pub fn parse_write(name: &str) -> Result<Self, ResourceNameError> {
        let parts: Vec<&str> = split(name)?;
        let at = parts
            .iter()
            .position(|part| *part == "uploads")
            .ok_or_else(|| form(name))?;
        let upload = parts.get(at + 1).ok_or_else(|| form(name))?;
        let (compressor, digest, _metadata) = blob(name, &parts[at + 2..])?;
        Ok(Self {
            instance: instance(name, &parts[..at])?,
            upload: Some((*upload).into()),
            compressor,
            digest,
        })
    }
}

fn form(name: &str) -> ResourceNameError {
    ResourceNameError::Form(name.chars().take(300).collect())
}

fn split(name: &str) -> Result<Vec<&str>, ResourceNameError> {
    if name.len() > 8192 {
        return Err(form(name));
    }
    Ok(name.split('/').collect())
}

/// The instance name before the keyword. A leading slash is no instance name.
fn instance(name: &str, parts: &[&str]) -> Result<InstanceName, ResourceNameError> {
    if parts == [""] {
        return Err(form(name));
    }
    Ok(InstanceName::new(&parts.join("/"))?)
}

/// A size as it is written: decimal, without sign and leading zeros, so that each
/// blob has one name only, and such as REv2's messages can carry.
fn size_of(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits || (text.starts_with('0') && text != "0") {
        return None;
    }
    let size: i64 = text.parse().ok()?;
    u64::try_from(size).ok()
}

/// Parses `blobs/…` or `compressed-blobs/zstd/…`; gives what follows the size too.
fn blob<'a, 'b>(
    name: &str,
    parts: &'b [&'a str],
) -> Result<(Compressor, Digest, &'b [&'a str]), ResourceNameError> {
    let (compressor, parts) = match parts {
        ["blobs", rest @ ..] => (Compressor::Identity, rest),
        ["compressed-blobs", "zstd", rest @ ..] => (Compressor::Zstd, rest),
        ["compressed-blobs", other, ..] => {
            return Err(ResourceNameError::Compressor((*other).into()));
        }
        _ => return Err(form(name)),
    };
    // The function is spelled out only where the hash's length does not give it,
    // but a name that spells it out all the same is understood.
    let (function, parts) = match parts {
        [first, rest @ ..] => match DigestFunction::ALL.iter().find(|f| f.name() == *first) {
            Some(function) => (Some(*function), rest),
            None => (None, parts),
        },
        [] => return Err(form(name)),
    };
    let [hash, size, rest @ ..] = parts else {
        return Err(form(name));
    };
    let size = size_of(size).ok_or_else(|| form(name))?;
    let function = match function {
        Some(function) => function,
        None => DigestFunction::from_wire(0, hash)?,
    };
    Ok((compressor, Digest::new(function, hash, size)?, rest))
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.instance.as_str().is_empty() {
            write!(f, "{}/", self.instance)?;
        }
        if let Some(upload) = &self.upload {
            write!(f, "uploads/{upload}/")?;
        }
        f.write_str(match self.compressor {
            Compressor::Identity => "blobs",
            Compressor::Zstd => "compressed-blobs/zstd",
        })?;
        let function = self.digest.function();
        if function.is_spelled_out() {
            write!(f, "/{function}")?;
        }
        write!(f, "/{}/{}", self.digest.hash(), self.digest.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_forms_clients_send_are_parsed() {
        let read = ResourceName::parse_read(&format!("blobs/{HASH}/0")).unwrap();
        assert_eq!(read.instance.as_str(), "");
        let read = ResourceName::parse_read(&format!("a/b/blobs/sha256/{HASH}/0")).unwrap();
        assert_eq!(read.instance.as_str(), "a/b");
        let zstd = ResourceName::parse_read(&format!("compressed-blobs/zstd/{HASH}/5")).unwrap();
        assert_eq!(zstd.compressor, Compressor::Zstd);
        let write =
            ResourceName::parse_write(&format!("x/uploads/u-1/blobs/{HASH}/7/extra/name")).unwrap();
        assert_eq!(write.upload.as_deref(), Some("u-1"));
        assert_eq!(write.digest.size(), 7);
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in [
            String::new(),
            "blobs".into(),
            format!("blobs/{HASH}"),
            format!("blobs/{HASH}/x"),
            format!("blobs/{HASH}/"),
            format!("blobs/{HASH}/-1"),
            format!("blobs/{HASH}/+5"),
            format!("blobs/{HASH}/007"),
            format!("blobs/{HASH}/00"),
            format!("blobs/{HASH}/9223372036854775808"),
            format!("blobs/{HASH}/1/more"),
            format!("blobs/{}/1", HASH.to_uppercase()),
            format!("/blobs/{HASH}/1"),
            format!("compressed-blobs/gzip/{HASH}/1"),
            format!("uploads/blobs/{HASH}/1"),
        ] {
            assert!(ResourceName::parse_read(&bad).is_err(), "{bad}");
            assert!(ResourceName::parse_write(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn names_round_trip(
            instance in "([a-z]{1,4}(/[a-z]{1,4}){0,2})?",
            function in 0..DigestFunction::ALL.len(),
            size in 0..i64::MAX as u64,
            zstd: bool,
        ) {
            let Ok(instance) = InstanceName::new(&instance) else { return Ok(()) };
            let function = DigestFunction::ALL[function];
            let hash = "0".repeat(2 * function.hash_length());
            let digest = Digest::new(function, &hash, size).unwrap();
            let compressor = if zstd { Compressor::Zstd } else { Compressor::Identity };
            let read = ResourceName { compressor, ..ResourceName::read(instance.clone(), digest) };
            prop_assert_eq!(ResourceName::parse_read(&read.to_string()), Ok(read));
            let write = ResourceName { compressor, ..ResourceName::write(instance, "id".into(), digest) };
            prop_assert_eq!(ResourceName::parse_write(&write.to_string()), Ok(write));
        }

        #[test]
        fn no_name_makes_the_parser_panic(name in "[a-z0-9/-]{0,100}") {
            let _ = ResourceName::parse_read(&name);
            let _ = ResourceName::parse_write(&name);
        }
    }
}
