//! The transform on AVX-512 IFMA: eight residues at a time, products of 52 bits.
//!
//! The same butterflies as `ntt`, with companions floor(w * 2^52 / p): all values stay below 4p < 2^52,
//! and the fully reduced results are the same numbers. In the three layers whose halves are narrower
//! than a register, two registers are shuffled so that partners face each other, and back.

use std::arch::x86_64::*;

use super::modulus::Modulus;
use super::ntt::Root;

pub struct Ifma {
    p: u64,
    roots: Table,
    inverses: Table,
    degree_inverse: (u64, u64),
}

struct Table {
    values: Vec<u64>,
    companions: Vec<u64>,
}

impl Table {
    fn new(p: u64, roots: &[Root]) -> Self {
        let companions = roots.iter().map(|root| companion(p, root.value)).collect();
        Self { values: roots.iter().map(|root| root.value).collect(), companions }
    }
}

fn companion(p: u64, w: u64) -> u64 {
    ((u128::from(w) << 52) / u128::from(p)) as u64
}

/// A factor and its companion in every lane.
type Factor = (__m512i, __m512i);

/// For halves of a width below eight: where 16 values lie as two registers of partners, and back.
struct Shuffle {
    left: [u64; 8],
    right: [u64; 8],
    root: [u64; 8],
    low: [u64; 8],
    high: [u64; 8],
}

const SHUFFLES: [Shuffle; 3] = [Shuffle::new(4), Shuffle::new(2), Shuffle::new(1)];

impl Shuffle {
    const fn new(width: u64) -> Self {
        let mut it = Self { left: [0; 8], right: [0; 8], root: [0; 8], low: [0; 8], high: [0; 8] };
        let mut j = 0;
        while j < 8 {
            let at = j as u64;
            it.left[j] = at / width * 2 * width + at % width;
            it.right[j] = it.left[j] + width;
            it.root[j] = at / width;
            it.low[j] = Self::source(at, width);
            it.high[j] = Self::source(at + 8, width);
            j += 1;
        }
        it
    }

    /// Which lane of (left, right), counted through both, belongs at position `at`.
    const fn source(at: u64, width: u64) -> u64 {
        let (pair, offset) = (at / (2 * width), at % (2 * width));
        if offset < width { pair * width + offset } else { 8 + pair * width + offset - width }
    }
}

impl Ifma {
    /// None where the CPU lacks the instructions or the ring is smaller than two registers.
    pub fn detect(modulus: &Modulus, roots: &[Root], inverses: &[Root], degree_inverse: u64) -> Option<Self> {
        let supported = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
        (supported && roots.len() >= 16).then(|| Self {
            p: modulus.p,
            roots: Table::new(modulus.p, roots),
            inverses: Table::new(modulus.p, inverses),
            degree_inverse: (degree_inverse, companion(modulus.p, degree_inverse)),
        })
    }

    pub fn forward(&self, values: &mut [u64]) {
        assert_eq!(values.len(), self.roots.values.len());
        // SAFETY: `detect` is the only constructor and has seen the instructions.
        unsafe { self.forward_lanes(values) }
    }

