//! What is computed over any `Field`: inverses, the Legendre symbol, the Montgomery ladder and the
//! Elligator 2 map. Nothing here branches on, or indexes by, a value.
//!
//! Every function is `inline(always)`: it becomes part of the caller that switched the
//! instruction set on, and would be compiled for the base instruction set otherwise.

use super::field::{Fe, Field};

/// (A - 2) / 4 for curve25519's A = 486662 (RFC 7748 calls it a24).
const A24: u32 = 121_665;
const A: u64 = 486_662;

#[inline(always)]
fn product<F: Field>(f: F, a: F::Tight, b: F::Tight) -> F::Tight {
    f.carry(f.mul(a, b))
}

/// `product` of each of N pairs. A chain of squarings waits for each result before it goes on; two
/// independent ones side by side take hardly longer than one.
#[inline(always)]
fn products<F: Field, const N: usize>(f: F, mut a: [F::Tight; N], b: [F::Tight; N]) -> [F::Tight; N] {
    for i in 0..N {
        a[i] = product(f, a[i], b[i]);
    }
    a
}

/// x^(2^n)
#[inline(always)]
fn squarings<F: Field, const N: usize>(f: F, mut x: [F::Tight; N], n: usize) -> [F::Tight; N] {
    for _ in 0..n {
        for each in &mut x {
            *each = f.carry(f.square(*each));
        }
    }
    x
}

/// x^(2^250 - 1), x^11 and x^6: what both exponentiations below share.
#[inline(always)]
fn common_power<F: Field, const N: usize>(f: F, x: [F::Tight; N]) -> [[F::Tight; N]; 3] {
    let x2 = squarings(f, x, 1);
    let x4 = squarings(f, x2, 1);
    let x6 = products(f, x4, x2);
    let x9 = products(f, squarings(f, x4, 1), x);
    let x11 = products(f, x9, x2);
    let e5 = products(f, squarings(f, x11, 1), x9); // x^(2^5 - 1)
    let e10 = products(f, squarings(f, e5, 5), e5);
    let e20 = products(f, squarings(f, e10, 10), e10);
    let e40 = products(f, squarings(f, e20, 20), e20);
    let e50 = products(f, squarings(f, e40, 10), e10);
    let e100 = products(f, squarings(f, e50, 50), e50);
    let e200 = products(f, squarings(f, e100, 100), e100);
    let e250 = products(f, squarings(f, e200, 50), e50);
    [e250, x11, x6]
}

/// x^(p - 2): the inverse, and 0 for 0.
#[inline(always)]
pub fn invert<F: Field>(f: F, x: F::Tight) -> F::Tight {
    let [e250, x11, _] = common_power(f, [x]);
    products(f, squarings(f, e250, 5), x11)[0]
}

/// x^((p - 1) / 2): 1 for a square, -1 for a non-square.
#[inline(always)]
fn legendre<F: Field, const N: usize>(f: F, x: [F::Tight; N]) -> [F::Tight; N] {
    let [e250, _, x6] = common_power(f, x);
    products(f, squarings(f, e250, 4), x6)
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

/// b times the weight of each limb, for `Field::mul_rows`.
#[inline(always)]
pub fn rows<F: Field>(f: F, b: F::Tight) -> [F::Tight; 5] {
    let radix = f.splat(F::RADIX);
    let mut rows = [b; 5];
    for i in 1..5 {
        rows[i] = product(f, rows[i - 1], radix);
    }
    rows
}

/// x and z of [k]P for P = (x1 : 1): RFC 7748 section 5, where the two running points are never
/// swapped; the one to be doubled is chosen instead. Their sum is symmetric up to the sign of
/// da - cb, which is squared.
///
/// What does not depend on each other stands side by side, for the processor to overlap: another
/// order of these lines was a tenth slower. Two ladders climbed together were slower as well: there
/// are not enough registers.
///
/// INVARIANT: the low two bits of `scalar` are zero (clamped), so they double only. The others
/// decide nothing but masks.
#[inline(always)]
pub fn ladder<F: Field>(f: F, scalar: &[u8; 32], x1: F::Tight) -> (F::Tight, F::Tight) {
    let (one, zero) = (f.widen(f.splat(Fe::ONE)), f.widen(f.splat(Fe::ZERO)));
    let (mut x2, mut z2) = (f.add(f.raised(), one), zero);
    let (mut x3, mut z3) = (f.add(f.raised(), f.widen(x1)), one);
    let x1_rows = rows(f, x1);
    let mut previous = 0;
    for position in (2..255).rev() {
        let bit = scalar[position / 8] >> (position % 8) & 1;
        let swap = f.mask_all(bit ^ previous);
        previous = bit;

        let a = f.carry(f.add(x2, z2));
        let b = f.carry(f.sub(x2, z2));
        let c = f.carry(f.add(x3, z3));
        let d = f.carry(f.sub(x3, z3));
        let da = f.mul_raised(d, a);
        let cb = f.mul(c, b);
        let aa = f.square_raised(f.select(swap, a, c));
        let bb = f.square(f.select(swap, b, d));
        let difference = f.carry(f.sub(da, cb));
        let sum = f.carry(f.add(da, cb));
        let squared = f.square(difference);
        let e = f.carry(f.sub(aa, bb));
        x3 = f.square_raised(sum);
        let g = f.carry(f.mul_small_add(aa, e, A24));
        let squared = f.carry(squared);
        x2 = f.mul_raised(f.carry(aa), f.carry(bb));
        z3 = f.mul_rows(squared, &x1_rows);
        z2 = f.mul(e, g);
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

/// Elligator 2 (RFC 9380 section 6.7.1, Z = 2) for the x-coordinate alone, as fractions
/// (numerator, denominator). The denominator 1 + 2u^2 is never zero: -1/2 is not a square.
///
/// With t = 2u^2 and d = 1 + t the candidates are x1 = -A/d and x2 = -x1 - A = -A t / d, and x1 is
/// taken when x1^3 + A x1^2 + x1 is a square, that is when A d (d^2 - A^2 t) is one. It is never
/// zero, since A^2 - 4 is not a square.
#[inline(always)]
pub fn elligator<F: Field>(f: F, u: [F::Tight; 2]) -> [(F::Tight, F::Tight); 2] {
    let one = f.splat(Fe::ONE);
    let a = f.splat(Fe([A, 0, 0, 0, 0]));
    let a_squared = f.splat(Fe([A * A, 0, 0, 0, 0]));
    let minus_a = f.carry(f.sub(f.raised(), f.widen(a)));
    let (mut t, mut d, mut curve) = (u, u, u);
    for i in 0..2 {
        let uu = f.square(u[i]);
        t[i] = f.carry(f.add(uu, uu));
        d[i] = f.carry(f.add(f.widen(t[i]), f.widen(one)));
        let inner = f.carry(f.sub(f.square_raised(d[i]), f.mul(a_squared, t[i])));
        curve[i] = product(f, product(f, a, d[i]), inner);
    }
    let symbol = legendre(f, curve);
    let mut fractions = [(one, one); 2];
    for i in 0..2 {
        let numerator = f.select(square_lanes(f, symbol[i]), product(f, minus_a, t[i]), minus_a);
        fractions[i] = (numerator, d[i]);
    }
    fractions
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
