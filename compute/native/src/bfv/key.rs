//! The sender's side: a secret key, its public key, encrypted columns, opened answers.
//!
//! Ciphertexts are (c0, a) with c0 = -a s + e + round(q m / t) and a expanded from the public seed, so
//! only c0 travels. Plaintexts are integers modulo t = 2^plain_bits; the rounding by the whole fraction
//! q / t, not by floor(q / t), makes sums wrap modulo t without adding noise.

use std::sync::Arc;

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::modulus::Modulus;
use super::ntt::Root;
use super::pack;
use super::ring::{Malformed, Ring, block_index, top_coefficient};
use super::sample::{self, Purpose, Seed};

pub struct Key {
    ring: Arc<Ring>,
    scale: Scale,
    secret_seed: Zeroizing<Seed>,
    public_seed: Seed,
    secret: Zeroizing<Vec<i8>>,
    transformed: Vec<Zeroizing<Vec<Root>>>,
}

/// A run of one column: at `positions` (ascending, from the run's first slot) each field holds a value.
pub struct Run<'a> {
    pub column: u32,
    pub first_block: u32,
    pub blocks: u32,
    pub positions: &'a [i64],
    /// One entry per field after the identity: its lowest bit in the plaintext, and a value per position.
    pub fields: &'a [(u32, Zeroizing<Vec<i64>>)],
}

impl Key {
    pub fn new(ring: Arc<Ring>, plain_bits: u32, secret_seed: Seed, public_seed: Seed) -> Self {
        let secret = sample::ternary(&secret_seed, Purpose::Secret, 0, ring.degree);
        let transform = |i: usize| {
            let (modulus, values) = (ring.modulus(i), ring.lift_transformed(i, &secret));
            Zeroizing::new(values.iter().map(|&x| Root::new(modulus, x)).collect::<Vec<_>>())
        };
        let transformed = (0..ring.primes()).into_par_iter().map(transform).collect();
        let scale = Scale::new(&ring, plain_bits);
        Self { ring, scale, secret_seed: Zeroizing::new(secret_seed), public_seed, secret, transformed }
    }

    /// b = -(a s) + e, packed; a is polynomial 0 of the public seed's `KeyUniform` stream.
    pub fn public_key(&self) -> Vec<u8> {
        let errors = sample::errors(&self.secret_seed, Purpose::KeyError, 0, self.ring.degree);
        let mut out = vec![0; self.ring.packed_length(self.ring.primes())];
        let mut rest = &mut out[..];
        for i in 0..self.ring.primes() {
            let (modulus, lifted) = (self.ring.modulus(i), self.ring.lift(i, &errors));
            let mut values = self.times_secret(i, Purpose::KeyUniform, 0);
            values.iter_mut().zip(lifted.iter()).for_each(|(x, &e)| *x = modulus.subtract(e, *x));
            rest = append(modulus, &values, rest);
        }
        out
    }

    /// c0 of every block of the run, packed: block after block, prime after prime.
    pub fn encrypt(&self, run: &Run<'_>) -> Result<Vec<u8>, Malformed> {
        let n = self.ring.degree as i64;
        let ascending = run.positions.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = |&p: &i64| (0..n * i64::from(run.blocks)).contains(&p);
        if !ascending || !run.positions.first().is_none_or(inside) || !run.positions.last().is_none_or(inside)
        {
            return Err(Malformed("positions are not ascending inside the run"));
        }
        if run
            .fields
            .iter()
            .any(|(shift, values)| values.len() != run.positions.len() || *shift >= self.scale.plain_bits)
        {
            return Err(Malformed("a field does not have one value per position, or does not fit"));
        }
        let length = self.ring.packed_length(self.ring.primes());
        let mut out = vec![0; length * run.blocks as usize];
        out.par_chunks_mut(length).enumerate().for_each(|(b, bytes)| self.encrypt_block(run, b, bytes));
        Ok(out)
    }

