//! The receiver's side: every block of every column, multiplied by every selection and added up.
//!
//! A selection holds weights w over the slots. Block i becomes the polynomial with w reversed, so that
//! coefficient N-1 of its product with the block's values is the inner product. All blocks are
//! multiplied, empty ones too. What is returned is that one coefficient of c0 and the whole of c1, on
//! top of a fresh public-key encryption of zero; the caller adds the mask and the flood to the
//! coefficient, and both are switched down to the first `kept` primes after that.

use std::sync::Arc;

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::modulus::Modulus;
use super::pack;
use super::ring::{Malformed, Ring, block_index, top_coefficient};
use super::sample::{self, Purpose, Seed};

/// One vector over the slots, zero outside `positions`; all ones there if no weights are given.
pub struct Selection {
    pub positions: Zeroizing<Vec<i64>>,
    pub weights: Option<Zeroizing<Vec<i64>>>,
}

pub struct Sums {
    ring: Arc<Ring>,
    public_seed: Seed,
    public_key: Vec<Vec<u64>>, // coefficients of b per prime
    selections: Vec<Selection>,
    columns: usize,
    blocks: u32,
    c1: Vec<Zeroizing<Vec<u64>>>, // transformed; (column, selection, prime)
    c0: Vec<u64>,
    run: Option<MaskedRun>,
}

/// The selections of a run of blocks: plain (in slot order) and transformed per prime.
struct MaskedRun {
    first_block: u32,
    blocks: usize,
    unit: Vec<bool>,                       // by selection: all weights are zero or one
    plain: Vec<Zeroizing<Vec<i64>>>,       // (selection, block)
    transformed: Vec<Zeroizing<Vec<u64>>>, // (selection, block, prime)
}

/// |w| <= 2^60 lets 2^16 products with residues be added in 128 bits.
const MAXIMUM_WEIGHT: u64 = 1 << 60;

impl Sums {
    pub fn new(
        ring: Arc<Ring>,
        public_seed: Seed,
        public_key: &[u8],
        columns: usize,
        slots: u64,
        selections: Vec<Selection>,
    ) -> Result<Self, Malformed> {
        if selections.iter().any(|selection| !selection.fits(slots)) {
            return Err(Malformed("a selection is not ascending inside the slots, or too heavy"));
        }
        if public_key.len() != ring.packed_length(ring.primes()) {
            return Err(Malformed("the public key has another length"));
        }
        let (mut rest, mut key) = (public_key, Vec::new());
        for i in 0..ring.primes() {
            let (bytes, tail) = rest.split_at(pack::packed_length(ring.modulus(i), ring.degree));
            key.push(pack::unpack(ring.modulus(i), bytes, ring.degree)?);
            rest = tail;
        }
        let cells = columns * selections.len() * ring.primes();
        let blocks =
            u32::try_from(slots.div_ceil(ring.degree as u64)).map_err(|_| Malformed("too many slots"))?;
        Ok(Self {
            c1: (0..cells).map(|_| Zeroizing::new(vec![0; ring.degree])).collect(),
            c0: vec![0; cells],
            ring,
            public_seed,
            public_key: key,
            selections,
            columns,
            blocks,
            run: None,
        })
    }

    /// Add `blocks` blocks of one column, as packed by the sender.
    pub fn absorb(
        &mut self,
        column: u32,
        first_block: u32,
        blocks: u32,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let length = self.ring.packed_length(self.ring.primes());
        let inside = first_block.checked_add(blocks).is_some_and(|end| end <= self.blocks);
        let lazily = blocks as usize * self.ring.degree <= 1 << 16;
        if !inside || !lazily || column as usize >= self.columns || bytes.len() != length * blocks as usize {
            return Err(Malformed("a run of blocks has another place or length"));
        }
        let c0 = self.unpack(bytes)?;
        let current = |run: &MaskedRun| (run.first_block, run.blocks) == (first_block, blocks as usize);
        if !self.run.as_ref().is_some_and(current) {
            self.run = Some(MaskedRun::new(&self.ring, &self.selections, first_block, blocks as usize));
        }
        let run = self.run.as_ref().expect("just made");
        let primes = self.ring.primes();
        let uniform: Vec<Vec<u64>> = (0..blocks as usize * primes)
            .into_par_iter()
            .map(|at| {
                let index = block_index(column, first_block + (at / primes) as u32);
                self.ring.uniform(at % primes, &self.public_seed, Purpose::BlockUniform, index)
            })
            .collect();
        let per_column = self.selections.len() * primes;
        let from = column as usize * per_column;
        let ring = &self.ring;
        self.c1[from..from + per_column].par_iter_mut().enumerate().for_each(|(cell, sum)| {
            run.add_products(ring, cell / primes, cell % primes, &uniform, sum);
        });
        self.c0[from..from + per_column].par_iter_mut().enumerate().for_each(|(cell, sum)| {
            *sum = ring
                .modulus(cell % primes)
                .add(*sum, run.inner_product(ring, cell / primes, cell % primes, &c0));
        });
        Ok(())
    }

