"""What `reveals` does not list leaves no trace: frame kinds, counts and sizes, and what a party can see.

Each test changes only what the declaration calls hidden. Controls change something declared, and the
same comparison must then notice it.
"""

from __future__ import annotations

import numpy as np
import pytest

from compute import selection_sum
from compute.protocols import _aggregate, private_join_and_compute, protocol_named, psi, psi_aggregate
from policy_enforcer.disclosure import Fact, Party

JOINT = ["psi_aggregate", "private_join_and_compute"]
LEFT = [(f"k{i}", "ab"[i % 2]) for i in range(6)]
RIGHT = [(f"k{i}", "xy"[i % 2], i) for i in range(2, 10)]


def hidden_variants():
    """Same groups on both sides, same proportions of the receiver's groups; all else differs."""
    yield LEFT, RIGHT
    yield LEFT, [(f"z{i}", "xy"[i % 2], 999) for i in range(20)]  # no overlap, other values, more keys
    yield LEFT, [*RIGHT, (None, "x", 7)]  # NULL keys
    yield LEFT, [(k, {"x": "长长的标签" * 50, "y": "z"}[d], v) for k, d, v in RIGHT]  # other labels
    yield [(k * 40, d * 99) for k, d in LEFT], RIGHT  # long keys and labels
    yield [(f"k{i}", "ab"[i % 2]) for i in range(20)], RIGHT  # more keys, same proportions
    yield LEFT, [(k, "xy"[i % 2], -5) for i, (k, _) in enumerate(LEFT)]  # full overlap


@pytest.mark.parametrize("protocol", JOINT)
def test_frames_do_not_depend_on_anything_hidden(kit, scene, protocol):
    # The gate releases nothing, so that the release holds no label either.
    runs = [
        kit.shapes(run(kit, scene(protocol, left, right, minimum=24, group_minimum=1, seed=f"{i}")))
        for i, (left, right) in enumerate(hidden_variants())
    ]
    assert all(shapes == runs[0] for shapes in runs)


@pytest.mark.parametrize("protocol", JOINT)
@pytest.mark.parametrize("side", Party)
def test_control_a_declared_group_count_does_change_the_frames(kit, scene, protocol, side):
    left, right = LEFT, RIGHT
    if side is Party.RECEIVER:
        left = [*LEFT, ("k9", "c")]
    else:
        right = [*RIGHT, ("k9", "z", 1)]
    facts = {(d.to, d.fact) for d in protocol_named(protocol).reveals}
    assert (kit.other(side), Fact.GROUP_COUNT) in facts
    before, after = run(kit, scene(protocol, LEFT, RIGHT)), run(kit, scene(protocol, left, right))
    assert kit.shapes(before) != kit.shapes(after)


def run(kit, made):
    return kit.relay(*made.roles())[1]


def test_the_senders_view_of_the_group_sizes_hides_how_many_keys_there_are(kit, scene):
    few = [(f"k{i}", "a" if i < 2 else "b") for i in range(6)]
    many = [(f"k{i}", "a" if i < 8 else "b") for i in range(24)]
    seen = set()
    for left in (few, many):
        wire = run(kit, scene("private_join_and_compute", left, RIGHT))
        body = next(s.frame.body for s in wire if s.frame.kind == "group-sizes")
        seen.add(tuple(sorted(np.frombuffer(body, ">u8").tolist())))
    assert seen == {(8, 16)}


@pytest.mark.parametrize(("n", "padded"), [([1, 2, 3], 24), ([5], 24), ([7, 7, 7], 24), ([1] * 24, 24)])
def test_padding_keeps_proportions_and_the_total(n, padded):
    real = np.array(n)
    sizes = private_join_and_compute._spread(real, padded)
    assert sizes.sum() == padded
    assert (sizes >= real).all()
    assert (np.abs(sizes - real * padded / real.sum()) < 1).all()


def test_what_is_left_over_goes_to_the_largest_remainders():
    assert private_join_and_compute._spread(np.array([1, 2]), 10).tolist() == [3, 7]


