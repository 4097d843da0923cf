"""The homomorphic selection sum: the receiver's vectors against the sender's columns, gated by the sender.

The receiver learns the sums of the cells that the sender's gate releases; the sender learns the exact
count of every cell, and of every weight column how many of its weights there are not zero, before its gate;
nothing else about the vectors. A cell leaves only when its gate accepts the least of these counts.
Semi-honest. Parties, equations, parameters and proofs: docs/explanation/selection-sum.md. Refuses parameters
outside the Homomorphic Encryption Standard (128 bits, ternary secrets) as revised, and sums that could wrap.

In the equations N is the ring degree, q the ciphertext modulus, q' the part of it that is kept for the
way back, t the plaintext modulus, W the largest weight, C the number of ciphertexts returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compute import _native, kernel
from compute.errors import DataError, PeerViolation, QueryError
from compute.frames import Frame, Role, receive, receive_blob, send_blob
from compute.inputs import Entropy, Gate

IntColumn = NDArray[np.int64]

SCHEME = "bayspace selection sum v1"
STANDARD = {4096: 106, 8192: 214, 16384: 430, 32768: 868}
"""Largest bits of q per degree, ternary, 128 bits: Bossuat et al. 2024/463, table 5.2, which revises the
Homomorphic Encryption Standard 2018, table 1 (109, 218, 438, 881) by newer attacks."""

STATISTICAL_BITS = 40
"""All returned noise together is within 2^-40 of noise that does not depend on the receiver's vectors."""

_PRIME_BITS = 50  # the kernel's largest primes
_MAXIMUM_WEIGHT = 1 << 60  # the kernel adds 2^16 weighted residues in 128 bits
_MAXIMUM_SUM_BYTES = 1 << 30  # the receiver's running sums
_MAXIMUM_RUN_BYTES = 1 << 28  # its transformed vectors for one run of blocks
_RUN_SLOTS = 1 << 16
_SEED_BYTES = 32
_SALT_BYTES = 32


class DoesNotFit(QueryError):
    """No parameters of the Homomorphic Encryption Standard hold sums of this size exactly."""

    def __init__(self, sentence: str) -> None:
        super().__init__("plan.selection-sum-does-not-fit", sentence)


@dataclass(frozen=True, slots=True)
class SumBound:
    """What is declared about one measure of any one sender group, in its integer unit."""

    magnitude: int  # at least the sum of |value| over all slots
    tail: int = 0  # at least the |noise| that the sender may add to one answer


