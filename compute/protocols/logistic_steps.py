"""Logistic regression over N participants: Newton's steps, each from sums under pairwise masks.

Every participant learns identities and participants in total, how many refuse, and every step's
totals; the asker's connector learns the coefficients, after the gate, and how many steps there were. Nobody
learns another's part, unless all but one other collude. Semi-honest participants.

    round           roster, masks (compute/protocols/_masks.py)
    K               a key that the participants share, and the asker does not have
    counts          m_i = masked v_i + PRG(K, label, i).  All hashes first, then all m_i, signed: `disclosed`
    refusals        without noise: the same, v_i = 1 where too few are left without i, or i is of two
    step 1, 2, …    the same with v_i = g and H of i's rows at b (compute/logistic.py), until b settles
    release         what each made of the totals, which is one text for all

INVARIANT: b is a function of totals that each participant has added up itself from vectors that are signed
over everybody's hashes, one set for all. The asker passes them on: it cannot read, choose, change, leave out
or repeat one, and so it can name no b. What one could learn at a b of one's choice:
docs/explanation/federation.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from compute import federation as f
from compute.accuracy import variances
from compute.errors import PeerViolation
from compute.federation import Member, Roster, Shape, TotalGate
from compute.frames import Frame, Role, receive
from compute.inputs import Cells, Context, Entropy, Gate, LocalInput, Summary
from compute.logistic import Fit, Rows, State
from compute.noise import Scale
from compute.plan import Logistic, Plan, Side
from compute.protocols import _federated as federated
from compute.protocols._masks import KEY_BYTES, Masks, agreed, relay_keys, stream
from compute.protocols._release import malformed, receive_release, scales, send_release
from compute.protocols.base import Cost, Protocol
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party

SCHEME = "logistic_steps v1"
_MORE, _DONE = b"\x01", b"\x00"


@dataclass(frozen=True, slots=True)
class Part:
    """What one participant brings: identities behind its rows (with their noise), and the rows."""

    identities: int
    kept: bool  # by its own gate: else it adds zeros to every sum
    rows: Rows

    def counted(self) -> list[int]:
        """The first vector: identities, and whether it contributes."""
        return [self.identities if self.kept else 0, int(self.kept)]


def participant(member: Member, plan: Plan, own: Part, entropy: Entropy) -> Role[list[bool]]:
    """A participant's side: returns whether the fit was released."""
    roster = yield from f.receive_roster(member)
    masks = yield from agreed(member, SCHEME, roster, entropy)
    adding = _Adding(member, roster, masks, (yield from _shared_key(member, roster, masks, entropy)))
    member.contributing()
    counts = yield from adding.up("counts", own.counted())
    let_out = _gate(plan, roster, counts)
    if plan.noise is None:
        refused = not (let_out and _others_suffice(plan, roster, own, counts))
        refusals = yield from adding.up("refusals", [int(refused)])
        let_out = not refused and refusals == [0]  # what we refuse, nobody's vector takes back
    state, noise = State.start(_logistic(plan)), _noise(plan)
    while let_out and not state.verdict:
        yield Frame("more", _MORE)
        totals = yield from adding.up(f"step {state.steps + 1}", _contributed(plan, own, state, entropy))
        federated.check_bounds(plan, [[total] for total in totals])
        state = state.after(_logistic(plan), totals, noise)
    yield Frame("more", _DONE)
    fit = Fit.of(_logistic(plan), state, noise)
    yield from send_release(fit.to_bytes(len(_logistic(plan).regressors)))
    return [let_out]


