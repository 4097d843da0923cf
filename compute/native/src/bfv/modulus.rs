//! Arithmetic modulo one prime below 2^50, and the search for such primes.
//!
//! No branch and no memory access depends on a residue: reductions end in `min`, which compiles to a
//! conditional move. Fifty bits leave room for lazy sums in 64-bit words and for 52-bit multipliers.

/// Largest prime size: four times a residue must fit the 52-bit lanes of AVX-512 IFMA.
pub const MAXIMUM_BITS: u32 = 50;

/// A prime p with the constants of Barrett reduction.
#[derive(Clone, Copy, Debug)]
pub struct Modulus {
    pub p: u64,
    pub bits: u32,
    ratio: [u64; 2], // floor(2^128 / p), low word first
}

impl Modulus {
    pub fn new(p: u64) -> Self {
        assert!(p > 2 && p >> MAXIMUM_BITS == 0);
        // p is odd and above 2, so it does not divide 2^128 and the floor of (2^128 - 1) / p is the same.
        let ratio = u128::MAX / u128::from(p);
        Self { p, bits: 64 - p.leading_zeros(), ratio: [ratio as u64, (ratio >> 64) as u64] }
    }

    /// x mod p for any 128-bit x (Barrett; the quotient is at most one too small).
    #[inline(always)]
    pub fn reduce_wide(&self, x: u128) -> u64 {
        let (low, high) = (x as u64, (x >> 64) as u64);
        let [r0, r1] = self.ratio.map(u128::from);
        let carry = (u128::from(low) * r0) >> 64;
        let middle = u128::from(low) * r1 + carry;
        let other = u128::from(high) * r0 + u128::from(middle as u64);
        let quotient = high
            .wrapping_mul(self.ratio[1])
            .wrapping_add((middle >> 64) as u64)
            .wrapping_add((other >> 64) as u64);
        let rest = low.wrapping_sub(quotient.wrapping_mul(self.p));
        rest.min(rest.wrapping_sub(self.p))
    }

    #[inline(always)]
    pub fn reduce(&self, x: u64) -> u64 {
        self.reduce_wide(u128::from(x))
    }

    /// A signed integer modulo p.
    #[inline(always)]
    pub fn reduce_signed(&self, x: i64) -> u64 {
        let negative = (x >> 63) as u64; // all ones or zero
        let magnitude = self.reduce(x.unsigned_abs());
        self.add(magnitude & !negative, self.negate(magnitude) & negative)
    }

    /// A small signed coefficient modulo p.
    #[inline(always)]
    pub fn lift(&self, x: i8) -> u64 {
        let wide = i64::from(x);
        (wide as u64).wrapping_add(self.p & (wide >> 63) as u64)
    }

    /// A signed sum of products modulo p.
    #[inline(always)]
    pub fn reduce_signed_wide(&self, x: i128) -> u64 {
        let negative = (x >> 127) as u64;
        let magnitude = self.reduce_wide(x.unsigned_abs());
        self.add(magnitude & !negative, self.negate(magnitude) & negative)
    }

    #[inline(always)]
    pub fn add(&self, x: u64, y: u64) -> u64 {
        let sum = x + y;
        sum.min(sum.wrapping_sub(self.p))
    }

    #[inline(always)]
    pub fn subtract(&self, x: u64, y: u64) -> u64 {
        let difference = x.wrapping_sub(y);
        difference.min(difference.wrapping_add(self.p))
    }

    #[inline(always)]
    pub fn negate(&self, x: u64) -> u64 {
        self.subtract(0, x)
    }

    #[inline(always)]
    pub fn multiply(&self, x: u64, y: u64) -> u64 {
        self.reduce_wide(u128::from(x) * u128::from(y))
    }

