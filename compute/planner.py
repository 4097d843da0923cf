"""From a question to the plan that both sides derive alone, and the facts that policies decide on.

`prepare` is a function of the SQL text, the asker's name, the dataset descriptions and the protocol
declarations: no clock, no data, no negotiation. It refuses what cannot be answered exactly, with the
part that is at fault and what would work. Which side is the sender follows from who asks: the sender
is the participant whose data is asked about.

Three layers, each with the one before: what matches (compute/joining.py), what is summed
(compute/aggregates.py), and here the clauses of the question, the answer's columns and the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from sqlglot import exp

from compute import listing, masking, pooling
from compute.aggregates import AGGREGATES, Aggregates, aggregates_in, has_aggregate, quantile_column
from compute.choice import JOINT_CELLS, choose
from compute.dataset import DatasetInfo
from compute.demands import demanded, hiding
from compute.errors import QueryError
from compute.expressions import RELEASED, Bound, Scalar
from compute.facts import Notes, Prepared
from compute.histograms import bucket, numbers, quantile_buckets
from compute.inlining import inlined
from compute.joining import Joining, refusing_in
from compute.logistic import NOISY_STEPS
from compute.plan import Dimension, Histogram, Logistic, Output, Plan, Side
from compute.pooling import Part
from compute.protocols import PROTOCOLS
from compute.protocols.base import Protocol
from compute.scope import Scope, described, named_column
from compute.sql import LOGISTIC, Item, Statement, parse, regressing, unique
from compute.types import FLOAT64
from policy_enforcer.disclosure import Level
from policy_enforcer.obligations import NOTHING_DEMANDED, Obligations

OWN_CELLS = 65_536
"""Most cells of a single-domain answer."""

POOLED_CELLS = 131_072
"""Most cells of a federation's answer, all of which are declared."""


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
    infos = tuple(_seen(described(source, catalogue), asker, demands) for source in statement.sources)
    statement = inlined(statement, infos)
    scope = Scope(statement.sources, infos, frozenset(name.name.casefold() for name in statement.using))
    return _Planner(statement, scope, asker, demands, repeats=repeats, parts=parts).prepared(protocols)


def _seen(info: DatasetInfo, asker: str, demands: Mapping[str, Obligations]) -> DatasetInfo:
    """The dataset under the masks of its owner's policy, and what that tolerates of this asker."""
    policy = demands.get(info.full_name, NOTHING_DEMANDED)
    masked = masking.described(info, policy.masking)
    if not policy.hides_matches_from(asker):
        return masked
    return replace(masked, disclosure=min(info.disclosure, Level.CARDINALITY))