def coordinator(roster: Roster, plan: Plan) -> Role[Fit]:
    """The asker's side of the exchange with one participant; all of a round run side by side."""
    yield from f.send_roster(roster)
    yield from relay_keys()
    sealed = yield from f.receive_sized("shared-key", _most_sealed(roster))
    yield from f.send_sized("shared-keys", (yield from f.together("shared-keys", sealed, f.joined)))
    yield from f.relay_disclosed(f.WORD_BYTES * _counted(plan).counted)
    if plan.noise is None:
        yield from f.relay_disclosed(f.WORD_BYTES)
    steps = 0
    while (yield from f.together("more", (yield from receive("more", 1)), _alike)) == _MORE:
        steps += 1
        if steps > _logistic(plan).steps:
            raise PeerViolation("peer.fit", "the participants take more steps than were agreed")
        yield from f.relay_disclosed(f.WORD_BYTES * len(plan.sender.partials))
    release = yield from f.together("fit", (yield from receive_release()), _alike)
    fit = Fit.parse(_logistic(plan), release)
    if fit.steps != steps:
        raise malformed()
    return fit


def _alike(bodies: list[bytes]) -> bytes:
    """What all participants say alike."""
    if len(set(bodies)) != 1:
        raise PeerViolation("peer.fit", "the participants of a round do not come to the same fit")
    return bodies[0]


def _logistic(plan: Plan) -> Logistic:
    if plan.logistic is None:
        raise AssertionError("this protocol is for plans of a logistic regression")
    return plan.logistic


# --- sums that participants alone see -----------------------------------------------------------------


def _shared_key(member: Member, roster: Roster, masks: Masks, entropy: Entropy) -> Role[bytes]:
    """The key of the round that the first participant draws, for each of the others under their own mask.

    Whoever has another key than the rest signs other statements (`_Adding`), and the round fails.
    """
    first, others = roster.names[0], roster.names[1:]
    key, streams = entropy(KEY_BYTES), masks.pads("key", KEY_BYTES)
    pads = {name: pad for (name, _), (_, pad) in zip(masks.secrets, streams, strict=True)}
    drawn = b"".join(_xor(key, pads[name]) for name in others) if member.participant == first else b""
    yield from f.send_sized("shared-key", drawn)
    most = _most_sealed(roster) + 4 * len(roster.names)
    bodies = f.split((yield from f.receive_sized("shared-keys", most)))
    if not bodies or len(bodies[0]) != KEY_BYTES * len(others):
        raise PeerViolation("peer.round-key", "the key that participants share is not of the agreed form")
    if member.participant == first:
        return key
    at = KEY_BYTES * others.index(member.participant)
    return _xor(bodies[0][at : at + KEY_BYTES], pads[first])


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _most_sealed(roster: Roster) -> int:
    return KEY_BYTES * len(roster.names)


@dataclass(frozen=True, slots=True)
class _Adding:
    """One participant's means to add up a vector with all others."""

    member: Member
    roster: Roster
    masks: Masks
    key: bytes

    def __repr__(self) -> str:
        return "<adding>"

    def up(self, label: str, own: Sequence[int]) -> Role[list[int]]:
        """The totals of everybody's vectors for this label. INVARIANT: once per label."""
        vector = self.masks.masked(label, f.words(own))
        vector = f.added([vector, self._pad(label, self.member.participant, len(vector))])
        # the same key, for the same label: in what everybody signs
        scheme = f"{SCHEME} {label} {hashlib.sha256(self.key).hexdigest()}"
        parts = yield from f.disclosed(self.member, scheme, self.roster, vector)
        pads = [f.negated(self._pad(label, name, len(vector))) for name in self.roster.names]
        return f.integers(f.added([*parts, *pads]))

    def _pad(self, label: str, name: str, length: int) -> bytes:
        """What hides a participant's vector from the asker."""
        info = SCHEME.encode() + b" pad\0" + f.joined([label.encode(), name.encode()])
        return stream(self.key, self.roster.digest, info, length)


# --- what goes in, and what is let out ----------------------------------------------------------------


def _gate(plan: Plan, roster: Roster, counts: Sequence[int]) -> bool:
    """The rule of all policies; without noise also more identities than sums, lest these give the rows."""
    gate = TotalGate(_least(plan, roster), TotalGate.of(roster).participants)
    return gate.released(_counted(plan), counts)[0]


