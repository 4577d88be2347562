//! Digests: which function, the hash's bytes, the blob's size.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::hasher;
use crate::wire::rev2;

/// A hash function of REv2 `DigestFunction.Value` that this project computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DigestFunction {
    /// SHA-256, the default of every client.
    Sha256 = 1,
    /// SHA-1.
    Sha1 = 2,
    /// MD5.
    Md5 = 3,
    /// SHA-384.
    Sha384 = 5,
    /// SHA-512.
    Sha512 = 6,
    /// SHA-256 over a tree of pieces, as REv2 defines it.
    Sha256Tree = 8,
    /// BLAKE3.
    Blake3 = 9,
    /// SHA-1 of the bytes with Git's header of a blob before them.
    GitSha1 = 10,
}

impl DigestFunction {
    /// Every function, in the order of preference that capabilities announce. Of
    /// those with hashes of one length, the first is the one that is meant where a
    /// client names none.
    pub const ALL: [Self; 8] = [
        Self::Sha256,
        Self::Sha1,
        Self::Md5,
        Self::Sha384,
        Self::Sha512,
        Self::Blake3,
        Self::Sha256Tree,
        Self::GitSha1,
    ];

    /// Length of its hash, in bytes.
    #[must_use]
    pub const fn hash_length(self) -> usize {
        match self {
            Self::Sha256 | Self::Sha256Tree | Self::Blake3 => 32,
            Self::Sha1 | Self::GitSha1 => 20,
            Self::Md5 => 16,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Its name in lower case, as resource names and file names spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sha256Tree => "sha256tree",
            Self::Blake3 => "blake3",
            Self::GitSha1 => "gitsha1",
        }
    }

    /// Whether resource names must spell it out, for the length of its hashes is
    /// another's (REv2: all but MD5, MURMUR3, VSO and the SHA-1 and SHA-2 families).
    #[must_use]
    pub const fn is_spelled_out(self) -> bool {
        matches!(self, Self::Sha256Tree | Self::Blake3 | Self::GitSha1)
    }

    /// The value REv2 messages carry.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        self as i32
    }

    /// The function a message names; where it names none (0), the one whose hash
    /// has the length of `hash` (REv2: clients older than 2.3 leave it out).
    ///
    /// # Errors
    /// The number is not a function computed here, or no function has such hashes.
    pub fn from_wire(value: i32, hash: &str) -> Result<Self, DigestError> {
        let found = if value == 0 {
            Self::ALL
                .into_iter()
                .find(|function| function.hash_length() * 2 == hash.len())
        } else {
            Self::ALL
                .into_iter()
                .find(|function| function.to_wire() == value)
        };
        found.ok_or_else(|| DigestError::Function {
            value,
            hash: shorten(hash),
        })
    }
}

impl fmt::Display for DigestFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A blob's name: function, hash and size in bytes. 80 bytes, `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    // Bytes past the function's hash length are zero, so that the derived
    // comparisons are right.
    pub(crate) hash: [u8; 64],
    pub(crate) size: u64,
    pub(crate) function: DigestFunction,
}

/// Why a message's digest names no blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The message has no digest where one is needed.
    #[error("digest is missing")]
    Missing,
    /// Neither the number nor the hash's length gives a known function.
    #[error("digest function {value} is not supported for hash {hash:?}")]
    Function {
        /// The number the message carried.
        value: i32,
        /// The hash, shortened when overlong.
        hash: String,
    },
    /// The hash is not lower-case hexadecimal of the function's length.
    #[error("{hash:?} is not a {function} hash: expected {} lower-case hexadecimal digits", .function.hash_length() * 2)]
    Hash {
        /// The function it should have been of.
        function: DigestFunction,
        /// The hash, shortened when overlong.
        hash: String,
    },
    /// The size is negative.
    #[error("digest {hash} has the negative size {size}")]
    Size {
        /// The hash.
        hash: String,
        /// The size the message carried.
        size: i64,
    },
}