    /// Residues of c0, (block, prime).
    fn unpack(&self, bytes: &[u8]) -> Result<Vec<Vec<u64>>, Malformed> {
        let lengths: Vec<usize> = (0..self.ring.primes())
            .map(|i| pack::packed_length(self.ring.modulus(i), self.ring.degree))
            .collect();
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            for (i, &length) in lengths.iter().enumerate() {
                let (piece, tail) = rest.split_at(length);
                pieces.push((i, piece));
                rest = tail;
            }
        }
        pieces
            .par_iter()
            .map(|&(i, piece)| pack::unpack(self.ring.modulus(i), piece, self.ring.degree))
            .collect()
    }

    /// The returned pair of one cell: its fresh encryption of zero, its sums, and `addend` (the scaled
    /// mask plus the flood, one residue per prime) on the coefficient. `seed` must be fresh per session.
    pub fn finish(
        &self,
        column: usize,
        selection: usize,
        seed: &Seed,
        addend: &[u64],
        kept: usize,
    ) -> Result<Vec<u8>, Malformed> {
        let (primes, n) = (self.ring.primes(), self.ring.degree);
        if column >= self.columns || selection >= self.selections.len() {
            return Err(Malformed("no such cell"));
        }
        if addend.len() != primes || !(1..=primes).contains(&kept) {
            return Err(Malformed("one addend per prime, and at least one prime kept"));
        }
        let cell = column * self.selections.len() + selection;
        let u = sample::ternary(seed, Purpose::MaskSecret, cell as u64, n);
        let errors = sample::errors(seed, Purpose::MaskError, cell as u64, n);
        let polynomials: Vec<Zeroizing<Vec<u64>>> = (0..primes)
            .into_par_iter()
            .map(|i| {
                let (modulus, transform) = (self.ring.modulus(i), &self.ring.transforms[i]);
                let a = self.ring.uniform(i, &self.public_seed, Purpose::KeyUniform, 0);
                let mut values = self.ring.lift_transformed(i, &u);
                for ((x, &a), &sum) in values.iter_mut().zip(&a).zip(self.c1[cell * primes + i].iter()) {
                    *x = modulus.add(modulus.multiply(*x, a), sum);
                }
                transform.inverse(&mut values);
                let lifted = self.ring.lift(i, &errors);
                values.iter_mut().zip(lifted.iter()).for_each(|(x, &e)| *x = modulus.add(*x, e));
                let zero = top_coefficient(modulus, &self.public_key[i], &u);
                let head = modulus.add(self.c0[cell * primes + i], modulus.reduce(addend[i]));
                values.push(modulus.add(head, zero));
                values
            })
            .collect();
        let switched = self.ring.switch_down(polynomials, kept);
        let mut out = vec![0; 8 * kept + self.ring.packed_length(kept)];
        let (heads, mut rest) = out.split_at_mut(8 * kept);
        for (i, values) in switched.iter().enumerate() {
            heads[8 * i..8 * i + 8].copy_from_slice(&values[n].to_le_bytes());
            let (here, tail) = rest.split_at_mut(pack::packed_length(self.ring.modulus(i), n));
            pack::pack(self.ring.modulus(i), &values[..n], here);
            rest = tail;
        }
        Ok(out)
    }
}

