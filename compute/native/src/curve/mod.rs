//! Hashing keys to curve25519 and raising points to a secret, whole columns at a time, on all cores.
//!
//! Points are x-coordinates of 32 bytes, little-endian (RFC 7748). A point that is not canonical
//! and a result of zero are refused. Every implementation gives the same bytes.
//!
//! Constant time: the scalar (a ladder without branches or indexes, selection by mask) and the bytes
//! of keys and points (exponentiations by public exponents). Timing does show the number of points,
//! the lengths of keys, and that a point was refused. "Constant time" is how the code is written and
//! what the optimiser was kept from undoing (`black_box`); nobody has proved it of the machine code.
//! Copies of the scalar are not wiped: Python's own copy, immutable, could not be either.

/// `mask_chunk` and `map_chunk` compiled for an instruction set, as methods of the proof that this CPU
/// has it.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($field:ty, $features:literal) => {
        impl $field {
            pub fn mask_chunk(
                self,
                clamped: &[u8; 32],
                points: &[super::Point],
                out: &mut [super::Point],
            ) -> Result<(), super::InvalidPoint> {
                #[target_feature(enable = $features)]
                fn compiled(
                    f: $field,
                    clamped: &[u8; 32],
                    points: &[super::Point],
                    out: &mut [super::Point],
                ) -> Result<(), super::InvalidPoint> {
                    super::mask_chunk(f, clamped, points, out)
                }
                // SAFETY: only `detect` makes a `self`, where the instructions exist.
                unsafe { compiled(self, clamped, points, out) }
            }

            pub fn map_chunk(self, elements: &[Fe], out: &mut [super::Point]) {
                #[target_feature(enable = $features)]
                fn compiled(f: $field, elements: &[Fe], out: &mut [super::Point]) {
                    super::map_chunk(f, elements, out);
                }
                // SAFETY: as above.
                unsafe { compiled(self, elements, out) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
use compiled_for;

mod arithmetic;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod expand;
mod field;
#[cfg(target_arch = "x86_64")]
mod ifma;
#[cfg(target_arch = "x86_64")]
mod sha512;

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
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable,
}

impl Implementation {
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma(_) => "ifma",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            Self::Portable => "portable",
        }
    }

    /// What this CPU can run, fastest first; never empty.
    pub fn supported() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            ifma::Ifma::detect().map(Self::Ifma),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Self::Avx2),
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
        #[cfg(target_arch = "x86_64")]
        Implementation::Avx2(f) => f.mask_chunk(&clamped, points, out),
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
        let elements = hash_chunk(with, &expander, |i| key(first + i), out.len());
        match with {
            #[cfg(target_arch = "x86_64")]
            Implementation::Ifma(f) => f.map_chunk(&elements, out),
            #[cfg(target_arch = "x86_64")]
            Implementation::Avx2(f) => f.map_chunk(&elements, out),
            Implementation::Portable => map_chunk(Portable, &elements, out),
        }
    });
}

/// The field elements of `count` keys.
fn hash_chunk<'k>(
    with: Implementation,
    expander: &Expander,
    key: impl Fn(usize) -> &'k [u8],
    count: usize,
) -> Vec<Fe> {
    let mut elements = Vec::with_capacity(count);
    #[cfg(target_arch = "x86_64")]
    if let Implementation::Ifma(f) = with {
        let eight = expand::eight::Eight::new(f, expander);
        for first in (0..count / 8 * 8).step_by(8) {
            elements.extend(eight.hash_to_field(std::array::from_fn(|lane| key(first + lane))));
        }
    }
    elements.extend((elements.len()..count).map(|i| expander.hash_to_field(key(i))));
    elements
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
    for both in elements.chunks(2 * F::LANES) {
        let (first, second) = both.split_at(both.len().min(F::LANES));
        for (numerator, denominator) in arithmetic::elligator(f, [packed(f, first), packed(f, second)]) {
            numerators.push(numerator);
            denominators.push(denominator);
        }
    }
    divide(f, &numerators, &mut denominators, out);
}

type Column<F> = Vec<<F as Field>::Tight>;

