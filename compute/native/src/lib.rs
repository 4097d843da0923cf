//! The native half of `compute/kernel.py`: whole columns in, whole columns out, the GIL released.

use pyo3::prelude::*;

#[pymodule]
fn _native(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