impl Selection {
    fn fits(&self, slots: u64) -> bool {
        let ascending = self.positions.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = |p: Option<&i64>| p.is_none_or(|&p| u64::try_from(p).is_ok_and(|p| p < slots));
        let light = |weights: &Zeroizing<Vec<i64>>| {
            weights.len() == self.positions.len()
                && weights.iter().all(|w| w.unsigned_abs() <= MAXIMUM_WEIGHT)
        };
        ascending
            && inside(self.positions.first())
            && inside(self.positions.last())
            && self.weights.as_ref().is_none_or(light)
    }

    /// The weights of one block of `n` slots, in slot order.
    fn block(&self, block: usize, n: usize) -> Zeroizing<Vec<i64>> {
        let start = (block * n) as i64;
        let from = self.positions.partition_point(|&p| p < start);
        let to = self.positions.partition_point(|&p| p < start + n as i64);
        let mut dense = Zeroizing::new(vec![0; n]);
        for at in from..to {
            dense[(self.positions[at] - start) as usize] =
                self.weights.as_ref().map_or(1, |weights| weights[at]);
        }
        dense
    }
}

impl MaskedRun {
    fn new(ring: &Ring, selections: &[Selection], first_block: u32, blocks: usize) -> Self {
        let unit: Vec<bool> = selections.iter().map(|selection| selection.weights.is_none()).collect();
        let plain: Vec<_> = (0..selections.len() * blocks)
            .into_par_iter()
            .map(|at| selections[at / blocks].block(first_block as usize + at % blocks, ring.degree))
            .collect();
        let transformed = (0..plain.len() * ring.primes())
            .into_par_iter()
            .map(|at| {
                let (weights, i) = (&plain[at / ring.primes()], at % ring.primes());
                let mut reversed = Zeroizing::new(vec![0; ring.degree]);
                for (x, &w) in reversed.iter_mut().zip(weights.iter().rev()) {
                    let one = unit[at / ring.primes() / blocks];
                    *x = if one { w as u64 } else { ring.modulus(i).reduce_signed(w) };
                }
                ring.transforms[i].forward(&mut reversed);
                reversed
            })
            .collect();
        Self { first_block, blocks, unit, plain, transformed }
    }

    /// sum += over the run's blocks, a * w, transformed, modulo prime i.
    fn add_products(&self, ring: &Ring, selection: usize, i: usize, uniform: &[Vec<u64>], sum: &mut [u64]) {
        let primes = ring.primes();
        let factors: Vec<(&[u64], &[u64])> = (0..self.blocks)
            .map(|b| {
                let mask = &self.transformed[(selection * self.blocks + b) * primes + i];
                (&uniform[b * primes + i][..], &mask[..])
            })
            .collect();
        for (k, total) in sum.iter_mut().enumerate() {
            let products = factors.iter().map(|(a, w)| u128::from(a[k]) * u128::from(w[k]));
            *total = ring.modulus(i).reduce_wide(products.sum::<u128>() + u128::from(*total));
        }
    }

    /// The inner product of c0's coefficients with the weights, over the run's blocks, modulo prime i.
    fn inner_product(&self, ring: &Ring, selection: usize, i: usize, c0: &[Vec<u64>]) -> u64 {
        let (modulus, primes) = (ring.modulus(i), ring.primes());
        (0..self.blocks).fold(0, |sum, b| {
            let (c0, weights) = (&c0[b * primes + i], &self.plain[selection * self.blocks + b]);
            let product = if self.unit[selection] {
                sum_where_one(modulus, c0, weights)
            } else {
                let products = c0.iter().zip(weights.iter()).map(|(&c, &w)| i128::from(c) * i128::from(w));
                modulus.reduce_signed_wide(products.sum())
            };
            modulus.add(sum, product)
        })
    }
}

/// The sum of the residues whose weight is one, all others being zero; no branch on the weights.
fn sum_where_one(modulus: &Modulus, residues: &[u64], weights: &[i64]) -> u64 {
    const AT_ONCE: usize = 1 << 14; // times 2^50 stays below 2^64
    residues.chunks(AT_ONCE).zip(weights.chunks(AT_ONCE)).fold(0, |sum, (residues, weights)| {
        let some: u64 = residues.iter().zip(weights).map(|(&c, &w)| c & w.wrapping_neg() as u64).sum();
        modulus.add(sum, modulus.reduce(some))
    })
}