/// Keeps a foreign string short enough for an error message.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

impl Digest {
    /// A digest from its parts.
    ///
    /// # Errors
    /// `hash` is not lower-case hexadecimal of the function's length.
    pub fn new(function: DigestFunction, hash: &str, size: u64) -> Result<Self, DigestError> {
        let invalid = || DigestError::Hash {
            function,
            hash: shorten(hash),
        };
        if hash.len() != function.hash_length() * 2 {
            return Err(invalid());
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hash.as_bytes().chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| VALUES[usize::from(digit)]);
            if high == NO_DIGIT || low == NO_DIGIT {
                return Err(invalid());
            }
            *byte = high << 4 | low;
        }
        Ok(Self {
            hash: bytes,
            size,
            function,
        })
    }

    /// A digest from the bytes that [`Self::hash_bytes`] gave. Bytes beyond the
    /// function's hash length are ignored, missing ones are zero.
    #[must_use]
    pub fn from_hash(function: DigestFunction, hash: &[u8], size: u64) -> Self {
        let mut bytes = [0; 64];
        let length = hash.len().min(function.hash_length());
        bytes[..length].copy_from_slice(&hash[..length]);
        Self {
            hash: bytes,
            size,
            function,
        }
    }

    /// The digest of a message, under the given function.
    ///
    /// # Errors
    /// See [`DigestError`].
    pub fn from_wire(
        function: DigestFunction,
        digest: Option<&rev2::Digest>,
    ) -> Result<Self, DigestError> {
        let digest = digest.ok_or(DigestError::Missing)?;
        let size = u64::try_from(digest.size_bytes).map_err(|_| DigestError::Size {
            hash: shorten(&digest.hash),
            size: digest.size_bytes,
        })?;
        Self::new(function, &digest.hash, size)
    }

    /// The REv2 message. Sizes above `i64::MAX` cannot occur: they came from one.
    #[must_use]
    pub fn to_wire(&self) -> rev2::Digest {
        rev2::Digest {
            hash: self.hash(),
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
        }
    }

    /// The digest of these bytes.
    #[must_use]
    pub fn of(function: DigestFunction, bytes: &[u8]) -> Self {
        let mut hasher = hasher::Hasher::new(function, bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Its function.
    #[must_use]
    pub const fn function(&self) -> DigestFunction {
        self.function
    }

    /// The blob's size, in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is that of no bytes at all, which no storage need have (REv2
    /// ContentAddressableStorage).
    #[must_use]
    pub fn is_empty_blob(&self) -> bool {
        self.size == 0 && *self == Self::of(self.function, b"")
    }

    /// Whether a message that names no function would name this as it names `other`:
    /// several functions have hashes of the same length.
    #[must_use]
    pub fn is_written_as(&self, other: &Self) -> bool {
        self.size == other.size && self.hash_bytes() == other.hash_bytes()
    }

    /// The hash's bytes.
    #[must_use]
    pub fn hash_bytes(&self) -> &[u8] {
        &self.hash[..self.function.hash_length()]
    }

    /// The hash in lower-case hexadecimal.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut text = [0; 128];
        let (digits, _) = text.as_chunks_mut();
        for (place, byte) in digits.iter_mut().zip(self.hash_bytes()) {
            *place = DIGITS[usize::from(*byte)];
        }
        let text = &text[..2 * self.function.hash_length()];
        // Digits are text.
        std::str::from_utf8(text).unwrap_or_default().to_owned()
    }
}

/// The two digits of each byte. Requests name blobs by the ten thousand.
const DIGITS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut all = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        all[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    all
};

/// What each digit stands for; [`NO_DIGIT`] for what is none.
const VALUES: [u8; 256] = {
    let mut all = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        all[DIGITS[value as usize][1] as usize] = value;
        value += 1;
    }
    all
};
const NO_DIGIT: u8 = 0xff;

