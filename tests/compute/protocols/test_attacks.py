"""Every frame reordered, truncated, duplicated, reflected, dropped or altered: refused, nothing released.

Once as the network could do it, under the transcript; once as the peer itself could, who can always
continue the transcript.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from compute import kernel
from compute.errors import DataError, PeerViolation
from compute.inputs import Cells, Summary
from compute.protocols import _aggregate, private_join_and_compute
from compute.protocols.base import FRAME_BYTES, Frame, receive
from compute.selection_sum import CellSums, Parameters, ReceiverGroup, Shape, SumBound
from compute.session import Transcript
from policy_enforcer.disclosure import Party

PROTOCOLS = ["psi_aggregate", "private_join_and_compute", "single_domain", "psi_list", "psi_count"]
OVERLAPS = ["psi_list", "psi_count"]
LEFT = [(f"k{i}", "ab"[i % 2]) for i in range(8)]
RIGHT = [(f"k{i}", "xy"[i % 2], i) for i in range(3, 12)]


@pytest.fixture(scope="session")
def run(kit, scene, overlap_scene):
    def run(protocol, touch=lambda _, sent: [sent], transcript=True):
        if protocol == "single_domain":
            made = single(kit)
        else:
            made = (overlap_scene if protocol in OVERLAPS else scene)(protocol, LEFT, RIGHT)
        roles = made.roles()
        if transcript:
            chains = (Transcript(b"s" * 32, party) for party in Party)
            roles = tuple(kit.transcribed(role, chain) for role, chain in zip(roles, chains, strict=True))
        return kit.relay(*roles, touch)

    return run


def single(kit):
    local = kit.aggregate(RIGHT, "d1", 1)
    table = local.labels.append_column("identities", [[4, 5]]).append_column("m0", [[1, 2]])
    return kit.Scene(kit.make_plan("single_domain"), None, table)


def replaced(change):
    """A touch that puts `change(sent)` in the place of frame `target`."""
    return lambda target: lambda i, sent: change(sent) if i == target else [sent]


def altered(edit):
    def change(sent):
        return [type(sent)(sent.author, Frame(sent.frame.kind, edit(sent.frame.body)))]

    return replaced(change)


def flip(position):
    def edit(body):
        at = position(body)
        return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]

    return edit


def swapped(target):
    held = []

    def touch(i, sent):
        if i == target:
            held.append(sent)
            return []
        if held and sent.author is held[0].author:
            return [sent, held.pop()]
        return [sent]

    return touch


def reflected(kit):
    return replaced(lambda sent: [kit.Sent(kit.other(sent.author), sent.frame)])


def attacks(kit):
    return {
        "first bit": altered(flip(lambda _: 0)),
        "header digest": altered(flip(lambda _: 20)),
        "last byte": altered(flip(lambda body: len(body) - 1)),
        "truncate": altered(lambda body: body[:-1]),
        "extend": altered(lambda body: body + b"\0"),
        "empty": altered(lambda _: b""),
        "duplicate": replaced(lambda sent: [sent, sent]),
        "drop": replaced(lambda _: []),
        "kind": replaced(lambda sent: [kit.Sent(sent.author, Frame("other", sent.frame.body))]),
        "reorder": swapped,
        "reflect": reflected(kit),
    }


def assert_nothing_released(victim, outcome, after):
    """The victim refused, or waits until the transport's time is up; no release followed."""
    assert isinstance(outcome.get(victim), PeerViolation | None)
    if victim is Party.SENDER:
        assert not any(sent.frame.kind == "release" for sent in after)


