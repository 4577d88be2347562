//! SHA256TREE, as REv2's `DigestFunction.Value` defines it.
//!
//! A blob of up to 1024 bytes has its plain SHA-256. A larger one is cut into a
//! left part, of the greatest power of two that is less than its size, and the
//! rest; its hash is one run of SHA-256's block cipher over both parts' hashes.
//! So the blob is a row of pieces of 1024 bytes, of which each finished run of 2^n
//! is one subtree; those that are finished wait on a stack, the larger below.

use sha2::Digest as _;
use sha2::block_api::compress256;

/// What is hashed plainly, in bytes.
const PIECE: usize = 1024;

/// The state in which the block cipher starts on two hashes.
const START: [u32; 8] = [
    0xcbbb_9d5d,
    0x629a_292a,
    0x9159_015a,
    0x152f_ecd8,
    0x6733_2667,
    0x8eb4_4a87,
    0xdb0c_2e0d,
    0x47b5_481d,
];

type Hash = [u8; 32];

/// The hash of bytes that come in pieces of any size.
#[derive(Clone)]
pub(crate) struct Sha256Tree {
    /// Finished subtrees from left to right, with how many pieces each has.
    subtrees: Vec<(u64, Hash)>,
    piece: sha2::Sha256,
    /// In `piece`.
    filled: usize,
}

/// The hash of two neighbours.
fn join(left: &Hash, right: &Hash) -> Hash {
    let mut block = [0; 64];
    block[..32].copy_from_slice(left);
    block[32..].copy_from_slice(right);
    let mut state = START;
    compress256(&mut state, &[block]);
    let mut hash = [0; 32];
    for ((out, word), start) in hash.chunks_exact_mut(4).zip(state).zip(START) {
        // The cipher's output alone: what the compression adds is taken off.
        out.copy_from_slice(&word.wrapping_sub(start).to_be_bytes());
    }
    hash
}

impl Sha256Tree {
    pub(crate) fn new() -> Self {
        Self {
            subtrees: Vec::new(),
            piece: sha2::Sha256::new(),
            filled: 0,
        }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // Only when more comes is a full piece known not to be the last, which
            // would be joined in another order.
            if self.filled == PIECE {
                self.push();
            }
            let taken = bytes.len().min(PIECE - self.filled);
            self.piece.update(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
        }
    }

    /// Makes the piece a subtree, and joins those that are of one size.
    fn push(&mut self) {
        let mut subtree = (1, self.piece.finalize_reset().into());
        self.filled = 0;
        while let Some((size, left)) = self.subtrees.pop_if(|(size, _)| *size == subtree.0) {
            subtree = (2 * size, join(&left, &subtree.1));
        }
        self.subtrees.push(subtree);
    }

    pub(crate) fn finish(self) -> Hash {
        let last = self.piece.finalize().into();
        let left = self.subtrees.iter().rev();
        left.fold(last, |right, (_, left)| join(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the definition says it, all at once.
    fn defined(bytes: &[u8]) -> Hash {
        if bytes.len() <= PIECE {
            return sha2::Sha256::digest(bytes).into();
        }
        let left = bytes.len().next_power_of_two() / 2;
        let (left, right) = bytes.split_at(left);
        join(&defined(left), &defined(right))
    }

    #[test]
    fn pieces_of_any_size_give_what_the_definition_gives() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| ((n * n) >> 3) as u8).collect();
        for size in [
            0, 1, 1023, 1024, 1025, 2048, 2049, 3072, 4096, 4097, 9000, 20_000,
        ] {
            for cut in [1, 100, 1024, 1500, 20_000] {
                let mut tree = Sha256Tree::new();
                for piece in bytes[..size].chunks(cut) {
                    tree.update(piece);
                }
                assert_eq!(tree.finish(), defined(&bytes[..size]), "{size} by {cut}");
            }
        }
    }

    #[test]
    fn two_hashes_are_joined_by_the_block_cipher_alone() {
        // SHA-256's compression of the same block from the same state, less that
        // state; from the definition of the function, worked out word by word.
        let (left, right) = ([1; 32], [2; 32]);
        let mut block = [1; 64];
        block[32..].fill(2);
        let joined = join(&left, &right);
        assert_eq!(joined, cipher(&block));
    }

    /// FIPS 180-4, 6.2.2, without the final addition.
    fn cipher(block: &[u8; 64]) -> Hash {
        let primes = (2_u32..).filter(|n| (2..*n).all(|m| n % m != 0)).take(64);
        let root = |n: u32| {
            let root = f64::from(n).cbrt();
            ((root - root.floor()) * 4_294_967_296.0) as u32
        };
        let constants: Vec<u32> = primes.map(root).collect();
        let mut w: Vec<u32> = block
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect();
        for t in 16..64 {
            let s0 = w[t - 15].rotate_right(7) ^ w[t - 15].rotate_right(18) ^ (w[t - 15] >> 3);
            let s1 = w[t - 2].rotate_right(17) ^ w[t - 2].rotate_right(19) ^ (w[t - 2] >> 10);
            w.push(
                s1.wrapping_add(w[t - 7])
                    .wrapping_add(s0)
                    .wrapping_add(w[t - 16]),
            );
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = START;
        for t in 0..64 {
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & f) ^ (!e & g);
            let t1 = h
                .wrapping_add(s1)
                .wrapping_add(choice)
                .wrapping_add(constants[t])
                .wrapping_add(w[t]);
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let majority = (a & b) ^ (a & c) ^ (b & c);
            let t2 = s0.wrapping_add(majority);
            (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
        }
        let words = [a, b, c, d, e, f, g, h].map(u32::to_be_bytes);
        words.concat().try_into().unwrap()
    }
}