@dataclass(frozen=True, slots=True)
class Parameters:
    """Everything both sides must agree on before the first frame; `canonical` enters the plan digest."""

    slots: int
    selected: int  # most slots in one selection
    weight_bound: int | None  # W; None: selections are 0/1 and no weights may be sent
    returned: int  # C
    bounds: tuple[SumBound, ...]
    degree: int  # N
    moduli: tuple[int, ...]  # primes of q
    kept: int  # the first primes: those of q'
    flood_bits: int  # the flood is uniform in [-2^flood_bits, 2^flood_bits)
    identity_bits: int
    field_bits: tuple[int, ...]
    valued: int = 0  # counts beside that of identities: of those with a value of some measure

    @classmethod
    def derive(
        cls,
        *,
        slots: int,
        returned: int,
        bounds: Sequence[SumBound],
        selected: int | None = None,
        weight_bound: int | None = None,
        valued: int = 0,
    ) -> Parameters:
        """Return the smallest parameters that hold every sum exactly and flood every answer.

        `selected` bounds the slots of one selection (default: all), `returned` the answered ciphertexts of
        the whole session. Raises DoesNotFit.
        """
        W = 1 if weight_bound is None else weight_bound
        most = slots if selected is None else min(selected, slots)
        if not (0 < slots < 1 << 32 and most > 0 and returned > 0 and 0 < W <= _MAXIMUM_WEIGHT):
            raise DoesNotFit("slots, selections, answers and weights must be positive and below their limits")
        if any(bound.magnitude < 0 or bound.tail < 0 for bound in bounds):
            raise DoesNotFit("a declared bound is negative")
        # A count lies in [0, selected]; every other sum x has |x| < 2^(bits - 1).
        identity_bits = most.bit_length() if weight_bound is None else (W * most).bit_length() + 1
        field_bits = tuple((W * bound.magnitude + bound.tail).bit_length() + 1 for bound in bounds)
        for degree in STANDARD:
            draft = cls(
                slots,
                most,
                weight_bound,
                returned,
                tuple(bounds),
                degree,
                (),
                0,
                0,
                identity_bits,
                field_bits,
                valued,
            )
            if (fitted := draft._fit()) is not None:
                if returned * len(fitted.moduli) * degree * 8 > _MAXIMUM_SUM_BYTES:
                    raise DoesNotFit(f"{returned} answers would need too much memory at the receiver")
                return fitted
        raise DoesNotFit(
            f"sums of {sum(field_bits)} bits over {most} slots exceed the largest standard modulus"
        )

    def _fit(self) -> Parameters | None:
        """Choose the flood and q for this degree; None where the standard allows no q that large."""
        # Statistical distance of the flood from its shift by at most E, over C answers: C E / 2^(flood + 1).
        flood_bits = ((self.returned * self.noise_bound << (STATISTICAL_BITS - 1)) - 1).bit_length()
        draft = replace(self, flood_bits=flood_bits)
        least = (2 * draft.t * draft.returned_noise).bit_length()
        for total in range(least, STANDARD[self.degree] + 1):
            count = -(-total // _PRIME_BITS)
            moduli = tuple(_native.selection_primes(self.degree, -(-total // count), count))
            if len(moduli) < count or prod(moduli).bit_length() > STANDARD[self.degree]:
                continue
            for kept in range(1, count + 1):
                fitted = replace(draft, moduli=moduli, kept=kept)
                if fitted.decrypts:
                    return fitted
        return None

    @property
    def noise_bound(self) -> int:
        """E: the worst case of the evaluated noise on the returned coefficient, flood excluded.

        Per selected slot |w| (21 + 1/2): CBD(21) and the rounding of the plaintext. The encryption of zero
        adds u e + e' s, at most 2 * 21 N. Rounding the mask and the decrypted value adds 1/2 each.
        """
        W = self.weight_bound or 1
        return -(-43 * W * self.selected // 2) + 42 * self.degree + 1

    @property
    def returned_noise(self) -> int:
        """The worst case of the noise before the switch to q', flood included."""
        return self.noise_bound + (1 << self.flood_bits)

    @property
    def decrypts(self) -> bool:
        """Whether returned_noise * q'/q + (N + 1) < q' / 2t: then decryption is always exact."""
        q, kept = self.q, self.q_kept
        return 2 * self.t * (self.returned_noise * kept + (self.degree + 1) * q) < q * kept

    @property
    def q(self) -> int:
        """The ciphertext modulus."""
        return prod(self.moduli)

    @property
    def q_kept(self) -> int:
        """The modulus q' of the returned ciphertexts."""
        return prod(self.moduli[: self.kept])

    @property
    def plain_bits(self) -> int:
        """log2 t: the identity field and all measures beside each other."""
        return self.count_bits + sum(self.field_bits)

    @property
    def count_bits(self) -> int:
        """The fields that count, which come first: identities, then those with a value."""
        return self.identity_bits * (1 + self.valued)

    @property
    def t(self) -> int:
        """The plaintext modulus."""
        return 1 << self.plain_bits

    @property
    def blocks(self) -> int:
        """Polynomials per column."""
        return -(-self.slots // self.degree)

    @property
    def key_bytes(self) -> int:
        """Length of one packed polynomial modulo q: the public key, and every block of a column."""
        return sum(p.bit_length() for p in self.moduli) * self.degree // 8

    @property
    def answer_bytes(self) -> int:
        """Length of one returned ciphertext: one coefficient of c0 and all of c1, modulo q'."""
        bits = sum(p.bit_length() for p in self.moduli[: self.kept])
        return 8 * self.kept + bits * self.degree // 8

    def canonical(self) -> dict[str, Any]:
        """Return the JSON form that both sides' plans must share."""
        return {
            "scheme": SCHEME,
            "slots": self.slots,
            "selected": self.selected,
            "weight_bound": None if self.weight_bound is None else str(self.weight_bound),
            "returned": self.returned,
            "bounds": [[str(bound.magnitude), str(bound.tail)] for bound in self.bounds],
            "degree": self.degree,
            "moduli": list(self.moduli),
            "kept": self.kept,
            "flood_bits": self.flood_bits,
            "identity_bits": self.identity_bits,
            "field_bits": list(self.field_bits),
            **({"valued": self.valued} if self.valued else {}),
        }


@dataclass(frozen=True, slots=True)
class Shape:
    """How many groups each side brings, and how many weight columns the receiver has per group."""

    receiver_groups: int
    sender_groups: int
    weight_columns: int = 0

    @property
    def selections(self) -> int:
        """The receiver's vectors: per group its 0/1 selection, then two for every weight column."""
        return self.receiver_groups * self.vectors

    @property
    def vectors(self) -> int:
        """Vectors of one group: 0 selects; 2i + 1 marks where weight i is not zero; 2i + 2 holds it."""
        return 1 + 2 * self.weight_columns


@dataclass(frozen=True, slots=True)
class SenderGroup:
    """One sender-side group: the slots whose key occurs in it, and a value of every measure there."""

    positions: IntColumn  # slots, ascending; each counts as one identity
    measures: tuple[IntColumn, ...]  # aligned with positions
    values: tuple[IntColumn, ...] = ()  # 0/1, aligned with positions: who has a value of some measure


@dataclass(frozen=True, slots=True)
class ReceiverGroup:
    """One receiver-side group: the slots it selects, and a weight there for every weight column."""

    positions: IntColumn  # slots, ascending
    weights: tuple[IntColumn, ...] = ()  # aligned with positions


@dataclass(frozen=True, slots=True)
class CellSums:
    """The exact sums of one released cell (noise of the sender included)."""

    count: int
    measures: tuple[int, ...]
    weighted: tuple[tuple[int, ...], ...]  # per weight column: sum of the weights, then of weight * measure


@dataclass(frozen=True, slots=True)
class Answers:
    """What the sender's gate released: masked sums, which only the receiver's `Opening` unmasks."""

    counts: IntColumn  # (receiver group, sender group), exact
    released: NDArray[np.bool_]
    masked: dict[tuple[int, int], tuple[int, ...]] = field(repr=False)  # (r, s) -> one integer per answer
    commitment: bytes  # of the receiver to its masks
    supports: IntColumn  # (receiver group, sender group, weight column): weights that are not zero, exact
    least: IntColumn  # (receiver group, sender group): of all counts, what the gate was asked about

    def noised(self, parameters: Parameters, noise: Callable[[int, int, int], Sequence[int]]) -> Answers:
        """Add noise(receiver group, sender group, answer)[field] to every answer, within its tail.

        Answer 0 has one field per measure, that of a weight column the sum of the weights first. Raises
        DataError for noise beyond the declared tail, which could make a sum wrap.
        """
        tails = tuple(bound.tail for bound in parameters.bounds)
        masked = {}
        for (r, s), values in self.masked.items():
            noisy = []
            for k, value in enumerate(values):
                drawn = tuple(noise(r, s, k))
                allowed = tails if k == 0 else (0,) * (1 + parameters.valued) + tails
                if len(drawn) != len(allowed) or any(abs(x) > y for x, y in zip(drawn, allowed, strict=True)):
                    raise DataError("data.noise-out-of-bounds", "noise exceeds its declared tail")
                widths = _widths(parameters, counted=k == 0)
                noisy.append((value + _join(drawn, widths)) % (1 << sum(widths)))
            masked[r, s] = tuple(noisy)
        return replace(self, masked=masked)

    def encode(self, parameters: Parameters, shape: Shape) -> bytes:
        """Return the answers as bytes for the release frame; their length depends on the shape alone."""
        rows = []
        for r, s in np.ndindex(shape.receiver_groups, shape.sender_groups):
            released = bool(self.released[r, s])
            values = self.masked[r, s] if released else (0,) * (1 + shape.weight_columns)
            count = int(self.counts[r, s]) if released else 0
            rows.append(released.to_bytes(1, "little") + count.to_bytes(8, "little"))
            widths = (_width_bytes(parameters, counted=k == 0) for k in range(len(values)))
            rows += [v.to_bytes(width, "little") for v, width in zip(values, widths, strict=True)]
        return b"".join(rows)


@dataclass(frozen=True, slots=True)
class Opening:
    """The receiver's masks, and the salt of its commitment to them."""

    masks: tuple[tuple[tuple[int, ...], ...], ...] = field(repr=False)  # receiver group, sender group, vector
    salt: bytes = field(repr=False)
    totals: bytes = field(repr=False)  # the masks as the commitment holds them

    @property
    def commitment(self) -> bytes:
        """What the sender gets before it answers."""
        return commitment_to(self.revealed)

    @property
    def revealed(self) -> bytes:
        """What opens the commitment: for an auditor, `recomputed`."""
        return self.salt + self.totals


def commitment_to(revealed: bytes) -> bytes:
    """The commitment that a salt and mask totals open."""
    return hashlib.sha256(b"bayspace mask totals v1" + revealed).digest()


def sender(
    parameters: Parameters, shape: Shape, groups: Sequence[SenderGroup], gate: Gate, entropy: Entropy
) -> Role[Answers]:
    """Send the columns, decrypt the receiver's sums, gate on the counts; return what may be released.

    `groups` is read run by run and may make its columns when asked. The gate is called once. The caller
    sends the answers in its own release frame.
    """
    _check_shape(parameters, shape, len(groups))
    public_seed = entropy(_SEED_BYTES)
    ring = _native.SelectionRing(kernel.implementation(), parameters.degree, parameters.moduli)
    key = _native.SelectionKey(ring, parameters.plain_bits, entropy(_SEED_BYTES), public_seed)
    yield Frame("selection-seed", public_seed)
    yield from send_blob("selection-key", key.public_key())
    for number, group in enumerate(groups):
        _check_group(parameters, number, group)
    for first, blocks in _runs(parameters, shape):
        for number, group in enumerate(groups):
            yield from send_blob("selection-columns", _encrypt(parameters, key, number, group, first, blocks))
    commitment = yield from receive("selection-commitment", 32)
    plain = {}
    for s, r, k in np.ndindex(shape.sender_groups, shape.receiver_groups, shape.vectors):
        answer = yield from receive_blob("selection-sums", parameters.answer_bytes)
        plain[r, s, k] = _decrypt(parameters, key, answer)
    return _gated(parameters, shape, plain, gate, commitment)


def receiver(
    parameters: Parameters, shape: Shape, groups: Sequence[ReceiverGroup], entropy: Entropy
) -> Role[Opening]:
    """Sum every column over every selection, mask and flood the sums, return what unmasks the answers."""
    _check_selections(parameters, shape, groups)
    public_seed = yield from receive("selection-seed", _SEED_BYTES)
    public_key = yield from receive_blob("selection-key", parameters.key_bytes)
    ring = _native.SelectionRing(kernel.implementation(), parameters.degree, parameters.moduli)
    vectors = [vector for group in groups for vector in _vectors(group)]
    with _Malformed():
        sums = _native.SelectionSums(
            ring, public_seed, public_key, shape.sender_groups, parameters.slots, vectors
        )
    for first, blocks in _runs(parameters, shape):
        for number in range(shape.sender_groups):
            packed = yield from receive_blob("selection-columns", blocks * parameters.key_bytes)
            with _Malformed():
                sums.absorb(number, first, blocks, packed)
    opening = _draw_masks(parameters, shape, entropy)
    yield Frame("selection-commitment", opening.commitment)
    seed = entropy(_SEED_BYTES)
    for s, r, k in np.ndindex(shape.sender_groups, shape.receiver_groups, shape.vectors):
        addend = _scaled(parameters, _placed(parameters, k, opening.masks[r][s][k])) + _flood(
            parameters, entropy
        )
        residues = [addend % p for p in parameters.moduli]
        cell = sums.finish(s, r * shape.vectors + k, seed, residues, parameters.kept)
        yield from send_blob("selection-sums", cell)
    return opening


def open_answers(
    parameters: Parameters, shape: Shape, opening: Opening, encoded: bytes
) -> dict[tuple[int, int], CellSums]:
    """Unmask the released answers: (receiver group, sender group) -> sums; suppressed cells are absent.

    Raises PeerViolation for anything that `Answers.encode` would not have made.
    """
    view, cells = _Reader(encoded), {}
    for r, s in np.ndindex(shape.receiver_groups, shape.sender_groups):
        released, count = view.integer(1), view.integer(8)
        widths = [_width_bytes(parameters, counted=k == 0) for k in range(1 + shape.weight_columns)]
        values = [view.integer(width) for width in widths]
        if released > 1 or count > parameters.selected or (not released and (count or any(values))):
            raise _malformed()
        if released:
            masks = opening.masks[r][s][::2]  # those of supports stay closed
            sums = [_unmask(parameters, k == 0, v, masks[k]) for k, v in enumerate(values)]
            # Weighted numbers of values say nothing that anybody asked for.
            weighted = tuple((total, *fields[parameters.valued :]) for total, *fields in sums[1:])
            cells[r, s] = CellSums(count, sums[0], weighted)
    view.end()
    return cells


def recomputed(
    stated: Mapping[str, Any], weight_columns: int, revealed: bytes, encoded: bytes
) -> list[CellSums | None]:
    """What `open_answers` gave, from the opened commitment: each cell in order, None if held back.

    stated: `Parameters.canonical`, of which only the fields of an answer matter here. Raises PeerViolation.
    """
    widths, selected = tuple(stated["field_bits"]), stated["selected"]
    parameters = Parameters(
        selected, selected, None, 0, (), 0, (), 0, 0, stated["identity_bits"], widths, stated.get("valued", 0)
    )
    view = _Reader(revealed[_SALT_BYTES:])
    vectors = [_width_bytes(parameters, counted=_counted(k)) for k in range(1 + 2 * weight_columns)]
    count = (len(revealed) - _SALT_BYTES) // sum(vectors)
    masks = tuple(tuple(view.integer(width) for width in vectors) for _ in range(count))
    view.end()
    shape = Shape(1, count, weight_columns)
    cells = open_answers(parameters, shape, Opening((masks,), b"", b""), encoded)
    return [cells.get((0, number)) for number in range(count)]


def _runs(parameters: Parameters, shape: Shape) -> Iterator[tuple[int, int]]:
    """(first block, blocks): as many at a time as the receiver's memory allows; both sides agree."""
    per_block = shape.selections * len(parameters.moduli) * parameters.degree * 8
    at_once = max(1, min(_RUN_SLOTS // parameters.degree, _MAXIMUM_RUN_BYTES // per_block))
    for first in range(0, parameters.blocks, at_once):
        yield first, min(at_once, parameters.blocks - first)


def _vectors(group: ReceiverGroup) -> Iterator[tuple[IntColumn, IntColumn | None]]:
    """(positions, weights or 0/1) of a group's vectors, in `Shape.vectors`' order."""
    yield group.positions, None
    for weights in group.weights:
        yield group.positions[weights != 0], None
        yield group.positions, weights


def _counted(vector: int) -> bool:
    """Whether a vector is 0/1, so that the sender reads its count."""
    return vector == 0 or vector % 2 == 1


def _check_shape(parameters: Parameters, shape: Shape, groups: int) -> None:
    if groups != shape.sender_groups or shape.selections * shape.sender_groups > parameters.returned:
        raise DataError("data.too-many-groups", "the groups do not fit what the plan declares")
    if shape.weight_columns and parameters.weight_bound is None:
        raise DataError("data.weights", "the plan does not allow weights")


def _check_group(parameters: Parameters, number: int, group: SenderGroup) -> None:
    """Hold the sender's own values against what was declared: the proof that nothing wraps rests on it."""
    if len(group.measures) != len(parameters.bounds) or len(group.values) != parameters.valued:
        raise DataError("data.measures", f"sender group {number} does not have the planned measures")
    for values in group.values:
        if len(values) != len(group.positions) or not np.isin(values, (0, 1)).all():
            raise DataError("data.measures", f"sender group {number} counts values otherwise than by 0 and 1")
    _check_positions(parameters, group.positions)
    for i, (values, bound) in enumerate(zip(group.measures, parameters.bounds, strict=True)):
        if len(values) != len(group.positions):
            raise DataError("data.measures", f"measure {i} of sender group {number} has another length")
        if _magnitude(values) > bound.magnitude:
            raise DataError("data.sum-out-of-bounds", f"measure {i} exceeds its declared bound")


def _check_selections(parameters: Parameters, shape: Shape, groups: Sequence[ReceiverGroup]) -> None:
    _check_shape(parameters, shape, shape.sender_groups)
    if len(groups) != shape.receiver_groups:
        raise DataError("data.too-many-groups", "the groups do not fit what the plan declares")
    for group in groups:
        _check_positions(parameters, group.positions)
        if len(group.weights) != shape.weight_columns or len(group.positions) > parameters.selected:
            raise DataError("data.selection", "a receiver group does not fit what the plan declares")
        for weights in group.weights:
            light = parameters.weight_bound is not None and _largest(weights) <= parameters.weight_bound
            if not light or len(weights) != len(group.positions):
                raise DataError("data.weights", "a weight exceeds its declared bound")


def _check_positions(parameters: Parameters, positions: IntColumn) -> None:
    ascending = len(positions) == 0 or (
        positions[0] >= 0
        and positions[-1] < parameters.slots
        and bool(np.all(positions[1:] > positions[:-1]))
    )
    if not ascending:
        raise DataError("data.selection", "positions are not ascending inside the slots")


def _magnitude(values: IntColumn) -> int:
    """Sum of |value|, exactly: the unsigned halves of 2^32 values cannot overflow."""
    absolute = np.where(values < 0, -values.view(np.uint64), values.view(np.uint64))
    high, low = absolute >> np.uint64(32), absolute & np.uint64(0xFFFFFFFF)
    return (int(high.sum(dtype=np.uint64)) << 32) + int(low.sum(dtype=np.uint64))


def _largest(values: IntColumn) -> int:
    return max(abs(int(values.max())), abs(int(values.min()))) if len(values) else 0


def _encrypt(
    parameters: Parameters,
    key: _native.SelectionKey,
    number: int,
    group: SenderGroup,
    first: int,
    blocks: int,
) -> bytes:
    start = first * parameters.degree
    low, high = np.searchsorted(group.positions, [start, start + blocks * parameters.degree])
    shifts = [parameters.identity_bits * (1 + j) for j in range(parameters.valued)]
    shift = parameters.count_bits
    for bits in parameters.field_bits:
        shifts.append(shift)
        shift += bits
    columns = (*group.values, *group.measures)
    fields = [(place, values[low:high]) for place, values in zip(shifts, columns, strict=True)]
    return key.encrypt(number, first, blocks, group.positions[low:high] - start, fields)


def _decrypt(parameters: Parameters, key: _native.SelectionKey, answer: bytes) -> int:
    """The plaintext modulo t of one returned ciphertext; refuses noise that no honest receiver returns."""
    with _Malformed():
        residues = key.open(parameters.kept, answer)
    q, t = parameters.q_kept, parameters.t
    x = 0
    for residue, p in zip(residues, parameters.moduli, strict=False):
        x += residue * (q // p) * pow(q // p, -1, p)
    x %= q
    plain = (2 * t * x + q) // (2 * q)  # round(t x / q')
    # |t x - q' plain| is t times the noise, whose bound times q is the bracket (`Parameters.decrypts`).
    within = t * (parameters.returned_noise * q + (parameters.degree + 1) * parameters.q)
    if abs(t * x - q * plain) * parameters.q > within:
        raise PeerViolation("peer.selection-sum-noise", "a returned sum carries noise beyond its bound")
    return plain % t


def _gated(
    parameters: Parameters,
    shape: Shape,
    plain: dict[tuple[int, int, int], int],
    gate: Gate,
    commitment: bytes,
) -> Answers:
    """Read the counts, ask the gate about the least of each cell, keep what it releases."""
    counts = np.zeros((shape.receiver_groups, shape.sender_groups), np.int64)
    supports = np.zeros((*counts.shape, shape.weight_columns), np.int64)
    least = np.full(counts.shape, parameters.selected, np.int64)
    for (r, s, k), value in plain.items():
        if _counted(k):
            count, *values = _counts(parameters, value)
            if max(count, *values, 0) > min(count, parameters.selected):
                # before it is stored: it may have more than 64 bits
                raise PeerViolation("peer.selection-sum-count", "a returned count is impossible")
            least[r, s] = min(least[r, s], count, *values)
            if k == 0:
                counts[r, s] = count
            else:
                supports[r, s, k // 2] = count
    if (supports > counts[:, :, None]).any():
        raise PeerViolation("peer.selection-sum-count", "a returned count is impossible")
    # None of a weight or value is judged like one: what nobody has may be said where one may be shown.
    least = np.where(counts > 0, np.maximum(least, 1), least)
    released = np.asarray(gate(least.copy()), np.bool_)
    if released.shape != counts.shape:
        raise DataError("data.gate", "the gate did not decide every cell")
    masked = {
        (r, s): (
            plain[r, s, 0] >> parameters.count_bits,
            *(plain[r, s, k] for k in range(2, shape.vectors, 2)),
        )
        for r, s in np.ndindex(*counts.shape)
        if released[r, s]
    }
    return Answers(counts, released, masked, commitment, supports, least)


def _counts(parameters: Parameters, plain: int) -> list[int]:
    """The fields that count: identities, then those with a value."""
    bits = parameters.identity_bits
    return [(plain >> (bits * j)) & ((1 << bits) - 1) for j in range(1 + parameters.valued)]


def _draw_masks(parameters: Parameters, shape: Shape, entropy: Entropy) -> Opening:
    """One uniform mask per returned ciphertext, and a salted commitment to all of them."""

    def draw(vector: int) -> int:
        counted = _counted(vector)
        bits = sum(_widths(parameters, counted=counted))
        return int.from_bytes(entropy(_width_bytes(parameters, counted=counted)), "little") % (1 << bits)

    masks = tuple(
        tuple(tuple(draw(k) for k in range(shape.vectors)) for _ in range(shape.sender_groups))
        for _ in range(shape.receiver_groups)
    )
    totals = b"".join(
        mask.to_bytes(_width_bytes(parameters, counted=_counted(k)), "little")
        for row in masks
        for cell in row
        for k, mask in enumerate(cell)
    )
    return Opening(masks, entropy(_SALT_BYTES), totals)


def _placed(parameters: Parameters, vector: int, mask: int) -> int:
    """The mask as a plaintext: it leaves a count alone, and covers all of a weighted sum."""
    return mask << parameters.count_bits if _counted(vector) else mask


def _scaled(parameters: Parameters, plain: int) -> int:
    """round(q m / t)."""
    return (2 * parameters.q * plain + parameters.t) // (2 * parameters.t)


def _flood(parameters: Parameters, entropy: Entropy) -> int:
    """Uniform in [-2^flood_bits, 2^flood_bits)."""
    bits = parameters.flood_bits + 1
    drawn = int.from_bytes(entropy(-(-bits // 8)), "little") % (1 << bits)
    return drawn - (1 << parameters.flood_bits)


def _widths(parameters: Parameters, *, counted: bool) -> tuple[int, ...]:
    """Bits of the fields that an answer holds: a count is not masked, a sum of weights is."""
    counts = (parameters.identity_bits,) * (1 + parameters.valued)
    return parameters.field_bits if counted else (*counts, *parameters.field_bits)


def _width_bytes(parameters: Parameters, *, counted: bool) -> int:
    return -(-sum(_widths(parameters, counted=counted)) // 8)


def _join(fields: Sequence[int], widths: Sequence[int]) -> int:
    """Signed fields beside each other, the first lowest; borrows run upwards."""
    joined, shift = 0, 0
    for value, bits in zip(fields, widths, strict=True):
        joined += value << shift
        shift += bits
    return joined


def _unmask(parameters: Parameters, counted: bool, value: int, mask: int) -> tuple[int, ...]:
    widths = _widths(parameters, counted=counted)
    if value >> sum(widths):
        raise _malformed()
    rest, fields = value - mask, []
    for bits in widths:
        digit = (rest + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))  # centred
        fields.append(digit)
        rest = (rest - digit) >> bits
    return tuple(fields)


def _malformed() -> PeerViolation:
    return PeerViolation("peer.selection-sum-malformed", "the peer's part of a selection sum is malformed")


class _Malformed:
    """Turns the kernel's ValueError about the peer's bytes into the peer's violation."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise _malformed() from None


class _Reader:
    """Little-endian integers from a frame of exactly the expected length."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def integer(self, width: int) -> int:
        end = self._at + width
        if end > len(self._data):
            raise _malformed()
        value = int.from_bytes(self._data[self._at : end], "little")
        self._at = end
        return value

    def end(self) -> None:
        if self._at != len(self._data):
            raise _malformed()