    fn encrypt_block(&self, run: &Run<'_>, block: usize, mut out: &mut [u8]) {
        let index = block_index(run.column, run.first_block + block as u32);
        let errors = sample::errors(&self.secret_seed, Purpose::BlockError, index, self.ring.degree);
        let remainders = self.scale.remainders(&self.messages(run, block));
        for i in 0..self.ring.primes() {
            let (modulus, mut values) =
                (self.ring.modulus(i), self.times_secret(i, Purpose::BlockUniform, index));
            let scaled = self.scale.residues(modulus, i, &remainders);
            for ((x, &m), &e) in values.iter_mut().zip(scaled.iter()).zip(errors.iter()) {
                let message = modulus.add(m, modulus.lift(e));
                *x = modulus.subtract(message, *x);
            }
            out = append(modulus, &values, out);
        }
    }

    /// The block's plaintexts: one at every position plus each field's value shifted to its place.
    fn messages(&self, run: &Run<'_>, block: usize) -> Zeroizing<Vec<u64>> {
        let (n, limbs) = (self.ring.degree, self.scale.limbs);
        let start = (block * n) as i64;
        let from = run.positions.partition_point(|&p| p < start);
        let to = run.positions.partition_point(|&p| p < start + n as i64);
        let mut messages = Zeroizing::new(vec![0; n * limbs]);
        for at in from..to {
            let slot = (run.positions[at] - start) as usize;
            let message = &mut messages[slot * limbs..(slot + 1) * limbs];
            add_shifted(message, 1, 0);
            for (shift, values) in run.fields {
                add_shifted(message, values[at], *shift);
            }
        }
        messages
    }

    /// Coefficients of a s modulo prime i, for the public polynomial `index`.
    fn times_secret(&self, i: usize, purpose: Purpose, index: u64) -> Zeroizing<Vec<u64>> {
        let modulus = self.ring.modulus(i);
        let mut values = Zeroizing::new(self.ring.uniform(i, &self.public_seed, purpose, index));
        for (x, s) in values.iter_mut().zip(self.transformed[i].iter()) {
            *x = modulus.multiply_constant(*x, s.value, s.companion);
        }
        self.ring.transforms[i].inverse(&mut values);
        values
    }

    /// From a returned pair (one coefficient of c0, the whole of c1): that coefficient of c0 + c1 s,
    /// modulo each of the first `kept` primes.
    pub fn open(&self, kept: usize, answer: &[u8]) -> Result<Vec<u64>, Malformed> {
        if !(1..=self.ring.primes()).contains(&kept)
            || answer.len() != 8 * kept + self.ring.packed_length(kept)
        {
            return Err(Malformed("a returned sum has another length"));
        }
        let (heads, mut rest) = answer.split_at(8 * kept);
        let mut opened = Vec::with_capacity(kept);
        for (i, head) in heads.chunks_exact(8).enumerate() {
            let modulus = self.ring.modulus(i);
            let c0 = u64::from_le_bytes(head.try_into().expect("eight bytes"));
            if c0 >= modulus.p {
                return Err(Malformed("a residue is not below its prime"));
            }
            let (bytes, tail) = rest.split_at(pack::packed_length(modulus, self.ring.degree));
            let c1 = pack::unpack(modulus, bytes, self.ring.degree)?;
            opened.push(modulus.add(c0, top_coefficient(modulus, &c1, &self.secret)));
            rest = tail;
        }
        Ok(opened)
    }
}

fn append<'a>(modulus: &Modulus, values: &[u64], out: &'a mut [u8]) -> &'a mut [u8] {
    let (here, rest) = out.split_at_mut(pack::packed_length(modulus, values.len()));
    pack::pack(modulus, values, here);
    rest
}

