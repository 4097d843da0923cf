//! The negacyclic number-theoretic transform of Z_p[X]/(X^N + 1) for one prime p = 1 mod 2N.
//!
//! `forward` takes coefficients to the values at psi^(2 * reversed(k) + 1), where reversed(k) are the
//! bits of k backwards; `inverse` goes back. Butterflies are Harvey's (2014): values stay below 4p until
//! the last step. psi is the power x^((p - 1) / 2N) of the smallest x >= 2 that has order 2N, so both
//! parties use the same one. No branch or index depends on the data.

#[cfg(target_arch = "x86_64")]
use super::ifma::Ifma;
use super::modulus::Modulus;

pub struct Transform {
    pub modulus: Modulus,
    pub degree: usize,
    roots: Vec<Root>,    // psi^reversed(i)
    inverses: Vec<Root>, // psi^-reversed(i)
    degree_inverse: Root,
    #[cfg(target_arch = "x86_64")]
    ifma: Option<Ifma>,
}

/// A constant factor and its Shoup companion.
#[derive(Clone, Copy, Default)]
pub struct Root {
    pub value: u64,
    pub companion: u64,
}

impl zeroize::DefaultIsZeroes for Root {}

impl Root {
    pub fn new(modulus: &Modulus, value: u64) -> Self {
        Self { value, companion: modulus.companion(value) }
    }
}

impl Transform {
    /// With `ifma` the vector instructions are used where the CPU has them; the results are the same.
    pub fn new(degree: usize, p: u64, ifma: bool) -> Self {
        let modulus = Modulus::new(p);
        let psi = smallest_root(&modulus, degree);
        let roots = powers(&modulus, psi, degree);
        let inverses = powers(&modulus, modulus.invert(psi), degree);
        let degree_inverse = Root::new(&modulus, modulus.invert(degree as u64));
        #[cfg(not(target_arch = "x86_64"))]
        let _ = ifma;
        Self {
            #[cfg(target_arch = "x86_64")]
            ifma: if ifma { Ifma::detect(&modulus, &roots, &inverses, degree_inverse.value) } else { None },
            modulus,
            degree,
            roots,
            inverses,
            degree_inverse,
        }
    }

    /// Coefficients below p become values below p, in place.
    pub fn forward(&self, values: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(ifma) = &self.ifma {
            return ifma.forward(values);
        }
        let (m, twice) = (&self.modulus, 2 * self.modulus.p);
        let mut width = self.degree / 2;
        let mut first = 1;
        while width > 0 {
            for (half, root) in values.chunks_exact_mut(2 * width).zip(&self.roots[first..2 * first]) {
                let (left, right) = half.split_at_mut(width);
                for (x, y) in left.iter_mut().zip(right) {
                    let u = (*x).min((*x).wrapping_sub(twice));
                    let v = m.multiply_lazily(*y, root.value, root.companion);
                    *x = u + v;
                    *y = u + twice - v;
                }
            }
            width /= 2;
            first *= 2;
        }
        for x in values {
            *x = (*x).min((*x).wrapping_sub(twice));
            *x = (*x).min((*x).wrapping_sub(m.p));
        }
    }

    /// Values below p become coefficients below p, in place.
    pub fn inverse(&self, values: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(ifma) = &self.ifma {
            return ifma.inverse(values);
        }
        let (m, twice) = (&self.modulus, 2 * self.modulus.p);
        let mut width = 1;
        let mut first = self.degree / 2;
        while first > 0 {
            for (half, root) in values.chunks_exact_mut(2 * width).zip(&self.inverses[first..2 * first]) {
                let (left, right) = half.split_at_mut(width);
                for (x, y) in left.iter_mut().zip(right) {
                    let sum = *x + *y;
                    let difference = *x + twice - *y;
                    *x = sum.min(sum.wrapping_sub(twice));
                    *y = m.multiply_lazily(difference, root.value, root.companion);
                }
            }
            width *= 2;
            first /= 2;
        }
        let Root { value, companion } = self.degree_inverse;
        for x in values {
            *x = m.multiply_constant(*x, value, companion);
        }
    }
}

