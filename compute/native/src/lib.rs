//! The native half of `compute/kernel.py`: whole columns in, whole columns out, the GIL released.

mod bfv;
mod columns;
mod curve;
mod tags;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    columns::register(module)?;
    bfv::register(module)
}
