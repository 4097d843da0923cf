//! Four lanes on AVX2 and FMA: the wide multiplier of these CPUs is the floating-point one.
//!
//! An element is five *signed* limbs of radix 2^51, of magnitude about 2^50, held as doubles. Two
//! fused multiplications split a product without error (Emmart, Zheng and Weems, ARITH 2018, after
//! Dekker): adding 1.5 * 2^103 rounds it to a multiple of 2^51, whose quotient then stands in the
//! low bits of the mantissa; taking that multiple away leaves the rest, which 1.5 * 2^52 moves to
//! the low bits likewise. The mantissas are summed as integers.
//!
//! Needs the default rounding mode. No operand is ever subnormal, infinite or NaN, so the time
//! does not depend on values.

use super::field::{Fe, Field, MASK51};
use std::arch::x86_64::*;

const HIGH: f64 = 1.5 * (1u128 << 103) as f64;
const LOW: f64 = 1.5 * (1u64 << 52) as f64;
const P: [u64; 5] = [MASK51 - 18, MASK51, MASK51, MASK51, MASK51];

/// Proof that this CPU has the instructions below.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

super::compiled_for!(Avx2, "avx2,fma");

/// Integers held as doubles, of magnitude at most 2^50 + 2^14.
#[derive(Clone, Copy)]
pub struct Tight([__m256d; 5]);

/// Signed 64-bit integers: below 2^58 when a product (proof in `fold`), 2^59 after a sum or difference.
#[derive(Clone, Copy)]
pub struct Wide([__m256i; 5]);

// SAFETY, for every `unsafe` block in this file: the intrinsics need AVX2 and FMA, which the CPU
// has, because their callers hold an `Avx2` and only `detect` makes one. None touches memory but
// the loads and stores, which are given arrays of exactly their 32 bytes.

#[inline(always)]
fn splat(x: u64) -> __m256i {
    unsafe { _mm256_set1_epi64x(x as i64) }
}

#[inline(always)]
fn splat_double(x: f64) -> __m256d {
    unsafe { _mm256_set1_pd(x) }
}

#[inline(always)]
fn add(a: __m256i, b: __m256i) -> __m256i {
    unsafe { _mm256_add_epi64(a, b) }
}

#[inline(always)]
fn sub(a: __m256i, b: __m256i) -> __m256i {
    unsafe { _mm256_sub_epi64(a, b) }
}

#[inline(always)]
fn and(a: __m256i, b: __m256i) -> __m256i {
    unsafe { _mm256_and_si256(a, b) }
}

/// 19 a
#[inline(always)]
fn nineteen(a: __m256i) -> __m256i {
    unsafe { add(add(a, add(a, a)), _mm256_slli_epi64::<4>(a)) }
}

/// Mantissas (with exponents) of the rounded quotient of a * b by 2^51, and of the rest. Exact for
/// products below 2^102 in magnitude; ours stay below 2^51.1 * 2^50.1.
#[inline(always)]
fn split(a: __m256d, b: __m256d) -> (__m256i, __m256i) {
    unsafe {
        let high = _mm256_fmadd_pd(a, b, splat_double(HIGH));
        let low = _mm256_fmadd_pd(a, b, _mm256_sub_pd(splat_double(HIGH + LOW), high));
        (_mm256_castpd_si256(high), _mm256_castpd_si256(low))
    }
}

/// Ten accumulators that start at minus the exponents that their summands bring along: `pairs[k]`
/// products have their rest in limb k and their quotient in limb k + 1.
#[inline(always)]
fn accumulators(pairs: [u64; 10]) -> [__m256i; 10] {
    let mut z = [splat(0); 10];
    for k in 0..10 {
        let quotients = if k == 0 { 0 } else { pairs[k - 1] };
        let exponents =
            pairs[k].wrapping_mul(LOW.to_bits()).wrapping_add(quotients.wrapping_mul(HIGH.to_bits()));
        z[k] = splat(exponents.wrapping_neg());
    }
    z
}

