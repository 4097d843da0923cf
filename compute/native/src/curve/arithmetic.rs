//! What is computed over any `Field`: inverses, the Legendre symbol, the Montgomery ladder and the
//! Elligator 2 map. Nothing here branches on, or indexes by, a value.
//!
//! Every function is `inline(always)`: it becomes part of the caller that switched the
//! instruction set on, and would be compiled for the base instruction set otherwise.

use super::field::{Fe, Field};

/// (A - 2) / 4 for curve25519's A = 486662 (RFC 7748 calls it a24).
const A24: u32 = 121_665;
const A: u64 = 486_662;

/// x^(2^n)
#[inline(always)]
fn squarings<F: Field>(f: F, mut x: F::Tight, n: usize) -> F::Tight {
    for _ in 0..n {
        x = f.carry(f.square(x));
    }
    x
}

#[inline(always)]
fn product<F: Field>(f: F, a: F::Tight, b: F::Tight) -> F::Tight {
    f.carry(f.mul(a, b))
}

/// (x^(2^250 - 1), x^11, x^6): what both exponentiations below share.
#[inline(always)]
fn common_power<F: Field>(f: F, x: F::Tight) -> (F::Tight, F::Tight, F::Tight) {
    let x2 = squarings(f, x, 1);
    let x4 = squarings(f, x2, 1);
    let x6 = product(f, x4, x2);
    let x9 = product(f, squarings(f, x4, 1), x);
    let x11 = product(f, x9, x2);
    let e5 = product(f, squarings(f, x11, 1), x9); // x^(2^5 - 1)
    let e10 = product(f, squarings(f, e5, 5), e5);
    let e20 = product(f, squarings(f, e10, 10), e10);
    let e40 = product(f, squarings(f, e20, 20), e20);
    let e50 = product(f, squarings(f, e40, 10), e10);
    let e100 = product(f, squarings(f, e50, 50), e50);
    let e200 = product(f, squarings(f, e100, 100), e100);
    let e250 = product(f, squarings(f, e200, 50), e50);
    (e250, x11, x6)
}

/// x^(p - 2): the inverse, and 0 for 0.
#[inline(always)]
pub fn invert<F: Field>(f: F, x: F::Tight) -> F::Tight {
    let (e250, x11, _) = common_power(f, x);
    product(f, squarings(f, e250, 5), x11)
}

/// x^((p - 1) / 2): 1 for a square, -1 for a non-square.
#[inline(always)]
pub fn legendre<F: Field>(f: F, x: F::Tight) -> F::Tight {
    let (e250, _, x6) = common_power(f, x);
    product(f, squarings(f, e250, 4), x6)
}

/// Replaces each value by its inverse at the price of one inversion (Montgomery's trick).
/// If any value is zero in a lane, *all* of that lane become zero.
#[inline(always)]
pub fn invert_all<F: Field>(f: F, values: &mut [F::Tight]) {
    let mut so_far = f.splat(Fe::ONE);
    let mut before = Vec::with_capacity(values.len());
    for &mut value in &mut *values {
        before.push(so_far);
        so_far = product(f, so_far, value);
    }
    let mut rest = invert(f, so_far);
    for (value, before) in values.iter_mut().zip(before).rev() {
        let inverse = product(f, rest, before);
        rest = product(f, rest, *value);
        *value = inverse;
    }
}