def over(name, honest, target):
    """The victim's role has read all it reads: its session refuses whatever follows (connector)."""
    later = {sent.author for sent in honest[target + 1 :]}
    return (name == "duplicate" and honest[target].author not in later) or (
        name == "reflect" and later <= {honest[target].author}
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_honest_runs_complete_under_the_transcript(run, protocol):
    outcome, wire = run(protocol)
    assert isinstance(outcome[Party.RECEIVER], Cells)
    assert isinstance(outcome[Party.SENDER], Summary)
    assert wire[-1].frame.kind == "release"


@pytest.mark.parametrize("name", attacks(None))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_the_network_does_to_any_frame_is_refused(kit, run, protocol, name):
    attack, honest = attacks(kit)[name], run(protocol)[1]
    for target, sent in enumerate(honest):
        victim = sent.author if name == "reflect" else kit.other(sent.author)
        if over(name, honest, target):
            continue
        outcome, wire = run(protocol, attack(target))
        assert_nothing_released(victim, outcome, wire[target + 1 :])
        if name not in ("drop", "reorder"):
            assert isinstance(outcome[victim], PeerViolation)


@pytest.mark.parametrize("name", ["truncate", "extend", "empty", "kind", "reflect", "drop"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_peer_does_to_the_form_of_any_frame_is_refused(kit, run, protocol, name):
    attack, honest = attacks(kit)[name], run(protocol, transcript=False)[1]
    for target, sent in enumerate(honest):
        victim = sent.author if name == "reflect" else kit.other(sent.author)
        if over(name, honest, target):
            continue
        outcome, wire = run(protocol, attack(target), transcript=False)
        assert_nothing_released(victim, outcome, wire[target + 1 :])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_altered_content_gives_another_error_than_a_violation(kit, run, protocol):
    """A library's own exception could carry a value; a hang or an endless allocation could come of it."""
    honest = run(protocol, transcript=False)[1]
    for target, sent in enumerate(honest):
        length, victim = len(sent.frame.body), kit.other(sent.author)
        for at in {0, 7, length // 2, length - 1}:
            for pattern in (0x01, 0xFF):
                if at >= length:
                    continue
                touch = altered(
                    lambda body, at=at, p=pattern: body[:at] + bytes([body[at] ^ p]) + body[at + 1 :]
                )
                outcome, _ = run(protocol, touch(target), transcript=False)
                assert isinstance(outcome.get(victim), PeerViolation | Cells | Summary | None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_oversized_frames_are_refused(kit, run, protocol):
    honest = run(protocol, transcript=False)[1]
    for target, sent in enumerate(honest):
        outcome, _ = run(protocol, altered(lambda _: bytes(FRAME_BYTES + 1))(target), transcript=False)
        assert isinstance(outcome[kit.other(sent.author)], PeerViolation)


def edited(kit, run, kind, edit, protocol="private_join_and_compute"):
    """What the victim says when the frame of `kind` is edited, and the wire."""

    def touch(_, sent):
        if sent.frame.kind != kind:
            return [sent]
        return [kit.Sent(sent.author, Frame(kind, edit(sent.frame.body)))]

    return run(protocol, touch, transcript=False)


@pytest.mark.parametrize(
    ("kind", "edit", "code"),
    [
        ("receiver-groups", lambda _: (65).to_bytes(4, "big"), "peer.too-many-groups"),
        ("minimum-group", lambda _: bytes(8), "peer.group-sizes"),
        ("group-sizes", lambda b: (0).to_bytes(8, "big") + (24).to_bytes(8, "big"), "peer.group-sizes"),
        ("group-sizes", lambda b: (12).to_bytes(8, "big") + (13).to_bytes(8, "big"), "peer.group-sizes"),
        (
            "group-sizes",
            lambda b: (2**64 - 1).to_bytes(8, "big") + (25).to_bytes(8, "big"),
            "peer.group-sizes",
        ),
    ],
)
def test_groups_the_owner_does_not_accept_get_no_tag(kit, run, kind, edit, code):
    outcome, wire = edited(kit, run, kind, edit)
    assert outcome[Party.SENDER].code == code
    assert not any(sent.frame.kind in ("tags", "sender-points") for sent in wire)


@pytest.mark.parametrize("protocol", ["psi_aggregate", "private_join_and_compute"])
def test_the_askers_side_refuses_a_senders_impossible_numbers(kit, run, protocol):
    outcome, _ = edited(kit, run, "sender-groups", lambda _: (65).to_bytes(4, "big"), protocol)
    assert outcome[Party.RECEIVER].code == "peer.too-many-groups"
    for position in {*range(24)} - {15}:  # byte 15 may give another number of suppressed cells that can be
        flipped = flip(lambda _, p=position: p)
        outcome, _ = edited(kit, run, "release", flipped, protocol)
        assert isinstance(outcome[Party.RECEIVER], PeerViolation)


def test_more_matches_than_keys_in_a_group_are_refused():
    parts = private_join_and_compute._Parts(
        groups=np.array([0, 1]), real=np.array([2, 1]), sizes=np.array([4, 4]), order=np.arange(8)
    )
    found = private_join_and_compute._selections(parts, np.array([0, 3, 4]), np.array([9, 2, 5]))
    assert [slots.tolist() for slots in found] == [[2, 9], [5]]
    with pytest.raises(PeerViolation, match=r"peer\.forged-tags"):
        private_join_and_compute._selections(parts, np.array([0, 4, 5]), np.array([9, 2, 5]))


def test_known_weakness_an_asker_with_a_scalar_per_key_recognises_its_tags(kit, scene):
    """Level `cardinality` holds against a semi-honest asker only (docs/explanation/threat-model.md)."""
    keys = ["held", "not held", "held too", "not held either"]
    made = scene("private_join_and_compute", [], [("held", "x", 1), ("held too", "x", 1)], bounds=(4, 4))
    context = made.context(Party.SENDER)
    points = kernel.hash_to_group(
        pa.array([key.encode() for key in keys], pa.large_binary()), b"bayspace psi v1 key\0" + context.sid
    )
    scalars = [bytes([i + 1]) * 32 for i in range(4)]

    def masked(column, scalar):
        return b"".join(kernel.mask(column, scalar).to_pylist())

    sent = b"".join(masked(points.slice(i, 1), scalar) for i, scalar in enumerate(scalars))
    frames = [
        Frame("receiver-groups", (1).to_bytes(4, "big")),
        Frame("minimum-group", (1).to_bytes(8, "big")),
        Frame("group-sizes", (4).to_bytes(8, "big")),
        Frame("receiver-points", sent),
    ]

    def deviating_asker():
        yield from frames
        yield from receive("sender-groups")
        slots = yield from receive("sender-points")
        column = pa.array([slots[i : i + 32] for i in range(0, len(slots), 32)], pa.binary(32))
        tags = yield from receive("tags")
        width = len(tags) // 4
        returned = {tags[i : i + width] for i in range(0, len(tags), width)}
        doubly = [kernel.mask(column, scalar) for scalar in scalars]
        own = [kernel.truncated_tags(points, context.sid, width).to_pylist() for points in doubly]
        return [key for key, slot_tags in zip(keys, own, strict=True) if returned & set(slot_tags)]

    outcome, _ = kit.relay(deviating_asker(), made.roles()[1])
    assert outcome[Party.RECEIVER] == ["held", "held too"]


@pytest.mark.parametrize(
    ("sums", "suppressed"),
    [((3, 5), 0), ((2, 11), 0), ((2, -11), 0), ((2, 10), 2)],
    ids=["more identities than matches", "sum above its bound", "sum below its bound", "too many suppressed"],
)
def test_answers_that_no_honest_owner_gives_are_refused(sums, suppressed):
    parameters = Parameters.derive(slots=4, returned=4, bounds=[SumBound(10)])
    groups, shape = [ReceiverGroup(np.array(x, np.int64)) for x in ([1, 2], [])], Shape(2, 1)

    def check(count, measure, suppressed):
        cells = {(0, 0): CellSums(count, (measure,), ())}
        _aggregate._plausible(parameters, cells, groups, suppressed, shape)

    check(2, -10, 1)
    with pytest.raises(PeerViolation, match=r"peer\.malformed-release"):
        check(*sums, suppressed)


def test_a_null_in_the_local_table_is_the_owners_fault(kit):
    own = kit.aggregate([("a", "x", 1)], "d1", 1)
    nulled = replace(own, cells=own.cells.set_column(3, "m0", pa.array([None], pa.int64())))
    with pytest.raises(DataError, match=r"data\.null-in-cells"):
        _aggregate.column(nulled, "m0")
