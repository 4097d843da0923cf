"""What colluders can do to a federated round: their transcript is one that the result alone explains.

Colluders are the asker and all participants but two. Each test of an attack also takes out the step that
stops it, and then it must succeed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from compute import _native, threshold
from compute import federation as f
from compute.errors import PeerViolation
from compute.federation import Contribution, Shape
from compute.frames import FRAME_BYTES, Frame
from compute.protocols import _masks as masks
from compute.protocols import he_sum, masked_sum
from compute.protocols._masks import Masks
from compute.threshold import Parameters
from tests.compute.protocols.test_federated_sums import Round, _entropy, _frames, _sign
from tests.compute.test_selection_sum_specification import SECRET, stream, take, ternary

FLOOD = 8  # sample.rs, Purpose
SHAPE = Shape(2, 1)
VICTIM = Contribution((3, 4), ((10, -20),))
OTHER = Contribution((5, 1), ((1, 2),))


class Held:
    """An honest participant in the hands of an adversary that is its asker."""

    def __init__(self, role: Any) -> None:
        self._role, self._sent = role, list[Frame]()
        self._go(None)

    def _go(self, frame: Frame | None) -> None:
        item = self._role.send(frame)
        while isinstance(item, Frame):
            self._sent.append(item)
            item = self._role.send(None)

    def give(self, kind: str, data: bytes) -> None:
        """Hand it a frame, or a long blob in several."""
        for start in range(0, len(data), FRAME_BYTES):
            self._go(Frame(kind, data[start : start + FRAME_BYTES]))

    def give_sized(self, kind: str, data: bytes) -> None:
        self._go(Frame(f"{kind}-length", len(data).to_bytes(8, "big")))
        self.give(kind, data)

    def sent(self, kind: str) -> bytes:
        return b"".join(frame.body for frame in self._sent if frame.kind == kind)


def residues(ring: Any, parameters: Parameters, column: bytes) -> Any:
    """(block, prime, coefficient) of packed polynomials."""
    words = np.frombuffer(_native.threshold_residues(ring, column), dtype="<u8")
    return words.reshape(-1, len(parameters.moduli), parameters.degree).copy()


def packed(parameters: Parameters, blocks: Any) -> bytes:
    """The reverse."""
    out = []
    for block in blocks:
        for values, p in zip(block, parameters.moduli, strict=True):
            bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
            out.append(np.packbits(bits[:, : p.bit_length()].ravel(), bitorder="little").tobytes())
    return b"".join(out)


def negated(ring: Any, parameters: Parameters, column: bytes) -> bytes:
    """Minus packed polynomials."""
    moduli = np.array(parameters.moduli, dtype=np.uint64)[:, np.newaxis]
    return packed(parameters, (moduli - residues(ring, parameters, column)) % moduli)


class LastSpeaker:
    """The third of three under `he_sum`, working with the asker: it shows its part after the others."""

    def __init__(self, bound: int = 10**6) -> None:
        self.round = Round("he_sum", 3, SHAPE, bound=bound)
        self.parameters, self.roster = self.round.parameters, self.round.roster
        self.ring, self._digest = self.parameters.ring(), self.roster.digest
        owns = (VICTIM, OTHER)
        self.held = [Held(self.round.participant(i, own)) for i, own in enumerate(owns)]
        self.part = he_sum._Part.fresh(self.parameters, SHAPE, self.roster, _entropy("evil"))
        self.key = self.parameters.polynomial_bytes

    def shown(self) -> list[bytes]:
        """Commit to an honest part; the others' parts, which they show now."""
        own = f._commitment(he_sum.SCHEME, self._digest, "party-02", self.part.shown)
        for held in self.held:
            held.give("roster", self.roster.canonical())
        self.commitments = b"".join([*(held.sent("commitment") for held in self.held), own])
        for held in self.held:
            held.give("commitments", self.commitments)
        return [f.split(held.sent("part"))[0] for held in self.held]

    def show(self, part: bytes) -> None:
        """Show this part in place of the one committed to."""
        seen = hashlib.sha256(self.commitments).digest()
        statement = f._statement(he_sum.SCHEME, self._digest, "party-02", seen)
        own = f.joined([part, _sign("party-02")(statement)])
        for held in self.held:
            held.give_sized("parts", f.joined([*(one.sent("part") for one in self.held), own]))

    def known(self, name: str) -> he_sum._Part:
        """A part as its member made it: what a test knows and no adversary."""
        return he_sum._Part.fresh(self.parameters, SHAPE, self.roster, _entropy(name))

    def agreed(self, parts: Sequence[bytes]) -> he_sum._Agreed:
        """What the last speaker makes of everybody's parts."""
        return he_sum._Agreed.of(self.part, self.round.member(2), self.roster, parts)

    def opened(self, total: Any, length: int = SHAPE.counted) -> list[int]:
        """The words behind residues that are everybody's, added up."""
        moduli = np.array(self.parameters.moduli, np.uint64)[:, np.newaxis]
        blocks = total.reshape(-1, len(self.parameters.moduli), self.parameters.degree)
        return threshold.opened(self.parameters, blocks % moduli, length)


