"""Aggregates over a join as sums of products: of one party's value and the other's, key by key.

Over the pairs of rows that a join makes, Σ a·b = Σ_keys A(key)·B(key), where A and B are the parties' own
sums over their rows of the key (and group). So SUM(r.a), COUNT over rows that repeat, SUM(r.a * s.b), COVAR
and REGR all come from one partial of each party; a factor of one is R's 0/1 mask, or S's count of identities.
Whole numbers throughout, with bounds: refused where a product could exceed its capacity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import product
from math import prod

from sqlglot import exp

from compute.dataset import Column, DatasetInfo
from compute.errors import QueryError
from compute.expressions import RELEASED, Bound, branched
from compute.facts import ColumnRef
from compute.measures import LIMIT, Measure, Number, named, square, times, too_large
from compute.plan import Figure, Partial, Total
from compute.types import Type

WEIGHT_CAPACITY = 2**50
"""A sum of the receiver's over one key stays below this; larger ones go in limbs."""

IDENTITIES = Total(("identities",))

_MOST_TERMS = 16
_ONE = "CAST(1 AS BIGINT)"


@dataclass(slots=True)
class Partials:
    """One side's partials, and the answer's figures, while they are collected; equal ones are shared."""

    prefix: str
    rows_bound: int  # most rows that one partial adds up
    capacity: int
    partials: dict[tuple[str, str], Partial] = field(default_factory=dict)
    figures: dict[tuple[str, tuple[Total, ...]], Figure] = field(default_factory=dict)

    def add(
        self,
        sql: str,
        scale: int,
        row_bound: int,
        function: str = "sum",
        kind: str = "integer",
        *,
        counts_values: bool = False,
    ) -> str:
        """The name of this partial."""
        name = f"{self.prefix}{len(self.partials)}"
        made = Partial(name, sql, scale, row_bound, function, kind, counts_values)
        return self.partials.setdefault((function, sql), made).name

    def total(self, number: Number, *, counts_values: bool = False) -> Total:
        """The sum of a number, in as many limbs as keep each within the capacity.

        `counts_values`: the number is 1 on the rows that have a value, else 0.
        """
        rows = max(1, self.rows_bound)
        bits = self.capacity.bit_length() - 1 - rows.bit_length()
        if bits < 8:
            raise QueryError(
                "query.overflow", "a dataset's declared number of rows leaves no room for exact sums"
            )
        if number.magnitude * rows < self.capacity:
            name = self.add(number.sql, number.scale, number.magnitude, counts_values=counts_values)
            return Total((name,), 0, number.scale)
        limbs, rest, shift = [], number.magnitude, 0
        while rest:
            last = rest < 2**bits
            shifted = f"({number.sql} // {_power(shift)})" if shift else f"({number.sql})"
            limb = shifted if last else f"({shifted} % {_power(bits)})"
            kind = "HUGEINT" if bits >= 63 else "BIGINT"
            limbs.append(self.add(f"CAST({limb} AS {kind})", number.scale, min(rest, 2**bits - 1)))
            rest, shift = rest >> bits, shift + bits
        return Total(tuple(limbs), bits, number.scale)

    def figure(self, function: str, totals: Sequence[Total], kind: Type, most: int | None = None) -> Bound:
        """One aggregate of the answer, as an expression over released cells; `most` as in `Bound`."""
        name = f"f{len(self.figures)}"
        key = (function, tuple(totals))
        found = self.figures.setdefault(key, Figure(name, function, tuple(totals), str(kind)))
        return Bound(found.name, kind, frozenset({RELEASED}), frozenset(), most=most)


def _power(bits: int) -> str:
    return f"CAST({2**bits} AS {'HUGEINT' if bits >= 63 else 'BIGINT'})"


@dataclass(frozen=True, slots=True)
class Term:
    """A product of a value of the receiver and one of the sender. None stands for one."""

    own: Number | None = None
    other: Number | None = None

    @property
    def scale(self) -> int:
        """Of the product."""
        return sum(number.scale for number in (self.own, self.other) if number is not None)

    @property
    def magnitude(self) -> int:
        """Largest absolute value of the product."""
        return prod(number.magnitude for number in (self.own, self.other) if number is not None)


