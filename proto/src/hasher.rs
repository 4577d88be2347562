//! Digests of bytes that come in pieces.

use sha2::Digest as _;

use crate::digest::{Digest, DigestFunction};
use crate::sha256_tree::Sha256Tree;

/// Computes the digest of bytes that come in pieces.
#[derive(Clone)]
pub struct Hasher {
    state: State,
    size: u64,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Sha256Tree(Sha256Tree),
    // Two kilobytes, where the others are some two hundred bytes.
    Blake3(Box<blake3::Hasher>),
    GitSha1(sha1::Sha1),
}

impl Hasher {
    /// A hasher that has seen nothing. `size`: how many bytes will come; GITSHA1
    /// hashes it before them, and with another number of bytes gives a hash that is
    /// no blob's. The other functions do not look at it.
    #[must_use]
    pub fn new(function: DigestFunction, size: u64) -> Self {
        let state = match function {
            DigestFunction::Sha256 => State::Sha256(sha2::Sha256::new()),
            DigestFunction::Sha1 => State::Sha1(sha1::Sha1::new()),
            DigestFunction::Md5 => State::Md5(md5::Md5::new()),
            DigestFunction::Sha384 => State::Sha384(sha2::Sha384::new()),
            DigestFunction::Sha512 => State::Sha512(sha2::Sha512::new()),
            DigestFunction::Sha256Tree => State::Sha256Tree(Sha256Tree::new()),
            DigestFunction::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
            DigestFunction::GitSha1 => {
                let header = format!("blob {size}\0");
                State::GitSha1(sha1::Sha1::new_with_prefix(header))
            }
        };
        Self { state, size: 0 }
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha1(state) | State::GitSha1(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Sha256Tree(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// The digest of all that was taken.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut hash = [0; 64];
        let mut put = |bytes: &[u8]| hash[..bytes.len()].copy_from_slice(bytes);
        let function = match self.state {
            State::Sha256(state) => {
                put(&state.finalize());
                DigestFunction::Sha256
            }
            State::Sha1(state) => {
                put(&state.finalize());
                DigestFunction::Sha1
            }
            State::GitSha1(state) => {
                put(&state.finalize());
                DigestFunction::GitSha1
            }
            State::Md5(state) => {
                put(&state.finalize());
                DigestFunction::Md5
            }
            State::Sha384(state) => {
                put(&state.finalize());
                DigestFunction::Sha384
            }
            State::Sha512(state) => {
                put(&state.finalize());
                DigestFunction::Sha512
            }
            State::Sha256Tree(state) => {
                put(&state.finish());
                DigestFunction::Sha256Tree
            }
            State::Blake3(state) => {
                put(state.finalize().as_bytes());
                DigestFunction::Blake3
            }
        };
        Digest {
            hash,
            size: self.size,
            function,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_younger_functions_give_known_hashes() {
        let hash = |function, bytes: &[u8]| Digest::of(function, bytes).hash();
        // `git hash-object`, of nothing and of a line.
        assert_eq!(
            hash(DigestFunction::GitSha1, b""),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        );
        assert_eq!(
            hash(DigestFunction::GitSha1, b"hello\n"),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        // From the test vectors that come with BLAKE3.
        assert_eq!(
            hash(DigestFunction::Blake3, b""),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(
            hash(DigestFunction::Blake3, &[0]),
            "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"
        );
    }
}
