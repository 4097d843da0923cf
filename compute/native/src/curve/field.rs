//! The prime field of curve25519 as one element (`Fe`, portable) and as many at once (`Field`).
//!
//! Everything above this file is written once against `Field`; an instruction set is one more
//! implementation of it. Encodings are canonical or refused, and exist only here.

/// Residues modulo 2^255 - 19, as five limbs of 51 bits.
/// INVARIANT: limbs stay below 2^52; only `to_bytes` gives the one canonical form.
#[derive(Clone, Copy, Debug)]
pub struct Fe(pub [u64; 5]);

pub const MASK51: u64 = (1 << 51) - 1;

impl Fe {
    pub const ZERO: Self = Self([0; 5]);
    pub const ONE: Self = Self([1, 0, 0, 0, 0]);
    /// The base point's x-coordinate (RFC 7748 section 4.1).
    pub const BASE: Self = Self([9, 0, 0, 0, 0]);

    /// The element these 32 little-endian bytes name, or `None` when they are not canonical: bit
    /// 255 set or a value of at least p. RFC 7748 would mask and reduce; two encodings of one
    /// point would let a peer hide a duplicate.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let word = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().expect("eight bytes"));
        let element = Self([
            word(0) & MASK51,
            (word(6) >> 3) & MASK51,
            (word(12) >> 6) & MASK51,
            (word(19) >> 1) & MASK51,
            (word(24) >> 12) & MASK51,
        ]);
        (element.to_bytes() == *bytes).then_some(element)
    }

    pub fn to_bytes(self) -> [u8; 32] {
        let l = self.canonical();
        let words =
            [l[0] | l[1] << 51, l[1] >> 13 | l[2] << 38, l[2] >> 26 | l[3] << 25, l[3] >> 39 | l[4] << 12];
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Limbs below 2^51 of the representative below p.
    pub fn canonical(self) -> [u64; 5] {
        let mut l = self.carried().0;
        // After one carry the value is below 2p, so q = (value >= p) is one bit: the carry that
        // adding 19 would send out of bit 255.
        let mut q = (l[0] + 19) >> 51;
        for limb in &l[1..] {
            q = (limb + q) >> 51;
        }
        l[0] += 19 * q;
        for i in 0..4 {
            l[i + 1] += l[i] >> 51;
            l[i] &= MASK51;
        }
        l[4] &= MASK51;
        l
    }

    /// The same residue with limbs below 2^51 + 2^18, for limbs of up to 64 bits.
    #[inline(always)]
    pub fn carried(self) -> Self {
        let l = self.0;
        Self([
            (l[0] & MASK51) + 19 * (l[4] >> 51),
            (l[1] & MASK51) + (l[0] >> 51),
            (l[2] & MASK51) + (l[1] >> 51),
            (l[3] & MASK51) + (l[2] >> 51),
            (l[4] & MASK51) + (l[3] >> 51),
        ])
    }

    /// Limbs of 128 bits (below 2^115) brought back to 51 bits and a little.
    #[inline(always)]
    fn from_products(mut r: [u128; 5]) -> Self {
        for i in 0..4 {
            r[i + 1] += r[i] >> 51;
        }
        let mut l = r.map(|limb| limb as u64 & MASK51);
        let top = (r[4] >> 51) as u64; // below 2^57, so that 19 times it still fits
        l[0] += 19 * top;
        l[1] += l[0] >> 51;
        l[0] &= MASK51;
        Self(l)
    }
}

/// `LANES` independent elements and the operations a ladder needs, on values that fit together.
///
/// A `Tight` value may be multiplied. A `Wide` one is a product, or the sum or difference of two
/// products or widened tights, and must be `carry`-ed before it is multiplied. Splitting the two
/// lets an implementation add first and carry once. A *raised* product has a multiple of p in it,
/// so large in every limb that another product or a widened tight can be subtracted from it. An
/// implementation may start its accumulators there instead of at zero, which costs nothing.
///
/// Every method takes the same time whatever the values are. A value of the implementing type is
/// the proof that this CPU has the instructions: it can only be had from `detect`.
pub trait Field: Copy + Send + Sync {
    const LANES: usize;
    /// The weight of the second limb: 2^51 or 2^52.
    const RADIX: Fe;
    type Tight: Copy;
    type Wide: Copy;
    type Mask: Copy;

    /// Fills the lanes; `lanes` holds exactly `LANES` elements.
    fn import(self, lanes: &[Fe]) -> Self::Tight;
    fn export(self, x: Self::Tight, lanes: &mut [Fe]);
    fn splat(self, x: Fe) -> Self::Tight;

