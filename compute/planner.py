"""From a question to the plan that both sides derive alone, and the facts that policies decide on.

`prepare` is a function of the SQL text, the asker's name, the dataset descriptions and the protocol
declarations: no clock, no data, no negotiation. It refuses what cannot be answered exactly, with the
part that is at fault and what would work. Which side is the sender follows from who asks: the sender
is the participant whose data is asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import cast

from sqlglot import exp

from compute import listing, masking, pooling
from compute.choice import JOINT_CELLS, choose
from compute.dataset import Column, DatasetInfo
from compute.demands import demanded, hiding
from compute.errors import QueryError
from compute.expressions import RELEASED, Bound, Constant, Leaf, Scalar, quoted
from compute.facts import Notes, Prepared
from compute.finish import TAKES
from compute.histograms import bucket, numbers, quantile_buckets
from compute.measures import Measure, Unbounded
from compute.plan import Dimension, Histogram, Output, Plan, Side, Total
from compute.pooling import Part
from compute.products import (
    IDENTITIES,
    ROWS,
    WEIGHT_CAPACITY,
    Binder,
    Mixed,
    Partials,
    Products,
    multiplied,
    together,
)
from compute.protocols import PROTOCOLS
from compute.protocols.base import Protocol
from compute.regression import LINEAR, MOST_REGRESSORS, pairs
from compute.scope import Scope, described, named_column
from compute.sql import REGRESSION, Item, Statement, parse, regressing, unique
from compute.types import FLOAT64, HUGE, INT64, STRING, Type, parse_type
from policy_enforcer.disclosure import Level
from policy_enforcer.obligations import NOTHING_DEMANDED, Obligations

OWN_CELLS = 65_536
"""Most cells of a single-domain answer."""

_JOINT_CAPACITY = 2**62
"""A joint sum stays below this, so that every partial sum fits 64 bits; larger ones go in limbs."""

_OWN_CAPACITY = 2**124
"""Single-domain sums are HUGEINTs, answered as decimal128(38, 0)."""


def plan(
    sql: str, asker: str, catalogue: Mapping[str, DatasetInfo], protocols: Sequence[Protocol] = PROTOCOLS
) -> Plan:
    """The plan of a question. `QueryError` says what is wrong with it and what would work."""
    return prepare(sql, asker, catalogue, protocols).plan


def prepare(
    sql: str,
    asker: str,
    catalogue: Mapping[str, DatasetInfo],
    protocols: Sequence[Protocol] = PROTOCOLS,
    demands: Mapping[str, Obligations] = MappingProxyType({}),
    parts: Sequence[Part] = (),
) -> Prepared:
    """The plan of a question with the facts for every dataset it names.

    `demands`: by `participant.dataset`, what the policy of the agreement demands of a release.
    `parts`: what the federation in `catalogue` is made of (compute/pooling.py).
    """
    if parts:
        return _prepared(sql, asker, catalogue, protocols, demands, repeats=False, parts=parts)
    with suppress(QueryError):
        # Rows that share a key are counted where they can be; with weights if the owner's policy allows it.
        counted = _prepared(sql, asker, catalogue, protocols, demands, repeats=True)
        receiver, sender = counted.plan.receiver, counted.plan.sender.dataset
        allowed = demands.get(sender, NOTHING_DEMANDED).weighted
        if receiver is None or not (receiver.repeats and receiver.weights) or allowed:
            return counted
    return _prepared(sql, asker, catalogue, protocols, demands, repeats=False)


def _prepared(
    sql: str,
    asker: str,
    catalogue: Mapping[str, DatasetInfo],
    protocols: Sequence[Protocol],
    demands: Mapping[str, Obligations],
    *,
    repeats: bool,
    parts: Sequence[Part] = (),
) -> Prepared:
    """`prepare`, counting how many of the asker's rows share a key, or relying on none doing so."""
    statement = parse(sql)
    infos = tuple(_seen(described(source, catalogue), demands) for source in statement.sources)
    scope = Scope(statement.sources, infos, frozenset(name.name.casefold() for name in statement.using))
    return _Planner(statement, scope, asker, demands, repeats=repeats, parts=parts).prepared(protocols)


def _seen(info: DatasetInfo, demands: Mapping[str, Obligations]) -> DatasetInfo:
    """The dataset under the masks of its owner's policy."""
    return masking.described(info, demands.get(info.full_name, NOTHING_DEMANDED).masking)