def _least(plan: Plan, roster: Roster) -> int:
    return max(TotalGate.of(roster).identities, _logistic(plan).identities)


def _others_suffice(plan: Plan, roster: Roster, own: Part, counts: Sequence[int]) -> bool:
    """Are there enough without us? Who takes its own part off each step's totals has the sums of the rest.

    Of two that contribute, the rest is one: so each looks at its own part too, whatever the other says.
    """
    mine, least = own.counted()[0], _least(plan, roster)
    return counts[0] - mine >= least and (not mine or counts[1] > 2 or mine >= least)


def _counted(plan: Plan) -> Shape:
    """The table of the first vector: one cell."""
    return Shape(1, 0, plan.noise is not None)


def _contributed(plan: Plan, own: Part, state: State, entropy: Entropy) -> list[int]:
    """g and H of our rows, with their noise."""
    sums = own.rows.sums(state.b) if own.kept else [0] * len(plan.sender.partials)
    if plan.noise is None:
        return sums
    return [total + scale.draw(entropy) for total, scale in zip(sums, scales(plan), strict=True)]


def _noise(plan: Plan) -> list[Fraction]:
    """The variance of the noise in each total of g, that of all participants; none without noise."""
    of, gradient = variances(plan), plan.sender.partials[: len(_logistic(plan).regressors) + 1]
    return [of[partial.name] for partial in gradient if of]


def _own(plan: Plan, table: pa.Table, gate: Gate, entropy: Entropy) -> Part:
    """Our rows (compute/local.py), counted as our policy says and judged by our own gate."""
    identities = len(table["who"].drop_null().unique())
    if plan.noise is not None:
        noisy = plan.noise.identities
        identities = identities + Scale.parse(plan.noise.mechanism, noisy).draw(entropy) if noisy else 1
    # under noise a participant without anybody is like any other
    judged = identities if plan.noise is None else max(identities, 1)
    kept = judged > 0 and bool(gate(np.array([[judged]], np.int64))[0, 0])
    return Part(identities, kept, Rows.of(_logistic(plan), table))


# --- the declaration ----------------------------------------------------------------------------------

REVEALS = (
    Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),
    Disclosure(Party.RECEIVER, Fact.SUPPRESSED_CELLS),
    Disclosure(Party.SENDER, Fact.TOTAL_COUNTS),
    Disclosure(Party.SENDER, Fact.STEP_TOTALS, gated=True),
)


def _receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
    assert own is None
    fit = yield from coordinator(federated.seat(context).roster, context.plan)
    held = not fit.verdict and context.plan.says_suppressed
    return Cells(fit.table(len(_logistic(context.plan).regressors)), int(held))


def _sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
    assert isinstance(own, pa.Table)
    member, part = federated.member(context), _own(context.plan, own, gate, context.entropy)
    return federated.summary((yield from participant(member, context.plan, part, context.entropy)))


def _cost(plan: Plan) -> Cost:
    """Signatures of everybody, checked by everybody, at each step. Most fits settle in six."""
    n, size = len(plan.federation), f.WORD_BYTES * len(plan.sender.partials)
    return Cost(0.1 + 6 * (0.02 + n * n * 0.0005), 6 * n * n * (size + 200))


def _parameters(_receiver: Side | None, _sender: Side, _maximum_cells: int) -> dict[str, Any]:
    return {}


PROTOCOL = Protocol(
    name="logistic_steps",
    version=1,
    level=Level.HIDDEN,
    joint=False,
    kinds=frozenset({"logistic"}),
    threat_model=(
        "All connectors follow the protocol and may study what they see; all but two participants may pool "
        "it. A deviating asker can end the round, and nothing else. A participant that deviates can lead the "
        "steps to coefficients of its choice, and learns the sums of all others there; nobody can tell."
    ),
    reveals=REVEALS,
    gates=federated.GATES,
    weighted=False,
    cost=_cost,
    parameters=_parameters,
    receiver=_receiver,
    sender=_sender,
)