class _Planner:
    """One question on its way to a plan: its clauses, in the order in which they mean something."""

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
        self._asker, self._join = asker, Joining(statement, scope, asker)
        self._sums = Aggregates(self._join, repeats=repeats, parts=parts)
        self._demands = demands.get(self._join.sender.full_name, NOTHING_DEMANDED)
        self._dimensions: list[tuple[Bound, Dimension]] = []
        self._histogram: Histogram | None = None
        self._bucketed: dict[str, tuple[int, ...]] = {}  # the numbers of a dimension's buckets

    def prepared(self, protocols: Sequence[Protocol]) -> Prepared:
        """Bind every clause and choose a protocol."""
        self._join.bind()
        if self._join.receiver is not None and listing.asked(self._join.statement, has_aggregate):
            return self._listed(protocols)
        if self._join.statement.unrepeated:
            raise QueryError(
                "query.construct", "DISTINCT is for lists of rows; GROUP BY shows each group once"
            )
        self._sums.multiplicities()
        for number, node in enumerate(self._grouping(), 1):
            with refusing_in(part := f"GROUP BY item {number}"):
                self._dimension(node, part)
        self._buckets()
        self._left_join_answers()
        outputs = self._shown()
        having = self._having()
        if not self._dimensions and not self._sums.partials.figures:
            raise QueryError("query.not-grouped", self._ungrouped())
        order = [self._ordering(i, outputs) for i in range(len(self._join.statement.order))]
        draft = self._draft(outputs, having, order)
        if self._sums.parts:
            draft = pooling.planned(draft, self._join.sender, self._demands, self._sums.parts, self._bucketed)
        else:
            draft = demanded(draft, self._join.sender, self._demands, self._bucketed)
        chosen, final = choose(draft, self._join.scope.infos, protocols)
        final = hiding(final, self._demands)
        self._note_weights()
        uses = {info.full_name: self._join.notes.uses(info.full_name) for info in self._join.scope.infos}
        return Prepared(final, chosen, self._join.scope.infos, uses, self._join.notes.literals_on_total)

    def _left_join_answers(self) -> None:
        """What a LEFT JOIN can be grouped by: only one party can tell which rows have no match."""
        if self._join.kind != "left":
            return
        sides = frozenset[str]().union(*(bound.sides for bound, _ in self._dimensions))
        if self._join.own_rows and self._join.sender.full_name in sides:
            raise QueryError(
                "query.left-join",
                "a LEFT JOIN that keeps your rows is grouped by your columns only; write JOIN to group by "
                f"those of {self._join.sender.full_name}, and ask an ANTI JOIN for your rows without a match",
            )
        if not self._join.own_rows and self._join.right.full_name not in sides:
            raise QueryError(
                "query.left-join",
                "without a column of yours in GROUP BY this LEFT JOIN changes nothing about "
                f"{self._join.left.full_name}: ask without the join, group by columns of yours, or write "
                "JOIN or ANTI JOIN",
            )

    def _note_weights(self) -> None:
        """All measures of a sum under weights are weighted: the asker's connector learns each of them."""
        for info in self._join.scope.infos if self._weights() else ():
            columns = [use.column for use in self._join.notes.uses(info.full_name) if use.aggregated]
            self._join.notes.marked([(info.full_name, column) for column in columns], "weighted")

    def _weights(self) -> tuple[str, ...]:
        """The receiver's partials that enter the sums: the others need nothing but which rows matched."""
        sender_groups = any(self._join.sender.full_name in bound.sides for bound, _ in self._dimensions)
        names = [partial.name for partial in self._sums.own.partials.values()]
        return tuple(name for name in names if sender_groups or name in self._sums.products.weights)

    def _listed(self, protocols: Sequence[Protocol]) -> Prepared:
        """A list query: every clause bound, and the protocol for lists."""
        assert self._join.receiver is not None
        if self._join.kind in ("anti", "left"):
            raise QueryError("query.join", "rows without a match cannot be listed; write JOIN or SEMI JOIN")
        found = listing.Listing(self._join.statement, self._join.sender, self._listed_row, self._join.notes)
        outputs = [
            found.output(i, item.node, item.name) for i, item in enumerate(self._join.statement.select, 1)
        ]
        order = [self._ordering(i, outputs, found) for i in range(len(self._join.statement.order))]
        self._dimensions = found.dimensions
        wanted = self._join.kind == "semi" and self._join.right is self._join.receiver
        draft = listing.planned(self._draft(outputs, None, order), self._join.statement, wanted)
        chosen, final = choose(draft, self._join.scope.infos, protocols)
        final = hiding(final, self._demands)
        uses = {info.full_name: self._join.notes.uses(info.full_name) for info in self._join.scope.infos}
        return Prepared(final, chosen, self._join.scope.infos, uses, self._join.notes.literals_on_total)

    def _listed_row(self, node: exp.Expr, part: str) -> Bound:
        """An expression over the rows of one side; a key that USING made one column is the asker's."""
        place = next(i for i, info in enumerate(self._join.both.infos) if info is self._join.receiver)
        alias = self._join.both.sources[place].alias
        node = (
            listing.own_column(node, self._join.statement.using, alias)
            if self._join.kind == "inner"
            else node
        )
        bound = self._join.rows(part).bound(node)
        self._join.check_visible(bound.sides, part)
        listing.not_a_key(bound, self._join.sender, [theirs for _, theirs in self._join.keys], part)
        return bound

    def _grouping(self) -> list[exp.Expr]:
        if self._join.statement.group is None:
            plain = [i.node for i in self._join.statement.select if not has_aggregate(i.node)]
            return [node for node in plain if node.find(exp.Column) is not None]
        return [self._group_item(node) for node in self._join.statement.group]

    def _group_item(self, node: exp.Expr) -> exp.Expr:
        """Ordinals and aliases stand for SELECT items; a real column wins over an alias."""
        select = self._join.statement.select
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
        if any(named_column(info, node.name) for info in self._join.scope.infos):
            return None
        return next(
            (i.node for i in self._join.statement.select if i.name.casefold() == node.name.casefold()), None
        )

    def _dimension(self, node: exp.Expr, part: str) -> None:
        if has_aggregate(node):
            raise QueryError(
                "query.group", f"in {part}: an aggregate cannot be grouped by; filter it in HAVING"
            )
        bound = _grouped_by(self._join.rows(part), node)
        if not bound.columns:
            raise QueryError("query.group", f"in {part}: GROUP BY takes columns, not literals")
        self._join.check_visible(bound.sides, part)
        if isinstance(node.unnest(), exp.WidthBucket):
            self._join.notes.aggregated(bound.columns, "histogram")
        else:
            self._join.notes.marked(bound.columns, "grouped")
        sql = f"({bound.sql} + 0.0e0)" if bound.type == FLOAT64 else bound.sql  # -0.0 and 0.0 are one group
        if all(known.sql != bound.sql or known.sides != bound.sides for known, _ in self._dimensions):
            dimension = Dimension(f"d{len(self._dimensions)}", sql, str(bound.type))
            self._dimensions.append((bound, dimension))
            inner = node.unnest()
            if isinstance(inner, exp.WidthBucket):
                self._bucketed[dimension.name] = numbers(self._join.rows(part), inner)

    def _shown(self) -> list[tuple[Output, Bound]]:
        taken: dict[str, int] = {}
        items = enumerate(self._join.statement.select, 1)
        found = [output for i, item in items for output in self._outputs(i, item)]
        return [(replace(output, name=unique(output.name, taken)), bound) for output, bound in found]

    def _outputs(self, number: int, item: Item) -> list[tuple[Output, Bound]]:
        with refusing_in(part := f"SELECT item {number}"):
            return self._output(item, part)

    def _output(self, item: Item, part: str) -> list[tuple[Output, Bound]]:
        node = item.node.unnest()
        condition = node.expression.this if isinstance(node, exp.Filter) else None
        node = node.this if isinstance(node, exp.Filter) else node
        if regressing(node):
            return self._sums.regression(item.name, node, condition, part)
        bound = self._answer(part).bound(item.node)
        return [(Output(item.name, bound.sql, str(bound.type)), bound)]

    def _having(self) -> str | None:
        node = self._join.statement.having
        with refusing_in("HAVING"):
            written = self._answer("HAVING", aliases=True).predicate(node).sql if node is not None else None
        if not self._join.own_rows or self._join.kind != "anti" or not self._dimensions:
            return written
        # The asker has a cell for each of its groups; in SQL one whose rows all match is no group.
        rows = f"({self._sums.count_rows([]).sql} > 0)"
        return rows if written is None else f"({written} AND {rows})"

    def _ordering(
        self, place: int, outputs: Sequence[tuple[Output, Bound]], rows: listing.Listing | None = None
    ) -> str:
        order = self._join.statement.order[place]
        with refusing_in(part := f"ORDER BY item {place + 1}"):
            named = _named_output(order.node, outputs, part)
            if named is None and rows is not None:
                named = rows.ordered(place + 1, order.node)
            bound = named or self._answer(part, aliases=True).bound(order.node)
        direction = "DESC" if order.descending else "ASC"
        return f"{bound.sql} {direction} NULLS {'FIRST' if order.nulls_first else 'LAST'}"

    # --- expressions over the answer

    def _answer(self, part: str, *, aliases: bool = False) -> Scalar:
        def leaf(node: exp.Expr) -> Bound | None:
            return self._answer_leaf(node, part, aliases=aliases)

        return Scalar(leaf, self._join.notes, part, released=True)

    def _answer_leaf(self, node: exp.Expr, part: str, *, aliases: bool) -> Bound | None:
        """Aggregates become figures, grouped expressions dimensions; the rest is computed from them."""
        if isinstance(node, exp.Filter) and not regressing(node.this):
            return self._sums.aggregate(node.this, node.expression.this, part)
        if isinstance(node, AGGREGATES):
            return self._sums.aggregate(node, None, part)
        if regressing(node):
            raise QueryError(
                "query.regression", f"in {part}: {node.name} is several columns: a SELECT item of its own"
            )
        if has_aggregate(node) or node.find(exp.Column) is None:
            return None
        if aliases and (named := self._aliased(node)) is not None:
            return self._answer(part).bound(named)
        dimension = self._matching(node, part)
        if dimension is None and isinstance(node, exp.Column):
            raise QueryError("query.not-grouped", f"in {part}: {self._ungrouped()}")
        return dimension

    def _ungrouped(self) -> str:
        if any(has_aggregate(i.node) for i in self._join.statement.select) or self._dimensions:
            return "a column is neither aggregated nor in GROUP BY; add it to GROUP BY or aggregate it"
        return "rows cannot be listed, only aggregates are answered; use COUNT, SUM or AVG with GROUP BY"

    def _matching(self, node: exp.Expr, part: str) -> Bound | None:
        """The dimension that this expression repeats."""
        try:
            bound = _grouped_by(Scalar(self._join.row_leaf, Notes(), part), node)
        except QueryError:
            if isinstance(node, exp.Column):
                raise
            return None
        if isinstance(node, exp.Column):
            self._join.row_leaf(node)
        for known, dimension in self._dimensions:
            if known.sql == bound.sql and known.sides == bound.sides:
                return Bound(dimension.name, known.type, frozenset({RELEASED}), frozenset(), known.nullable)
        return None

    def _buckets(self) -> None:
        """Where quantiles are asked, the buckets of their column are one more dimension, not shown."""
        trees = [item.node for item in self._join.statement.select] + [
            o.node for o in self._join.statement.order
        ]
        trees += [self._join.statement.having] if self._join.statement.having is not None else []
        asked = [node for tree in trees for node in aggregates_in(tree)]
        quantiles = [node for node in asked if isinstance(node, exp.ApproxQuantile)]
        if not quantiles:
            return
        columns = {quantile_column(node).sql() for node in quantiles}
        if len(columns) > 1 or len(quantiles) < len(asked):
            raise QueryError(
                "query.quantile",
                "quantiles are read off the buckets of one column; ask other aggregates, and quantiles of "
                "other columns, in a question of their own",
            )
        node = quantile_column(quantiles[0])
        scalar, (info, column) = self._join.rows("approx_quantile"), self._join.scope.column(node)
        bound, histogram = quantile_buckets(scalar, scalar.bound(node), info, column)
        self._join.check_visible(bound.sides, "approx_quantile")
        self._join.notes.aggregated(bound.columns, "histogram")
        self._histogram = replace(histogram, dimension=f"d{len(self._dimensions)}")
        self._bucketed[self._histogram.dimension] = tuple(range(histogram.buckets))
        dimension = Dimension(self._histogram.dimension, bound.sql, str(bound.type))
        self._dimensions.append((bound, dimension))

    # --- the plan

    def _draft(
        self, outputs: Sequence[tuple[Output, Bound]], having: str | None, order: Sequence[str]
    ) -> Plan:
        """The plan without a protocol."""
        joint = self._join.receiver is not None
        most = POOLED_CELLS if self._sums.parts else OWN_CELLS
        cells = (JOINT_CELLS[0] if joint else most) if self._dimensions else 1
        return Plan(
            protocol="",
            protocol_version=0,
            level=Level.HIDDEN,
            asker=self._asker,
            owner=self._join.sender.participant,
            receiver=self._side(self._join.receiver) if self._join.receiver is not None else None,
            sender=self._side(self._join.sender),
            outputs=tuple(output for output, _ in outputs),
            having=having,
            order_by=tuple(order),
            limit=self._join.statement.limit,
            maximum_cells=cells,
            parameters={},
            reveals=(),
            figures=tuple(self._sums.partials.figures.values()),
            join=self._join.kind,
            histogram=self._histogram,
            logistic=self._stepped(),
        )

    def _stepped(self) -> Logistic | None:
        """The logistic regression, which is asked alone. Under noise it takes fewer steps, always as many."""
        found = self._sums.logistic
        if found is None:
            return None
        if (
            self._dimensions
            or self._join.statement.having is not None
            or len(self._join.statement.select) > 1
        ):
            raise QueryError(
                "query.logistic",
                f"{LOGISTIC} is asked alone, without GROUP BY, HAVING and other SELECT items: ask for one "
                "group at a time by WHERE",
            )
        if self._demands.noise is None:
            return found
        return replace(found, steps=NOISY_STEPS, identities=0)

    def _side(self, info: DatasetInfo) -> Side:
        sender = info is self._join.sender
        partials = tuple((self._sums.partials if sender else self._sums.own).partials.values())
        keys = tuple(pair[1 if sender else 0] for pair in self._join.keys)
        weights = () if sender else self._weights()
        bounds = [p.row_bound * self._sums.own.rows_bound for p in partials if p.name in weights]
        left = info is self._join.left and self._join.kind in ("left", "anti")
        return Side(
            dataset=info.full_name,
            keys=keys,
            filters=tuple(self._join.filters[info.full_name]),
            dimensions=tuple(d for bound, d in self._dimensions if bound.sides == {info.full_name}),
            partials=partials,
            keys_bound=info.keys_bound + (left and sender),  # one place more: for the rows without a key
            rows_bound=info.rows_bound,
            distinct=self._counts_once(info),
            weights=weights,
            weight_bound=max(1, *bounds) if bounds else None,
            repeats=not sender and self._sums.products.repeats,
            unique=any(column.unique for name in keys if (column := info.column(name)) is not None),
            kept=left and sender,
            totals=left and not sender,
            optional=not sender and not left and self._join.kind == "left",
        )

    def _counts_once(self, info: DatasetInfo) -> bool:
        """Does it make no difference how many rows of this side share a key?"""
        if info is self._join.sender or self._sums.own.partials:
            return False
        if self._join.kind in ("semi", "anti"):
            return info is self._join.right or not self._sums.counts_own
        return not self._sums.partials.partials and not self._sums.counts_own


def _grouped_by(scalar: Scalar, node: exp.Expr) -> Bound:
    """An expression that groups; buckets do only that, so that a policy can tell them from filters."""
    inner = node.unnest()
    return bucket(scalar, inner) if isinstance(inner, exp.WidthBucket) else scalar.bound(node)


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
