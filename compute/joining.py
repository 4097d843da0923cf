"""What of two datasets matches: the join's keys, and the conditions on either side's rows.

The first layer of a question on its way to a plan (compute/planner.py): it knows whose rows are kept, what a
column's name means and on which side each condition is evaluated. Refused: joins on anything but keys that
both owners declare alike, conditions over both parties' columns, and those to which an outer join gives a
meaning that is seldom meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from sqlglot import exp

from compute.dataset import Column, DatasetInfo
from compute.errors import QueryError
from compute.expressions import Bound, Leaf, Scalar, quoted
from compute.facts import Notes
from compute.scope import Scope, named_column
from compute.sql import Statement
from compute.types import parse_type


@contextmanager
def refusing_in(part: str) -> Iterator[None]:
    """What is refused meanwhile says in which part of the question."""
    try:
        yield
    except QueryError as error:
        if error.sentence.startswith(f"in {part}: "):
            raise
        raise QueryError(error.code, f"in {part}: {error.sentence}") from None


class Joining:
    """One question's datasets, keys and conditions."""

    def __init__(self, statement: Statement, scope: Scope, asker: str) -> None:
        self.statement, self.kind = statement, statement.join
        self.left, self.right = scope.infos[0], scope.infos[-1]
        # Rows of the asker are counted here, wherever its dataset is the one whose rows are kept.
        self.own_rows = self.kind != "inner" and self.left.participant == asker
        self.both = scope  # what ON may name
        self.scope = {
            "inner": scope,
            "semi": replace(scope, first=0),
            "anti": replace(scope, first=0),
            "left": replace(scope, optional=1),
        }[statement.join]
        self.notes = Notes()
        self.sender, self.receiver = _roles(scope.infos, asker)
        self.keys: list[tuple[str, str]] = []  # (receiver's column, sender's column)
        self.filters: dict[str, list[str]] = {info.full_name: [] for info in scope.infos}

    def bind(self) -> None:
        """Bind what joins and filters, clause by clause. Raises `QueryError`."""
        for name in self.statement.using:
            self._using(name.name)
        for outer, inner in self.statement.pairs:
            self._membership(outer, inner)
        for node in self.statement.on:
            with refusing_in("ON"):
                self._matching_condition(node, self.both, "ON")
        for node in self.statement.within:
            with refusing_in("the subquery"):
                self._matching_condition(node, replace(self.both, first=1), "the subquery")
        for info, nodes in zip(self.both.infos, self.statement.given, strict=False):
            with refusing_in("a query of WITH or FROM"):
                self.filters[info.full_name] += [self._given(node) for node in nodes]
        for node in self.statement.where:
            with refusing_in("WHERE"):
                self._condition(node, "WHERE")
        if self.receiver is not None and not self.keys:
            raise QueryError(
                "query.no-join-key", "two datasets are joined on at least one pair of keys: ON a.key = b.key"
            )

    def _matching_condition(self, node: exp.Expr, scope: Scope, part: str) -> None:
        """A condition of ON or of a subquery: it decides what matches."""
        pair = self._key_pair(node, scope)
        if pair is not None:
            self._join(*pair)
            return
        bound = Scalar(self._leaf(scope), self.notes, part).predicate(node)
        side = next(iter(bound.sides), self.right.full_name)
        if side == self.left.full_name and self.kind in ("anti", "left"):
            raise QueryError(
                "query.outer-condition",
                f"in {part}: a condition on {side} alone would turn its rows into rows without a match; "
                "put it into WHERE, outside the join or subquery",
            )
        self.filters[side].append(bound.sql)

    def _given(self, node: exp.Expr) -> str:
        """A condition of a query of WITH or FROM over one dataset: which rows there are to join."""
        return Scalar(self._leaf(self.both), self.notes, "a query of WITH or FROM").predicate(node).sql

    def _condition(self, node: exp.Expr, part: str) -> None:
        """A condition of WHERE: it decides which rows there are."""
        pair = self._key_pair(node, self.scope) if self.kind == "inner" else None
        if pair is not None:
            self._join(*pair)
            return
        if self.kind == "left" and self._says_unmatched(node):
            self.kind = "anti"
            return
        bound = self.rows(part).predicate(node)
        # What no row can change concerns the rows that are kept: elsewhere it would only undo matches.
        side = next(iter(bound.sides), self.left.full_name)
        self.check_visible(bound.sides, part)
        if self.kind == "left" and side == self.right.full_name and bound.sides:
            raise QueryError(
                "query.outer-condition",
                f"in {part}: a condition on {side} reads NULLs wherever LEFT JOIN found no match; put it "
                "into ON, or write JOIN to keep matching rows only",
            )
        self.filters[side].append(bound.sql)

    def _says_unmatched(self, node: exp.Expr) -> bool:
        """`b.key IS NULL` after `a LEFT JOIN b`: an anti join in other words."""
        node = node.unnest()
        if not isinstance(node, exp.Is) or not isinstance(node.expression, exp.Null):
            return False
        column = unwrapped(node.this)
        if not isinstance(column, exp.Column):
            return False
        info, found = self.scope.column(column)
        place = 0 if info is self.receiver else 1
        return info is self.right and found.name in {pair[place] for pair in self.keys}

    def _membership(self, outer: exp.Expr, inner: exp.Expr) -> None:
        """`outer IN (SELECT inner …)`: one pair of keys."""
        left, right = (
            self.scope.column(cast(exp.Column, outer)),
            replace(self.both, first=1).column(cast(exp.Column, inner)),
        )
        if left[0] is not self.left or right[0] is not self.right:
            raise QueryError(
                "query.subquery",
                "IN (SELECT …) compares a key of the dataset in FROM with a key of the one in the subquery",
            )
        if self.statement.not_in and (left[1].nullable or right[1].nullable):
            raise QueryError(
                "query.not-in",
                "NOT IN answers nothing at all as soon as one key in the subquery is NULL, and no protocol "
                "may tell whether there is one; write NOT EXISTS (SELECT 1 FROM b WHERE b.key = a.key), or "
                "have the owners declare both keys without NULLs",
            )
        self._join(*((left, right) if self.left is self.receiver else (right, left)))

    def check_visible(self, sides: Iterable[str], part: str) -> None:
        """After SEMI and ANTI JOIN the right dataset's columns are gone, as in SQL."""
        if self.kind in ("semi", "anti") and self.right.full_name in sides:
            raise QueryError(
                "query.semi-join",
                f"in {part}: only ON, or the subquery, may name columns of the dataset that rows are looked "
                "up in; move the condition there, or write JOIN to group by them or aggregate them",
            )

    def _key_pair(self, node: exp.Expr, scope: Scope) -> tuple[tuple[DatasetInfo, Column], ...] | None:
        """The two columns of `a.key = b.key` across the parties, receiver's first."""
        if self.receiver is None or not isinstance(node, exp.EQ):
            return None
        sides = [unwrapped(node.this), unwrapped(node.expression)]
        named = [scope.column(side) for side in sides if isinstance(side, exp.Column)]
        found = {info.full_name: (info, column) for info, column in named}
        return (
            tuple(found[info.full_name] for info in (self.receiver, self.sender)) if len(found) == 2 else None
        )

    def _using(self, name: str) -> None:
        assert self.receiver is not None
        pair = [(info, named_column(info, name)) for info in (self.receiver, self.sender)]
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
        self.notes.marked({(a.full_name, x.name), (b.full_name, y.name)}, "joined")
        if (x.name, y.name) not in self.keys:
            self.keys.append((x.name, y.name))

    def sides(self) -> tuple[DatasetInfo, DatasetInfo]:
        """Of a join: the asker's dataset, and the one that is asked about."""
        assert self.receiver is not None
        return self.receiver, self.sender

    def key_side(self, bound: Bound) -> DatasetInfo | None:
        """Whose join key this is, if it is one by itself."""
        if self.receiver is None:
            return None
        for place, info in enumerate((self.receiver, self.sender)):
            keys = {(info.full_name, pair[place]) for pair in self.keys}
            if any(bound.columns == {ref} and bound.sql == quoted(ref[1]) for ref in keys):
                return info
        return None

    def rows(self, part: str) -> Scalar:
        """Binds expressions over the rows of the join."""
        return Scalar(self.row_leaf, self.notes, part)

    def row_leaf(self, node: exp.Expr) -> Bound | None:
        """A column of the join; None for anything else."""
        return self._leaf(self.scope)(node)

    def _leaf(self, scope: Scope) -> Leaf:
        return lambda node: self._column_leaf(node, scope)

    def _column_leaf(self, node: exp.Expr, scope: Scope) -> Bound | None:
        if not isinstance(node, exp.Column):
            return None
        info, column = scope.column(node)
        ref = (info.full_name, column.name)
        list(self.notes.seen({ref}))
        return Bound(
            quoted(column.name),
            parse_type(column.type),
            frozenset({info.full_name}),
            frozenset({ref}),
            column.nullable or (self.kind == "left" and info is self.right),
        )


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


def unwrapped(node: exp.Expr) -> exp.Expr:
    """Without parentheses."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node