/// message += value * 2^shift, modulo 2^(64 * limbs).
fn add_shifted(message: &mut [u64], value: i64, shift: u32) {
    let (word, bit) = (shift as usize / 64, shift % 64);
    let wide = i128::from(value) << bit;
    let sign = (wide >> 127) as u64;
    let mut carry = 0;
    for (j, limb) in message[word..].iter_mut().enumerate() {
        let addend = match j {
            0 => wide as u64,
            1 => (wide >> 64) as u64,
            _ => sign,
        };
        let sum = u128::from(*limb) + u128::from(addend) + carry;
        *limb = sum as u64;
        carry = sum >> 64;
    }
}

/// m -> round(q m / t) modulo every prime, for t = 2^plain_bits.
///
/// With rho the remainder of q m modulo t in [-t/2, t/2), the rounded quotient is (q m - rho) / t, and
/// modulo a prime of q that is -rho / t: no division of a long number is ever needed.
pub struct Scale {
    plain_bits: u32,
    limbs: usize,
    q: Vec<u64>,            // q modulo 2^(64 * limbs)
    inverses: Vec<Root>,    // -1/t modulo each prime
    plain_moduli: Vec<u64>, // t modulo each prime
}

impl Scale {
    pub fn new(ring: &Ring, plain_bits: u32) -> Self {
        let limbs = plain_bits.div_ceil(64) as usize;
        let mut q = vec![0; limbs];
        q[0] = 1;
        for i in 0..ring.primes() {
            let factor = std::mem::replace(&mut q, vec![0; limbs]);
            multiply_low(&factor, &[ring.modulus(i).p], &mut q);
        }
        let plain_moduli: Vec<u64> =
            (0..ring.primes()).map(|i| ring.modulus(i).power(2, u64::from(plain_bits))).collect();
        let inverse = |(i, &t): (usize, &u64)| {
            let modulus = ring.modulus(i);
            Root::new(modulus, modulus.negate(modulus.invert(t)))
        };
        let inverses = plain_moduli.iter().enumerate().map(inverse).collect();
        Self { plain_bits, limbs, q, inverses, plain_moduli }
    }

    /// Words of one message.
    pub fn limbs(&self) -> usize {
        self.limbs
    }

    /// q m modulo t, for every message, as unsigned limbs.
    pub fn remainders(&self, messages: &[u64]) -> Zeroizing<Vec<u64>> {
        let mut out = Zeroizing::new(vec![0; messages.len()]);
        let top = u64::MAX >> ((64 - self.plain_bits % 64) % 64);
        for (message, product) in messages.chunks_exact(self.limbs).zip(out.chunks_exact_mut(self.limbs)) {
            multiply_low(message, &self.q, product);
            product[self.limbs - 1] &= top;
        }
        out
    }

    /// round(q m / t) modulo prime i, from the remainders.
    pub fn residues(&self, modulus: &Modulus, i: usize, remainders: &[u64]) -> Zeroizing<Vec<u64>> {
        let (factor, plain) = (self.inverses[i], self.plain_moduli[i]);
        let top = (self.plain_bits - 1) % 64;
        let one = |rho: &[u64]| {
            let residue = rho
                .iter()
                .rev()
                .fold(0, |high, &limb| modulus.reduce_wide(u128::from(high) << 64 | u128::from(limb)));
            let negative = ((rho[self.limbs - 1] >> top) & 1).wrapping_neg();
            modulus.multiply_constant(
                modulus.subtract(residue, plain & negative),
                factor.value,
                factor.companion,
            )
        };
        Zeroizing::new(remainders.chunks_exact(self.limbs).map(one).collect())
    }
}

/// out += x * y modulo 2^(64 * len(out)); y may be shorter than x.
fn multiply_low(x: &[u64], y: &[u64], out: &mut [u64]) {
    for (i, &a) in x.iter().enumerate() {
        let mut carry = 0;
        for (limb, &b) in out[i..].iter_mut().zip(y.iter().chain(std::iter::repeat(&0))) {
            let sum = u128::from(a) * u128::from(b) + u128::from(*limb) + carry;
            *limb = sum as u64;
            carry = sum >> 64;
        }
    }
}