/// The power of the smallest x >= 2 that is a primitive 2N-th root of one.
fn smallest_root(modulus: &Modulus, degree: usize) -> u64 {
    let order = 2 * degree as u64;
    assert!(degree.is_power_of_two() && (modulus.p - 1).is_multiple_of(order));
    (2..)
        .map(|x| modulus.power(x, (modulus.p - 1) / order))
        .find(|&root| modulus.power(root, degree as u64) == modulus.p - 1)
        .expect("a prime that is 1 modulo 2N has a primitive 2N-th root")
}

fn powers(modulus: &Modulus, base: u64, degree: usize) -> Vec<Root> {
    let shift = usize::BITS - degree.trailing_zeros();
    let mut table = vec![Root::default(); degree];
    let mut power = 1;
    for i in 0..degree {
        let reversed = if degree == 1 { 0 } else { i.reverse_bits() >> shift };
        table[reversed] = Root::new(modulus, power);
        power = modulus.multiply(power, base);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::modulus::friendly_primes;
    use super::*;

    fn sample(modulus: &Modulus, degree: usize, salt: u64) -> Vec<u64> {
        let mix = |i: u64| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(salt);
        (0..degree as u64).map(|i| modulus.reduce(mix(i))).collect()
    }

    #[test]
    fn values_are_evaluations_at_odd_powers_in_reversed_order() {
        let p = friendly_primes(16, 40, 1)[0];
        let (transform, modulus) = (Transform::new(16, p, false), Modulus::new(p));
        let psi = smallest_root(&modulus, 16);
        let coefficients = sample(&modulus, 16, 5);
        let mut values = coefficients.clone();
        transform.forward(&mut values);
        for (k, &value) in values.iter().enumerate() {
            let reversed = (k as u64).reverse_bits() >> 60;
            let point = modulus.power(psi, 2 * reversed + 1);
            let by_horner =
                coefficients.iter().rev().fold(0, |acc, &c| modulus.add(modulus.multiply(acc, point), c));
            assert_eq!(value, by_horner);
        }
    }

    #[test]
    fn pointwise_products_are_negacyclic_convolutions() {
        for (degree, bits) in [(8, 20), (64, 50), (256, 42)] {
            let p = friendly_primes(degree, bits, 1)[0];
            let (transform, m) = (Transform::new(degree, p, false), Modulus::new(p));
            let (x, y) = (sample(&m, degree, 7), sample(&m, degree, 11));
            let mut expected = vec![0; degree];
            for (i, &a) in x.iter().enumerate() {
                for (j, &b) in y.iter().enumerate() {
                    let product = m.multiply(a, b);
                    let k = (i + j) % degree;
                    expected[k] = if i + j < degree {
                        m.add(expected[k], product)
                    } else {
                        m.subtract(expected[k], product)
                    };
                }
            }
            let (mut fx, mut fy) = (x.clone(), y);
            transform.forward(&mut fx);
            transform.forward(&mut fy);
            let mut product: Vec<u64> = fx.iter().zip(&fy).map(|(&a, &b)| m.multiply(a, b)).collect();
            transform.inverse(&mut product);
            assert_eq!(product, expected);
            transform.inverse(&mut fx);
            assert_eq!(fx, x);
        }
    }

    #[test]
    fn vector_instructions_give_the_same_numbers() {
        for (degree, bits) in [(16, 50), (32, 20), (64, 50), (8192, 42), (32768, 50)] {
            let p = friendly_primes(degree, bits, 1)[0];
            let (plain, vector) = (Transform::new(degree, p, false), Transform::new(degree, p, true));
            let extremes = [vec![p - 1; degree], vec![0; degree], sample(&plain.modulus, degree, 13)];
            for values in extremes {
                let (mut x, mut y) = (values.clone(), values.clone());
                plain.forward(&mut x);
                vector.forward(&mut y);
                assert_eq!(x, y);
                (x, y) = (values.clone(), values);
                plain.inverse(&mut x);
                vector.inverse(&mut y);
                assert_eq!(x, y);
            }
        }
    }
}
