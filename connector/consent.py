"""Consent: which data subjects' rows may enter a query at all, checked inside the owner's domain.

`policies/consents/<name>.txt` holds one identity in each line and belongs to the owner. It is read again for
each query, so a withdrawal holds from the next query on. Rows whose identity is not in it, or that have none,
are left out before anything is filtered, grouped or counted; how many, nobody is told.

Where the identity is a join key, it is compared as joins compare it, under the description's normalisers:
` c001 ` in the data is the C001 in the set. Any other identity is compared as it stands, letter for letter.
Refuses to run without the file, and with a line in it that is no identity of the column's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from compute.dataset import Column, DatasetInfo
from compute.errors import ConfigError, DataError
from compute.keys import canonical_keys
from compute.types import parse_type
from connector.sources import Source
from policy_enforcer.model import Policy


def path(folder: Path, name: str) -> Path:
    """Where a consent set of this name stands."""
    return folder / "consents" / f"{name}.txt"


def check(folder: Path, policy: Policy) -> None:
    """Raise `ConfigError` when a policy's consent set cannot be read."""
    if policy.transfer is not None and policy.transfer.consent is not None:
        _lines(path(folder, policy.transfer.consent))


def consented(
    source: Source, dataset: DatasetInfo, policy: Policy, folder: Path
) -> Callable[[], pa.RecordBatchReader] | None:
    """The rows that a policy's consent set lets in, as a fresh stream for each call; None: all rows."""
    name = policy.transfer.consent if policy.transfer is not None else None
    if name is None:
        return None
    column = dataset.column(policy.analysis.identity or "")
    if column is None or column.name not in source.schema.names:
        raise DataError("data.consent", "the identity that consent is about is no column of the dataset")
    allowed = _identities(_lines(path(folder, name)), column)

    def rows() -> pa.RecordBatchReader:
        reader = source.scan()
        return pa.RecordBatchReader.from_batches(reader.schema, _kept(reader, column, allowed))

    return rows


def _kept(reader: pa.RecordBatchReader, column: Column, allowed: pa.Array) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        # INVARIANT: `allowed` holds no NULL, so a row without an identity is left out
        yield batch.filter(pc.is_in(_compared(batch[column.name], column), value_set=allowed))


def _compared(values: pa.Array, column: Column) -> pa.Array:
    """What stands for identities when they are compared: the join key, or the value itself."""
    kind = parse_type(column.type)
    return values if column.key is None else canonical_keys([values], [column.key], [kind])


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()  # Excel writes the mark
    except (OSError, UnicodeDecodeError):
        raise ConfigError("consent.missing", f"the consent set consents/{file.name} cannot be read") from None


def _identities(lines: list[str], column: Column) -> pa.Array:
    written = pa.array([line for line in lines if line], pa.string())
    try:
        found = _compared(written.cast(parse_type(column.type).arrow), column)
    except pa.ArrowInvalid:
        found = None
    if found is None or found.null_count:
        raise DataError("data.consent", "the consent set holds something other than identities")
    return found
