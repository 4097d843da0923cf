//! Short tags of points, and finding equal elements in two columns.
//!
//! Elements come from a peer, who may choose them: everything here sorts, so that no choice of
//! elements makes it slower than n log n (a hash table keyed by their bytes could be flooded).

use std::hash::{BuildHasher, Hasher, RandomState};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// SHA-256(sid || x) of each point, cut to `width` bytes (at most 32).
pub fn truncated(sid: &[u8], points: &[[u8; 32]], width: usize, out: &mut [u8]) {
    let session = Sha256::new_with_prefix(sid);
    out.par_chunks_exact_mut(width).zip(points).for_each(|(tag, point)| {
        tag.copy_from_slice(&session.clone().chain_update(point).finalize()[..width]);
    });
}

/// Packed elements of one width. INVARIANT: fewer than 2^32 of them.
#[derive(Clone, Copy)]
pub struct Elements<'a> {
    pub bytes: &'a [u8],
    pub width: usize,
}

/// An element's first bytes, ordered as the element is, and its position.
type Entry = (u64, u32);

/// Bytes of working memory for each element that a pass sorts.
const ENTRY_BYTES: usize = size_of::<Entry>();

/// Which elements are sorted together: of `passes` shares of about the same size, one at a time.
///
/// INVARIANT: equal elements fall into one share. The factors are drawn for each call, so that a peer who
/// chooses its elements cannot choose them for one share; those of one value do, which is then refused.
struct Shares {
    passes: u64,
    factors: [u64; 2],
}

impl Shares {
    /// As many passes as keep the entries of `count` elements within `memory` bytes.
    fn new(count: usize, memory: usize) -> Self {
        let passes = (count * ENTRY_BYTES).div_ceil(memory.max(ENTRY_BYTES)).max(1);
        let drawn = || RandomState::new().build_hasher().finish() | 1;
        Self { passes: passes as u64, factors: [drawn(), drawn()] }
    }

    /// Multiply-shift hashing of the first and the last eight bytes: of all of a tag.
    fn of(&self, element: &[u8]) -> u64 {
        let last = prefix(&element[element.len().saturating_sub(8)..]).rotate_left(32);
        let first = prefix(element).wrapping_mul(self.factors[0]);
        let mixed = u128::from(first.wrapping_add(last.wrapping_mul(self.factors[1])));
        ((mixed * u128::from(self.passes)) >> 64) as u64
    }
}

/// The first eight bytes, or fewer, as a number that orders as they do.
fn prefix(element: &[u8]) -> u64 {
    let mut first = [0; 8];
    let known = element.len().min(8);
    first[..known].copy_from_slice(&element[..known]);
    u64::from_be_bytes(first)
}

impl<'a> Elements<'a> {
    pub fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    fn get(&self, (_, position): Entry) -> &'a [u8] {
        let start = position as usize * self.width;
        &self.bytes[start..start + self.width]
    }

    fn order(&self, a: Entry, other: &Elements, b: Entry) -> std::cmp::Ordering {
        a.0.cmp(&b.0).then_with(|| self.get(a).cmp(other.get(b)))
    }

    /// The elements of one share in ascending order.
    fn sorted(&self, shares: &Shares, pass: u64) -> Vec<Entry> {
        let elements = self.bytes.par_chunks_exact(self.width).enumerate();
        let entry = |(position, element): (usize, &[u8])| (prefix(element), position as u32);
        let mut entries: Vec<Entry> = if shares.passes == 1 {
            elements.map(entry).collect()
        } else {
            // Room for a share and an eighth: a vector that grows holds its elements twice meanwhile.
            let share = self.len() / shares.passes as usize;
            let mut entries = Vec::with_capacity(share + share / 8 + 64);
            let all = self.bytes.chunks_exact(self.width).enumerate();
            entries.extend(all.filter(|(_, element)| shares.of(element) == pass).map(entry));
            entries
        };
        entries.par_sort_unstable_by(|&a, &b| self.order(a, self, b));
        entries
    }

    fn repeats(&self, sorted: &[Entry]) -> bool {
        sorted.par_windows(2).any(|pair| self.order(pair[0], self, pair[1]).is_eq())
    }

    /// Whether some element occurs twice, in about `memory` bytes of working memory.
    pub fn has_duplicates(&self, memory: usize) -> bool {
        let shares = Shares::new(self.len(), memory);
        (0..shares.passes).any(|pass| self.repeats(&self.sorted(&shares, pass)))
    }
}

/// A column that should have been duplicate free was not.
#[derive(Debug, PartialEq, Eq)]
pub struct Duplicate;

/// For each element on the left, the position of the equal one on the right, or `UNMATCHED`. Both columns
/// are of one width and free of duplicates. Takes about `memory` bytes beside the result.
pub fn partners(left: Elements, right: Elements, memory: usize) -> Result<Vec<u32>, Duplicate> {
    let shares = Shares::new(left.len() + right.len(), memory);
    let mut partners = vec![UNMATCHED; left.len()];
    for pass in 0..shares.passes {
        let (l, r) = rayon::join(|| left.sorted(&shares, pass), || right.sorted(&shares, pass));
        if left.repeats(&l) || right.repeats(&r) {
            return Err(Duplicate);
        }
        let mut candidates = r.iter().copied().peekable();
        for entry in l {
            while candidates.next_if(|&c| right.order(c, &left, entry).is_lt()).is_some() {}
            if let Some(found) = candidates.next_if(|&c| right.order(c, &left, entry).is_eq()) {
                partners[entry.1 as usize] = found.1;
            }
        }
    }
    Ok(partners)
}

/// No position: columns have fewer than 2^32 elements.
pub const UNMATCHED: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: usize = 1 << 30;

    #[test]
    fn elements_that_share_their_first_bytes_are_told_apart() {
        let left = Elements { bytes: b"prefix--apprefix--bqprefix--ap", width: 10 };
        let right = Elements { bytes: b"prefix--bqprefix--cr", width: 10 };
        for memory in [0, 1, ENTRY_BYTES, PLENTY] {
            assert!(left.has_duplicates(memory));
            assert!(!right.has_duplicates(memory));
            assert_eq!(partners(left, right, memory), Err(Duplicate));
            let left = Elements { bytes: &left.bytes[..20], ..left };
            assert_eq!(partners(left, right, memory), Ok(vec![UNMATCHED, 0]));
            assert_eq!(partners(right, left, memory), Ok(vec![1, UNMATCHED]));
        }
    }

    #[test]
    fn shares_are_even_whatever_bytes_tell_elements_apart() {
        let (n, passes) = (20_000u32, 8);
        for place in [0, 4, 8] {
            let mut bytes = vec![0; 12 * n as usize];
            for (element, i) in bytes.chunks_exact_mut(12).zip(0..n) {
                element[place..place + 4].copy_from_slice(&i.to_be_bytes());
            }
            let elements = Elements { bytes: &bytes, width: 12 };
            let shares = Shares::new(n as usize, n as usize * ENTRY_BYTES / passes);
            assert_eq!(shares.passes, passes as u64);
            let sizes: Vec<usize> = (0..shares.passes).map(|p| elements.sorted(&shares, p).len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), n as usize);
            assert!(sizes.iter().all(|&size| size < 2 * n as usize / passes), "{sizes:?}");
        }
    }
}