    pub fn power(&self, base: u64, mut exponent: u64) -> u64 {
        let (mut result, mut square) = (1, base);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = self.multiply(result, square);
            }
            square = self.multiply(square, square);
            exponent >>= 1;
        }
        result
    }

    /// The inverse of x != 0 (Fermat).
    pub fn invert(&self, x: u64) -> u64 {
        self.power(x, self.p - 2)
    }

    /// Shoup's companion of a constant factor: floor(w * 2^64 / p).
    pub fn companion(&self, w: u64) -> u64 {
        ((u128::from(w) << 64) / u128::from(self.p)) as u64
    }

    /// x * w mod p, somewhere in [0, 2p), for any 64-bit x (Harvey 2014, section 3).
    #[inline(always)]
    pub fn multiply_lazily(&self, x: u64, w: u64, companion: u64) -> u64 {
        let quotient = ((u128::from(x) * u128::from(companion)) >> 64) as u64;
        x.wrapping_mul(w).wrapping_sub(quotient.wrapping_mul(self.p))
    }

    /// x * w mod p for a constant w with its companion.
    #[inline(always)]
    pub fn multiply_constant(&self, x: u64, w: u64, companion: u64) -> u64 {
        let product = self.multiply_lazily(x, w, companion);
        product.min(product.wrapping_sub(self.p))
    }
}

/// The `count` largest primes of exactly `bits` bits that are 1 modulo `2 * degree`, descending.
pub fn friendly_primes(degree: usize, bits: u32, count: usize) -> Vec<u64> {
    let step = 2 * degree as u64;
    let top = (1u64 << bits) - step + 1;
    let candidates = (0..).map_while(|i| top.checked_sub(i * step)).take_while(|p| p >> (bits - 1) == 1);
    candidates.filter(|&p| is_prime(p)).take(count).collect()
}

/// Miller and Rabin with the first twelve primes: exact below 3.3 * 10^24 (Sorenson and Webster 2015).
pub fn is_prime(n: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if n < 2 {
        return false;
    }
    if let Some(&base) = BASES.iter().find(|&&base| n.is_multiple_of(base)) {
        return n == base;
    }
    let modulus = Modulus::new(n);
    let twos = (n - 1).trailing_zeros();
    BASES.iter().all(|&base| {
        let mut x = modulus.power(base, (n - 1) >> twos);
        if x == 1 {
            return true;
        }
        for _ in 0..twos {
            if x == n - 1 {
                return true;
            }
            x = modulus.multiply(x, x);
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_agree_with_wide_division() {
        for p in [3, 40961, 1125899906826241, 1125899904679937] {
            let modulus = Modulus::new(p);
            let mut x: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
            for _ in 0..2000 {
                assert_eq!(u128::from(modulus.reduce_wide(x)), x % u128::from(p));
                let (a, w) = (x as u64, (x >> 64) as u64 % p);
                let expected = (u128::from(a) * u128::from(w) % u128::from(p)) as u64;
                assert_eq!(modulus.multiply_constant(a, w, modulus.companion(w)), expected);
                assert_eq!(modulus.lift(a as i8 % 2), modulus.reduce_signed(i64::from(a as i8 % 2)));
                let signed = i128::from(a as i64).rem_euclid(i128::from(p)) as u64;
                assert_eq!(modulus.reduce_signed(a as i64), signed);
                x = x.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(31) ^ 0xda94_2042_e4dd_58b5;
            }
            for edge in [0, 1, u128::from(p) - 1, u128::from(p), u128::MAX] {
                assert_eq!(u128::from(modulus.reduce_wide(edge)), edge % u128::from(p));
            }
        }
    }

    #[test]
    fn primes_are_prime_distinct_and_friendly() {
        for (degree, bits) in [(4096, 30), (8192, 42), (32768, 50)] {
            let primes = friendly_primes(degree, bits, 6);
            assert_eq!(primes.len(), 6);
            assert!(primes.windows(2).all(|pair| pair[0] > pair[1]));
            for p in primes {
                assert_eq!(p % (2 * degree as u64), 1);
                assert_eq!(64 - p.leading_zeros(), bits);
                assert!((3..100_000).step_by(2).all(|d| d >= p || p % d != 0));
            }
        }
        let small: Vec<u64> = (0..60).filter(|&n| is_prime(n)).collect();
        assert_eq!(small, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59]);
    }
}