/// Ten product limbs to five, 2^255 being 19.
///
/// A rest is at most 2^50 in magnitude and a quotient 2^49 + 2^14 (twice that where an operand is
/// doubled, with half as many of them). A product limb has at most five rests and four quotients,
/// which stay below 2^53, and the result below 20 * 2^53 < 2^58.
#[inline(always)]
fn fold(z: [__m256i; 10]) -> Wide {
    let mut folded = [splat(0); 5];
    for k in 0..5 {
        folded[k] = add(z[k], nineteen(z[k + 5]));
    }
    Wide(folded)
}

impl Field for Avx2 {
    const LANES: usize = 4;
    const RADIX: Fe = Fe([0, 1, 0, 0, 0]);
    type Tight = Tight;
    type Wide = Wide;
    type Mask = __m256i;

    #[inline(always)]
    fn import(self, lanes: &[Fe]) -> Tight {
        let mut limbs = [[0; 4]; 5];
        for (lane, element) in lanes.iter().enumerate() {
            for (limb, word) in limbs.iter_mut().zip(element.canonical()) {
                limb[lane] = word;
            }
        }
        let mut x = [splat(0); 5];
        for (limb, words) in x.iter_mut().zip(&limbs) {
            *limb = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
        }
        self.carry(Wide(x))
    }