def rogue_key(evil: LastSpeaker, parts: Sequence[bytes]) -> bytes:
    """p = p' - the others': the key of the round is the adversary's own."""
    others = _native.threshold_add(evil.ring, [part[: evil.key] for part in parts])
    key = _native.threshold_add(
        evil.ring, [evil.part.shown[: evil.key], negated(evil.ring, evil.parameters, others)]
    )
    return key + evil.part.shown[evil.key :]


def chosen_half(evil: LastSpeaker, parts: Sequence[bytes]) -> bytes:
    """c1 = - the other's: what is opened in place of the sum is the victim's ciphertext."""
    end = evil.key + evil.part.lengths["counts"]
    c1 = negated(evil.ring, evil.parameters, parts[1][evil.key : end])
    return evil.part.shown[: evil.key] + c1 + evil.part.shown[end:]


@pytest.mark.parametrize("attack", [rogue_key, chosen_half])
def test_who_speaks_last_chooses_nothing_from_the_others(
    attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = LastSpeaker()
    with pytest.raises(PeerViolation) as error:
        evil.show(attack(evil, evil.shown()))
    assert error.value.code == "peer.round-key"
    assert not any(held.sent("counts") for held in evil.held)
    monkeypatch.setattr(f, "_commitment", lambda *_: bytes(32))  # commitments that bind to nothing
    unbound = LastSpeaker()
    unbound.show(attack(unbound, unbound.shown()))
    assert all(held.sent("counts") for held in unbound.held)


def test_what_is_no_polynomial_is_refused_by_everybody() -> None:
    evil = LastSpeaker()
    evil.part = replace(evil.part, shown=b"\xff" * len(evil.part.shown))
    evil.shown()
    with pytest.raises(PeerViolation) as error:
        evil.show(evil.part.shown)
    assert error.value.code == "peer.malformed"


def secrets_opened(evil: LastSpeaker) -> list[bytes]:
    """c1 + q/8 from the last speaker: what is opened holds t/8 s. Everybody's parts."""
    keys = evil.part.shown[-masks.KEY_BYTES :]
    half = residues(evil.ring, evil.parameters, evil.part.shown[evil.key : -masks.KEY_BYTES])
    eighth = prod(evil.parameters.moduli) // 8
    for i, p in enumerate(evil.parameters.moduli):
        half[0, i, 0] = (int(half[0, i, 0]) + eighth) % p
    shown = evil.part.shown[: evil.key] + packed(evil.parameters, half) + keys
    evil.part = replace(evil.part, shown=shown)
    parts = [*evil.shown(), shown]
    evil.show(shown)
    return parts


def victims(evil: LastSpeaker, agreed: he_sum._Agreed, parts: Sequence[bytes]) -> list[int]:
    """What the victim's own vector opens to for one who has every secret but the mask of the honest pair."""
    vector = np.frombuffer(evil.held[0].sent("counts"), dtype="<u8").copy()
    for (name, _), (add, pad) in zip(
        agreed.masks.secrets, agreed.masks.pads("counts", vector.nbytes), strict=True
    ):
        if name == "party-00":  # our share of its mask has the other sign
            vector += np.frombuffer(pad, "<u8") if add else -np.frombuffer(pad, "<u8")
    c1 = parts[0][evil.key : evil.key + evil.part.lengths["counts"]]
    members = [evil.known(name).secret for name in ("round/0", "round/1", "evil")]
    own = members[0].decryption_share(agreed.sums["counts"], bytes(32), 1)
    columns = [member.decryption_share(c1, bytes(32), 1) for member in members]
    columns.append(negated(evil.ring, evil.parameters, own))
    return evil.opened(vector + threshold.residues(evil.ring, columns))


def test_a_half_that_is_none_opens_the_sum_of_the_secrets_and_nobody_s_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What commitments do not stop (docs/explanation/federation.md), and what masks leave of it: nothing."""
    evil = LastSpeaker(bound=2**40)
    parts = secrets_opened(evil)
    agreed = evil.agreed(parts)
    vectors = [held.sent("counts") for held in evil.held]
    total = sum(np.frombuffer(one, "<u8") for one in vectors)
    total = total + np.frombuffer(agreed.contributed("counts", [0] * SHAPE.counted), "<u8")
    opened = evil.opened(total, evil.parameters.degree)
    read = [round(8 * word / evil.parameters.t) for word in opened]
    seeds = [_entropy(name)(32) for name in ("round/0", "round/1", "evil")]
    secrets = [ternary(seed, SECRET, 0, evil.parameters.degree) for seed in seeds]
    assert read == [sum(one) for one in zip(*secrets, strict=True)]
    assert victims(evil, agreed, parts) != VICTIM.counted()

    whole = Masks._stream

    def bare(self: Any, other: str, secret: bytes, label: str, length: int) -> bytes:
        pair = {self.own, other} == {"party-00", "party-01"}
        return bytes(length) if pair else whole(self, other, secret, label, length)

    monkeypatch.setattr(Masks, "_stream", bare)
    other = LastSpeaker(bound=2**40)
    parts = secrets_opened(other)
    assert victims(other, other.agreed(parts), parts) == VICTIM.counted()


# --- simulation -----------------------------------------------------------------------------------------


def split(n: int) -> list[Contribution]:
    """The two honest parts, and the colluders' n - 2."""
    return [VICTIM, OTHER, *(Contribution((i, 2), ((i, -i),)) for i in range(1, n - 1))]


def of_honest(result: Sequence[int], colluders: Sequence[Sequence[int]]) -> list[int]:
    """What the result and the colluders' own words say about the two others: their sum."""
    return [total - sum(own) for total, *own in zip(result, *colluders, strict=True)]


class Colluders:
    """All participants but the first two of a `masked_sum`: what they know of its pads."""

    def __init__(self, round_: Round) -> None:
        draws = [_entropy(f"{round_.seed}/{i}")(32) for i in range(round_.n)]
        keys = [X25519PrivateKey.from_private_bytes(draw) for draw in draws]
        public = [key.public_key() for key in keys]
        self._names, self._salt = round_.names, round_.roster.digest
        self._secrets = {(c, h): keys[c].exchange(public[h]) for c in range(2, round_.n) for h in (0, 1)}
        self.honest = Masks(  # nobody's but the honest pair's; the tests alone use it
            masked_sum.SCHEME, self._names[0], ((self._names[1], keys[0].exchange(public[1])),), self._salt
        )

    def pads(self, honest: int, label: str, length: int) -> bytes:
        """Their share of an honest participant's masks."""
        found = bytes(length)
        for (colluder, of), secret in self._secrets.items():
            if of == honest:
                theirs = Masks(
                    masked_sum.SCHEME, self._names[colluder], ((self._names[of], secret),), self._salt
                )
                found = f.added([found, f.negated(theirs.masked(label, bytes(length)))])
        return found

    def simulated(self, label: str, words: Sequence[int], pad: bytes) -> tuple[bytes, bytes]:
        """Both honest vectors from their sum and a uniform pad: nothing else of them enters."""
        total = f.words(words)
        first = f.added([total, self.pads(0, label, len(total)), pad])
        return first, f.added([self.pads(1, label, len(total)), f.negated(pad)])


VECTORS = {"counts": "counts", "measures": "release"}


def masked(round_: Round, contributions: Sequence[Contribution]) -> dict[tuple[int, str], bytes]:
    """What participants sent; vectors without the length before a release."""
    frames = {(i, kind): body for i, kind, body in _frames(round_, contributions)}
    return {key: body[8:] if key[1] == "release" else body for key, body in frames.items()}


@pytest.mark.parametrize("n", [3, 5])
def test_what_colluders_see_of_masked_sum_is_distributed_as_from_the_result_alone(n: int) -> None:
    """The simulator's view under pad' = pad + v - (v + w) is the real one, byte for byte. As pads are uniform
    (X25519, HKDF and ChaCha20 taken as ideal) and this is a bijection, both views have one distribution."""
    round_, contributions = Round("masked_sum", n, SHAPE), split(n)
    totals, view, colluders = round_.run(contributions), masked(round_, contributions), Colluders(round_)
    results = {
        "counts": [*totals.identities, *totals.participants],
        "measures": [x for column in totals.measures for x in column],
    }
    owns = {
        "counts": [c.counted() for c in contributions],
        "measures": [c.measured([True] * 2) for c in contributions],
    }
    for label, kind in VECTORS.items():
        known = of_honest(results[label], owns[label][2:])
        pad = colluders.honest.masked(label, f.words([0] * len(known)))
        shifted = f.added([pad, f.words([v - x for v, x in zip(owns[label][0], known, strict=True)])])
        assert colluders.simulated(label, known, shifted) == (view[0, kind], view[1, kind])
    # keys and the colluders' own frames do not depend on what the honest pair holds at all
    other = masked(round_, [Contribution((9, 9), ((9, 9),))] * 2 + contributions[2:])
    assert {k: v for k, v in other.items() if k[0] > 1 or k[1] not in VECTORS.values()} == {
        k: v for k, v in view.items() if k[0] > 1 or k[1] not in VECTORS.values()
    }


def test_without_the_pair_s_mask_colluders_read_a_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    round_, contributions = Round("masked_sum", 3, SHAPE), split(3)
    colluders, whole = Colluders(round_), Masks._stream

    def read() -> list[int]:
        vector = masked(round_, contributions)[0, "counts"]
        return f.integers(f.added([vector, f.negated(colluders.pads(0, "counts", len(vector)))]))

    assert read() != VICTIM.counted()

    def bare(self: Any, other: str, secret: bytes, label: str, length: int) -> bytes:
        pair = {self.own, other} == set(round_.names[:2])
        return bytes(length) if pair else whole(self, other, secret, label, length)

    monkeypatch.setattr(Masks, "_stream", bare)
    assert read() == VICTIM.counted()


class Opening:
    """What is opened of the counts in a `he_sum` of n."""

    def __init__(self, n: int, contributions: Sequence[Contribution], seed: str) -> None:
        self.round = Round("he_sum", n, SHAPE, seed=seed)
        self.parameters, self.ring = self.round.parameters, self.round.parameters.ring()
        self.frames = {(i, kind): body for i, kind, body in _frames(self.round, contributions)}
        self.q = prod(self.parameters.moduli)

    def total(self) -> Any:
        """What everybody sent, added up: the masks are off."""
        sent = [np.frombuffer(b, "<u8") for (_, kind), b in self.frames.items() if kind == "counts"]
        moduli = np.array(self.parameters.moduli, np.uint64)[:, np.newaxis]
        return sum(sent[1:], sent[0]).reshape(-1, len(moduli), self.parameters.degree) % moduli

    def scaled(self, words: Sequence[int]) -> bytes:
        """round(q m / t), packed."""
        t = self.parameters.t
        values = [(2 * self.q * (m % t) + t) // (2 * t) for m in words]
        block = np.zeros((1, len(self.parameters.moduli), self.parameters.degree), dtype=np.uint64)
        for i, p in enumerate(self.parameters.moduli):
            block[0, i, : len(words)] = [x % p for x in values]
        return packed(self.parameters, block)

    def noise(self, words: Sequence[int]) -> Any:
        """Of every coefficient, what is left when the sum is taken off: in units of the flood's bound."""
        minus = residues(self.ring, self.parameters, negated(self.ring, self.parameters, self.scaled(words)))
        left = (self.total() + minus) % np.array(self.parameters.moduli, np.uint64)[:, np.newaxis]
        basis = [self.q // p * pow(self.q // p, -1, p) for p in self.parameters.moduli]
        sums = [sum(int(x) * e for x, e in zip(row, basis, strict=True)) % self.q for row in left[0].T]
        return (
            np.array([x - self.q if x > self.q // 2 else x for x in sums], dtype=float)
            / 2.0**self.parameters.flood_bits
        )


@pytest.mark.parametrize("n", [3, 5])
def test_what_colluders_see_of_he_sum_is_made_from_the_result_alone(n: int) -> None:
    """The simulator encrypts zeros for both honest participants and moves one's vector by their sum.

    That its ciphertexts look like theirs is RLWE's to say; tested is that it opens to the same result, with
    frames of the same kinds and sizes, and with noise of one distribution (two-sample Kolmogorov-Smirnov).
    """
    contributions = split(n)
    real = Opening(n, contributions, "real")
    result = [sum(words) for words in zip(*(c.counted() for c in contributions), strict=True)]
    known = of_honest(result, [c.counted() for c in contributions[2:]])
    zero = Contribution((0, 0), ((0, 0),))
    made = Opening(n, [zero, zero, *contributions[2:]], "made")
    moved = np.frombuffer(made.frames[1, "counts"], "<u8").copy()
    moved += residues(made.ring, made.parameters, made.scaled(known)).ravel()
    made.frames[1, "counts"] = moved.tobytes()
    assert threshold.opened(made.parameters, made.total(), len(result)) == result
    assert [(k, len(v)) for k, v in made.frames.items()] == [(k, len(v)) for k, v in real.frames.items()]
    samples = [np.sort(one.noise(result)) for one in (real, made)]
    assert all(n / 8 < sample.std() < n for sample in samples)  # floods, not the ciphertexts' own noise
    grid = np.concatenate(samples)
    below = [np.searchsorted(sample, grid, side="right") / len(sample) for sample in samples]
    assert np.abs(below[0] - below[1]).max() < 2.3 * (2 / real.parameters.degree) ** 0.5  # chance: 5e-5


def transformed(values: Sequence[int], root: int, p: int) -> list[int]:
    """At the powers of `root`: the cyclic transform of a power of two of values."""
    if len(values) == 1:
        return list(values)
    even, odd = (transformed(values[i::2], root * root % p, p) for i in (0, 1))
    out, power = [0] * len(values), 1
    for i, (a, b) in enumerate(zip(even, odd, strict=True)):
        out[i], out[i + len(even)] = (a + power * b) % p, (a - power * b) % p
        power = power * root % p
    return out


def quotient(x: Sequence[int], y: Sequence[int], p: int) -> list[int]:
    """x / y in Z_p[X]/(X^N + 1)."""
    n = len(x)
    psi = next(g for g in (pow(b, (p - 1) // (2 * n), p) for b in range(2, 99)) if pow(g, n, p) == p - 1)
    twist = [1]
    for _ in range(n - 1):
        twist.append(twist[-1] * psi % p)
    a, b = (transformed([v * w % p for v, w in zip(z, twist, strict=True)], psi * psi % p, p) for z in (x, y))
    back = transformed([v * pow(w, -1, p) % p for v, w in zip(a, b, strict=True)], pow(psi, -2, p), p)
    return [v * pow(n * w, -1, p) % p for v, w in zip(back, twist, strict=True)]


@pytest.mark.parametrize("flooded", [True, False])
def test_without_the_flood_a_share_gives_its_member_s_secret(flooded: bool) -> None:
    """d = c1 s + f: without f, division by c1 gives s. The smallest flood is of one bit; here it is known."""
    evil = LastSpeaker()
    part = he_sum._Part.fresh(evil.parameters, SHAPE, evil.roster, _entropy("round/0"))
    c1 = part.shown[evil.key : evil.key + part.lengths["counts"]]
    bits = evil.parameters.flood_bits if flooded else 0
    share = part.secret.decryption_share(c1, bytes(32), bits)
    p, x, y = (
        evil.parameters.moduli[0],
        *(residues(evil.ring, evil.parameters, z)[0, 0] for z in (share, c1)),
    )
    words = stream(bytes(32), FLOOD, 0)
    flood = [0 if flooded else (take(words, 8) & 1) - 1 for _ in x]
    found = quotient([(v - f) % p for v, f in zip(x.tolist(), flood, strict=True)], y.tolist(), p)
    secret = [v % p for v in ternary(_entropy("round/0")(32), SECRET, 0, len(x))]
    assert (found == secret) is not flooded
