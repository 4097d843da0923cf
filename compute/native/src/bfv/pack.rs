//! Residues as a dense string of bits: value i occupies bits [i * width, (i + 1) * width), low bit first.
//!
//! Refuses a residue that is not below its prime, and any length but the exact one.

use super::modulus::Modulus;

/// What was wrong with bytes from the peer. It names no value.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

pub fn packed_length(modulus: &Modulus, count: usize) -> usize {
    (count * modulus.bits as usize).div_ceil(8)
}

/// Append `values`, each below p, to `out`. `count * bits` must be a multiple of eight.
pub fn pack(modulus: &Modulus, values: &[u64], out: &mut [u8]) {
    assert_eq!(out.len() * 8, values.len() * modulus.bits as usize);
    let (mut pending, mut filled, mut at) = (0u128, 0, 0);
    for &value in values {
        pending |= u128::from(value) << filled;
        filled += modulus.bits;
        if filled >= 64 {
            out[at..at + 8].copy_from_slice(&(pending as u64).to_le_bytes());
            at += 8;
            pending >>= 64;
            filled -= 64;
        }
    }
    let rest = out.len() - at;
    out[at..].copy_from_slice(&pending.to_le_bytes()[..rest]);
}

/// The `count` residues in `bytes`.
pub fn unpack(modulus: &Modulus, bytes: &[u8], count: usize) -> Result<Vec<u64>, Malformed> {
    if bytes.len() * 8 != count * modulus.bits as usize {
        return Err(Malformed("packed residues have another length"));
    }
    let mask = (1u64 << modulus.bits) - 1;
    let (mut pending, mut filled, mut words) = (0u128, 0, bytes.chunks(8));
    let mut next = || {
        if filled < modulus.bits {
            let mut word = [0; 8];
            let chunk = words.next().unwrap_or(&[]);
            word[..chunk.len()].copy_from_slice(chunk);
            pending |= u128::from(u64::from_le_bytes(word)) << filled;
            filled += 64;
        }
        let value = pending as u64 & mask;
        pending >>= modulus.bits;
        filled -= modulus.bits;
        value
    };
    let values: Vec<u64> = (0..count).map(|_| next()).collect();
    if values.iter().fold(false, |bad, &x| bad | (x >= modulus.p)) {
        return Err(Malformed("a residue is not below its prime"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::modulus::friendly_primes;
    use super::*;

    #[test]
    fn what_was_packed_comes_back() {
        for bits in [20, 33, 42, 49, 50] {
            let modulus = Modulus::new(friendly_primes(64, bits, 1)[0]);
            for count in [8, 16, 64, 1000] {
                let mut values: Vec<u64> = (0..count as u64)
                    .map(|i| modulus.reduce(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
                    .collect();
                values[count - 1] = modulus.p - 1;
                let mut bytes = vec![0; packed_length(&modulus, count)];
                pack(&modulus, &values, &mut bytes);
                assert_eq!(unpack(&modulus, &bytes, count).unwrap(), values);
                assert!(unpack(&modulus, &bytes[1..], count).is_err());
                let last = bytes.len() - 7;
                bytes[last..].fill(0xff); // the last residue becomes 2^bits - 1, which is not below p
                assert_eq!(
                    unpack(&modulus, &bytes, count),
                    Err(Malformed("a residue is not below its prime"))
                );
            }
        }
    }
}
