"""The intersection core against sets; padding; what a deviating peer sends; what frames show."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import scratch
from compute.errors import DataError, PeerViolation
from compute.protocols import psi
from compute.protocols.base import Frame, run_pair
from policy_enforcer.disclosure import Party

SETTINGS = settings(max_examples=15, deadline=None)


def column(keys):
    return pa.array([k.encode() for k in keys], pa.large_binary())


@pytest.fixture(scope="session")
def pair(kit):
    def roles(left, right, bounds=(24, 24), seed="psi", sid=b"s" * 32):
        scene = kit.Scene(kit.make_plan("psi_aggregate", bounds=bounds), None, None, seed)
        contexts = {party: replace(scene.context(party), sid=sid) for party in Party}
        return (
            psi.receiver(contexts[Party.RECEIVER], column(left)),
            psi.sender(contexts[Party.SENDER], column(right)),
        )

    return roles


keys = st.lists(st.sampled_from([f"k{i}" for i in range(20)] + ["深圳", ""]), unique=True)


@given(keys, keys)
@SETTINGS
def test_matches_are_the_intersection(pair, left, right):
    matches, order = run_pair(*pair(left, right))
    found = [(left[k], right[order[s]]) for k, s in zip(matches.keys, matches.slots, strict=True)]
    assert sorted(a for a, _ in found) == sorted(set(left) & set(right))
    assert all(a == b for a, b in found)
    assert sorted(order) == list(range(24))


def test_sets_over_several_chunks_of_unequal_number(pair, monkeypatch):
    monkeypatch.setattr(psi, "CHUNK", 4)
    for bounds in [(41, 9), (9, 41), (40, 4), (8, 8), (1, 30)]:
        left = [f"k{i}" for i in range(bounds[0] // 2 + 1)]
        right = [f"k{i}" for i in range(0, 2 * (bounds[1] // 2), 2)]
        matches, _ = run_pair(*pair(left, right, bounds))
        assert {left[k] for k in matches.keys} == set(left) & set(right)


def test_tags_beyond_the_memory_limit_pass_through_files_without_a_name(kit, monkeypatch, tmp_path):
    made, opened = kit.Scene(kit.make_plan("psi_aggregate", bounds=(24, 24)), None, None, "scratch"), []
    nameless = scratch._nameless
    monkeypatch.setattr(scratch, "_nameless", lambda folder: opened.append(nameless(folder)) or opened[-1])
    monkeypatch.setattr(psi, "Column", partial(scratch.Column, in_memory=0))
    here, there = (replace(made.context(p), sid=b"s" * 32, scratch=tmp_path) for p in Party)
    left, right = ["a", "b", "c"], ["c", "a", "d"]
    matches, order = run_pair(psi.receiver(here, column(left)), psi.sender(there, column(right)))
    assert {(left[k], right[order[s]]) for k, s in zip(matches.keys, matches.slots, strict=True)} == {
        (key, key) for key in "ac"
    }
    assert len(opened) == 3  # the owner's tags of the asker's points; the asker's, and those it got back
    assert not list(tmp_path.iterdir())


def test_neither_side_runs_ahead_of_the_window(kit, pair, monkeypatch):
    monkeypatch.setattr(psi, "CHUNK", 1)
    outstanding = dict.fromkeys(Party, 0)
    roles = dict(zip(Party, pair(["a"], ["b"], (12, 12)), strict=True))
    inbox = {party: [] for party in Party}
    # Drive one role as far as it goes before the other: its lead is the longest it can have.
    waiting = dict.fromkeys(Party, False)
    done = set()
    while len(done) < 2:
        for party in Party:
            while party not in done and (not waiting[party] or inbox[party]):
                value = inbox[party].pop(0) if waiting[party] else None
                try:
                    item = roles[party].send(value)
                except StopIteration:
                    done.add(party)
                    break
                waiting[party] = not isinstance(item, Frame)
                if isinstance(item, Frame):
                    inbox[kit.other(party)].append(item)
                if isinstance(item, Frame) and item.kind.endswith("points"):
                    backlog = sum(f.kind.endswith("points") for f in inbox[kit.other(party)])
                    outstanding[party] = max(outstanding[party], backlog)
    # The transport must hold this many (psi.py, "Order of frames").
    assert max(outstanding.values()) == 2 * psi.WINDOW + 2


def test_more_keys_than_declared_is_the_owners_fault(pair):
    with pytest.raises(DataError, match=r"data\.keys-bound"):
        run_pair(*pair(["a", "b"], ["a"], (1, 4)))


def run_with(kit, roles, change, kind, party):
    """Let `change` rewrite the first frame of `kind`; return what happened to `party`."""

    def touch(_, sent):
        return (
            [kit.Sent(sent.author, Frame(kind, change(sent.frame.body)))]
            if sent.frame.kind == kind
            else [sent]
        )

    outcome, _ = kit.relay(*roles, touch)
    return outcome.get(party)


P = 2**255 - 19
BAD_POINTS = {
    "zero": bytes(32),
    "one (order 4)": (1).to_bytes(32, "little"),
    "p": P.to_bytes(32, "little"),
    "p + 1": (P + 1).to_bytes(32, "little"),
    "bit 255": (9 + 2**255).to_bytes(32, "little"),
    "order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
}


@pytest.mark.parametrize("point", BAD_POINTS.values(), ids=BAD_POINTS)
@pytest.mark.parametrize("kind", ["receiver-points", "sender-points"])
def test_points_that_leak_the_scalar_are_refused(kit, pair, point, kind):
    victim = Party.SENDER if kind == "receiver-points" else Party.RECEIVER
    error = run_with(kit, pair(["a"], ["a"]), lambda body: point + body[32:], kind, victim)
    assert isinstance(error, PeerViolation)
    assert error.code == "peer.invalid-point"


@pytest.mark.parametrize("kind", ["receiver-points", "sender-points", "tags"])
def test_repeated_points_and_tags_are_refused(kit, pair, kind):
    width = 12 if kind == "tags" else 32
    victim = Party.SENDER if kind == "receiver-points" else Party.RECEIVER
    error = run_with(
        kit, pair(["a"], ["a"]), lambda body: body[width : 2 * width] + body[width:], kind, victim
    )
    assert isinstance(error, PeerViolation)
    assert error.code == "peer.repeated-point"


def test_repeated_point_never_gets_a_tag_back(kit, pair):
    wire = kit.relay(
        *pair(["a"], ["a"]),
        lambda _, sent: (
            [kit.Sent(sent.author, Frame(sent.frame.kind, sent.frame.body[32:64] + sent.frame.body[32:]))]
            if sent.frame.kind == "receiver-points"
            else [sent]
        ),
    )[1]
    assert {sent.frame.kind for sent in wire} == {"receiver-points", "sender-points"}


def test_tags_that_match_a_dummy_are_refused():
    with pytest.raises(PeerViolation, match=r"peer\.forged-tags"):
        psi.matches(np.array([0, 3]), np.array([1, 2]), real=3)


def test_frames_depend_on_nothing_but_padded_sizes(kit, pair):
    shapes = set()
    for left, right in [([], []), (["a"], ["a"]), (["a", "b", "c"], ["x", "y", "长" * 300])]:
        wire = kit.relay(*pair(left, right))[1]
        shapes.add(tuple((s.author, s.frame.kind, len(s.frame.body)) for s in wire))
    assert len(shapes) == 1


@pytest.mark.parametrize("left", [[f"k{i}" for i in range(24)], []], ids=["keys", "dummies"])
def test_points_of_another_session_cannot_be_linked(pair, left):
    """The same keys, dummies and scalar under another session id: no point occurs in both."""
    points = []
    for sid in (b"a" * 32, b"b" * 32):
        role, _ = pair(left, [], sid=sid)
        body = next(role).body
        points.append({body[i : i + 32] for i in range(0, len(body), 32)})
    assert len(points[0]) == len(points[1]) == 24
    assert not points[0] & points[1]


def test_declared_bytes_are_the_bytes_on_the_wire(kit, pair):
    wire = kit.relay(*pair(["a"], ["b"], (40, 17)))[1]
    assert sum(len(s.frame.body) for s in wire) == psi.frame_bytes(psi.Sizes(40, 17))


def test_permutation_is_uniform(kit):
    entropy = kit.Stream("permutation")
    n, draws = 4, 4800
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        order = tuple(psi.permutation(n, entropy).tolist())
        counts[order] = counts.get(order, 0) + 1
    expected = draws / 24
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom: 70 is exceeded with probability 1e-6.
    assert sum((c - expected) ** 2 / expected for c in counts.values()) < 70


def test_permutation_draws_again_when_two_numbers_are_equal():
    tied = [b"\1" * 8 + b"\1" * 8, bytes(7) + b"\2" + bytes(7) + b"\1"]
    assert psi.permutation(2, lambda _: tied.pop(0)).tolist() == [1, 0]
    assert not tied


def test_slot_of_a_key_is_uniform_from_session_to_session(pair):
    # The receiver sees the slot of its match: over sessions it must say nothing about the key.
    slots = []
    for i in range(200):
        matches, _ = run_pair(*pair(["a"], ["a", "b", "c"], (4, 4), seed=f"s{i}"))
        slots.append(int(matches.slots[0]))
    counts = np.bincount(slots, minlength=4)
    # Chi-squared, 3 degrees of freedom: 31 has probability 1e-6.
    assert ((counts - 50) ** 2 / 50).sum() < 31
