"""Consent: which data subjects' rows may enter a query at all, checked inside the owner's domain.

`policies/consents/<name>.txt` holds one identity in each line and belongs to the owner. It is read again for
each query, so a withdrawal holds from the next query on. Rows whose identity is not in it, or that have none,
are left out before anything is filtered, grouped or counted; how many, nobody is told. Refuses to run without
the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from compute.errors import ConfigError, DataError
from connector.sources import Source
from policy_enforcer.model import Policy


def path(folder: Path, name: str) -> Path:
    """Where a consent set of this name stands."""
    return folder / "consents" / f"{name}.txt"


def check(folder: Path, policy: Policy) -> None:
    """Raise `ConfigError` when a policy's consent set cannot be read."""
    if policy.transfer is not None and policy.transfer.consent is not None:
        _lines(path(folder, policy.transfer.consent))


def consented(source: Source, policy: Policy, folder: Path) -> Callable[[], pa.RecordBatchReader] | None:
    """The rows that a policy's consent set lets in, as a fresh stream for each call; None: all rows."""
    name = policy.transfer.consent if policy.transfer is not None else None
    if name is None:
        return None
    identity = policy.analysis.identity
    if identity is None or identity not in source.schema.names:
        raise DataError("data.consent", "the identity that consent is about is no column of the dataset")
    allowed = _identities(_lines(path(folder, name)), source.schema.field(identity).type)

    def rows() -> pa.RecordBatchReader:
        reader = source.scan()
        return pa.RecordBatchReader.from_batches(reader.schema, _kept(reader, identity, allowed))

    return rows


def _kept(reader: pa.RecordBatchReader, identity: str, allowed: pa.Array) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        yield batch.filter(pc.is_in(batch[identity], value_set=allowed))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError("consent.missing", f"the consent set consents/{file.name} cannot be read") from None


def _identities(lines: list[str], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([line for line in lines if line], pa.string()).cast(kind)
    except pa.ArrowInvalid:
        raise DataError("data.consent", "the consent set holds something other than identities") from None