/// x and z of [k]P for P = (x1 : 1): RFC 7748 section 5, where the two running points are never
/// swapped; the one to be doubled is chosen instead. Their sum is symmetric up to the sign of
/// da - cb, which is squared.
///
/// What does not depend on each other stands side by side, for the processor to overlap: another
/// order of the same lines cost a tenth. So did two ladders climbed together, by lack of registers.
///
/// INVARIANT: the low two bits of `scalar` are zero (clamped), so they double only. The others
/// decide nothing but masks.
#[inline(always)]
pub fn ladder<F: Field>(f: F, scalar: &[u8; 32], x1: F::Tight) -> (F::Tight, F::Tight) {
    let (one, zero) = (f.widen(f.splat(Fe::ONE)), f.widen(f.splat(Fe::ZERO)));
    let (mut x2, mut z2) = (f.add(f.raised(), one), zero);
    let (mut x3, mut z3) = (f.add(f.raised(), f.widen(x1)), one);
    let mut previous = 0;
    for position in (2..255).rev() {
        let bit = scalar[position / 8] >> (position % 8) & 1;
        let swap = f.mask_all(bit ^ previous);
        previous = bit;

        let a = f.carry(f.add(x2, z2));
        let b = f.carry(f.sub(x2, z2));
        let c = f.carry(f.add(x3, z3));
        let d = f.carry(f.sub(x3, z3));
        let aa = f.square_raised(f.select(swap, a, c));
        let bb = f.square(f.select(swap, b, d));
        let da = f.mul_raised(d, a);
        let cb = f.mul(c, b);
        let e = f.carry(f.sub(aa, bb));
        let difference = f.carry(f.sub(da, cb));
        let sum = f.carry(f.add(da, cb));
        let squared = f.square(difference);
        let g = f.carry(f.mul_small_add(aa, e, A24));
        x2 = f.mul_raised(f.carry(aa), f.carry(bb));
        let squared = f.carry(squared);
        x3 = f.square_raised(sum);
        z2 = f.mul(e, g);
        z3 = f.mul(squared, x1);
    }
    for _ in 0..2 {
        let aa = f.square_raised(f.carry(f.add(x2, z2)));
        let bb = f.square(f.carry(f.sub(x2, z2)));
        let e = f.carry(f.sub(aa, bb));
        x2 = f.mul_raised(f.carry(aa), f.carry(bb));
        z2 = f.mul(e, f.carry(f.mul_small_add(aa, e, A24)));
    }
    (f.carry(x2), f.carry(z2))
}

/// Elligator 2 (RFC 9380 section 6.7.1, Z = 2) for the x-coordinate alone, as a fraction
/// (numerator, denominator). The denominator 1 + 2u^2 is never zero: -1/2 is not a square.
///
/// With d = 1 + 2u^2 the candidates are x1 = -A/d and x2 = -x1 - A = -A * 2u^2 / d, and x1 is
/// taken when x1^3 + A x1^2 + x1 is a square, that is when A d (d^2 - 2 A^2 u^2) is one. It is
/// never zero, since A^2 - 4 is not a square.
#[inline(always)]
pub fn elligator<F: Field>(f: F, u: F::Tight) -> (F::Tight, F::Tight) {
    let minus_one = f.carry(f.sub(f.raised(), f.widen(f.splat(Fe::ONE))));
    let uu = f.square(u);
    let t = f.carry(f.add(uu, uu));
    let d = f.carry(f.add(f.widen(t), f.widen(f.splat(Fe::ONE))));
    let a = f.splat(Fe([A, 0, 0, 0, 0]));
    let aat = f.mul(f.splat(Fe([A * A, 0, 0, 0, 0])), t);
    let inner = f.carry(f.sub(f.square_raised(d), aat));
    let curve = product(f, product(f, a, d), inner);
    let is_square = square_lanes(f, legendre(f, curve));
    let minus_a = product(f, a, minus_one);
    (f.select(is_square, product(f, minus_a, t), minus_a), d)
}

/// The lanes in which a Legendre symbol is 1. The symbol is 1 or -1 = p - 1, and p - 1 is even.
#[inline(always)]
fn square_lanes<F: Field>(f: F, symbol: F::Tight) -> F::Mask {
    let mut lanes = [Fe::ZERO; 16];
    let mut words = [0; 16];
    f.export(symbol, &mut lanes[..F::LANES]);
    for (word, lane) in words.iter_mut().zip(lanes) {
        *word = 0u64.wrapping_sub(u64::from(lane.to_bytes()[0] & 1));
    }
    f.mask(&words[..F::LANES])
}