@dataclass(frozen=True, slots=True)
class Mixed:
    """A sum of terms of one scale, over the pairs of rows in which every condition of both sides holds."""

    terms: tuple[Term, ...]
    own: frozenset[str] = frozenset()  # conditions on the receiver's row
    other: frozenset[str] = frozenset()  # on the sender's
    columns: frozenset[ColumnRef] = frozenset()
    inexact: bool = False  # floats took part: the answer is a float

    @property
    def scale(self) -> int:
        """Of every term."""
        return self.terms[0].scale

    @property
    def conditional(self) -> bool:
        """Whether there are pairs of rows without a value."""
        return bool(self.own or self.other)

    def where(self, condition: Bound, receiver: str | None) -> Mixed:
        """The same where a condition on one side's row holds."""
        columns = self.columns | condition.columns
        if receiver in condition.sides:
            return replace(self, own=self.own | {condition.sql}, columns=columns)
        return replace(self, other=self.other | {condition.sql}, columns=columns)


ROWS = Mixed((Term(),))
"""One for every pair of rows: COUNT(*)."""


def counted(mixed: Mixed) -> Mixed:
    """One wherever there is a value."""
    return replace(mixed, terms=(Term(),))


def together(*measured: Mixed) -> tuple[Mixed, ...]:
    """All of them, over the pairs of rows in which all have a value."""
    own = frozenset[str]().union(*(mixed.own for mixed in measured))
    other = frozenset[str]().union(*(mixed.other for mixed in measured))
    return tuple(replace(mixed, own=own, other=other) for mixed in measured)


def multiplied(a: Mixed, b: Mixed) -> Mixed:
    """The product: every term with every other."""
    terms = tuple(Term(_times(x.own, y.own), _times(x.other, y.other)) for x, y in product(a.terms, b.terms))
    return _merged(terms, a, b)


def _added(a: Mixed, b: Mixed, sign: int) -> Mixed:
    scale = max(a.scale, b.scale)
    terms = [_scaled(t, 10 ** (scale - t.scale), scale) for t in a.terms]
    terms += [_scaled(t, sign * 10 ** (scale - t.scale), scale) for t in b.terms]
    return _merged(tuple(terms), a, b)


def _merged(terms: tuple[Term, ...], a: Mixed, b: Mixed) -> Mixed:
    if len(terms) > _MOST_TERMS:
        raise QueryError(
            "query.measure", f"an aggregate over columns of both parties has more than {_MOST_TERMS} products"
        )
    return Mixed(terms, a.own | b.own, a.other | b.other, a.columns | b.columns, a.inexact or b.inexact)


def _times(a: Number | None, b: Number | None) -> Number | None:
    if a is None or b is None:
        return a or b
    found = square(a, b)
    if found.magnitude > LIMIT:
        raise too_large(found.columns)
    return found


def _scaled(term: Term, factor: int, scale: int) -> Term:
    """The term times a whole number, as a number of that scale."""
    if term.other is not None:
        rest = scale - (term.own.scale if term.own is not None else 0)
        return replace(term, other=times(term.other, factor, rest))
    assert term.own is not None
    return replace(term, own=times(term.own, factor, scale))


Resolve = Callable[[exp.Column], tuple[DatasetInfo, Column]]


