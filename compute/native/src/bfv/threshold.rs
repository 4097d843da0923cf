//! Threshold BFV for sums, N of N (Mouchet et al. 2020/304): the secret s is the sum of all members' s_i.
//!
//! Member i publishes p_i = -(a s_i) + e_i; the sum of these is a public key of s. Everyone encrypts under
//! it, ciphertexts are added, and member i's decryption share of a sum (c0, c1) is c1 s_i + f_i with a
//! flood f_i uniform in [-2^beta, 2^beta). c0 plus all shares is the scaled sum with noise. Nobody holds s.
//! Only additions are done, so a plaintext modulus t = 2^plain_bits is as good as a prime one.

use std::sync::Arc;

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::key::Scale;
use super::modulus::Modulus;
use super::ntt::Root;
use super::pack;
use super::ring::{Malformed, Ring};
use super::sample::{self, Purpose, Seed};

type Polynomial = Zeroizing<Vec<u64>>;

pub struct Member {
    ring: Arc<Ring>,
    secret_seed: Zeroizing<Seed>,
    common_seed: Seed,
    secret: Vec<Zeroizing<Vec<Root>>>, // transformed, per prime
}

impl Member {
    /// `secret_seed` is this member's and fresh; `common_seed` is public and the same for all of a round.
    pub fn new(ring: Arc<Ring>, secret_seed: Seed, common_seed: Seed) -> Self {
        let small = sample::ternary(&secret_seed, Purpose::Secret, 0, ring.degree);
        let secret = (0..ring.primes()).map(|i| roots(&ring, i, &small)).collect();
        Self { ring, secret_seed: Zeroizing::new(secret_seed), common_seed, secret }
    }

    /// p_i, packed.
    pub fn key_share(&self) -> Vec<u8> {
        let errors = sample::errors(&self.secret_seed, Purpose::KeyError, 0, self.ring.degree);
        let per_prime = (0..self.ring.primes()).map(|i| {
            let modulus = self.ring.modulus(i);
            let a = self.ring.uniform(i, &self.common_seed, Purpose::KeyUniform, 0);
            let mut share = product(&self.ring, i, a, &self.secret[i]);
            for (x, &e) in share.iter_mut().zip(errors.iter()) {
                *x = modulus.subtract(modulus.lift(e), *x);
            }
            share
        });
        packed(&self.ring, per_prime)
    }

    /// This member's shares of all blocks of `c1`, packed one after the other.
    pub fn decryption_share(&self, c1: &[u8], seed: &Seed, flood_bits: u32) -> Result<Vec<u8>, Malformed> {
        let length = self.ring.packed_length(self.ring.primes());
        if !c1.len().is_multiple_of(length) {
            return Err(Malformed("a ciphertext has another length"));
        }
        let shares: Result<Vec<_>, _> = c1
            .par_chunks(length)
            .enumerate()
            .map(|(block, bytes)| self.share_of_block(block as u64, bytes, seed, flood_bits))
            .collect();
        Ok(shares?.concat())
    }

    fn share_of_block(
        &self,
        block: u64,
        c1: &[u8],
        seed: &Seed,
        flood_bits: u32,
    ) -> Result<Vec<u8>, Malformed> {
        let flood = sample::flood(seed, block, flood_bits, self.ring.degree);
        let shares = unpacked(&self.ring, c1)?.into_iter().enumerate().map(|(i, mut values)| {
            let modulus = self.ring.modulus(i);
            self.ring.transforms[i].forward(&mut values);
            let mut share = product(&self.ring, i, values, &self.secret[i]);
            let centre = modulus.power(2, u64::from(flood_bits));
            for (x, limbs) in share.iter_mut().zip(flood.chunks_exact(sample::flood_limbs(flood_bits))) {
                *x = modulus.add(*x, modulus.subtract(reduce_limbs(modulus, limbs), centre));
            }
            share
        });
        Ok(packed(&self.ring, shares))
    }
}

/// Second halves of ciphertexts, c1 = a u + e1, packed one after the other: `blocks` of them.
///
/// They depend on neither key nor message, so that all members can commit to theirs before any is shown.
pub fn second_halves(ring: &Ring, common_seed: &Seed, seed: &Seed, blocks: u64) -> Vec<u8> {
    let common: Vec<_> = (0..ring.primes())
        .map(|i| constants(ring, i, &ring.uniform(i, common_seed, Purpose::KeyUniform, 0)))
        .collect();
    let halves: Vec<Vec<u8>> = (0..blocks)
        .into_par_iter()
        .map(|block| {
            let u = sample::ternary(seed, Purpose::MaskSecret, block, ring.degree);
            let e1 = sample::errors(seed, Purpose::MaskError, block, ring.degree);
            let per_prime = (0..ring.primes()).map(|i| {
                let mut values = product(ring, i, ring.lift_transformed(i, &u), &common[i]);
                add_small(ring.modulus(i), &mut values, &e1);
                values
            });
            packed(ring, per_prime)
        })
        .collect();
    halves.concat()
}

/// First halves, c0 = b u + e0 + round(q m / t), with the u that `seed` gave `second_halves`.
///
/// `public_key` is the packed sum of all members' key shares; `messages` are `limbs` unsigned words a
/// coefficient, modulo t, whole blocks. INVARIANT: one message a seed.
pub fn first_halves(
    ring: &Ring,
    plain_bits: u32,
    public_key: &[u8],
    messages: &[u64],
    seed: &Seed,
) -> Result<Vec<u8>, Malformed> {
    let scale = Scale::new(ring, plain_bits);
    let words = ring.degree * scale.limbs();
    if !messages.len().is_multiple_of(words) {
        return Err(Malformed("messages do not fill whole blocks"));
    }
    let key: Vec<_> = unpacked(ring, public_key)?
        .into_iter()
        .enumerate()
        .map(|(i, mut values)| {
            ring.transforms[i].forward(&mut values);
            constants(ring, i, &values)
        })
        .collect();
    let halves: Vec<Vec<u8>> = messages
        .par_chunks(words)
        .enumerate()
        .map(|(block, messages)| first_half(ring, &scale, &key, messages, seed, block as u64))
        .collect();
    Ok(halves.concat())
}