    pub fn inverse(&self, values: &mut [u64]) {
        assert_eq!(values.len(), self.inverses.values.len());
        // SAFETY: as in `forward`.
        unsafe { self.inverse_lanes(values) }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn forward_lanes(&self, values: &mut [u64]) {
        let lanes = Lanes::new(self.p);
        let mut width = values.len() / 2;
        let mut first = 1;
        while width >= 8 {
            for (i, half) in values.chunks_exact_mut(2 * width).enumerate() {
                let factor = splat(&self.roots, first + i);
                let (left, right) = half.split_at_mut(width);
                for (x, y) in left.as_chunks_mut().0.iter_mut().zip(right.as_chunks_mut().0) {
                    let (u, v) = lanes.forward(load(x), load(y), factor);
                    store(x, u);
                    store(y, v);
                }
            }
            width /= 2;
            first *= 2;
        }
        for shuffle in &SHUFFLES {
            let per_pair = 8 / width;
            for (i, pair) in values.chunks_exact_mut(16).enumerate() {
                let (x, y) = partners(shuffle, pair);
                let (u, v) = lanes.forward(x, y, spread(&self.roots, first + i * per_pair, shuffle));
                apart(shuffle, pair, u, v);
            }
            width /= 2;
            first *= 2;
        }
        for x in values.as_chunks_mut().0 {
            let reduced = lanes.below(load(x), lanes.twice);
            store(x, lanes.below(reduced, lanes.p));
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn inverse_lanes(&self, values: &mut [u64]) {
        let lanes = Lanes::new(self.p);
        let mut width = 1;
        let mut first = values.len() / 2;
        for shuffle in SHUFFLES.iter().rev() {
            let per_pair = 8 / width;
            for (i, pair) in values.chunks_exact_mut(16).enumerate() {
                let (x, y) = partners(shuffle, pair);
                let (u, v) = lanes.inverse(x, y, spread(&self.inverses, first + i * per_pair, shuffle));
                apart(shuffle, pair, u, v);
            }
            width *= 2;
            first /= 2;
        }
        while first > 0 {
            for (i, half) in values.chunks_exact_mut(2 * width).enumerate() {
                let factor = splat(&self.inverses, first + i);
                let (left, right) = half.split_at_mut(width);
                for (x, y) in left.as_chunks_mut().0.iter_mut().zip(right.as_chunks_mut().0) {
                    let (u, v) = lanes.inverse(load(x), load(y), factor);
                    store(x, u);
                    store(y, v);
                }
            }
            width *= 2;
            first /= 2;
        }
        let (value, companion) = self.degree_inverse;
        let factor = (_mm512_set1_epi64(value as i64), _mm512_set1_epi64(companion as i64));
        for x in values.as_chunks_mut().0 {
            store(x, lanes.below(lanes.multiply(load(x), factor), lanes.p));
        }
    }
}

#[derive(Clone, Copy)]
struct Lanes {
    p: __m512i,
    twice: __m512i,
    mask: __m512i,
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn new(p: u64) -> Self {
        Self {
            p: _mm512_set1_epi64(p as i64),
            twice: _mm512_set1_epi64(2 * p as i64),
            mask: _mm512_set1_epi64((1 << 52) - 1),
        }
    }

    /// x, less the bound if it is not below it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn below(self, x: __m512i, bound: __m512i) -> __m512i {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, bound))
    }

    /// x * w mod p in [0, 2p), for x below 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn multiply(self, x: __m512i, (w, companion): Factor) -> __m512i {
        let zero = _mm512_setzero_si512();
        let quotient = _mm512_madd52hi_epu64(zero, x, companion);
        let product = _mm512_madd52lo_epu64(zero, x, w);
        let multiple = _mm512_madd52lo_epu64(zero, quotient, self.p);
        _mm512_and_si512(_mm512_sub_epi64(product, multiple), self.mask)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn forward(self, x: __m512i, y: __m512i, factor: Factor) -> (__m512i, __m512i) {
        let u = self.below(x, self.twice);
        let v = self.multiply(y, factor);
        (_mm512_add_epi64(u, v), _mm512_sub_epi64(_mm512_add_epi64(u, self.twice), v))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn inverse(self, x: __m512i, y: __m512i, factor: Factor) -> (__m512i, __m512i) {
        let difference = _mm512_sub_epi64(_mm512_add_epi64(x, self.twice), y);
        (self.below(_mm512_add_epi64(x, y), self.twice), self.multiply(difference, factor))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[u64; 8]) -> __m512i {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(x: &mut [u64; 8], value: __m512i) {
    // SAFETY: 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(table: &Table, at: usize) -> Factor {
    (_mm512_set1_epi64(table.values[at] as i64), _mm512_set1_epi64(table.companions[at] as i64))
}

/// The factors from `at` on, each in the lanes of its half.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread(table: &Table, at: usize, shuffle: &Shuffle) -> Factor {
    let index = load(&shuffle.root);
    let eight = |column: &[u64]| load(column[at..at + 8].first_chunk().expect("eight factors"));
    (
        _mm512_permutexvar_epi64(index, eight(&table.values)),
        _mm512_permutexvar_epi64(index, eight(&table.companions)),
    )
}

#[inline]
#[target_feature(enable = "avx512f")]
fn partners(shuffle: &Shuffle, pair: &[u64]) -> (__m512i, __m512i) {
    let halves = pair.as_chunks().0;
    let (low, high) = (load(&halves[0]), load(&halves[1]));
    (
        _mm512_permutex2var_epi64(low, load(&shuffle.left), high),
        _mm512_permutex2var_epi64(low, load(&shuffle.right), high),
    )
}

#[inline]
#[target_feature(enable = "avx512f")]
fn apart(shuffle: &Shuffle, pair: &mut [u64], x: __m512i, y: __m512i) {
    let halves = pair.as_chunks_mut().0;
    store(&mut halves[0], _mm512_permutex2var_epi64(x, load(&shuffle.low), y));
    store(&mut halves[1], _mm512_permutex2var_epi64(x, load(&shuffle.high), y));
}