    fn widen(self, a: Self::Tight) -> Self::Wide;
    /// Zero, raised.
    fn raised(self) -> Self::Wide;
    fn mul(self, a: Self::Tight, b: Self::Tight) -> Self::Wide;
    fn mul_raised(self, a: Self::Tight, b: Self::Tight) -> Self::Wide;
    /// `a * b` for a `b` that many are multiplied by, given as its products with every limb's weight
    /// (`arithmetic::rows`): limb i of `a` times row i needs no folding but of the last carry.
    fn mul_rows(self, a: Self::Tight, rows: &[Self::Tight; 5]) -> Self::Wide;
    fn square(self, a: Self::Tight) -> Self::Wide;
    fn square_raised(self, a: Self::Tight) -> Self::Wide;
    /// `addend + small * a`, for `small` below 2^18; `addend` is a product, raised or not.
    fn mul_small_add(self, addend: Self::Wide, a: Self::Tight, small: u32) -> Self::Wide;
    fn add(self, a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// `a - b`, where `a` was raised and `b` was not.
    fn sub(self, a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn carry(self, a: Self::Wide) -> Self::Tight;

    /// A mask of lanes, from one word per lane: all ones or zero.
    fn mask(self, lanes: &[u64]) -> Self::Mask;
    /// The same mask in every lane: `bit` is 0 or 1.
    fn mask_all(self, bit: u8) -> Self::Mask;
    /// Per lane `b` where the mask is set, else `a`.
    fn select(self, mask: Self::Mask, a: Self::Tight, b: Self::Tight) -> Self::Tight;
}

/// One lane, 64-bit integer arithmetic only.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

/// 16p, in limbs that each exceed what any limb of a `Wide` can be.
const RAISE: Fe = Fe([16 * (MASK51 - 18), 16 * MASK51, 16 * MASK51, 16 * MASK51, 16 * MASK51]);

#[inline(always)]
fn product(Fe(a): Fe, Fe(b): Fe) -> Fe {
    let m = |x: u64, y: u64| u128::from(x) * u128::from(y);
    let b19 = b.map(|limb| 19 * limb); // 2^255 = 19
    Fe::from_products([
        m(a[0], b[0]) + m(a[4], b19[1]) + m(a[3], b19[2]) + m(a[2], b19[3]) + m(a[1], b19[4]),
        m(a[1], b[0]) + m(a[0], b[1]) + m(a[4], b19[2]) + m(a[3], b19[3]) + m(a[2], b19[4]),
        m(a[2], b[0]) + m(a[1], b[1]) + m(a[0], b[2]) + m(a[4], b19[3]) + m(a[3], b19[4]),
        m(a[3], b[0]) + m(a[2], b[1]) + m(a[1], b[2]) + m(a[0], b[3]) + m(a[4], b19[4]),
        m(a[4], b[0]) + m(a[3], b[1]) + m(a[2], b[2]) + m(a[1], b[3]) + m(a[0], b[4]),
    ])
}

#[inline(always)]
fn square(Fe(a): Fe) -> Fe {
    let m = |x: u64, y: u64| u128::from(x) * u128::from(y);
    let (a3_19, a4_19) = (19 * a[3], 19 * a[4]);
    Fe::from_products([
        m(a[0], a[0]) + 2 * (m(a[1], a4_19) + m(a[2], a3_19)),
        m(a[3], a3_19) + 2 * (m(a[0], a[1]) + m(a[2], a4_19)),
        m(a[1], a[1]) + 2 * (m(a[0], a[2]) + m(a[3], a4_19)),
        m(a[4], a4_19) + 2 * (m(a[0], a[3]) + m(a[1], a[2])),
        m(a[2], a[2]) + 2 * (m(a[0], a[4]) + m(a[1], a[3])),
    ])
}

impl Field for Portable {
    const LANES: usize = 1;
    const RADIX: Fe = Fe([0, 1, 0, 0, 0]);
    type Tight = Fe;
    type Wide = Fe;
    type Mask = u64;

    #[inline(always)]
    fn import(self, lanes: &[Fe]) -> Fe {
        lanes[0]
    }

    #[inline(always)]
    fn export(self, x: Fe, lanes: &mut [Fe]) {
        lanes[0] = x;
    }

    #[inline(always)]
    fn splat(self, x: Fe) -> Fe {
        x
    }

    #[inline(always)]
    fn mul(self, a: Fe, b: Fe) -> Fe {
        product(a, b)
    }

    #[inline(always)]
    fn mul_rows(self, Fe(a): Fe, rows: &[Fe; 5]) -> Fe {
        let m = |i: usize, k: usize| u128::from(a[i]) * u128::from(rows[i].0[k]);
        let limb = |k: usize| m(0, k) + m(1, k) + m(2, k) + m(3, k) + m(4, k);
        Fe::from_products([limb(0), limb(1), limb(2), limb(3), limb(4)])
    }

    #[inline(always)]
    fn mul_raised(self, a: Fe, b: Fe) -> Fe {
        self.add(RAISE, product(a, b))
    }

    #[inline(always)]
    fn square(self, a: Fe) -> Fe {
        square(a)
    }

    #[inline(always)]
    fn square_raised(self, a: Fe) -> Fe {
        self.add(RAISE, square(a))
    }

    #[inline(always)]
    fn mul_small_add(self, Fe(addend): Fe, Fe(a): Fe, small: u32) -> Fe {
        let term = |i: usize| u128::from(a[i]) * u128::from(small) + u128::from(addend[i]);
        Fe::from_products([term(0), term(1), term(2), term(3), term(4)])
    }

    #[inline(always)]
    fn raised(self) -> Fe {
        RAISE
    }

    #[inline(always)]
    fn widen(self, a: Fe) -> Fe {
        a
    }

    #[inline(always)]
    fn add(self, Fe(a): Fe, Fe(b): Fe) -> Fe {
        Fe(std::array::from_fn(|i| a[i] + b[i]))
    }

    #[inline(always)]
    fn sub(self, Fe(a): Fe, Fe(b): Fe) -> Fe {
        Fe(std::array::from_fn(|i| a[i] - b[i]))
    }

    #[inline(always)]
    fn carry(self, a: Fe) -> Fe {
        a.carried()
    }

    #[inline(always)]
    fn mask(self, lanes: &[u64]) -> u64 {
        std::hint::black_box(lanes[0])
    }

    #[inline(always)]
    fn mask_all(self, bit: u8) -> u64 {
        // Opaque to the optimiser, which could otherwise turn the selection into a branch.
        std::hint::black_box(0u64.wrapping_sub(u64::from(bit)))
    }

    #[inline(always)]
    fn select(self, mask: u64, Fe(a): Fe, Fe(b): Fe) -> Fe {
        Fe(std::array::from_fn(|i| a[i] ^ (mask & (a[i] ^ b[i]))))
    }
}
