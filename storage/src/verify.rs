//! Whether bytes are those a digest names.

use proto::{Digest, Hasher};

use crate::error::Error;

/// Checks bytes that are all there.
///
/// # Errors
/// [`Error::Size`] or [`Error::Corrupt`].
pub(crate) fn whole(expected: Digest, bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() as u64 != expected.size() {
        return Err(Error::Size {
            digest: expected,
            actual: bytes.len() as u64,
        });
    }
    let mut hasher = Hasher::new(expected.function(), expected.size());
    hasher.update(bytes);
    hashed(expected, hasher)
}

/// Checks bytes that were hashed as they passed.
///
/// # Errors
/// [`Error::Size`] or [`Error::Corrupt`].
pub(crate) fn hashed(expected: Digest, hasher: Hasher) -> Result<(), Error> {
    let actual = hasher.finish();
    if actual.size() != expected.size() {
        Err(Error::Size {
            digest: expected,
            actual: actual.size(),
        })
    } else if actual != expected {
        Err(Error::Corrupt { expected, actual })
    } else {
        Ok(())
    }
}
