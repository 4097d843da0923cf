//! Short tags of points, and finding equal elements in two columns.
//!
//! Elements come from a peer, who may choose them: everything here sorts, so that no choice of
//! elements makes it slower than n log n (a hash table keyed by their bytes could be flooded).

use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// SHA-256(sid || x) of each point, cut to `width` bytes (at most 32).
pub fn truncated(sid: &[u8], points: &[[u8; 32]], width: usize, out: &mut [u8]) {
    let session = Sha256::new_with_prefix(sid);
    out.par_chunks_exact_mut(width).zip(points).for_each(|(tag, point)| {
        tag.copy_from_slice(&session.clone().chain_update(point).finalize()[..width]);
    });
}

/// Packed elements of one width.
#[derive(Clone, Copy)]
pub struct Elements<'a> {
    pub bytes: &'a [u8],
    pub width: usize,
}

/// An element's first bytes, ordered as the element is, and its position.
type Entry = (u64, u32);

impl<'a> Elements<'a> {
    fn get(&self, (_, position): Entry) -> &'a [u8] {
        let start = position as usize * self.width;
        &self.bytes[start..start + self.width]
    }

    fn order(&self, a: Entry, other: &Elements, b: Entry) -> std::cmp::Ordering {
        a.0.cmp(&b.0).then_with(|| self.get(a).cmp(other.get(b)))
    }

    /// All elements in ascending order. INVARIANT: fewer than 2^32 of them.
    fn sorted(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self
            .bytes
            .par_chunks_exact(self.width)
            .enumerate()
            .map(|(position, element)| {
                let mut prefix = [0; 8];
                let known = self.width.min(8);
                prefix[..known].copy_from_slice(&element[..known]);
                (u64::from_be_bytes(prefix), position as u32)
            })
            .collect();
        entries.par_sort_unstable_by(|&a, &b| self.order(a, self, b));
        entries
    }

    fn repeats(&self, sorted: &[Entry]) -> bool {
        sorted.par_windows(2).any(|pair| self.order(pair[0], self, pair[1]).is_eq())
    }

    /// Whether some element occurs twice.
    pub fn has_duplicates(&self) -> bool {
        self.repeats(&self.sorted())
    }
}

/// A column that should have been duplicate free was not.
#[derive(Debug, PartialEq, Eq)]
pub struct Duplicate;

/// Positions of equal elements of two duplicate-free columns of one width, left ones ascending.
pub fn matches(left: Elements, right: Elements) -> Result<(Vec<i64>, Vec<i64>), Duplicate> {
    let (l, r) = rayon::join(|| left.sorted(), || right.sorted());
    if left.repeats(&l) || right.repeats(&r) {
        return Err(Duplicate);
    }
    let mut partner = vec![None; l.len()];
    let mut candidates = r.iter().copied().peekable();
    for entry in l {
        while candidates.next_if(|&c| right.order(c, &left, entry).is_lt()).is_some() {}
        if let Some(found) = candidates.next_if(|&c| right.order(c, &left, entry).is_eq()) {
            partner[entry.1 as usize] = Some(found.1);
        }
    }
    Ok(partner
        .into_iter()
        .zip(0..)
        .filter_map(|(right, left)| right.map(|right| (left, i64::from(right))))
        .unzip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_share_their_first_bytes_are_told_apart() {
        let left = Elements { bytes: b"prefix--apprefix--bqprefix--ap", width: 10 };
        let right = Elements { bytes: b"prefix--bqprefix--cr", width: 10 };
        assert!(left.has_duplicates());
        assert!(!right.has_duplicates());
        assert_eq!(matches(left, right), Err(Duplicate));
        let left = Elements { bytes: &left.bytes[..20], ..left };
        assert_eq!(matches(left, right), Ok((vec![1], vec![0])));
        assert_eq!(matches(right, left), Ok((vec![0], vec![1])));
    }
}
