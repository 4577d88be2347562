use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

/// The longest that inputs grow, in bytes.
const LONGEST: usize = 8192;

/// Numbers at which lengths and counters change their ways.
const EDGES: [u8; 8] = [0, 1, 0x0a, 0x12, 0x1a, 0x7f, 0x80, 0xff];

/// An input made of others: of one, with some of its bytes changed, left out, doubled,
/// or exchanged for part of another.
///
/// # Panics
/// There are no inputs to begin with.
#[must_use]
pub fn mutate(random: &mut StdRng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let one = |random: &mut StdRng| &inputs[random.random_range(0..inputs.len())];
    let mut made = one(random).clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=made.len());
        let length = random.random_range(0..=16.min(made.len() - at));
        match random.random_range(0..7) {
            0 => {
                made.drain(at..at + length);
            }
            1 => {
                let part = made[at..at + length].to_vec();
                made.splice(at..at, part);
            }
            2 => made[at..at + length].fill(EDGES[random.random_range(0..EDGES.len())]),
            3 => {
                let other = one(random);
                let from = random.random_range(0..=other.len());
                let until = random.random_range(from..=other.len());
                made.splice(at..at + length, other[from..until].iter().copied());
            }
            4 => random.fill_bytes(&mut made[at..at + length]),
            5 => made.truncate(at),
            _ => {
                if let Some(byte) = made.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
    made.truncate(LONGEST);
    made
}