/// Equal digests have equal bytes here; what lies beyond a hash is not worth the time.
impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.hash_bytes());
        state.write_u64(self.size);
        state.write_u8(self.function as u8);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_empty_blob_has_its_known_digests() {
        let empty = |function| Digest::of(function, b"").hash();
        assert_eq!(empty(DigestFunction::Sha256), EMPTY_SHA256);
        assert_eq!(
            empty(DigestFunction::Sha1),
            "da39a3ee5e6b4b0d3255bfef95601890afd80709"
        );
        assert_eq!(
            empty(DigestFunction::Md5),
            "d41d8cd98f00b204e9800998ecf8427e"
        );
        assert!(empty(DigestFunction::Sha384).starts_with("38b060a751ac9638"));
        assert!(empty(DigestFunction::Sha512).starts_with("cf83e1357eefb8bd"));
        for function in DigestFunction::ALL {
            assert!(Digest::of(function, b"").is_empty_blob());
            assert!(!Digest::of(function, b"x").is_empty_blob());
            let zeros = "0".repeat(2 * function.hash_length());
            assert!(!Digest::new(function, &zeros, 0).unwrap().is_empty_blob());
        }
    }

    #[test]
    fn the_function_is_inferred_from_the_hash_length_when_absent() {
        for function in DigestFunction::ALL {
            let hash = "0".repeat(function.hash_length() * 2);
            let meant = DigestFunction::from_wire(0, &hash).unwrap();
            assert_eq!(meant.hash_length(), function.hash_length());
            assert_eq!(meant == function, !function.is_spelled_out());
            assert_eq!(
                DigestFunction::from_wire(function.to_wire(), ""),
                Ok(function)
            );
        }
        assert!(DigestFunction::from_wire(0, "00").is_err());
        assert!(DigestFunction::from_wire(99, EMPTY_SHA256).is_err());
    }

    #[test]
    fn a_digest_that_is_not_lower_case_hexadecimal_of_the_right_length_is_refused() {
        let refuse = |hash: &str| {
            assert!(matches!(
                Digest::new(DigestFunction::Sha256, hash, 0),
                Err(DigestError::Hash { .. })
            ));
        };
        refuse("");
        refuse(&EMPTY_SHA256[1..]);
        refuse(&EMPTY_SHA256.to_uppercase());
        refuse(&EMPTY_SHA256.replace('e', "/"));
        refuse(&"é".repeat(32));
    }

    #[test]
    fn a_negative_size_and_a_missing_digest_are_refused() {
        let wire = rev2::Digest {
            hash: EMPTY_SHA256.into(),
            size_bytes: -1,
        };
        assert!(matches!(
            Digest::from_wire(DigestFunction::Sha256, Some(&wire)),
            Err(DigestError::Size { size: -1, .. })
        ));
        assert_eq!(
            Digest::from_wire(DigestFunction::Sha256, None),
            Err(DigestError::Missing)
        );
    }

    proptest! {
        #[test]
        fn wire_and_text_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..300), f in 0..DigestFunction::ALL.len()) {
            let digest = Digest::of(DigestFunction::ALL[f], &bytes);
            prop_assert_eq!(digest.size(), bytes.len() as u64);
            prop_assert_eq!(Digest::from_wire(digest.function(), Some(&digest.to_wire())), Ok(digest));
            prop_assert_eq!(Digest::new(digest.function(), &digest.hash(), digest.size()), Ok(digest));
            prop_assert_eq!(digest.to_string(), format!("{}-{}", digest.hash(), bytes.len()));
        }

        #[test]
        fn pieces_hash_as_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..300usize) {
            let cut = cut.min(bytes.len());
            let mut hasher = hasher::Hasher::new(DigestFunction::Sha256, bytes.len() as u64);
            hasher.update(&bytes[..cut]);
            hasher.update(&bytes[cut..]);
            prop_assert_eq!(hasher.finish(), Digest::of(DigestFunction::Sha256, &bytes));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            for function in DigestFunction::ALL {
                let _ = Digest::new(function, &text, 0);
            }
        }
    }
}