class _Planner:
    """One question on its way to a plan."""

    def __init__(
        self,
        statement: Statement,
        scope: Scope,
        asker: str,
        demands: Mapping[str, Obligations],
        *,
        repeats: bool,
        parts: Sequence[Part] = (),
    ) -> None:
        self._parts = parts
        self._statement, self._asker, self._join_kind = statement, asker, statement.join
        self._left, self._right = scope.infos[0], scope.infos[-1]
        # Rows of the asker are counted here, wherever its dataset is the one whose rows are kept.
        self._own_rows = self._join_kind != "inner" and self._left.participant == asker
        self._both = scope  # what ON may name
        self._scope = {
            "inner": scope,
            "semi": replace(scope, first=0),
            "anti": replace(scope, first=0),
            "left": replace(scope, optional=1),
        }[statement.join]
        self._notes = Notes()
        self._sender, self._receiver = _roles(scope.infos, asker)
        self._demands = demands.get(self._sender.full_name, NOTHING_DEMANDED)
        self._keys: list[tuple[str, str]] = []  # (receiver's column, sender's column)
        self._filters: dict[str, list[str]] = {info.full_name: [] for info in scope.infos}
        self._dimensions: list[tuple[Bound, Dimension]] = []
        self._histogram: Histogram | None = None
        self._bucketed: dict[str, tuple[int, ...]] = {}  # the numbers of a dimension's buckets
        self._counts_own = False  # a figure counts rows of the asker, so each must be there once
        joint = self._receiver is not None
        self._repeats = repeats
        capacity = _JOINT_CAPACITY if joint else _OWN_CAPACITY
        self._partials = Partials("m", self._sender.rows_bound, capacity)
        self._own = Partials("w", self._receiver.rows_bound if self._receiver else 1, WEIGHT_CAPACITY)
        self._products = Products(self._partials, self._own)

    # --- the query's clauses, in the order in which they mean something

    def prepared(self, protocols: Sequence[Protocol]) -> Prepared:
        """Bind every clause and choose a protocol."""
        self._conditions()
        if self._receiver is not None and listing.asked(self._statement, _has_aggregate):
            return self._listed(protocols)
        if self._statement.unrepeated:
            raise QueryError(
                "query.construct", "DISTINCT is for lists of rows; GROUP BY shows each group once"
            )
        self._multiplicities()
        for number, node in enumerate(self._grouping(), 1):
            self._dimension(node, f"GROUP BY item {number}")
        self._buckets()
        self._left_join_answers()
        outputs = self._shown()
        having = self._having()
        if not self._dimensions and not self._partials.figures:
            raise QueryError("query.not-grouped", self._ungrouped())
        order = [self._ordering(i, outputs) for i in range(len(self._statement.order))]
        draft = self._draft(outputs, having, order)
        if self._parts:
            draft = pooling.planned(draft, self._sender, self._demands, self._parts, self._bucketed)
        else:
            draft = demanded(draft, self._sender, self._demands)
        chosen, final = choose(draft, self._scope.infos, protocols)
        final = hiding(final, self._demands)
        self._note_weights()
        uses = {info.full_name: self._notes.uses(info.full_name) for info in self._scope.infos}
        return Prepared(final, chosen, self._scope.infos, uses, self._notes.literals_on_total)

    def _multiplicities(self) -> None:
        """How often one key may occur on each side, now that the keys are known."""
        if self._receiver is None:
            return
        unique = [
            _any_unique(info, keys)
            for info, keys in zip(self._sides(), zip(*self._keys, strict=True), strict=True)
        ]
        semi, mine = self._join_kind == "semi", self._own_rows
        repeats = self._repeats and not unique[0] and (mine or self._join_kind == "inner")
        self._own.rows_bound = 1 if unique[0] else self._receiver.rows_bound
        self._products = Products(
            self._partials,
            self._own,
            repeats=repeats,
            unique=unique[1],
            pairs=self._most_rows(unique, repeats=repeats),
            exists=semi and mine,
            outer=self._join_kind if mine and self._join_kind in ("left", "anti") else "",
        )

    def _most_rows(self, unique: Sequence[bool], *, repeats: bool) -> int:
        """How many rows of the join a cell has at most; `unique` says whose keys are in one row each."""
        own, other = (info.rows_bound for info in self._sides())
        if self._join_kind in ("semi", "anti"):
            return self._left.rows_bound
        # Where the asker's keys may not repeat, a row of the owner's counts once in a group.
        pairs = min(other * (own if repeats else 1), own * (1 if unique[1] else other))
        return pairs + (own if self._own_rows else 0)  # a LEFT JOIN has the others too

    def _left_join_answers(self) -> None:
        """What a LEFT JOIN can be grouped by: only one party can tell which rows have no match."""
        if self._join_kind != "left":
            return
        sides = frozenset[str]().union(*(bound.sides for bound, _ in self._dimensions))
        if self._own_rows and self._sender.full_name in sides:
            raise QueryError(
                "query.left-join",
                "a LEFT JOIN that keeps your rows is grouped by your columns only; write JOIN to group by "
                f"those of {self._sender.full_name}, and ask an ANTI JOIN for your rows without a match",
            )
        if not self._own_rows and self._right.full_name not in sides:
            raise QueryError(
                "query.left-join",
                "without a column of yours in GROUP BY this LEFT JOIN changes nothing about "
                f"{self._left.full_name}: ask without the join, group by columns of yours, or write JOIN or "
                "ANTI JOIN",
            )

    def _sides(self) -> tuple[DatasetInfo, DatasetInfo]:
        assert self._receiver is not None
        return self._receiver, self._sender

    def _note_weights(self) -> None:
        """All measures of a sum under weights are weighted: the asker's connector learns each of them."""
        for info in self._scope.infos if self._weights() else ():
            columns = [use.column for use in self._notes.uses(info.full_name) if use.aggregated]
            self._notes.marked([(info.full_name, column) for column in columns], "weighted")

    def _weights(self) -> tuple[str, ...]:
        """The receiver's partials that enter the sums: the others need nothing but which rows matched."""
        sender_groups = any(self._sender.full_name in bound.sides for bound, _ in self._dimensions)
        names = [partial.name for partial in self._own.partials.values()]
        return tuple(name for name in names if sender_groups or name in self._products.weights)

    def _listed(self, protocols: Sequence[Protocol]) -> Prepared:
        """A list query: every clause bound, and the protocol for lists."""
        assert self._receiver is not None
        if self._join_kind in ("anti", "left"):
            raise QueryError("query.join", "rows without a match cannot be listed; write JOIN or SEMI JOIN")
        found = listing.Listing(self._statement, self._sender, self._listed_row, self._notes)
        outputs = [found.output(i, item.node, item.name) for i, item in enumerate(self._statement.select, 1)]
        order = [self._ordering(i, outputs, found) for i in range(len(self._statement.order))]
        self._dimensions = found.dimensions
        wanted = self._join_kind == "semi" and self._right is self._receiver
        draft = listing.planned(self._draft(outputs, None, order), self._statement, wanted)
        chosen, final = choose(draft, self._scope.infos, protocols)
        final = hiding(final, self._demands)
        uses = {info.full_name: self._notes.uses(info.full_name) for info in self._scope.infos}
        return Prepared(final, chosen, self._scope.infos, uses, self._notes.literals_on_total)

    def _listed_row(self, node: exp.Expr, part: str) -> Bound:
        """An expression over the rows of one side; a key that USING made one column is the asker's."""
        place = next(i for i, info in enumerate(self._both.infos) if info is self._receiver)
        alias = self._both.sources[place].alias
        node = listing.own_column(node, self._statement.using, alias) if self._join_kind == "inner" else node
        bound = self._rows(part).bound(node)
        self._visible(bound.sides, part)
        listing.not_a_key(bound, self._sender, [theirs for _, theirs in self._keys], part)
        return bound

    def _conditions(self) -> None:
        for name in self._statement.using:
            self._using(name.name)
        for outer, inner in self._statement.pairs:
            self._membership(outer, inner)
        for node in self._statement.on:
            self._matching_condition(node, self._both, "ON")
        for node in self._statement.within:
            self._matching_condition(node, replace(self._both, first=1), "the subquery")
        for node in self._statement.where:
            self._condition(node, "WHERE")
        if self._receiver is not None and not self._keys:
            raise QueryError(
                "query.no-join-key", "two datasets are joined on at least one pair of keys: ON a.key = b.key"
            )

    def _matching_condition(self, node: exp.Expr, scope: Scope, part: str) -> None:
        """A condition of ON or of a subquery: it decides what matches."""
        pair = self._key_pair(node, scope)
        if pair is not None:
            self._join(*pair)
            return
        bound = Scalar(self._leaf(scope), self._notes, part).predicate(node)
        side = next(iter(bound.sides), self._right.full_name)
        if side == self._left.full_name and self._join_kind in ("anti", "left"):
            raise QueryError(
                "query.outer-condition",
                f"in {part}: a condition on {side} alone would turn its rows into rows without a match; "
                "put it into WHERE, outside the join or subquery",
            )
        self._filters[side].append(bound.sql)

    def _condition(self, node: exp.Expr, part: str) -> None:
        """A condition of WHERE: it decides which rows there are."""
        pair = self._key_pair(node, self._scope) if self._join_kind == "inner" else None
        if pair is not None:
            self._join(*pair)
            return
        if self._join_kind == "left" and self._says_unmatched(node):
            self._join_kind = "anti"
            return
        bound = self._rows(part).predicate(node)
        # What no row can change concerns the rows that are kept: elsewhere it would only undo matches.
        side = next(iter(bound.sides), self._left.full_name)
        self._visible(bound.sides, part)
        if self._join_kind == "left" and side == self._right.full_name and bound.sides:
            raise QueryError(
                "query.outer-condition",
                f"in {part}: a condition on {side} reads NULLs wherever LEFT JOIN found no match; put it "
                "into ON, or write JOIN to keep matching rows only",
            )
        self._filters[side].append(bound.sql)

    def _says_unmatched(self, node: exp.Expr) -> bool:
        """`b.key IS NULL` after `a LEFT JOIN b`: an anti join in other words."""
        node = node.unnest()
        if not isinstance(node, exp.Is) or not isinstance(node.expression, exp.Null):
            return False
        column = _unwrapped(node.this)
        if not isinstance(column, exp.Column):
            return False
        info, found = self._scope.column(column)
        place = 0 if info is self._receiver else 1
        return info is self._right and found.name in {pair[place] for pair in self._keys}

    def _membership(self, outer: exp.Expr, inner: exp.Expr) -> None:
        """`outer IN (SELECT inner …)`: one pair of keys."""
        left, right = (
            self._scope.column(cast(exp.Column, outer)),
            replace(self._both, first=1).column(cast(exp.Column, inner)),
        )
        if left[0] is not self._left or right[0] is not self._right:
            raise QueryError(
                "query.subquery",
                "IN (SELECT …) compares a key of the dataset in FROM with a key of the one in the subquery",
            )
        if self._statement.not_in and (left[1].nullable or right[1].nullable):
            raise QueryError(
                "query.not-in",
                "NOT IN answers nothing at all as soon as one key in the subquery is NULL, and no protocol "
                "may tell whether there is one; write NOT EXISTS (SELECT 1 FROM b WHERE b.key = a.key), or "
                "have the owners declare both keys without NULLs",
            )
        self._join(*((left, right) if self._left is self._receiver else (right, left)))

    def _visible(self, sides: Iterable[str], part: str) -> None:
        """After SEMI and ANTI JOIN the right dataset's columns are gone, as in SQL."""
        if self._join_kind in ("semi", "anti") and self._right.full_name in sides:
            raise QueryError(
                "query.semi-join",
                f"in {part}: only ON, or the subquery, may name columns of the dataset that rows are looked "
                "up in; move the condition there, or write JOIN to group by them or aggregate them",
            )

    def _key_pair(self, node: exp.Expr, scope: Scope) -> tuple[tuple[DatasetInfo, Column], ...] | None:
        """The two columns of `a.key = b.key` across the parties, receiver's first."""
        if self._receiver is None or not isinstance(node, exp.EQ):
            return None
        sides = [_unwrapped(node.this), _unwrapped(node.expression)]
        named = [scope.column(side) for side in sides if isinstance(side, exp.Column)]
        found = {info.full_name: (info, column) for info, column in named}
        return (
            tuple(found[info.full_name] for info in (self._receiver, self._sender))
            if len(found) == 2
            else None
        )

    def _using(self, name: str) -> None:
        assert self._receiver is not None
        pair = [(info, named_column(info, name)) for info in (self._receiver, self._sender)]
        if any(column is None for _, column in pair):
            raise QueryError(
                "query.unknown-column", "USING names a column that is not in both datasets; use ON"
            )
        self._join(*((info, column) for info, column in pair if column is not None))

    def _join(self, own: tuple[DatasetInfo, Column], other: tuple[DatasetInfo, Column]) -> None:
        (a, x), (b, y) = own, other
        for info, column in (own, other):
            if column.key is None:
                keys = ", ".join(c.name for c in info.columns if c.key is not None) or "none"
                raise QueryError(
                    "query.not-a-key",
                    f"{info.full_name} offers no join on {column.name}; its join keys are: {keys}",
                )
        if x.type != y.type or x.key != y.key:
            raise QueryError(
                "query.key-mismatch",
                f"{a.full_name}.{x.name} and {b.full_name}.{y.name} are declared with different types or "
                "normalisers, so their keys never match; agree on one declaration",
            )
        self._notes.marked({(a.full_name, x.name), (b.full_name, y.name)}, "joined")
        if (x.name, y.name) not in self._keys:
            self._keys.append((x.name, y.name))

    def _grouping(self) -> list[exp.Expr]:
        if self._statement.group is None:
            plain = [i.node for i in self._statement.select if not _has_aggregate(i.node)]
            return [node for node in plain if node.find(exp.Column) is not None]
        return [self._group_item(node) for node in self._statement.group]

    def _group_item(self, node: exp.Expr) -> exp.Expr:
        """Ordinals and aliases stand for SELECT items; a real column wins over an alias."""
        select = self._statement.select
        if isinstance(node, exp.Literal):
            place = (
                int(node.this) if not node.is_string and node.this.isdecimal() and len(node.this) < 4 else 0
            )
            if not 1 <= place <= len(select):
                raise QueryError(
                    "query.ordinal", "GROUP BY names a SELECT item by a number that does not exist"
                )
            return select[place - 1].node
        return self._aliased(node) or node

    def _aliased(self, node: exp.Expr) -> exp.Expr | None:
        if not isinstance(node, exp.Column) or node.table:
            return None
        if any(named_column(info, node.name) for info in self._scope.infos):
            return None
        return next(
            (i.node for i in self._statement.select if i.name.casefold() == node.name.casefold()), None
        )

    def _dimension(self, node: exp.Expr, part: str) -> None:
        if _has_aggregate(node):
            raise QueryError(
                "query.group", f"in {part}: an aggregate cannot be grouped by; filter it in HAVING"
            )
        bound = _grouped_by(self._rows(part), node)
        if not bound.columns:
            raise QueryError("query.group", f"in {part}: GROUP BY takes columns, not literals")
        self._visible(bound.sides, part)
        if isinstance(node.unnest(), exp.WidthBucket):
            self._notes.aggregated(bound.columns, "histogram")
        else:
            self._notes.marked(bound.columns, "grouped")
        sql = f"({bound.sql} + 0.0e0)" if bound.type == FLOAT64 else bound.sql  # -0.0 and 0.0 are one group
        if all(known.sql != bound.sql or known.sides != bound.sides for known, _ in self._dimensions):
            dimension = Dimension(f"d{len(self._dimensions)}", sql, str(bound.type))
            self._dimensions.append((bound, dimension))
            inner = node.unnest()
            if isinstance(inner, exp.WidthBucket):
                self._bucketed[dimension.name] = numbers(self._rows(part), inner)

    def _shown(self) -> list[tuple[Output, Bound]]:
        taken: dict[str, int] = {}
        items = enumerate(self._statement.select, 1)
        found = [output for i, item in items for output in self._outputs(i, item)]
        return [(replace(output, name=unique(output.name, taken)), bound) for output, bound in found]

    def _outputs(self, number: int, item: Item) -> list[tuple[Output, Bound]]:
        node, part = item.node.unnest(), f"SELECT item {number}"
        condition = node.expression.this if isinstance(node, exp.Filter) else None
        node = node.this if isinstance(node, exp.Filter) else node
        if regressing(node):
            return self._regression(item.name, node, condition, part)
        bound = self._answer(part).bound(item.node)
        return [(Output(item.name, bound.sql, str(bound.type)), bound)]

    def _having(self) -> str | None:
        node = self._statement.having
        written = self._answer("HAVING", aliases=True).predicate(node).sql if node is not None else None
        if not self._own_rows or self._join_kind != "anti" or not self._dimensions:
            return written
        # The asker has a cell for each of its groups; in SQL one whose rows all match is no group.
        rows = f"({self._count_rows([]).sql} > 0)"
        return rows if written is None else f"({written} AND {rows})"

    def _ordering(
        self, place: int, outputs: Sequence[tuple[Output, Bound]], rows: listing.Listing | None = None
    ) -> str:
        order = self._statement.order[place]
        part = f"ORDER BY item {place + 1}"
        named = _named_output(order.node, outputs, part)
        if named is None and rows is not None:
            named = rows.ordered(place + 1, order.node)
        bound = named or self._answer(part, aliases=True).bound(order.node)
        direction = "DESC" if order.descending else "ASC"
        return f"{bound.sql} {direction} NULLS {'FIRST' if order.nulls_first else 'LAST'}"

    # --- expressions over rows, and over the answer

    def _rows(self, part: str) -> Scalar:
        return Scalar(self._row_leaf, self._notes, part)

    def _row_leaf(self, node: exp.Expr) -> Bound | None:
        return self._leaf(self._scope)(node)

    def _leaf(self, scope: Scope) -> Leaf:
        return lambda node: self._column_leaf(node, scope)

    def _column_leaf(self, node: exp.Expr, scope: Scope) -> Bound | None:
        if not isinstance(node, exp.Column):
            return None
        info, column = scope.column(node)
        ref = (info.full_name, column.name)
        list(self._notes.seen({ref}))
        return Bound(
            quoted(column.name),
            parse_type(column.type),
            frozenset({info.full_name}),
            frozenset({ref}),
            column.nullable or (self._join_kind == "left" and info is self._right),
        )

    def _answer(self, part: str, *, aliases: bool = False) -> Scalar:
        def leaf(node: exp.Expr) -> Bound | None:
            return self._answer_leaf(node, part, aliases=aliases)

        return Scalar(leaf, self._notes, part, released=True)

    def _answer_leaf(self, node: exp.Expr, part: str, *, aliases: bool) -> Bound | None:
        """Aggregates become figures, grouped expressions dimensions; the rest is computed from them."""
        if isinstance(node, exp.Filter) and not regressing(node.this):
            return self._aggregate(node.this, node.expression.this, part)
        if isinstance(node, _AGGREGATES):
            return self._aggregate(node, None, part)
        if regressing(node):
            raise QueryError(
                "query.regression", f"in {part}: {REGRESSION} is several columns: a SELECT item of its own"
            )
        if _has_aggregate(node) or node.find(exp.Column) is None:
            return None
        if aliases and (named := self._aliased(node)) is not None:
            return self._answer(part).bound(named)
        dimension = self._matching(node, part)
        if dimension is None and isinstance(node, exp.Column):
            raise QueryError("query.not-grouped", f"in {part}: {self._ungrouped()}")
        return dimension

    def _ungrouped(self) -> str:
        if any(_has_aggregate(i.node) for i in self._statement.select) or self._dimensions:
            return "a column is neither aggregated nor in GROUP BY; add it to GROUP BY or aggregate it"
        return "rows cannot be listed, only aggregates are answered; use COUNT, SUM or AVG with GROUP BY"

    def _matching(self, node: exp.Expr, part: str) -> Bound | None:
        """The dimension that this expression repeats."""
        try:
            bound = _grouped_by(Scalar(self._row_leaf, Notes(), part), node)
        except QueryError:
            if isinstance(node, exp.Column):
                raise
            return None
        if isinstance(node, exp.Column):
            self._row_leaf(node)
        for known, dimension in self._dimensions:
            if known.sql == bound.sql and known.sides == bound.sides:
                return Bound(dimension.name, known.type, frozenset({RELEASED}), frozenset(), known.nullable)
        return None

    # --- aggregates

    def _aggregate(self, node: exp.Expr, condition: exp.Expr | None, part: str) -> Bound:
        read = [part for part in (node, condition) if part is not None]
        sides = {self._scope.column(c)[0].full_name for n in read for c in n.find_all(exp.Column)}
        self._visible(sides, part)
        self._left_join_reads(read, sides, part)
        if isinstance(node, exp.ApproxQuantile):
            return self._quantile(node, part)
        keep = self._condition_of(condition, part)
        if isinstance(node, exp.Count):
            return self._count(node, keep, part)
        if isinstance(node, exp.CountIf):
            self._note_rows()
            return self._count_rows([self._condition_of(node.this, part), keep])
        if isinstance(node, exp.Min | exp.Max):
            return self._extreme(node, keep, part)
        if type(node) in _PAIRS:
            return self._paired(node, keep, part)
        function = _FUNCTIONS[type(node)]
        try:
            return self._exact(node.this, function, keep, part)
        except Unbounded as unbounded:
            # Where the owner computes alone, DuckDB can aggregate in floating point.
            if self._receiver is not None or self._parts:
                raise
            return self._native(node.this, function, keep, part, unbounded)

    def _left_join_reads(self, nodes: Sequence[exp.Expr], sides: set[str], part: str) -> None:
        """In a LEFT JOIN, what an aggregate reads of the right dataset is NULL where nothing matched."""
        if self._join_kind != "left" or self._right.full_name not in sides:
            return
        if not self._own_rows:
            raise QueryError(
                "query.left-join",
                f"in {part}: a LEFT JOIN that keeps the rows of {self._left.full_name} aggregates their "
                "columns; group by yours, or write JOIN to aggregate both",
            )
        strange = {type(found) for node in nodes for found in node.walk()} - _NULL_FOR_NULLS
        if strange:
            raise QueryError(
                "query.left-join",
                f"in {part}: in a LEFT JOIN an aggregate over columns of {self._right.full_name} takes "
                "columns, numbers, + - * and comparisons, which are NULL where nothing matched; write "
                "coalesce(SUM(x), 0) for a default, or JOIN for anything else",
            )

    def _condition_of(self, node: exp.Expr | None, part: str) -> Bound | None:
        """A predicate inside an aggregate: noted, so that a policy can forbid it."""
        if node is None:
            return None
        with self._notes.predicate_inside_aggregate():
            return self._rows(part).predicate(node)

    def _argument(self, node: exp.Expr, part: str) -> Bound:
        """What an aggregate other than a sum is over: any expression over rows."""
        with self._notes.inside_aggregate():
            return self._rows(part).bound(node)

    def _count(self, node: exp.Count, keep: Bound | None, part: str) -> Bound:
        if node.this is None or isinstance(node.this, exp.Star):
            self._note_rows()
            return self._count_rows([keep])
        if isinstance(node.this, exp.Distinct):
            return self._count_distinct(node.this.expressions, keep, part)
        if len({self._scope.column(c)[0].full_name for c in node.find_all(exp.Column)}) > 1:
            mixed = self._measured(node.this, "count", keep, part)
            return self._figure("count", [self._products.count(mixed)], INT64)
        bound = self._argument(node.this, part)
        self._notes.aggregated(bound.columns, "count")
        if bound.sides != {self._sender.full_name}:
            self._note_rows()  # a literal, or the asker's column: rows of the sender are counted
        matched_key = self._join_kind in ("inner", "semi") and self._key_side(bound) is not None
        if not bound.nullable or matched_key:  # after the join a key is never NULL
            return self._count_rows([keep])
        present = replace(bound, sql=f"({bound.sql} IS NOT NULL)")
        return self._count_rows([keep, present])

    def _note_rows(self) -> None:
        """Counting rows is a use of the column `*`: policies name it like any other measure."""
        self._notes.aggregated([(self._sender.full_name, "*")], "count")

    def _count_rows(self, conditions: Sequence[Bound | None]) -> Bound:
        rows = ROWS
        for condition in filter(None, conditions):
            rows = rows.where(condition, self._receiver.full_name if self._receiver else None)
        return self._figure("count", [self._products.count(rows)], INT64)

    def _figure(self, function: str, totals: Sequence[Total], kind: Type) -> Bound:
        self._counts_own |= self._own_rows
        return self._partials.figure(function, totals, kind)

    def _key_side(self, bound: Bound) -> DatasetInfo | None:
        """Whose join key this is, if it is one by itself."""
        if self._receiver is None:
            return None
        for place, info in enumerate((self._receiver, self._sender)):
            keys = {(info.full_name, pair[place]) for pair in self._keys}
            if any(bound.columns == {ref} and bound.sql == quoted(ref[1]) for ref in keys):
                return info
        return None

    def _count_distinct(self, nodes: Sequence[exp.Expr], keep: Bound | None, part: str) -> Bound:
        if len(nodes) != 1:
            raise QueryError(
                "query.count-distinct",
                f"in {part}: COUNT(DISTINCT …) takes one column; count the groups of several by grouping",
            )
        bound = self._argument(nodes[0], part)
        self._notes.aggregated(bound.columns, "count_distinct")
        if self._parts:
            raise QueryError(
                "query.count-distinct",
                f"in {part}: who occurs at several participants would be counted several times; count rows",
            )
        if self._receiver is None:
            value = bound.sql if keep is None else f"CASE WHEN {keep.sql} THEN {bound.sql} END"
            name = self._partials.add(value, 0, 1, "count_distinct")
            return self._partials.figure("count", [Total((name,))], INT64)
        side = self._key_side(bound)
        if keep is None and len(self._keys) == 1 and side is not None:
            # Named by the asker's column or not, keys of the sender are counted.
            self._notes.aggregated([(self._sender.full_name, self._keys[0][1])], "count_distinct")
            return self._partials.figure("count", [self._distinct_keys(side)], INT64)
        raise QueryError(
            "query.count-distinct",
            f"in {part}: a joint query counts distinct values of its single join key only, without FILTER; "
            "count others over one dataset, or group by them",
        )

    def _distinct_keys(self, side: DatasetInfo) -> Total:
        """How many keys a cell has: those that matched, and the rest where rows without a match are kept."""
        if self._own_rows and self._join_kind == "anti":
            return Total(("own_keys", "identities"), 0, 0, (0, 0), (1, -1))
        return (
            Total(("own_keys",))
            if self._own_rows and self._join_kind == "left" and side is self._left
            else IDENTITIES
        )

    def _buckets(self) -> None:
        """Where quantiles are asked, the buckets of their column are one more dimension, not shown."""
        trees = [item.node for item in self._statement.select] + [o.node for o in self._statement.order]
        trees += [self._statement.having] if self._statement.having is not None else []
        asked = [node for tree in trees for node in _aggregates(tree)]
        quantiles = [node for node in asked if isinstance(node, exp.ApproxQuantile)]
        if not quantiles:
            return
        columns = {self._quantile_column(node).sql() for node in quantiles}
        if len(columns) > 1 or len(quantiles) < len(asked):
            raise QueryError(
                "query.quantile",
                "quantiles are read off the buckets of one column; ask other aggregates, and quantiles of "
                "other columns, in a question of their own",
            )
        node = self._quantile_column(quantiles[0])
        scalar, (info, column) = self._rows("approx_quantile"), self._scope.column(node)
        bound, histogram = quantile_buckets(scalar, scalar.bound(node), info, column)
        self._visible(bound.sides, "approx_quantile")
        self._notes.aggregated(bound.columns, "histogram")
        self._histogram = replace(histogram, dimension=f"d{len(self._dimensions)}")
        self._bucketed[self._histogram.dimension] = tuple(range(histogram.buckets))
        dimension = Dimension(self._histogram.dimension, bound.sql, str(bound.type))
        self._dimensions.append((bound, dimension))

    def _quantile_column(self, node: exp.ApproxQuantile) -> exp.Column:
        column = _unwrapped(node.this)
        if not isinstance(column, exp.Column):
            raise QueryError("query.quantile", "approx_quantile takes a column and a number between 0 and 1")
        return column

    def _quantile(self, node: exp.ApproxQuantile, part: str) -> Bound:
        operand = self._rows(part).operand(node.args["quantile"])
        q = operand.value if isinstance(operand, Constant) else None
        if isinstance(q, bool) or not isinstance(q, int | Decimal) or not 0 <= q <= 1:
            raise QueryError("query.quantile", f"in {part}: approx_quantile takes a number between 0 and 1")
        return self._figure(f"quantile:{q}", [self._products.count(ROWS)], FLOAT64)

    def _extreme(self, node: exp.Expr, keep: Bound | None, part: str) -> Bound:
        function = "min" if isinstance(node, exp.Min) else "max"
        bound = self._argument(node.this, part)
        self._notes.aggregated(bound.columns, function)
        if self._receiver is not None or self._parts:
            raise QueryError(
                "query.extreme-joint",
                f"in {part}: {function.upper()} is not a sum, so no joint protocol computes it; "
                "count rows over fixed buckets instead: GROUP BY width_bucket(column, [edges])",
            )
        value = bound.sql if keep is None else f"CASE WHEN {keep.sql} THEN {bound.sql} END"
        name = self._partials.add(value, 0, 0, function, str(bound.type))
        return self._partials.figure("value", [Total((name,))], bound.type)

    def _measured(self, node: exp.Expr, function: str, keep: Bound | None, part: str) -> Mixed:
        receiver = self._receiver.full_name if self._receiver is not None else None
        joint = receiver is not None or bool(self._parts)
        measure = Measure(self._rows(part), self._scope.column, self._notes, joint=joint)
        mixed = Binder(measure, self._scope.column, receiver).bind(node)
        if not mixed.columns:
            raise QueryError(
                "query.measure", f"in {part}: an aggregate reads at least one column; use COUNT(*)"
            )
        self._notes.aggregated(mixed.columns, function)
        return mixed if keep is None else mixed.where(keep, receiver)

    def _note_own(self, *measured: Mixed) -> None:
        """A sum of the asker's own values counts the sender's rows."""
        if all(self._sender.full_name != dataset for mixed in measured for dataset, _ in mixed.columns):
            self._note_rows()

    def _exact(self, node: exp.Expr, function: str, keep: Bound | None, part: str) -> Bound:
        number, products = self._measured(node, _POLICY_WORDS[function], keep, part), self._products
        self._note_own(number)
        if function == "sum":
            # Only whether there was any value matters; where none can be NULL, the cell's count tells.
            products.check(number)
            matched = self._join_kind in ("inner", "semi")
            count = IDENTITIES if matched and not number.conditional else products.count(number)
            return self._figure("sum", [count, products.total(number)], _sum_type(number))
        totals = [products.count(number), products.total(number)]
        if function != "avg":
            totals.append(products.total(multiplied(number, number)))
        return self._figure(function, totals, FLOAT64)

    def _paired(self, node: exp.Expr, keep: Bound | None, part: str) -> Bound:
        """COVAR, CORR, REGR: y first, as in SQL; a NULL in either skips the pair."""
        function = _PAIRS[type(node)]
        word = _POLICY_WORDS[function]
        y, x = together(*(self._measured(arg, word, keep, part) for arg in (node.this, node.expression)))
        self._note_own(y, x)
        sums = {
            "y": lambda: y,
            "x": lambda: x,
            "yy": lambda: multiplied(y, y),
            "xx": lambda: multiplied(x, x),
            "yx": lambda: multiplied(y, x),
        }
        totals = [self._products.count(y)]
        totals += [self._products.total(sums[name]()) for name in TAKES[function]]
        return self._figure(function, totals, INT64 if function == "regr_count" else FLOAT64)

    def _regression(
        self, name: str, node: exp.Expr, condition: exp.Expr | None, part: str
    ) -> list[tuple[Output, Bound]]:
        """A line's columns: rows, whether there is one, R², then each coefficient and its standard error."""
        y, *xs = self._regressed(node, part)
        read = {self._scope.column(c)[0].full_name for c in node.find_all(exp.Column)}
        self._visible(read, part)
        self._left_join_reads([node], read, part)
        keep = self._condition_of(condition, part)
        measured = together(*(self._measured(one, "regr", keep, part) for one in (*xs, y)))
        self._note_own(*measured)
        totals = self._squares(measured)
        names = [
            "intercept",
            *(x.name if isinstance(x, exp.Column) else f"x{i}" for i, x in enumerate(xs, 1)),
        ]
        found = [
            ("n", self._figure("count", totals[:1], INT64)),
            ("fit", self._figure(f"{LINEAR}fit", totals, STRING)),
            ("r2", self._figure(f"{LINEAR}r2", totals, FLOAT64)),
        ]
        for i, term in enumerate(names):
            found.append((term, self._figure(f"{LINEAR}coefficient:{i}", totals, FLOAT64)))
            found.append((f"{term}_se", self._figure(f"{LINEAR}error:{i}", totals, FLOAT64)))
        before = "" if name == REGRESSION else f"{name}_"
        return [(Output(before + column, bound.sql, str(bound.type)), bound) for column, bound in found]

    def _squares(self, measured: Sequence[Mixed]) -> list[Total]:
        """How many pairs of rows, the sums over them, and those of all products by two."""
        products = self._products
        totals = []
        for i, j in pairs(len(measured) - 1):
            if j == 0:
                totals.append(products.count(measured[0]))
            elif i == 0:
                totals.append(products.total(measured[j - 1]))
            else:
                totals.append(products.total(multiplied(measured[i - 1], measured[j - 1])))
        return totals

    def _regressed(self, node: exp.Expr, part: str) -> list[exp.Expr]:
        """What is explained, and by what."""
        y, *rest = node.expressions or [None]
        xs = (
            [x.unnest() for x in rest[0].expressions]
            if len(rest) == 1 and isinstance(rest[0], exp.Array)
            else []
        )
        if y is None or not 1 <= len(xs) <= MOST_REGRESSORS:
            raise QueryError(
                "query.regression",
                f"in {part}: {REGRESSION}(y, [x1, x2]) takes a column and a list of 1 to {MOST_REGRESSORS}",
            )
        if len({one.sql().casefold() for one in (y.unnest(), *xs)}) <= len(xs):
            raise QueryError(
                "query.regression",
                f"in {part}: a column occurs twice, so no coefficient is determined; name each once",
            )
        return [y.unnest(), *xs]

    def _native(
        self, node: exp.Expr, function: str, keep: Bound | None, part: str, unbounded: Unbounded
    ) -> Bound:
        """The mean or variance of anything, the sum of floats: a sum of decimals would not be exact."""
        bound = self._argument(node, part)
        if not bound.type.numeric:
            raise QueryError("query.type", f"in {part}: a number is needed here")
        if function == "sum" and bound.type != FLOAT64:
            raise unbounded
        self._notes.aggregated(bound.columns, _POLICY_WORDS[function])
        value = f"CAST({bound.sql} AS DOUBLE)"
        value = value if keep is None else f"CASE WHEN {keep.sql} THEN {value} END"
        name = self._partials.add(value, 0, 0, function, str(FLOAT64))
        return self._partials.figure("value", [Total((name,))], FLOAT64)

    # --- the plan

    def _draft(
        self, outputs: Sequence[tuple[Output, Bound]], having: str | None, order: Sequence[str]
    ) -> Plan:
        """The plan without a protocol."""
        joint = self._receiver is not None
        cells = (JOINT_CELLS[0] if joint else OWN_CELLS) if self._dimensions else 1
        return Plan(
            protocol="",
            protocol_version=0,
            level=Level.HIDDEN,
            asker=self._asker,
            owner=self._sender.participant,
            receiver=self._side(self._receiver) if self._receiver is not None else None,
            sender=self._side(self._sender),
            outputs=tuple(output for output, _ in outputs),
            having=having,
            order_by=tuple(order),
            limit=self._statement.limit,
            maximum_cells=cells,
            parameters={},
            reveals=(),
            figures=tuple(self._partials.figures.values()),
            join=self._join_kind,
            histogram=self._histogram,
        )

    def _side(self, info: DatasetInfo) -> Side:
        sender = info is self._sender
        partials = tuple((self._partials if sender else self._own).partials.values())
        keys = tuple(pair[1 if sender else 0] for pair in self._keys)
        weights = () if sender else self._weights()
        bounds = [p.row_bound * self._own.rows_bound for p in partials if p.name in weights]
        left = info is self._left and self._join_kind in ("left", "anti")
        return Side(
            dataset=info.full_name,
            keys=keys,
            filters=tuple(self._filters[info.full_name]),
            dimensions=tuple(d for bound, d in self._dimensions if bound.sides == {info.full_name}),
            partials=partials,
            keys_bound=info.keys_bound + (left and sender),  # one place more: for the rows without a key
            rows_bound=info.rows_bound,
            distinct=self._counts_once(info),
            weights=weights,
            weight_bound=max(1, *bounds) if bounds else None,
            repeats=not sender and self._products.repeats,
            unique=any(column.unique for name in keys if (column := info.column(name)) is not None),
            kept=left and sender,
            totals=left and not sender,
            optional=not sender and not left and self._join_kind == "left",
        )

    def _counts_once(self, info: DatasetInfo) -> bool:
        """Does it make no difference how many rows of this side share a key?"""
        if info is self._sender or self._own.partials:
            return False
        if self._join_kind in ("semi", "anti"):
            return info is self._right or not self._counts_own
        return not self._partials.partials and not self._counts_own