fn first_half(
    ring: &Ring,
    scale: &Scale,
    key: &[Zeroizing<Vec<Root>>],
    messages: &[u64],
    seed: &Seed,
    block: u64,
) -> Vec<u8> {
    let u = sample::ternary(seed, Purpose::MaskSecret, block, ring.degree);
    let e0 = sample::errors(seed, Purpose::BlockError, block, ring.degree);
    let remainders = scale.remainders(messages);
    let per_prime = (0..ring.primes()).map(|i| {
        let modulus = ring.modulus(i);
        let mut values = product(ring, i, ring.lift_transformed(i, &u), &key[i]);
        add_small(modulus, &mut values, &e0);
        for (x, &m) in values.iter_mut().zip(scale.residues(modulus, i, &remainders).iter()) {
            *x = modulus.add(*x, m);
        }
        values
    });
    packed(ring, per_prime)
}

/// The residues of packed polynomials, whole and added up: all of the same length.
pub fn add(ring: &Ring, packed_columns: &[&[u8]]) -> Result<Vec<u8>, Malformed> {
    let length = ring.packed_length(ring.primes());
    let total = packed_columns.first().ok_or(Malformed("there is nothing to add"))?.len();
    if !total.is_multiple_of(length) || packed_columns.iter().any(|column| column.len() != total) {
        return Err(Malformed("ciphertexts of different lengths"));
    }
    let sums: Result<Vec<_>, _> = (0..total / length)
        .into_par_iter()
        .map(|block| {
            let mut sum: Vec<Polynomial> =
                (0..ring.primes()).map(|_| Zeroizing::new(vec![0; ring.degree])).collect();
            for column in packed_columns {
                let values = unpacked(ring, &column[block * length..(block + 1) * length])?;
                for (i, (total, values)) in sum.iter_mut().zip(values).enumerate() {
                    let modulus = ring.modulus(i);
                    total.iter_mut().zip(values.iter()).for_each(|(x, &y)| *x = modulus.add(*x, y));
                }
            }
            Ok(packed(ring, sum))
        })
        .collect();
    Ok(sums?.concat())
}

/// Packed polynomials as little-endian words: (block, prime, coefficient).
pub fn residues(ring: &Ring, column: &[u8]) -> Result<Vec<u8>, Malformed> {
    let length = ring.packed_length(ring.primes());
    if !column.len().is_multiple_of(length) {
        return Err(Malformed("a ciphertext has another length"));
    }
    let mut out = Vec::with_capacity(column.len() * 2);
    for block in column.chunks(length) {
        for values in unpacked(ring, block)? {
            values.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
    }
    Ok(out)
}

fn roots(ring: &Ring, i: usize, small: &[i8]) -> Zeroizing<Vec<Root>> {
    constants(ring, i, &ring.lift_transformed(i, small))
}

fn constants(ring: &Ring, i: usize, transformed: &[u64]) -> Zeroizing<Vec<Root>> {
    let modulus = ring.modulus(i);
    transformed.iter().map(|&x| Root::new(modulus, x)).collect::<Vec<_>>().into()
}

fn add_small(modulus: &Modulus, values: &mut [u64], small: &[i8]) {
    values.iter_mut().zip(small).for_each(|(x, &e)| *x = modulus.add(*x, modulus.lift(e)));
}

/// Coefficients of x times a constant; both are given transformed.
fn product(ring: &Ring, i: usize, x: impl Into<Polynomial>, constant: &[Root]) -> Polynomial {
    let (modulus, mut x) = (ring.modulus(i), x.into());
    for (x, c) in x.iter_mut().zip(constant) {
        *x = modulus.multiply_constant(*x, c.value, c.companion);
    }
    ring.transforms[i].inverse(&mut x);
    x
}

fn packed(ring: &Ring, per_prime: impl IntoIterator<Item = Polynomial>) -> Vec<u8> {
    let mut out = vec![0; ring.packed_length(ring.primes())];
    let mut rest = &mut out[..];
    for (i, values) in per_prime.into_iter().enumerate() {
        let (here, tail) = rest.split_at_mut(pack::packed_length(ring.modulus(i), ring.degree));
        pack::pack(ring.modulus(i), &values, here);
        rest = tail;
    }
    out
}

fn unpacked(ring: &Ring, bytes: &[u8]) -> Result<Vec<Polynomial>, Malformed> {
    if bytes.len() != ring.packed_length(ring.primes()) {
        return Err(Malformed("a polynomial has another length"));
    }
    let mut rest = bytes;
    (0..ring.primes())
        .map(|i| {
            let (here, tail) = rest.split_at(pack::packed_length(ring.modulus(i), ring.degree));
            rest = tail;
            Ok(Zeroizing::new(pack::unpack(ring.modulus(i), here, ring.degree)?))
        })
        .collect()
}

/// A little-endian number modulo p.
fn reduce_limbs(modulus: &Modulus, limbs: &[u64]) -> u64 {
    limbs.iter().rev().fold(0, |high, &limb| modulus.reduce_wide(u128::from(high) << 64 | u128::from(limb)))
}
