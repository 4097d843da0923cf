//! `expand_message_xmd` with SHA-512 and `hash_to_field` for curve25519 (RFC 9380, sections 5.3.1
//! and 5.2): key bytes to one uniform field element.

use super::field::{Fe, MASK51};
use sha2::{Digest, Sha512};

const LENGTH: u16 = 48; // ceil((255 + 128) / 8): reduced modulo p the bias is below 2^-128
const BLOCK: usize = 128;

/// A domain-separation tag of 1 to 255 bytes, with the hash state that all keys share.
pub struct Expander {
    tag_prime: Vec<u8>,
    zero_block: Sha512,
}

impl Expander {
    /// INVARIANT: the caller has checked the tag's length.
    pub fn new(tag: &[u8]) -> Self {
        let mut tag_prime = tag.to_vec();
        tag_prime.push(u8::try_from(tag.len()).expect("a tag has at most 255 bytes"));
        Self { tag_prime, zero_block: Sha512::new_with_prefix([0; BLOCK]) }
    }

    /// The field element of one key.
    pub fn hash_to_field(&self, key: &[u8]) -> Fe {
        let b0 = self
            .zero_block
            .clone()
            .chain_update(key)
            .chain_update(LENGTH.to_be_bytes())
            .chain_update([0])
            .chain_update(&self.tag_prime)
            .finalize();
        let b1 = Sha512::new_with_prefix(b0).chain_update([1]).chain_update(&self.tag_prime).finalize();
        reduce(b1[..usize::from(LENGTH)].try_into().expect("48 of 64 bytes"))
    }
}

/// 384 bits, big-endian, modulo p: bits below 255 plus 19 times those above.
fn reduce(bytes: &[u8; LENGTH as usize]) -> Fe {
    let mut words = [0u64; 6]; // little-endian
    for (word, chunk) in words.iter_mut().rev().zip(bytes.chunks_exact(8)) {
        *word = u64::from_be_bytes(chunk.try_into().expect("eight bytes"));
    }
    let limb = |bit: usize| {
        let (word, shift) = (bit / 64, bit % 64);
        let pair = u128::from(words[word]) | u128::from(*words.get(word + 1).unwrap_or(&0)) << 64;
        (pair >> shift) as u64 & MASK51
    };
    // Bits 255..383 are 19 times bits 0..128; bit 383 is the highest, in the third limb there.
    Fe([
        limb(0) + 19 * limb(255),
        limb(51) + 19 * limb(306),
        limb(102) + 19 * limb(357),
        limb(153),
        limb(204),
    ])
    .carried()
}
