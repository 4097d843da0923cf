//! The ring Z_q[X]/(X^N + 1) with q a product of primes, one residue polynomial per prime.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::modulus::{MAXIMUM_BITS, Modulus, is_prime};
use super::ntt::{Root, Transform};
use super::pack;
use super::sample::{self, Purpose, Seed};

pub use super::pack::Malformed;

pub struct Ring {
    pub degree: usize,
    pub transforms: Vec<Transform>,
}

impl Ring {
    /// Refuses anything but a power of two between 8 and 32768 and distinct primes that are 1 mod 2N.
    pub fn new(degree: usize, moduli: &[u64], ifma: bool) -> Result<Self, Malformed> {
        if !degree.is_power_of_two() || !(8..=32768).contains(&degree) {
            return Err(Malformed("the ring degree is not a power of two between 8 and 32768"));
        }
        let friendly = |&p: &u64| p >> MAXIMUM_BITS == 0 && p % (2 * degree as u64) == 1 && is_prime(p);
        let distinct = (1..moduli.len()).all(|i| !moduli[..i].contains(&moduli[i]));
        if moduli.is_empty() || !distinct || !moduli.iter().all(friendly) {
            return Err(Malformed("the moduli are not distinct primes that are 1 modulo 2N"));
        }
        Ok(Self { degree, transforms: moduli.par_iter().map(|&p| Transform::new(degree, p, ifma)).collect() })
    }

    pub fn modulus(&self, i: usize) -> &Modulus {
        &self.transforms[i].modulus
    }

    pub fn primes(&self) -> usize {
        self.transforms.len()
    }

    /// Bytes of one packed polynomial over the first `primes` primes.
    pub fn packed_length(&self, primes: usize) -> usize {
        (0..primes).map(|i| pack::packed_length(self.modulus(i), self.degree)).sum()
    }

    /// Small signed coefficients as residues modulo prime i.
    pub fn lift(&self, i: usize, small: &[i8]) -> Zeroizing<Vec<u64>> {
        Zeroizing::new(small.iter().map(|&x| self.modulus(i).lift(x)).collect())
    }

    /// As `lift`, transformed.
    pub fn lift_transformed(&self, i: usize, small: &[i8]) -> Zeroizing<Vec<u64>> {
        let mut values = self.lift(i, small);
        self.transforms[i].forward(&mut values);
        values
    }

    /// The uniform polynomial number `index` of a public seed, sampled as transformed values modulo prime i.
    pub fn uniform(&self, i: usize, seed: &Seed, purpose: Purpose, index: u64) -> Vec<u64> {
        sample::uniform(self.modulus(i), seed, purpose, index << 8 | i as u64, self.degree)
    }
}

impl Ring {
    /// Divide residues by the primes after the first `kept`, rounding to the nearest at every step, and
    /// drop those primes. The coefficients change by at most 1/2 + 1/p each beyond the exact quotient.
    pub fn switch_down(
        &self,
        mut residues: Vec<Zeroizing<Vec<u64>>>,
        kept: usize,
    ) -> Vec<Zeroizing<Vec<u64>>> {
        while residues.len() > kept {
            let last = residues.pop().expect("more than the kept");
            let dropped = self.modulus(residues.len()).p;
            residues.par_iter_mut().enumerate().for_each(|(i, values)| {
                let modulus = self.modulus(i);
                let inverse = Root::new(modulus, modulus.invert(modulus.reduce(dropped)));
                for (x, &y) in values.iter_mut().zip(last.iter()) {
                    // The representative of y nearest to zero, so that the division rounds to the nearest.
                    let negative = u64::from(y > dropped / 2).wrapping_neg();
                    let centred = modulus.reduce_signed(y.wrapping_sub(dropped & negative) as i64);
                    *x = modulus.multiply_constant(
                        modulus.subtract(*x, centred),
                        inverse.value,
                        inverse.companion,
                    );
                }
            });
        }
        residues
    }
}

/// The stream index of one block of one column; `uniform` needs it below 2^56, so columns below 2^24.
pub fn block_index(column: u32, block: u32) -> u64 {
    assert!(column >> 24 == 0);
    u64::from(column) << 32 | u64::from(block)
}

/// Coefficient N-1 of the product of x with a small polynomial: the sum of x[j] * small[N-1-j].
pub fn top_coefficient(modulus: &Modulus, x: &[u64], small: &[i8]) -> u64 {
    let products = x.iter().zip(small.iter().rev()).map(|(&x, &y)| i128::from(x) * i128::from(y));
    modulus.reduce_signed_wide(products.sum())
}
