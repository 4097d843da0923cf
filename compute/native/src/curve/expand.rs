//! `expand_message_xmd` with SHA-512 and `hash_to_field` for curve25519 (RFC 9380, sections 5.3.1
//! and 5.2): key bytes to one uniform field element.
//!
//! b0 = H(128 zero bytes || key || 0, 48, 0 || tag'), b1 = H(b0 || 1 || tag'), where tag' is the
//! tag followed by its length; the first 48 bytes of b1 modulo p are the element.

use super::field::{Fe, MASK51};
use sha2::{Digest, Sha512};

const LENGTH: u8 = 48; // ceil((255 + 128) / 8): reduced modulo p the bias is below 2^-128
const BLOCK: usize = 128;

/// A domain-separation tag of 1 to 255 bytes, with what all keys share.
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
        let b0 = self.zero_block.clone().chain_update(key).chain_update([0, LENGTH, 0]);
        let b0 = b0.chain_update(&self.tag_prime).finalize();
        let b1 = Sha512::new_with_prefix(b0).chain_update([1]).chain_update(&self.tag_prime).finalize();
        let word = |i: usize| u64::from_be_bytes(b1[8 * i..8 * i + 8].try_into().expect("eight bytes"));
        reduce([word(5), word(4), word(3), word(2), word(1), word(0)])
    }
}

/// Eight keys at a time; see `sha512`.
#[cfg(target_arch = "x86_64")]
pub mod eight {
    use super::super::ifma::Ifma;
    use super::super::sha512::{BLOCK, INITIAL, Words, compress};
    use super::{Expander, Fe, LENGTH, reduce};

    /// An `Expander` with the padding of both hashes laid out.
    pub struct Eight<'e> {
        f: Ifma,
        one: &'e Expander,
        after_zeros: [Words; 8],
        b1_tail: Vec<u8>,
    }

    impl<'e> Eight<'e> {
        pub fn new(f: Ifma, one: &'e Expander) -> Self {
            let after_zeros = compress(f, &INITIAL, &[[0; 8]; 16]);
            let mut b1 = vec![0; 64];
            b1.push(1);
            b1.extend(&one.tag_prime);
            pad(&mut b1, 0);
            Self { f, one, after_zeros, b1_tail: b1 }
        }

        /// The elements of eight keys. Keys that fill different numbers of blocks go one by one.
        pub fn hash_to_field(&self, keys: [&[u8]; 8]) -> [Fe; 8] {
            let messages = keys.map(|key| self.b0_message(key));
            if messages.iter().any(|message| message.len() != messages[0].len()) {
                return keys.map(|key| self.one.hash_to_field(key));
            }
            let mut b0 = self.after_zeros;
            for start in (0..messages[0].len()).step_by(BLOCK) {
                let mut block = [[0; 8]; 16];
                for (lane, message) in messages.iter().enumerate() {
                    for (words, bytes) in block.iter_mut().zip(message[start..start + BLOCK].as_chunks().0) {
                        words[lane] = u64::from_be_bytes(*bytes);
                    }
                }
                b0 = compress(self.f, &b0, &block);
            }
            let mut b1 = INITIAL;
            for (index, bytes) in self.b1_tail.chunks_exact(BLOCK).enumerate() {
                let mut block = [[0; 8]; 16];
                for (words, bytes) in block.iter_mut().zip(bytes.as_chunks().0) {
                    *words = [u64::from_be_bytes(*bytes); 8];
                }
                if index == 0 {
                    block[..8].copy_from_slice(&b0);
                }
                b1 = compress(self.f, &b1, &block);
            }
            std::array::from_fn(|lane| reduce(std::array::from_fn(|i| b1[5 - i][lane])))
        }

        /// What follows the block of zeros, padded.
        fn b0_message(&self, key: &[u8]) -> Vec<u8> {
            let mut message = Vec::with_capacity(key.len() + self.one.tag_prime.len() + 2 * BLOCK);
            message.extend_from_slice(key);
            message.extend_from_slice(&[0, LENGTH, 0]);
            message.extend_from_slice(&self.one.tag_prime);
            pad(&mut message, BLOCK);
            message
        }
    }

    /// SHA-512's padding of a message of which `before` bytes have been hashed already.
    fn pad(message: &mut Vec<u8>, before: usize) {
        let bits = 8 * (before + message.len()) as u128;
        message.push(0x80);
        message.resize((message.len() + 16).next_multiple_of(BLOCK) - 16, 0);
        message.extend_from_slice(&bits.to_be_bytes());
    }
}

/// 384 bits as six little-endian words, modulo p: the bits below 255 plus 19 times those above.
fn reduce(words: [u64; 6]) -> Fe {
    let limb = |bit: usize| {
        let (word, shift) = (bit / 64, bit % 64);
        let pair = u128::from(words[word]) | u128::from(*words.get(word + 1).unwrap_or(&0)) << 64;
        (pair >> shift) as u64 & MASK51
    };
    Fe([
        limb(0) + 19 * limb(255),
        limb(51) + 19 * limb(306),
        limb(102) + 19 * limb(357),
        limb(153),
        limb(204),
    ])
    .carried()
}
