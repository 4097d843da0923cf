//! Eight lanes on AVX-512 IFMA, which multiplies 52-bit integers and adds the low or the high half.
//!
//! An element is five limbs of radix 2^52, so that both halves of a product fall on limb
//! boundaries. The multiplier reads only the low 52 bits of its operands: what a carry leaves above
//! them need not be cleared. 2^260 = 32 * 19 = 608 folds the upper half of a product back.

use super::field::{Fe, Field, MASK51};
use std::arch::x86_64::*;

const MASK52: u64 = (1 << 52) - 1;
const MASK47: u64 = (1 << 47) - 1;

/// 2^10 p in limbs of about 2^57: added before a subtraction so that no limb goes below zero.
const RAISE: [u64; 5] = [
    (1 << 57) - 19 * (1 << 10),
    (1 << 57) - (1 << 5),
    (1 << 57) - (1 << 5),
    (1 << 57) - (1 << 5),
    (1 << 57) - (1 << 5),
];

/// Proof that this CPU has the instructions below.
#[derive(Clone, Copy, Debug)]
pub struct Ifma(());

impl Ifma {
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma")).then_some(Self(()))
    }
}

super::compiled_for!(Ifma, "avx512f,avx512ifma");

/// Limbs 0 to 3 count modulo 2^52 (bits above are leftovers), limb 4 is below 2^47 + 2^6.
#[derive(Clone, Copy)]
pub struct Tight([__m512i; 5]);

/// Limbs below 2^56 when a product (proof in `fold`), 2^58 when raised, a sum or a difference.
#[derive(Clone, Copy)]
pub struct Wide([__m512i; 5]);

// SAFETY, for every `unsafe` block in this file: the intrinsics need AVX-512 F and IFMA, which the
// CPU has, because their callers hold an `Ifma` and only `detect` makes one. None touches memory
// but `load` and `store`, which are given arrays of exactly their 64 bytes.

#[inline(always)]
fn splat(x: u64) -> __m512i {
    unsafe { _mm512_set1_epi64(x as i64) }
}

#[inline(always)]
fn load(x: &[u64; 8]) -> __m512i {
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline(always)]
fn store(x: __m512i) -> [u64; 8] {
    let mut lanes = [0; 8];
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), x) };
    lanes
}

#[inline(always)]
fn add(a: __m512i, b: __m512i) -> __m512i {
    unsafe { _mm512_add_epi64(a, b) }
}

#[inline(always)]
fn sub(a: __m512i, b: __m512i) -> __m512i {
    unsafe { _mm512_sub_epi64(a, b) }
}

#[inline(always)]
fn and(a: __m512i, b: __m512i) -> __m512i {
    unsafe { _mm512_and_si512(a, b) }
}

#[inline(always)]
fn shift<const N: u32>(a: __m512i) -> __m512i {
    unsafe { _mm512_srli_epi64::<N>(a) }
}

/// sum + the low 52 bits of a * b
#[inline(always)]
fn low(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    unsafe { _mm512_madd52lo_epu64(sum, a, b) }
}

/// sum + the high 52 bits of a * b
#[inline(always)]
fn high(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    unsafe { _mm512_madd52hi_epu64(sum, a, b) }
}

/// Ten product limbs to five.
///
/// A product limb has at most nine halves of 52 bits, so z < 9 * 2^52. Carrying the upper five
/// leaves z[9] < 2^44 (the top limbs being below 2^48), so that 608 z[9] has no high half. The
/// result is below 9 * 2^52 + 2^52 + 2^11 < 2^56; so is one of `mul_rows`, ten halves and a fold.
#[inline(always)]
fn fold(mut z: [__m512i; 10]) -> Wide {
    for k in 5..9 {
        z[k + 1] = add(z[k + 1], shift::<52>(z[k]));
    }
    let wrap = splat(608);
    for k in 0..4 {
        z[k] = low(z[k], z[k + 5], wrap);
        z[k + 1] = high(z[k + 1], z[k + 5], wrap);
    }
    z[4] = low(z[4], z[9], wrap);
    Wide([z[0], z[1], z[2], z[3], z[4]])
}

/// start + a * b
#[inline(always)]
fn product(start: [u64; 5], Tight(a): Tight, Tight(b): Tight) -> Wide {
    let mut z = [splat(0); 10];
    for i in 0..5 {
        z[i] = splat(start[i]);
    }
    for i in 0..5 {
        for j in 0..5 {
            z[i + j] = low(z[i + j], a[i], b[j]);
            z[i + j + 1] = high(z[i + j + 1], a[i], b[j]);
        }
    }
    fold(z)
}

/// start + a * a, where all limbs of `start` but the lowest are even.
#[inline(always)]
fn square(start: [u64; 5], Tight(a): Tight) -> Wide {
    let mut z = [splat(0); 10];
    for i in 0..5 {
        z[i] = splat(if i == 0 { start[i] } else { start[i] / 2 });
    }
    for i in 0..4 {
        for j in i + 1..4 {
            z[i + j] = low(z[i + j], a[i], a[j]);
            z[i + j + 1] = high(z[i + j + 1], a[i], a[j]);
        }
    }
    for limb in &mut z[1..7] {
        *limb = add(*limb, *limb);
    }
    // The top limb alone has room to be doubled itself.
    let twice = add(a[4], a[4]);
    for i in 0..5 {
        if i < 4 {
            z[i + 4] = low(z[i + 4], a[i], twice);
            z[i + 5] = high(z[i + 5], a[i], twice);
        }
        z[2 * i] = low(z[2 * i], a[i], a[i]);
        z[2 * i + 1] = high(z[2 * i + 1], a[i], a[i]);
    }
    fold(z)
}

