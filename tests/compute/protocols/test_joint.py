"""Both joint aggregates against a plaintext join: every released cell equal, every other one suppressed."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.errors import DataError
from compute.inputs import Summary
from policy_enforcer.disclosure import Party

JOINT = ["psi_aggregate", "private_join_and_compute"]
KEYS = [f"k{i}" for i in range(16)] + ["深圳市", ""]
LABELS = ["制造", "trade", "", None]


def plaintext(left, right, r_dim, s_dim, measures):
    """{(d0, d1): [identities, sums...]} by nested loops; a cell counts distinct keys."""
    cells = defaultdict(lambda: [set(), *[0] * measures])
    for lk, ld, *_ in left:
        for rk, rd, *values in right:
            if lk is None or lk != rk:
                continue
            cell = cells[(ld,) * r_dim + (rd,) * s_dim]
            cell[0].add(lk)
            for i, value in enumerate(values):
                cell[1 + i] += value
    return {label: [len(keys), *sums] for label, (keys, *sums) in cells.items()}


def released(cells, r_dim, s_dim, measures):
    names = ["d0"] * r_dim + ["d1"] * s_dim
    figures = ["identities", *(f"m{i}" for i in range(measures))]
    assert cells.table.schema.names == names + figures
    found = {tuple(row[n] for n in names): [int(row[f]) for f in figures] for row in cells.table.to_pylist()}
    assert len(found) == cells.table.num_rows
    return found


def unique_by_key(rows):
    return list({row[0]: row for row in rows}.values())


left_rows = st.lists(st.tuples(st.sampled_from([*KEYS, None]), st.sampled_from(LABELS)), max_size=20)
right_rows = st.lists(
    st.tuples(
        st.sampled_from([*KEYS, None]), st.sampled_from(LABELS), st.integers(-1000, 1000), st.integers(0, 9)
    ),
    max_size=30,
)


@pytest.mark.parametrize("protocol", JOINT)
@settings(max_examples=10, deadline=None)
@given(left=left_rows, right=right_rows, r_dim=st.booleans(), s_dim=st.booleans(), minimum=st.integers(1, 4))
def test_released_cells_equal_a_plaintext_join(kit, scene, protocol, left, right, r_dim, s_dim, minimum):
    left = unique_by_key(left)
    made = scene(protocol, left, right, r_dim=r_dim, s_dim=s_dim, measures=2, minimum=minimum)
    outcome, _ = kit.relay(*made.roles())
    cells, truth = outcome[Party.RECEIVER], plaintext(left, right, r_dim, s_dim, 2)
    expected = {label: figures for label, figures in truth.items() if figures[0] >= minimum}
    assert released(cells, r_dim, s_dim, 2) == expected
    assert outcome[Party.SENDER].released == len(expected)
    if protocol == "psi_aggregate":
        hidden = len(truth) - len(expected) if truth or r_dim or s_dim else 1
        assert cells.suppressed == outcome[Party.SENDER].suppressed == hidden


def test_the_owner_sees_exactly_the_match_counts(kit, scene):
    left = [(f"k{i}", "ab"[i % 2]) for i in range(10)]
    right = [(f"k{i}", "x", 1) for i in range(5, 12)]
    made = scene("psi_aggregate", left, right)
    kit.relay(*made.roles())
    assert sorted(made.counts.ravel().tolist()) == [2, 3]


@pytest.mark.parametrize("protocol", JOINT)
@pytest.mark.parametrize(("left", "right"), [([], []), ([("a", "x")], []), ([], [("a", "y", 3)])])
@pytest.mark.parametrize("dims", [True, False])
def test_empty_sides(kit, scene, protocol, left, right, dims):
    outcome, _ = kit.relay(*scene(protocol, left, right, r_dim=dims, s_dim=dims).roles())
    assert outcome[Party.RECEIVER].table.num_rows == 0
    # Without dimensions there is one cell always; the pjc asker leaves out its empty group.
    asked = not dims and (protocol == "psi_aggregate" or left)
    assert outcome[Party.SENDER] == Summary(0, 1 if asked else 0)
    assert outcome[Party.RECEIVER].suppressed == (0 if dims else 1)


@pytest.mark.parametrize("protocol", JOINT)
def test_full_overlap_one_key_and_extreme_values(kit, scene, protocol):
    left = [(f"k{i}", "g") for i in range(24)]
    right = [(f"k{i}", None, (-1) ** i * 96_000) for i in range(24)]
    right[23] = ("k23", None, 96_000)
    cells = kit.relay(*scene(protocol, left, right, row_bound=96_000).roles())[0][Party.RECEIVER]
    assert cells.table.to_pylist() == [{"d0": "g", "d1": None, "identities": 24, "m0": 2 * 96_000}]
    cells = kit.relay(*scene(protocol, left[:1], right[:1], bounds=(1, 1), row_bound=96_000).roles())[0][
        Party.RECEIVER
    ]
    assert cells.table["identities"].to_pylist() == [1]


@pytest.mark.parametrize("protocol", JOINT)
def test_empty_cells_are_not_answered_even_by_a_gate_that_lets_everything_pass(kit, scene, protocol):
    made = scene(protocol, [("a", "g"), ("b", "h")], [("a", "x", 1), ("b", "y", 2)], minimum=0)
    outcome, _ = kit.relay(*made.roles())
    assert outcome[Party.SENDER] == Summary(2, 0)
    assert released(outcome[Party.RECEIVER], True, True, 1) == {("g", "x"): [1, 1], ("h", "y"): [1, 2]}


@pytest.mark.parametrize("protocol", JOINT)
def test_a_released_zero_is_no_row(kit, scene, protocol):
    made = scene(protocol, [("a", "g")], [("b", "x", 1)], r_dim=False, s_dim=False, minimum=0)
    outcome, _ = kit.relay(*made.roles())
    assert outcome[Party.SENDER] == Summary(1, 0)
    assert (outcome[Party.RECEIVER].table.num_rows, outcome[Party.RECEIVER].suppressed) == (0, 0)


@pytest.mark.parametrize("protocol", JOINT)
def test_no_measures_at_all(kit, scene, protocol):
    made = scene(protocol, [("a", "g"), ("b", "g")], [("b", "h"), ("c", "h")], measures=0)
    cells = kit.relay(*made.roles())[0][Party.RECEIVER]
    assert cells.table.to_pylist() == [{"d0": "g", "d1": "h", "identities": 1}]


@pytest.mark.parametrize("protocol", JOINT)
def test_askers_rows_must_be_unique(kit, scene, protocol):
    outcome, wire = kit.relay(*scene(protocol, [("a", "g"), ("a", "g")], [("a", "h", 1)]).roles())
    assert outcome[Party.RECEIVER].code == "data.asker-key-not-unique"
    assert not [s for s in wire if s.author is Party.RECEIVER]


def test_a_key_may_be_in_two_groups_only_where_the_receiver_learns_its_matches(kit, scene):
    left, right = [("a", "g"), ("a", "h"), ("b", "h")], [("a", "x", 5), ("b", "x", 7)]
    cells = kit.relay(*scene("psi_aggregate", left, right).roles())[0][Party.RECEIVER]
    assert released(cells, True, True, 1) == {("g", "x"): [1, 5], ("h", "x"): [2, 12]}
    outcome, wire = kit.relay(*scene("private_join_and_compute", left, right).roles())
    assert outcome[Party.RECEIVER].code == "data.key-in-several-groups"
    assert not [s for s in wire if s.author is Party.RECEIVER]


@pytest.mark.parametrize("protocol", JOINT)
def test_more_cells_than_planned_is_refused_by_both(kit, scene, protocol):
    left = [(k, k) for k in KEYS[:5]]
    right = [(k, k, 1) for k in KEYS[:5]]
    outcome, wire = kit.relay(*scene(protocol, left, right, maximum_cells=24).roles())
    assert all(isinstance(outcome[p], DataError) for p in Party)
    assert not any(s.frame.kind.endswith("points") for s in wire)


def test_small_groups_are_not_asked_about_and_count_as_suppressed(kit, scene):
    left = [(f"k{i}", "big") for i in range(6)] + [("x1", "small"), ("x2", "small")]
    right = [(f"k{i}", "s", 1) for i in range(6)] + [("x1", "s", 1)]
    made = scene("private_join_and_compute", left, right, minimum=3)
    outcome, wire = kit.relay(*made.roles())
    assert released(outcome[Party.RECEIVER], True, True, 1) == {("big", "s"): [6, 6]}
    assert outcome[Party.RECEIVER].suppressed == 1
    sizes = [s.frame.body for s in wire if s.frame.kind == "group-sizes"]
    assert sizes == [(24).to_bytes(8, "big")]
    assert made.counts.tolist() == [[6]]