def match_positions(kit, scene, protocol, runs):
    """Where in the tags, as they arrive, the receiver finds its only match; only S's entropy differs."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        original = psi.match

        def spy(sent, slots):
            pairs = original(sent, slots)
            found.append((int(pairs[0][0]), int(pairs[1][0])))
            return pairs

        patch.setattr(psi, "match", spy)
        for i in range(runs):
            made = scene(protocol, [("a", "g"), ("b", "g")], [("a", "h", 1), ("c", "h", 1)], bounds=(4, 4))
            made.sender_seed = f"sender {i}"
            kit.relay(*made.roles())
    return np.array(found)


def uniform(values, cells):
    """Chi-squared: 31 is exceeded with probability below 1e-6 for three degrees of freedom."""
    counts = np.bincount(values, minlength=cells)
    return bool(((counts - len(values) / cells) ** 2 / (len(values) / cells)).sum() < 31)


def test_at_level_cardinality_the_receiver_cannot_tell_which_key_matched(kit, scene):
    positions = match_positions(kit, scene, "private_join_and_compute", 200)
    assert uniform(positions[:, 0], 4)
    assert uniform(positions[:, 1], 4)


def test_control_at_level_receiver_it_can(kit, scene):
    assert Fact.OWN_MATCHES in {d.fact for d in psi_aggregate.PROTOCOL.reveals if d.to is Party.RECEIVER}
    positions = match_positions(kit, scene, "psi_aggregate", 40)
    assert len(set(positions[:, 0].tolist())) == 1
    assert not uniform(np.repeat(positions[:, 0], 5), 4)


@pytest.mark.parametrize("protocol", JOINT)
def test_group_numbers_are_shuffled_on_both_sides(kit, scene, protocol):
    left = [("a", "g0"), ("b", "g1"), ("c", "g1")]
    right = [("a", "h0", 1), ("b", "h1", 1), ("c", "h1", 1)]
    seen = set()
    for i in range(40):
        made = scene(protocol, left, right, bounds=(4, 4), seed=f"{i}")
        kit.relay(*made.roles())
        seen.add(tuple(made.counts.ravel().tolist()))
    assert seen == {(1, 0, 0, 2), (0, 1, 2, 0), (0, 2, 1, 0), (2, 0, 0, 1)}


@pytest.mark.parametrize("protocol", JOINT)
def test_labels_and_figures_of_suppressed_cells_are_not_on_the_wire(kit, scene, protocol):
    left = [(f"k{i}", "asker-label") for i in range(8)]
    right = [(f"k{i}", "large", 1) for i in range(5)] + [("k6", "suppressed-label", 7)]
    wire = kit.relay(*scene(protocol, left, right, minimum=3).roles())[1]
    everything = b"".join(s.frame.body for s in wire)
    assert b"large" in everything
    assert b"suppressed-label" not in everything
    assert b"asker-label" not in everything


@pytest.mark.parametrize("protocol", JOINT)
def test_the_release_carries_masked_sums(kit, scene, protocol):
    # One cell, one value: over sessions the masked answer must not repeat, while the sum does.
    answers = set()
    for i in range(20):
        made = scene(protocol, [("a", "g")], [("a", "h", 5)], bounds=(2, 2), seed=f"{i}")
        outcome, wire = kit.relay(*made.roles())
        assert outcome[Party.RECEIVER].table["m0"].to_pylist() == [5]
        answers.add(wire[-1].frame.body[8 + 16 + 9 : 8 + 16 + 9 + 2])
    assert len(answers) > 15


@pytest.mark.parametrize("protocol", JOINT)
def test_declared_bytes_are_those_on_the_wire(kit, scene, protocol):
    left = [(f"k{i}", f"g{i % 10}") for i in range(20)]
    right = [(f"k{i}", f"h{i % 10}", 1) for i in range(20)]
    made = scene(protocol, left, right, maximum_cells=128)
    wire = run(kit, made)
    sent = sum(len(s.frame.body) for s in wire if s.frame.kind != "release")
    plan = made.plan
    assert _aggregate.nominal_shape(plan) == selection_sum.Shape(10, 10)
    assert protocol_named(protocol).cost(plan).bytes == sent


def test_every_protocol_declares_what_its_level_says():
    receiver = {p: {d.fact for d in protocol_named(p).reveals if d.to is Party.RECEIVER} for p in JOINT}
    assert Fact.OWN_MATCHES in receiver["psi_aggregate"]
    assert Fact.OWN_MATCHES not in receiver["private_join_and_compute"]
    for name in [*JOINT, "single_domain"]:
        gated = {d.fact for d in protocol_named(name).reveals if d.gated}
        assert gated == {Fact.RELEASED_CELLS}
    assert not [d for d in protocol_named("single_domain").reveals if d.to is Party.SENDER]


def test_of_two_tolerated_levels_the_looser_protocol_is_the_cheaper(kit):
    # The planner takes the cheapest; both sides must find the same one whatever machine they run on.
    loose, strict = (protocol_named(p).cost(kit.make_plan(p)).seconds for p in JOINT)
    assert loose < strict
