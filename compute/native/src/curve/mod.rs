//! Hashing keys to curve25519 and raising points to a secret, whole columns at a time, on all cores.
//!
//! Points are x-coordinates of 32 bytes, little-endian (RFC 7748). A point that is not canonical
//! and a result of zero are refused. Every implementation gives the same bytes.
//!
//! Constant time: the scalar (ladder without branches or indexes, conditional selection by mask)
//! and key values (exponentiations with public exponents). Not hidden: the number of points, the
//! lengths of keys, and whether and roughly where a peer's point was refused.

mod arithmetic;
mod expand;
mod field;
#[cfg(target_arch = "x86_64")]
mod ifma;

use expand::Expander;
use field::{Fe, Field, Portable};
use rayon::prelude::*;

pub type Point = [u8; 32];

/// Points worked on together: large enough that their one shared inversion costs nothing (Montgomery's
/// trick), small enough that the values between its two passes stay in the second-level cache.
const CHUNK: usize = 1024;

/// The instruction set the kernel runs on.
#[derive(Clone, Copy, Debug)]
pub enum Implementation {
    #[cfg(target_arch = "x86_64")]
    Ifma(ifma::Ifma),
    Portable,
}

impl Implementation {
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma(_) => "ifma",
            Self::Portable => "portable",
        }
    }

    /// What this CPU can run, fastest first; never empty.
    pub fn supported() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            ifma::Ifma::detect().map(Self::Ifma),
            Some(Self::Portable),
        ]
        .into_iter()
        .flatten()
    }

    /// The one called `name`, if it exists and this CPU can run it.
    pub fn named(name: &str) -> Option<Self> {
        Self::supported().find(|one| one.name() == name)
    }
}

/// A point that is not canonical, or that the scalar takes to zero (it has a small order).
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidPoint;

/// Each point raised to the clamped scalar (X25519, RFC 7748 section 5). `out` is as long as `points`.
pub fn mask(
    with: Implementation,
    scalar: &[u8; 32],
    points: &[Point],
    out: &mut [Point],
) -> Result<(), InvalidPoint> {
    let mut clamped = *scalar;
    clamped[0] &= 248;
    clamped[31] = (clamped[31] & 127) | 64;
    points.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK)).try_for_each(|(points, out)| match with {
        #[cfg(target_arch = "x86_64")]
        Implementation::Ifma(f) => f.mask_chunk(&clamped, points, out),
        Implementation::Portable => mask_chunk(Portable, &clamped, points, out),
    })
}

/// Each key's x-coordinate under `curve25519_XMD:SHA-512_ELL2_NU_` (RFC 9380), *without* the final
/// multiplication by 8, which the clamped scalar of `mask` supplies. `key(i)` gives key i's bytes.
pub fn hash_to_group<'k>(
    with: Implementation,
    tag: &[u8],
    key: impl Fn(usize) -> &'k [u8] + Sync,
    out: &mut [Point],
) {
    let expander = Expander::new(tag);
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let first = chunk * CHUNK;
        let elements: Vec<Fe> = (first..first + out.len()).map(|i| expander.hash_to_field(key(i))).collect();
        match with {
            #[cfg(target_arch = "x86_64")]
            Implementation::Ifma(f) => f.map_chunk(&elements, out),
            Implementation::Portable => map_chunk(Portable, &elements, out),
        }
    });
}

/// Where keys start and end in `data_length` bytes, from Arrow's offsets of 4 or 8 bytes (one more
/// than there are keys). `None` unless they ascend and stay inside: they may have come from a peer.
pub fn key_bounds(offsets: &[u8], offset_bytes: usize, data_length: usize) -> Option<Vec<usize>> {
    let bounds: Vec<usize> = match offset_bytes {
        4 => offsets.as_chunks().0.iter().map(|&o| usize::try_from(i32::from_ne_bytes(o)).ok()).collect(),
        8 => offsets.as_chunks().0.iter().map(|&o| usize::try_from(i64::from_ne_bytes(o)).ok()).collect(),
        _ => None,
    }?;
    (bounds.is_sorted() && *bounds.last()? <= data_length).then_some(bounds)
}

// The functions below, and all they call on values of a `Field`, are plain loops without closures:
// `inline(always)` carries them into the caller that switched the instruction set on, and a closure
// left behind would be compiled for the base instruction set (seen: eighty times slower).

#[inline(always)]
fn mask_chunk<F: Field>(
    f: F,
    clamped: &[u8; 32],
    points: &[Point],
    out: &mut [Point],
) -> Result<(), InvalidPoint> {
    let xs = points.iter().map(Fe::from_bytes).collect::<Option<Vec<_>>>().ok_or(InvalidPoint)?;
    let (mut numerators, mut denominators) = fractions(f, xs.len());
    for lanes in xs.chunks(F::LANES) {
        let (x, z) = arithmetic::ladder(f, clamped, packed(f, lanes));
        numerators.push(x);
        denominators.push(z);
    }
    divide(f, &numerators, &mut denominators, out);
    // A denominator of zero made its whole lane zero, so that this sees it as well.
    if out.contains(&[0; 32]) { Err(InvalidPoint) } else { Ok(()) }
}

#[inline(always)]
fn map_chunk<F: Field>(f: F, elements: &[Fe], out: &mut [Point]) {
    let (mut numerators, mut denominators) = fractions(f, elements.len());
    for lanes in elements.chunks(F::LANES) {
        let (numerator, denominator) = arithmetic::elligator(f, packed(f, lanes));
        numerators.push(numerator);
        denominators.push(denominator);
    }
    divide(f, &numerators, &mut denominators, out);
}

type Column<F> = Vec<<F as Field>::Tight>;

/// Room for the numerators and denominators of `count` elements.
#[inline(always)]
fn fractions<F: Field>(_: F, count: usize) -> (Column<F>, Column<F>) {
    let rows = count.div_ceil(F::LANES);
    (Vec::with_capacity(rows), Vec::with_capacity(rows))
}

/// At most `LANES` elements, side by side; lanes left over hold the base point, whose large order
/// keeps it from spoiling the shared inversion. Their results are never read.
#[inline(always)]
fn packed<F: Field>(f: F, elements: &[Fe]) -> F::Tight {
    let mut full = [Fe::BASE; 16];
    full[..elements.len()].copy_from_slice(elements);
    f.import(&full[..F::LANES])
}

/// Writes numerator / denominator for each element.
#[inline(always)]
fn divide<F: Field>(f: F, numerators: &[F::Tight], denominators: &mut [F::Tight], out: &mut [Point]) {
    arithmetic::invert_all(f, denominators);
    for ((&n, &d), out) in numerators.iter().zip(denominators.iter()).zip(out.chunks_mut(F::LANES)) {
        let mut lanes = [Fe::ZERO; 16];
        f.export(f.carry(f.mul(n, d)), &mut lanes[..F::LANES]);
        for (point, lane) in out.iter_mut().zip(lanes) {
            *point = lane.to_bytes();
        }
    }
}