def _roles(infos: Sequence[DatasetInfo], asker: str) -> tuple[DatasetInfo, DatasetInfo | None]:
    """(sender, receiver): whose data is asked about, and the asker's own dataset in a join."""
    if len(infos) == 1:
        return infos[0], None
    own = [info for info in infos if info.participant == asker]
    others = [info for info in infos if info.participant != asker]
    if not own:
        raise QueryError(
            "query.asker-not-joined", f"a join needs a dataset of {asker}, who asks, on one side"
        )
    if not others:
        raise QueryError(
            "query.one-party", "both datasets are the asker's own; publish their join as one dataset"
        )
    return others[0], own[0]


def _unwrapped(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _grouped_by(scalar: Scalar, node: exp.Expr) -> Bound:
    """An expression that groups; buckets do only that, so that a policy can tell them from filters."""
    inner = node.unnest()
    return bucket(scalar, inner) if isinstance(inner, exp.WidthBucket) else scalar.bound(node)


def _has_aggregate(node: exp.Expr) -> bool:
    return bool(_aggregates(node))


def _aggregates(node: exp.Expr) -> list[exp.Expr]:
    return [
        n for n in node.find_all(*_AGGREGATES, exp.Anonymous) if isinstance(n, _AGGREGATES) or regressing(n)
    ]


def _named_output(node: exp.Expr, outputs: Sequence[tuple[Output, Bound]], part: str) -> Bound | None:
    """ORDER BY 2, or ORDER BY an alias."""
    if isinstance(node, exp.Literal):
        place = int(node.this) if not node.is_string and node.this.isdecimal() and len(node.this) < 4 else 0
        if not 1 <= place <= len(outputs):
            raise QueryError("query.ordinal", f"in {part}: the number of a SELECT item is needed")
        return outputs[place - 1][1]
    if isinstance(node, exp.Column) and not node.table:
        return next((b for o, b in outputs if o.name.casefold() == node.name.casefold()), None)
    return None


def _any_unique(info: DatasetInfo, keys: Iterable[str]) -> bool:
    """Is some part of a key declared to occur once?"""
    return any((column := info.column(key)) is not None and column.unique for key in keys)


def _sum_type(number: Mixed) -> Type:
    if number.inexact:
        return FLOAT64
    if number.scale > 30:
        raise QueryError(
            "query.overflow", "a sum has more than 30 digits after the point; multiply fewer decimals"
        )
    return Type("decimal", 38, number.scale) if number.scale else HUGE


_FUNCTIONS: dict[type[exp.Expr], str] = {
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Variance: "var_samp",
    exp.VariancePop: "var_pop",
    exp.Stddev: "stddev_samp",
    exp.StddevSamp: "stddev_samp",
    exp.StddevPop: "stddev_pop",
}
_NULL_FOR_NULLS: set[type[exp.Expr]] = {
    *(exp.Column, exp.Identifier, exp.Literal, exp.Paren, exp.Neg, exp.Add, exp.Sub, exp.Mul, exp.Distinct),
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Like, exp.ILike, exp.And),
    *(exp.Cast, exp.DataType, exp.Boolean, exp.Star),
    *_FUNCTIONS,
    *(exp.Count, exp.CountIf, exp.CovarPop, exp.CovarSamp, exp.Corr, exp.RegrSlope, exp.RegrIntercept),
    *(exp.RegrR2, exp.RegrCount),
}
"""What is NULL, and no condition that holds, where all columns are NULL."""

_PAIRS: dict[type[exp.Expr], str] = {
    exp.CovarPop: "covar_pop",
    exp.CovarSamp: "covar_samp",
    exp.Corr: "corr",
    exp.RegrSlope: "regr_slope",
    exp.RegrIntercept: "regr_intercept",
    exp.RegrR2: "regr_r2",
    exp.RegrCount: "regr_count",
    exp.RegrAvgy: "regr_avgy",
    exp.RegrAvgx: "regr_avgx",
    exp.RegrSyy: "regr_syy",
    exp.RegrSxx: "regr_sxx",
    exp.RegrSxy: "regr_sxy",
}
_AGGREGATES: tuple[type[exp.Expr], ...] = (
    exp.ApproxQuantile,
    exp.Count,
    exp.CountIf,
    exp.Min,
    exp.Max,
    *_FUNCTIONS,
    *_PAIRS,
)
_POLICY_WORDS = {name: name.split("_")[0] for name in (*_FUNCTIONS.values(), *_PAIRS.values())}