impl Field for Ifma {
    const LANES: usize = 8;
    const RADIX: Fe = Fe([0, 2, 0, 0, 0]);
    type Tight = Tight;
    type Wide = Wide;
    type Mask = __mmask8;

    #[inline(always)]
    fn import(self, lanes: &[Fe]) -> Tight {
        let mut limbs = [[0; 8]; 5];
        for (lane, element) in lanes.iter().enumerate() {
            let c = element.canonical();
            let words = [
                c[0] | c[1] << 51,
                c[1] >> 1 | c[2] << 50,
                c[2] >> 2 | c[3] << 49,
                c[3] >> 3 | c[4] << 48,
                c[4] >> 4,
            ];
            for (limb, word) in limbs.iter_mut().zip(words) {
                limb[lane] = word & MASK52;
            }
        }
        let mut x = [splat(0); 5];
        for (limb, words) in x.iter_mut().zip(&limbs) {
            *limb = load(words);
        }
        Tight(x)
    }

    #[inline(always)]
    fn export(self, Tight(x): Tight, lanes: &mut [Fe]) {
        let mut limbs = [[0; 8]; 5];
        for (words, limb) in limbs.iter_mut().zip(x) {
            *words = store(limb);
        }
        for (lane, element) in lanes.iter_mut().enumerate() {
            let l = limbs.map(|limb| limb[lane] & MASK52);
            *element = Fe([
                l[0] & MASK51,
                (l[0] >> 51 | l[1] << 1) & MASK51,
                (l[1] >> 50 | l[2] << 2) & MASK51,
                (l[2] >> 49 | l[3] << 3) & MASK51,
                l[3] >> 48 | l[4] << 4,
            ]);
        }
    }

    #[inline(always)]
    fn splat(self, x: Fe) -> Tight {
        self.import(&[x; 8])
    }

    #[inline(always)]
    fn mul(self, a: Tight, b: Tight) -> Wide {
        product([0; 5], a, b)
    }

    #[inline(always)]
    fn mul_raised(self, a: Tight, b: Tight) -> Wide {
        product(RAISE, a, b)
    }

    #[inline(always)]
    fn mul_rows(self, Tight(a): Tight, rows: &[Tight; 5]) -> Wide {
        // Ten halves in a limb at most; z[5] has five high ones, below 2^48 each as top limbs are.
        let mut z = [splat(0); 6];
        for i in 0..5 {
            for j in 0..5 {
                z[j] = low(z[j], a[i], rows[i].0[j]);
                z[j + 1] = high(z[j + 1], a[i], rows[i].0[j]);
            }
        }
        let wrap = splat(608);
        z[0] = low(z[0], z[5], wrap);
        z[1] = high(z[1], z[5], wrap);
        Wide([z[0], z[1], z[2], z[3], z[4]])
    }

    #[inline(always)]
    fn square(self, a: Tight) -> Wide {
        square([0; 5], a)
    }

    #[inline(always)]
    fn square_raised(self, a: Tight) -> Wide {
        square(RAISE, a)
    }

    #[inline(always)]
    fn mul_small_add(self, Wide(mut z): Wide, Tight(a): Tight, small: u32) -> Wide {
        let small = splat(u64::from(small));
        for i in 0..4 {
            z[i] = low(z[i], a[i], small);
            z[i + 1] = high(z[i + 1], a[i], small);
        }
        z[4] = low(z[4], a[4], small);
        // Below 2^14, of weight 2^260.
        let above = high(splat(0), a[4], small);
        z[0] = low(z[0], above, splat(608));
        Wide(z)
    }

    #[inline(always)]
    fn raised(self) -> Wide {
        Wide([splat(RAISE[0]), splat(RAISE[1]), splat(RAISE[2]), splat(RAISE[3]), splat(RAISE[4])])
    }

    #[inline(always)]
    fn widen(self, Tight(a): Tight) -> Wide {
        let mut clean = a;
        for limb in &mut clean {
            *limb = and(*limb, splat(MASK52));
        }
        Wide(clean)
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

    #[inline(always)]
    fn carry(self, Wide(mut a): Wide) -> Tight {
        // What lies above bit 255 first, so that nothing is left to carry after the last limb.
        a[0] = low(a[0], shift::<47>(a[4]), splat(19));
        a[4] = and(a[4], splat(MASK47));
        for i in 0..4 {
            a[i + 1] = add(a[i + 1], shift::<52>(a[i]));
        }
        Tight(a)
    }

    #[inline(always)]
    fn mask(self, lanes: &[u64]) -> __mmask8 {
        lanes.iter().enumerate().fold(0, |mask, (lane, word)| mask | ((word & 1) as u8) << lane)
    }

    #[inline(always)]
    fn mask_all(self, bit: u8) -> __mmask8 {
        // Opaque to the optimiser, which could otherwise turn the selection into a branch.
        std::hint::black_box(0u8.wrapping_sub(bit))
    }

    #[inline(always)]
    fn select(self, mask: __mmask8, Tight(mut a): Tight, Tight(b): Tight) -> Tight {
        for i in 0..5 {
            a[i] = unsafe { _mm512_mask_blend_epi64(mask, a[i], b[i]) };
        }
        Tight(a)
    }
}