@dataclass(frozen=True, slots=True)
class Binder:
    """Binds what is aggregated. `receiver` is the name of the asker's dataset in a join, None alone."""

    measure: Measure
    resolve: Resolve
    receiver: str | None

    def bind(self, node: exp.Expr) -> Mixed:
        """An expression over the rows of one side, or sums and products over those of both."""
        if len({self.resolve(column)[0].full_name for column in node.find_all(exp.Column)}) < 2:
            return self._single(self.measure.number(node))
        if isinstance(node, exp.Paren):
            return self.bind(node.this)
        if isinstance(node, exp.Neg):
            inner = self.bind(node.this)
            return replace(inner, terms=tuple(_scaled(t, -1, t.scale) for t in inner.terms))
        if isinstance(node, exp.Mul):
            first, second = self.bind(node.this), self.bind(node.expression)
            self.measure.multiplied(first.columns, second.columns)
            return multiplied(first, second)
        if isinstance(node, exp.Add | exp.Sub):
            sign = 1 if isinstance(node, exp.Add) else -1
            return _added(self.bind(node.this), self.bind(node.expression), sign)
        if isinstance(node, exp.Case | exp.If):
            return self._case(node)
        raise QueryError(
            "query.weighted-not-available",
            "an aggregate over columns of both parties adds, subtracts and multiplies them, under CASE WHEN "
            "… THEN … END or FILTER (WHERE …); COALESCE reads one party's",
        )

    def _case(self, node: exp.Expr) -> Mixed:
        """CASE WHEN a AND b THEN x [ELSE 0] END: x where a row of each side meets its own conditions."""
        ((condition, then), *more), default = branched(node)
        otherwise = None if default is None or isinstance(default, exp.Null) else default
        zero = isinstance(otherwise, exp.Literal) and not otherwise.is_string and otherwise.this == "0"
        if more or (otherwise is not None and not zero):
            raise QueryError(
                "query.weighted-not-available",
                "over columns of both parties a CASE has one WHEN, and ELSE 0 or none; write "
                "coalesce(SUM(x) FILTER (WHERE …), 0) for each branch, each without the rows of those before "
                "it, and add them up; or multiply by a CASE that reads one party's columns",
            )
        conditions = self.measure.conditions(condition)
        value = self._conditional(then)
        if otherwise is None:
            return reduce(lambda kept, one: kept.where(one, self.receiver), conditions, value)
        if value.conditional:
            raise QueryError(
                "query.weighted-not-available",
                "ELSE 0 over columns of both parties needs a THEN that is never NULL; leave ELSE out, and "
                "write coalesce(SUM(…), 0) for a default",
            )
        return reduce(multiplied, map(self._indicator, conditions), value)

    def _conditional(self, node: exp.Expr) -> Mixed:
        """What a CASE takes its value from, noted as inside a predicate, as on one side."""
        with self.measure.inside_predicate():
            return self.bind(node)

    def _indicator(self, condition: Bound) -> Mixed:
        """One where a condition holds, else zero."""
        sql = f"CASE WHEN {condition.sql} THEN 1 ELSE 0 END"
        return self._single(Number(sql, 0, 1, False, condition.sides, condition.columns, False))

    def _single(self, number: Number) -> Mixed:
        present = frozenset({number.present} if number.nullable else ())
        own = self.receiver is not None and self.receiver in number.sides
        term = Term(own=number) if own else Term(other=number)
        return Mixed(
            (term,),
            present if own else frozenset(),
            frozenset() if own else present,
            number.columns,
            number.inexact,
        )