/// Room for the numerators and denominators of `count` elements.
#[inline(always)]
fn fractions<F: Field>(_: F, count: usize) -> (Column<F>, Column<F>) {
    let rows = count.div_ceil(2 * F::LANES) * 2;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// Values where carries and foldings go wrong, all canonical.
    fn edges() -> Vec<Point> {
        let minus = |subtrahend: u8| {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (0xed - subtrahend, 0x7f);
            bytes
        };
        let mut edges: Vec<Point> = (1..9).map(minus).collect();
        for bit in 0..255 {
            let mut power = [0; 32];
            power[bit / 8] = 1 << (bit % 8);
            let mut below = [0xff; 32]; // 2^255 - 1 - 2^bit
            below[31] = 0x7f;
            below[bit / 8] ^= 1 << (bit % 8);
            edges.extend([power, below].into_iter().filter(|bytes| Fe::from_bytes(bytes).is_some()));
        }
        edges
    }

    /// Every operation of `f` on every edge, against the portable ones.
    fn agrees_with_portable<F: Field>(f: F) {
        let edges: Vec<Fe> = edges().iter().map(|bytes| Fe::from_bytes(bytes).unwrap()).collect();
        for (n, &x) in edges.iter().enumerate() {
            let ys: Vec<Fe> = (0..F::LANES).map(|lane| edges[(7 * n + lane) % edges.len()]).collect();
            let all = operations(f, f.splat(x), f.import(&ys));
            for (lane, &y) in ys.iter().enumerate() {
                for (operation, (got, want)) in all.iter().zip(operations(Portable, x, y)).enumerate() {
                    let mut lanes = [Fe::ZERO; 16];
                    f.export(*got, &mut lanes[..F::LANES]);
                    assert_eq!(
                        lanes[lane].to_bytes(),
                        want.to_bytes(),
                        "operation {operation}, {x:?}, {y:?}"
                    );
                }
            }
        }
    }

    fn operations<F: Field>(f: F, x: F::Tight, y: F::Tight) -> [F::Tight; 10] {
        let (xx, yy, xy) = (f.square_raised(x), f.square(y), f.mul(x, y));
        let difference = f.carry(f.sub(xx, yy));
        let zero = f.carry(f.raised());
        [
            f.carry(xx),
            f.carry(yy),
            f.carry(xy),
            f.carry(f.mul_rows(x, &arithmetic::rows(f, y))),
            difference,
            f.carry(f.add(f.mul_raised(x, y), yy)),
            f.carry(f.mul_small_add(xx, difference, (1 << 18) - 1)),
            f.carry(f.sub(f.add(f.raised(), f.widen(difference)), f.widen(y))),
            f.select(f.mask_all(1), zero, difference),
            f.select(f.mask_all(0), y, difference),
        ]
    }

    #[test]
    fn every_field_agrees_with_the_portable_one() {
        for with in Implementation::supported() {
            match with {
                #[cfg(target_arch = "x86_64")]
                Implementation::Ifma(f) => agrees_with_portable(f),
                #[cfg(target_arch = "x86_64")]
                Implementation::Avx2(f) => agrees_with_portable(f),
                Implementation::Portable => agrees_with_portable(Portable),
            }
        }
    }

    #[test]
    fn inverses_multiply_to_one_and_zero_spoils_its_lane() {
        let mut values: Vec<Fe> = edges().iter().map(|bytes| Fe::from_bytes(bytes).unwrap()).collect();
        let originals = values.clone();
        arithmetic::invert_all(Portable, &mut values);
        for (a, b) in originals.iter().zip(&values) {
            assert_eq!(Portable.mul(*a, *b).to_bytes(), Fe::ONE.to_bytes());
        }
        values.push(Fe::ZERO);
        arithmetic::invert_all(Portable, &mut values);
        assert!(values.iter().all(|value| value.to_bytes() == [0; 32]));
    }

    #[test]
    fn encodings_are_canonical_or_refused() {
        for bytes in edges() {
            assert_eq!(Fe::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        }
        for low in 0xed..=0xff {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, 0x7f);
            assert!(Fe::from_bytes(&bytes).is_none());
            bytes[31] = 0xff;
            assert!(Fe::from_bytes(&bytes).is_none());
        }
    }

    #[test]
    fn rfc_7748_and_every_length_of_a_last_row() {
        let scalar = hex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point = hex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let want = hex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        for with in Implementation::supported() {
            for count in 0..20 {
                let mut out = vec![[0; 32]; count];
                assert_eq!(mask(with, &scalar, &vec![point; count], &mut out), Ok(()));
                assert_eq!(out, vec![want; count]);
            }
        }
    }

    #[test]
    fn one_point_of_small_order_spoils_the_column() {
        for with in Implementation::supported() {
            for position in 0..9 {
                let mut points = vec![Fe::BASE.to_bytes(); 9];
                points[position] = Fe::ONE.to_bytes();
                assert_eq!(mask(with, &[7; 32], &points, &mut [[0; 32]; 9]), Err(InvalidPoint));
            }
        }
    }

    #[test]
    fn offsets_ascend_inside_the_data() {
        let bounds = |offsets: &[i32], length| {
            let bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
            key_bounds(&bytes, 4, length)
        };
        assert_eq!(bounds(&[2, 2, 5], 5), Some(vec![2, 2, 5]));
        assert_eq!(bounds(&[2, 2, 5], 4), None);
        assert_eq!(bounds(&[3, 2], 9), None);
        assert_eq!(bounds(&[-1, 2], 9), None);
        assert_eq!(bounds(&[], 9), None);
        assert_eq!(key_bounds(&[0; 8], 3, 9), None);
    }
}