    #[inline(always)]
    fn export(self, Tight(x): Tight, lanes: &mut [Fe]) {
        let mut limbs = [[0.0; 4]; 5];
        for (words, limb) in limbs.iter_mut().zip(x) {
            unsafe { _mm256_storeu_pd(words.as_mut_ptr(), limb) };
        }
        for (lane, element) in lanes.iter_mut().enumerate() {
            for i in 0..5 {
                element.0[i] = P[i].wrapping_add_signed(limbs[i][lane] as i64);
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: Fe) -> Tight {
        self.import(&[x; 4])
    }

    #[inline(always)]
    fn widen(self, Tight(a): Tight) -> Wide {
        let mut x = [splat(0); 5];
        for i in 0..5 {
            let shifted = unsafe { _mm256_castpd_si256(_mm256_add_pd(a[i], splat_double(LOW))) };
            x[i] = sub(shifted, splat(LOW.to_bits()));
        }
        Wide(x)
    }

    #[inline(always)]
    fn raised(self) -> Wide {
        Wide([splat(0); 5]) // limbs are signed
    }

    #[inline(always)]
    fn mul(self, Tight(a): Tight, Tight(b): Tight) -> Wide {
        let mut z = accumulators([1, 2, 3, 4, 5, 4, 3, 2, 1, 0]);
        // Limb by limb, so that few sums are under way: there are sixteen registers.
        for k in 0..9 {
            for i in 0..5 {
                if i <= k && k - i < 5 {
                    let (high, low) = split(a[i], b[k - i]);
                    z[k] = add(z[k], low);
                    z[k + 1] = add(z[k + 1], high);
                }
            }
        }
        fold(z)
    }

    #[inline(always)]
    fn mul_rows(self, Tight(a): Tight, rows: &[Tight; 5]) -> Wide {
        // Five rests and five quotients in a limb: the bounds in `fold` hold with room to spare.
        let z = accumulators([5, 5, 5, 5, 5, 0, 0, 0, 0, 0]);
        let mut z = [z[0], z[1], z[2], z[3], z[4], z[5]];
        for j in 0..5 {
            for i in 0..5 {
                let (high, low) = split(a[i], rows[i].0[j]);
                z[j] = add(z[j], low);
                z[j + 1] = add(z[j + 1], high);
            }
        }
        z[0] = add(z[0], nineteen(z[5]));
        Wide([z[0], z[1], z[2], z[3], z[4]])
    }

    #[inline(always)]
    fn mul_raised(self, a: Tight, b: Tight) -> Wide {
        self.mul(a, b)
    }

    #[inline(always)]
    fn square(self, Tight(a): Tight) -> Wide {
        let mut z = accumulators([1, 1, 2, 2, 3, 2, 2, 1, 1, 0]);
        let mut twice = a;
        for limb in &mut twice {
            *limb = unsafe { _mm256_add_pd(*limb, *limb) };
        }
        for k in 0..9 {
            for i in 0..5 {
                if 2 * i <= k && k - i < 5 {
                    let (high, low) = split(a[i], if 2 * i == k { a[i] } else { twice[k - i] });
                    z[k] = add(z[k], low);
                    z[k + 1] = add(z[k + 1], high);
                }
            }
        }
        fold(z)
    }

    #[inline(always)]
    fn square_raised(self, a: Tight) -> Wide {
        self.square(a)
    }

    #[inline(always)]
    fn mul_small_add(self, Wide(addend): Wide, Tight(a): Tight, small: u32) -> Wide {
        let mut z = accumulators([1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
        for i in 0..5 {
            let (high, low) = split(a[i], splat_double(f64::from(small)));
            z[i] = add(add(z[i], addend[i]), low);
            z[i + 1] = add(z[i + 1], high);
        }
        z[0] = add(z[0], nineteen(z[5]));
        Wide([z[0], z[1], z[2], z[3], z[4]])
    }

    #[inline(always)]
    fn add(self, Wide(mut a): Wide, Wide(b): Wide) -> Wide {
        for i in 0..5 {
            a[i] = add(a[i], b[i]);
        }
        Wide(a)
    }

    #[inline(always)]
    fn sub(self, Wide(mut a): Wide, Wide(b): Wide) -> Wide {
        for i in 0..5 {
            a[i] = sub(a[i], b[i]);
        }
        Wide(a)
    }

    /// All limbs at once: what lies above 51 bits, rounded, goes to the next one.
    #[inline(always)]
    fn carry(self, Wide(a): Wide) -> Tight {
        // AVX2 shifts no signed words: 2^60 makes them positive, and counts 2^9 in each carry.
        const OFFSET: u64 = (1 << 60) + (1 << 50);
        const TWO52: f64 = (1u64 << 52) as f64;
        let (mut above, mut rest) = ([splat(0); 5], [splat(0); 5]);
        for i in 0..5 {
            let positive = add(a[i], splat(OFFSET));
            above[i] = unsafe { _mm256_srli_epi64::<51>(positive) };
            // Below 2^51, made the mantissa of a double between 2^52 and 2^53.
            rest[i] = unsafe { _mm256_or_si256(and(positive, splat(MASK51)), splat(TWO52.to_bits())) };
        }
        let wrapped = unsafe { _mm256_mul_epu32(above[4], splat(19)) };
        let mut x = [splat_double(0.0); 5];
        for i in 0..5 {
            let (carried, offset) = if i == 0 { (wrapped, 19 << 9) } else { (above[i - 1], 1 << 9) };
            let excess = splat_double(TWO52 + ((1u64 << 50) + offset) as f64);
            x[i] = unsafe { _mm256_sub_pd(_mm256_castsi256_pd(add(rest[i], carried)), excess) };
        }
        Tight(x)
    }

    #[inline(always)]
    fn mask(self, lanes: &[u64]) -> __m256i {
        let mut words = [0; 4];
        words.copy_from_slice(lanes);
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn mask_all(self, bit: u8) -> __m256i {
        // Opaque to the optimiser, which could otherwise turn the selection into a branch.
        splat(std::hint::black_box(0u64.wrapping_sub(u64::from(bit))))
    }

    #[inline(always)]
    fn select(self, mask: __m256i, Tight(mut a): Tight, Tight(b): Tight) -> Tight {
        let mask = unsafe { _mm256_castsi256_pd(mask) };
        for i in 0..5 {
            a[i] = unsafe { _mm256_blendv_pd(a[i], b[i], mask) };
        }
        Tight(a)
    }
}
