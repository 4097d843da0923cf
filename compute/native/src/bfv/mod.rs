//! The homomorphic selection sum (docs/explanation/selection-sum.md): bytes and integers in and out.
//!
//! Everything malformed is a `ValueError` that names no value. The interpreter is released while the
//! threads work.

#[cfg(target_arch = "x86_64")]
mod ifma;
mod key;
mod modulus;
mod ntt;
mod pack;
mod ring;
mod sample;
mod sums;
mod threshold;

use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use zeroize::Zeroizing;

use ring::{Malformed, Ring};
use sample::Seed;

impl From<Malformed> for PyErr {
    fn from(Malformed(what): Malformed) -> Self {
        PyValueError::new_err(what)
    }
}

fn column(py: Python<'_>, buffer: &PyBuffer<i64>) -> PyResult<Zeroizing<Vec<i64>>> {
    Ok(Zeroizing::new(buffer.to_vec(py)?))
}

/// The `count` largest primes of `bits` bits that are 1 modulo `2 * degree`, descending.
#[pyfunction]
fn selection_primes(degree: usize, bits: u32, count: usize) -> PyResult<Vec<u64>> {
    if !(2..=modulus::MAXIMUM_BITS).contains(&bits)
        || !degree.is_power_of_two()
        || 2 * degree as u64 >= 1 << bits
    {
        return Err(PyValueError::new_err("no such primes"));
    }
    Ok(modulus::friendly_primes(degree, bits, count))
}

/// The ring of one set of parameters, with its transforms' tables. `with` names the kernel implementation:
/// `ifma` transforms with vector instructions, every other one without.
#[pyclass(frozen, module = "compute._native")]
struct SelectionRing(Arc<Ring>);

#[pymethods]
impl SelectionRing {
    #[new]
    fn new(py: Python<'_>, with: &str, degree: usize, moduli: Vec<u64>) -> PyResult<Self> {
        let ifma = with == "ifma";
        py.detach(|| Ok(Self(Arc::new(Ring::new(degree, &moduli, ifma)?))))
    }
}

/// The sender's key of one session.
#[pyclass(frozen, module = "compute._native")]
struct SelectionKey(key::Key);

#[pymethods]
impl SelectionKey {
    #[new]
    fn new(
        py: Python<'_>,
        ring: &SelectionRing,
        plain_bits: u32,
        secret_seed: Seed,
        public_seed: Seed,
    ) -> PyResult<Self> {
        if plain_bits == 0 {
            return Err(PyValueError::new_err("the plaintext modulus is empty"));
        }
        let ring = ring.0.clone();
        Ok(py.detach(|| Self(key::Key::new(ring, plain_bits, secret_seed, public_seed))))
    }

    fn public_key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes = py.detach(|| self.0.public_key());
        PyBytes::new(py, &bytes)
    }

    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        column_number: u32,
        first_block: u32,
        blocks: u32,
        positions: PyBuffer<i64>,
        fields: Vec<(u32, PyBuffer<i64>)>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if column_number >> 24 != 0 {
            return Err(PyValueError::new_err("too many columns"));
        }
        let positions = column(py, &positions)?;
        let fields = fields
            .iter()
            .map(|(shift, values)| Ok((*shift, column(py, values)?)))
            .collect::<PyResult<Vec<_>>>()?;
        let run =
            key::Run { column: column_number, first_block, blocks, positions: &positions, fields: &fields };
        let bytes = py.detach(|| self.0.encrypt(&run))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn open(&self, py: Python<'_>, kept: usize, answer: &[u8]) -> PyResult<Vec<u64>> {
        Ok(py.detach(|| self.0.open(kept, answer))?)
    }
}

/// The receiver's running sums of one session.
#[pyclass(module = "compute._native")]
struct SelectionSums(sums::Sums);

#[pymethods]
impl SelectionSums {
    #[new]
    fn new(
        py: Python<'_>,
        ring: &SelectionRing,
        public_seed: Seed,
        public_key: &[u8],
        columns: usize,
        slots: u64,
        selections: Vec<(PyBuffer<i64>, Option<PyBuffer<i64>>)>,
    ) -> PyResult<Self> {
        if columns >> 24 != 0 {
            return Err(PyValueError::new_err("too many columns"));
        }
        let selections = selections
            .iter()
            .map(|(positions, weights)| {
                let weights = weights.as_ref().map(|weights| column(py, weights)).transpose()?;
                Ok(sums::Selection { positions: column(py, positions)?, weights })
            })
            .collect::<PyResult<Vec<_>>>()?;
        let ring = ring.0.clone();
        let sums =
            py.detach(|| sums::Sums::new(ring, public_seed, public_key, columns, slots, selections))?;
        Ok(Self(sums))
    }