@dataclass(slots=True)
class Products:
    """Turns sums over pairs of rows into totals over both sides' partials."""

    sender: Partials
    receiver: Partials
    repeats: bool = False  # a key of the receiver's may be in several rows of a group: they are counted
    unique: bool = False  # the sender's keys are declared to be in one row each
    pairs: int = 1  # most rows that one cell of the join, or of one dataset, has
    exists: bool = False  # rows of the receiver are looked up: how many of the sender's match does not matter
    outer: str = ""  # "left" or "anti": rows of the receiver without a match count too, or alone
    weights: set[str] = field(default_factory=set)  # the receiver's partials that multiply the sender's

    def check(self, mixed: Mixed, part: str) -> None:
        """Refuse a sum that could have more digits than its type, whatever the rows turn out to hold."""
        if not mixed.inexact and self.most(mixed) >= 10**38:
            raise QueryError(
                "query.overflow",
                f"in {part}: this sum can have more than 38 digits, as far as is declared of "
                f"{named(mixed.columns)} and of the number of rows; ask for AVG and COUNT, which cannot "
                "overflow, or ask the owner to declare (tighter) bounds, fewer rows, or a join key unique",
            )

    def most(self, mixed: Mixed) -> int:
        """No sum is larger, in units of its last digit."""
        return sum(term.magnitude for term in mixed.terms) * self.pairs

    def check_count(self) -> None:
        """Refuse to count what there could be more of than an int64 holds."""
        if self.pairs >= 2**63:
            raise QueryError(
                "query.overflow",
                "this join can have more than 2^63 rows to count, as far as is declared; ask the owner to "
                "declare fewer rows, or the join key unique where it is",
            )

    def count(self, mixed: Mixed) -> Total:
        """In how many pairs of rows there is a value."""
        return self.total(counted(mixed))

    def total(self, mixed: Mixed) -> Total:
        """The sum over the rows of the join. A value of the sender's is NULL where nothing matches."""
        matched_only = mixed.other or any(term.other is not None for term in mixed.terms)
        if not self.outer or matched_only:
            return self._pairs(mixed)
        rest = self._rest(mixed)
        return _added_totals(self._pairs(mixed), rest) if self.outer == "left" else rest

    def _rest(self, mixed: Mixed) -> Total:
        """The sum over the receiver's rows without a match: over all of them, less those that have one."""
        names: list[str] = []
        shifts: list[int] = []
        for term in mixed.terms:
            own = self._own(term.own, mixed.own)
            limbs = [("own_rows", "identities", 0)] if own is None else []
            limbs += [(f"all:{w}", w, low) for w, low in _limbs(own) if own is not None]
            for whole, matched, low in limbs:
                names += [whole, matched]
                shifts += [low, low]
        return Total(tuple(names), 0, mixed.scale, tuple(shifts), (1, -1) * (len(names) // 2))

    def _pairs(self, mixed: Mixed) -> Total:
        """The sum over the pairs of rows that match."""
        names: list[str] = []
        shifts: list[int] = []
        for term in mixed.terms:
            own = self._own(term.own, mixed.own)
            other = self._other(term.other, mixed.other, weighted=own is not None)
            if own is None and other is not None and len(mixed.terms) == 1:
                return replace(other, scale=mixed.scale)
            for (w, low), (m, high) in product(_limbs(own), _limbs(other)):
                names.append(self._named(w, m))
                shifts.append(low + high)
        if names == ["identities"]:
            return IDENTITIES
        return Total(tuple(names), 0, mixed.scale, tuple(shifts))

    def _named(self, weight: str, measure: str) -> str:
        if weight and measure:
            self.weights.add(weight)
            return f"{weight}:{measure}"
        return weight or measure or "identities"

    def _own(self, number: Number | None, conditions: frozenset[str]) -> Total | None:
        """The receiver's factor; None: whether the key matched."""
        if number is None and not conditions and not self.repeats:
            return None
        return self.receiver.total(_where(number, conditions))

    def _other(self, number: Number | None, conditions: frozenset[str], *, weighted: bool) -> Total | None:
        """The sender's factor; None: whether it has the key."""
        if number is None and not conditions and (self.exists or (weighted and self.unique)):
            return None
        counts_values = number is None and bool(conditions)
        return self.sender.total(_where(number, conditions), counts_values=counts_values)


def _added_totals(a: Total, b: Total) -> Total:
    """The sum of two totals of one scale."""
    parts = [(*limb, 1) for limb in zip(a.partials, _shifts(a), strict=True)]
    parts += zip(b.partials, _shifts(b), b.signs, strict=True)
    names, shifts, signs = zip(*parts, strict=True)
    return Total(names, 0, b.scale, shifts, signs)


def _shifts(total: Total) -> Sequence[int]:
    return total.shifts or [total.base_bits * i for i in range(len(total.partials))]


def _limbs(total: Total | None) -> list[tuple[str, int]]:
    if total is None:
        return [("", 0)]
    return [(name, i * total.base_bits) for i, name in enumerate(total.partials)]


def _where(number: Number | None, conditions: frozenset[str]) -> Number:
    """The number, or one, on rows where all conditions hold; elsewhere nothing that adds up."""
    both = " AND ".join(sorted(conditions))
    if number is None:
        sql = f"CASE WHEN {both} THEN 1 ELSE 0 END" if conditions else _ONE
        return Number(sql, 0, 1, False, frozenset(), frozenset(), False)
    if not conditions or (number.nullable and conditions == {number.present}):
        return number
    return replace(number, sql=f"CASE WHEN {both} THEN {number.sql} END", nullable=True, alias="")
