//! Python functions over packed columns, for `compute/kernel.py` alone: it has checked types,
//! nulls and slices; what a peer could have forged (offsets, points, lengths) is checked here.
//!
//! Arrow's buffers arrive through Python's buffer protocol rather than the C data interface, which would
//! not tell where a buffer ends (docs/decisions/buffers-not-the-c-data-interface.md). Nothing is copied on
//! the way in; results are written straight into the `bytes` object that becomes the new Arrow buffer.

use crate::curve::{self, Implementation};
use crate::tags::{self, Elements};
use pyo3::buffer::PyBuffer;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

create_exception!(
    _native,
    InvalidPoint,
    PyValueError,
    "A point is not canonical, or has a small order: the peer did not follow the protocol."
);

/// A buffer's bytes, for as long as the buffer is held.
///
/// Arrow's buffers are immutable by contract, and `compute/kernel.py` passes no others. Python has
/// no way to enforce it: code that writes through a second view meanwhile would race with us.
fn bytes(buffer: &PyBuffer<u8>) -> PyResult<&[u8]> {
    if !buffer.is_c_contiguous() {
        return Err(PyValueError::new_err("a column's buffer must be contiguous"));
    }
    if buffer.item_count() == 0 {
        return Ok(&[]); // its address may be null
    }
    // SAFETY: `buf_ptr` points to `item_count` initialised, contiguous bytes that live as long as
    // `buffer` (the view holds a reference to its exporter). That nobody writes to them during the
    // call rests on Arrow's contract above, not on a proof.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.item_count()) })
}

fn points(buffer: &PyBuffer<u8>) -> PyResult<&[curve::Point]> {
    let (points, rest) = bytes(buffer)?.as_chunks();
    if rest.is_empty() { Ok(points) } else { Err(PyValueError::new_err("a point has 32 bytes")) }
}

fn elements(buffer: &PyBuffer<u8>, width: usize) -> PyResult<Elements<'_>> {
    let bytes = bytes(buffer)?;
    if width == 0 || !bytes.len().is_multiple_of(width) || bytes.len() / width > u32::MAX as usize {
        return Err(PyValueError::new_err("a column has 1 to 2^32 - 1 elements of its width"));
    }
    Ok(Elements { bytes, width })
}

fn implementation(name: &str) -> PyResult<Implementation> {
    Implementation::named(name)
        .ok_or_else(|| PyValueError::new_err("this CPU supports no kernel implementation of that name"))
}

/// Names of the implementations that this CPU supports, fastest first.
#[pyfunction]
fn implementations() -> Vec<&'static str> {
    Implementation::supported().map(Implementation::name).collect()
}

#[pyfunction]
fn mask<'py>(
    py: Python<'py>,
    with: &str,
    column: PyBuffer<u8>,
    scalar: [u8; 32],
) -> PyResult<Bound<'py, PyBytes>> {
    let (with, points) = (implementation(with)?, points(&column)?);
    PyBytes::new_with(py, points.len() * 32, |out| {
        let out = out.as_chunks_mut().0;
        py.detach(|| curve::mask(with, &scalar, points, out))
            .map_err(|_| InvalidPoint::new_err("a point is not canonical or has a small order"))
    })
}

/// `offsets` are Arrow's, 4 or 8 bytes each (`offset_bytes`), one more than there are keys.
#[pyfunction]
fn hash_to_group<'py>(
    py: Python<'py>,
    with: &str,
    offsets: PyBuffer<u8>,
    offset_bytes: usize,
    data: PyBuffer<u8>,
    tag: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let with = implementation(with)?;
    if tag.is_empty() || tag.len() > 255 {
        return Err(PyValueError::new_err("a domain-separation tag has 1 to 255 bytes"));
    }
    let (offsets, data) = (bytes(&offsets)?, bytes(&data)?);
    let bounds = py.detach(|| curve::key_bounds(offsets, offset_bytes, data.len()));
    let bounds = bounds.ok_or_else(|| PyValueError::new_err("a key's offsets lie outside its column"))?;
    PyBytes::new_with(py, (bounds.len() - 1) * 32, |out| {
        let out = out.as_chunks_mut().0;
        py.detach(|| curve::hash_to_group(with, tag, |i| &data[bounds[i]..bounds[i + 1]], out));
        Ok(())
    })
}

#[pyfunction]
fn truncated_tags<'py>(
    py: Python<'py>,
    column: PyBuffer<u8>,
    sid: &[u8],
    width: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    if !(1..=32).contains(&width) {
        return Err(PyValueError::new_err("a tag has 1 to 32 bytes"));
    }
    let points = points(&column)?;
    PyBytes::new_with(py, points.len() * width, |out| {
        py.detach(|| tags::truncated(sid, points, width, out));
        Ok(())
    })
}

type Positions<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pyfunction]
fn matches<'py>(
    py: Python<'py>,
    left: PyBuffer<u8>,
    right: PyBuffer<u8>,
    width: usize,
    memory: usize,
) -> PyResult<Positions<'py>> {
    let (l, r) = (elements(&left, width)?, elements(&right, width)?);
    let partners = py
        .detach(|| tags::partners(l, r, memory))
        .map_err(|_| PyValueError::new_err("a column to be matched holds an element twice"))?;
    let found = || partners.iter().zip(0u32..).filter(|&(&right, _)| right != tags::UNMATCHED);
    let count = found().count();
    Ok((
        words(py, count, found().map(|(_, left)| left))?,
        words(py, count, found().map(|(&right, _)| right))?,
    ))
}

/// `count` positions as Arrow's int64.
fn words<'py>(
    py: Python<'py>,
    count: usize,
    values: impl Iterator<Item = u32>,
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, count * 8, |out| {
        for (chunk, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
            *chunk = i64::from(value).to_ne_bytes();
        }
        Ok(())
    })
}

#[pyfunction]
fn has_duplicates(py: Python<'_>, column: PyBuffer<u8>, width: usize, memory: usize) -> PyResult<bool> {
    let elements = elements(&column, width)?;
    Ok(py.detach(|| elements.has_duplicates(memory)))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("InvalidPoint", module.py().get_type::<InvalidPoint>())?;
    module.add_function(wrap_pyfunction!(implementations, module)?)?;
    module.add_function(wrap_pyfunction!(mask, module)?)?;
    module.add_function(wrap_pyfunction!(hash_to_group, module)?)?;
    module.add_function(wrap_pyfunction!(truncated_tags, module)?)?;
    module.add_function(wrap_pyfunction!(matches, module)?)?;
    module.add_function(wrap_pyfunction!(has_duplicates, module)?)
}