    fn absorb(
        &mut self,
        py: Python<'_>,
        column_number: u32,
        first_block: u32,
        blocks: u32,
        packed: &[u8],
    ) -> PyResult<()> {
        Ok(py.detach(|| self.0.absorb(column_number, first_block, blocks, packed))?)
    }

    fn finish<'py>(
        &self,
        py: Python<'py>,
        column_number: usize,
        selection: usize,
        seed: Seed,
        addend: Vec<u64>,
        kept: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.0.finish(column_number, selection, &seed, &addend, kept))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

/// One participant of a threshold key (threshold.rs).
#[pyclass(frozen, module = "compute._native")]
struct ThresholdMember(threshold::Member);

#[pymethods]
impl ThresholdMember {
    #[new]
    fn new(py: Python<'_>, ring: &SelectionRing, secret_seed: Seed, common_seed: Seed) -> Self {
        let ring = ring.0.clone();
        py.detach(|| Self(threshold::Member::new(ring, secret_seed, common_seed)))
    }

    fn key_share<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes = py.detach(|| self.0.key_share());
        PyBytes::new(py, &bytes)
    }

    fn decryption_share<'py>(
        &self,
        py: Python<'py>,
        c1: &[u8],
        seed: Seed,
        flood_bits: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.0.decryption_share(c1, &seed, flood_bits))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

/// The halves of ciphertexts that depend on no message: all c1 of as many blocks.
#[pyfunction]
fn threshold_second_halves<'py>(
    py: Python<'py>,
    ring: &SelectionRing,
    common_seed: Seed,
    seed: Seed,
    blocks: u64,
) -> Bound<'py, PyBytes> {
    let bytes = py.detach(|| threshold::second_halves(&ring.0, &common_seed, &seed, blocks));
    PyBytes::new(py, &bytes)
}

/// The others: whole blocks of messages under the sum of all members' key shares, all c0.
#[pyfunction]
fn threshold_first_halves<'py>(
    py: Python<'py>,
    ring: &SelectionRing,
    plain_bits: u32,
    public_key: &[u8],
    messages: PyBuffer<u64>,
    seed: Seed,
) -> PyResult<Bound<'py, PyBytes>> {
    if plain_bits == 0 {
        return Err(PyValueError::new_err("the plaintext modulus is empty"));
    }
    let messages = Zeroizing::new(messages.to_vec(py)?);
    let c0 = py.detach(|| threshold::first_halves(&ring.0, plain_bits, public_key, &messages, &seed))?;
    Ok(PyBytes::new(py, &c0))
}

/// Packed polynomials added up.
#[pyfunction]
fn threshold_add<'py>(
    py: Python<'py>,
    ring: &SelectionRing,
    columns: Vec<PyBackedBytes>,
) -> PyResult<Bound<'py, PyBytes>> {
    let sum = py.detach(|| {
        let columns: Vec<&[u8]> = columns.iter().map(|column| &column[..]).collect();
        threshold::add(&ring.0, &columns)
    })?;
    Ok(PyBytes::new(py, &sum))
}

/// Packed polynomials as little-endian 64-bit words (block, prime, coefficient).
#[pyfunction]
fn threshold_residues<'py>(
    py: Python<'py>,
    ring: &SelectionRing,
    column: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let words = py.detach(|| threshold::residues(&ring.0, column))?;
    Ok(PyBytes::new(py, &words))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(selection_primes, module)?)?;
    module.add_class::<SelectionRing>()?;
    module.add_class::<SelectionKey>()?;
    module.add_class::<SelectionSums>()?;
    module.add_class::<ThresholdMember>()?;
    module.add_function(wrap_pyfunction!(threshold_second_halves, module)?)?;
    module.add_function(wrap_pyfunction!(threshold_first_halves, module)?)?;
    module.add_function(wrap_pyfunction!(threshold_add, module)?)?;
    module.add_function(wrap_pyfunction!(threshold_residues, module)?)
}
