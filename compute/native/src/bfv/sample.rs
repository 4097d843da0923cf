//! Randomness expanded from 32-byte seeds with ChaCha20 (RFC 8439).
//!
//! The nonce is the purpose (4 bytes) followed by an index (8 bytes), both little-endian, so that no two
//! uses of a seed share a stream. Seeds come from the caller, who takes them from the operating system.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use zeroize::Zeroizing;

use super::modulus::Modulus;

pub type Seed = [u8; 32];

/// What a stream is for. The first two are public; all others are secrets of whoever holds the seed.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Purpose {
    BlockUniform = 1,
    KeyUniform = 2,
    BlockError = 3,
    Secret = 4,
    KeyError = 5,
    MaskSecret = 6,
    MaskError = 7,
    Flood = 8,
}

fn stream(seed: &Seed, purpose: Purpose, index: u64, length: usize) -> Zeroizing<Vec<u8>> {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&(purpose as u32).to_le_bytes());
    nonce[4..].copy_from_slice(&index.to_le_bytes());
    let mut bytes = Zeroizing::new(vec![0; length]);
    ChaCha20::new(&(*seed).into(), &nonce.into()).apply_keystream(&mut bytes);
    bytes
}

/// `count` residues uniform below p: candidates of `bits` bits from whole bytes, those >= p passed over.
pub fn uniform(modulus: &Modulus, seed: &Seed, purpose: Purpose, index: u64, count: usize) -> Vec<u64> {
    let width = modulus.bits.div_ceil(8) as usize;
    let mask = (1u64 << modulus.bits) - 1;
    let mut length = count * width;
    loop {
        // A prime just below a power of two rejects almost nothing; when it does, look further down the stream.
        length += 64 * width;
        let bytes = stream(seed, purpose, index, length + 8);
        let candidates = (0..length / width).map(|i| {
            let at = i * width;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) & mask
        });
        let mut residues = Vec::with_capacity(count);
        residues.extend(candidates.filter(|&x| x < modulus.p).take(count));
        if residues.len() == count {
            return residues;
        }
        length += count * width / 2;
    }
}

/// `count` coefficients uniform in {-1, 0, 1}: bytes below 255, modulo 3, less one.
pub fn ternary(seed: &Seed, purpose: Purpose, index: u64, count: usize) -> Zeroizing<Vec<i8>> {
    let mut length = count + 256;
    loop {
        let bytes = stream(seed, purpose, index, length);
        let mut coefficients = Zeroizing::new(Vec::with_capacity(count));
        coefficients.extend(bytes.iter().filter(|&&x| x < 255).take(count).map(|&x| (x % 3) as i8 - 1));
        if coefficients.len() == count {
            return coefficients;
        }
        length *= 2;
    }
}

/// `count` errors of the centred binomial distribution CBD(21): |e| <= 21, variance 10.5.
pub fn errors(seed: &Seed, purpose: Purpose, index: u64, count: usize) -> Zeroizing<Vec<i8>> {
    const HALF: u64 = (1 << 21) - 1;
    let bytes = stream(seed, purpose, index, 6 * count + 2);
    let one = |i: usize| {
        let x = u64::from_le_bytes(bytes[6 * i..6 * i + 8].try_into().expect("eight bytes"));
        (x & HALF).count_ones() as i8 - ((x >> 21) & HALF).count_ones() as i8
    };
    Zeroizing::new((0..count).map(one).collect())
}

/// Words of one number below 2^(flood_bits + 1).
pub fn flood_limbs(flood_bits: u32) -> usize {
    (flood_bits as usize + 1).div_ceil(64)
}

/// `count` numbers uniform below 2^(flood_bits + 1), `flood_limbs` words each, lowest first.
pub fn flood(seed: &Seed, index: u64, flood_bits: u32, count: usize) -> Zeroizing<Vec<u64>> {
    let limbs = flood_limbs(flood_bits);
    let top = u64::MAX >> (64 * limbs as u32 - flood_bits - 1);
    let bytes = stream(seed, Purpose::Flood, index, 8 * limbs * count);
    let words = bytes.chunks_exact(8).enumerate().map(|(at, word)| {
        let value = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        if at % limbs == limbs - 1 { value & top } else { value }
    });
    Zeroizing::new(words.collect())
}

#[cfg(test)]
mod tests {
    use super::super::modulus::friendly_primes;
    use super::*;

    #[test]
    fn uniform_passes_over_candidates_that_are_too_large() {
        let modulus = Modulus::new(40961); // 0.625 * 2^16: a third of all candidates is rejected
        let residues = uniform(&modulus, &[7; 32], Purpose::BlockUniform, 9, 40_000);
        assert!(residues.iter().all(|&x| x < modulus.p));
        let mean = residues.iter().sum::<u64>() as f64 / residues.len() as f64;
        assert!((mean / 20480.0 - 1.0).abs() < 0.02);
        assert!(residues.iter().any(|&x| x > 40_000));
        let fewer = uniform(&modulus, &[7; 32], Purpose::BlockUniform, 9, 100);
        assert_eq!(residues[..100], fewer[..]);
    }

    #[test]
    fn streams_of_different_purpose_or_index_differ() {
        let modulus = Modulus::new(friendly_primes(8, 50, 1)[0]);
        let a = uniform(&modulus, &[1; 32], Purpose::BlockUniform, 0, 8);
        assert_ne!(a, uniform(&modulus, &[1; 32], Purpose::BlockUniform, 1, 8));
        assert_ne!(a, uniform(&modulus, &[1; 32], Purpose::KeyUniform, 0, 8));
        assert_ne!(a, uniform(&modulus, &[2; 32], Purpose::BlockUniform, 0, 8));
    }

    #[test]
    fn small_distributions_have_their_moments_and_bounds() {
        let n = 200_000;
        let moments = |values: &[i8]| {
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let variance = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
            (mean, variance)
        };
        let e = errors(&[3; 32], Purpose::BlockError, 1, n);
        assert!(e.iter().all(|x| x.abs() <= 21));
        let (mean, variance) = moments(&e);
        assert!(mean.abs() < 0.05 && (variance - 10.5).abs() < 0.2);
        let s = ternary(&[3; 32], Purpose::Secret, 1, n);
        assert!(s.iter().all(|x| x.abs() <= 1));
        let (mean, variance) = moments(&s);
        assert!(mean.abs() < 0.01 && (variance - 2.0 / 3.0).abs() < 0.01);
    }
}
