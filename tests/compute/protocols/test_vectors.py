"""Replays tests/vectors/<protocol>/*.txt: the same seeds and inputs give the same frames and the same answer.

A changed transcript digest means that two versions of a protocol no longer speak to each other: then
its `version` must change as well.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest

from compute.protocols import PROTOCOLS
from compute.session import Transcript
from policy_enforcer.disclosure import Party

VECTORS = Path(__file__).parents[2] / "vectors"
EVERY = sorted(path for p in PROTOCOLS for path in (VECTORS / p.name).glob("*.txt"))
FEDERATED = ("masked_sum", "he_sum", "logistic_steps")  # see their own tests
FILES = [p for p in EVERY if p.parent.name not in FEDERATED]


def parse(path):
    """{field: values in order}; a row's cells are split at |."""
    fields = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, value = line.split(": ", 1)
            fields[name].append([None if cell == r"\N" else cell for cell in value.split("|")])
    return fields


def only(fields, name):
    ((value,),) = fields[name]
    return value


def build(kit, scene, overlap_scene, fields):
    protocol, seed, minimum = (only(fields, name) for name in ("protocol", "seed", "minimum"))
    if protocol == "single_domain":
        columns = list(zip(*fields["cell"], strict=True))
        table = pa.table(
            {
                "d1": pa.array(columns[0], pa.string()),
                "identities": pa.array([int(x) for x in columns[1]], pa.int64()),
                "m0": pa.array([int(x) for x in columns[2]], pa.decimal128(38, 0)),
            }
        )
        return kit.Scene(kit.make_plan(protocol), None, table, seed, int(minimum))
    right = [(key, label, int(value)) for key, label, value in fields["sender"]]
    if protocol in ("psi_list", "psi_count"):
        return overlap_scene(protocol, fields["receiver"], right, seed=seed, minimum=int(minimum))
    return scene(protocol, fields["receiver"], right, seed=seed, minimum=int(minimum))


def test_every_protocol_has_a_vector():
    assert {path.parent.name for path in EVERY} == {p.name for p in PROTOCOLS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_vector(kit, scene, overlap_scene, path):
    fields = parse(path)
    made = build(kit, scene, overlap_scene, fields)
    sid = made.context(Party.RECEIVER).sid
    chains = {party: Transcript(sid, party) for party in Party}
    roles = (kit.transcribed(r, chains[party]) for r, party in zip(made.roles(), Party, strict=True))
    outcome, wire = kit.relay(*roles)
    cells = outcome[Party.RECEIVER]
    rows = sorted(
        ([None if v is None else str(v) for v in row.values()] for row in cells.table.to_pylist()), key=str
    )
    assert rows == sorted(fields["expect"], key=str)
    assert cells.suppressed == int(only(fields, "suppressed"))
    assert len(wire) == int(only(fields, "frames"))
    assert {chain.digest().hex() for chain in chains.values()} == {only(fields, "transcript")}
