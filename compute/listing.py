"""List queries: a SELECT of columns over a join, one row of the answer for each pair of matching rows.

What the asker's rows bring stays at the asker; what the owner's rows bring leaves for matched rows only, so
every expression over the owner's columns is computed by the owner, and columns that only ORDER BY names
count as listed too. Refused: an owner's key that may repeat (each of its rows needs a place of its own), text
without a declared width, the owner's own spelling of a key, an order that DISTINCT does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlglot import exp

from compute.dataset import DatasetInfo
from compute.errors import QueryError
from compute.expressions import RELEASED, Bound
from compute.facts import Notes
from compute.joining import refusing_in
from compute.plan import Dimension, Output, Plan
from compute.protocols._rows import text_width
from compute.sql import Statement
from compute.types import STRING

Bind = Callable[[exp.Expr, str], Bound]
"""An expression over the rows of one dataset, bound; the second argument names the clause."""


def asked(statement: Statement, aggregated: Callable[[exp.Expr], bool]) -> bool:
    """Does the question list rows: no GROUP BY, no HAVING, no aggregate, some column?"""
    shown = [item.node for item in statement.select]
    nodes = [*shown, *(item.node for item in statement.order)]
    grouped = statement.group != () or statement.having is not None
    return not grouped and not any(map(aggregated, nodes)) and any(n.find(exp.Column) for n in shown)


class Listing:
    """One list query's columns, while they are collected."""

    def __init__(self, statement: Statement, sender: DatasetInfo, bind: Bind, notes: Notes) -> None:
        self._statement, self._sender, self._bind, self._notes = statement, sender, bind, notes
        self.dimensions: list[tuple[Bound, Dimension]] = []

    def output(self, number: int, node: exp.Expr, name: str) -> tuple[Output, Bound]:
        """One column of the answer."""
        shown = self._shown(node, f"SELECT item {number}")
        return Output(name, shown.sql, str(shown.type)), shown

    def ordered(self, number: int, node: exp.Expr) -> Bound:
        """What an ORDER BY item that is no column of the answer sorts by."""
        part, known = f"ORDER BY item {number}", len(self.dimensions)
        shown = self._shown(node, part)
        if self._statement.unrepeated and len(self.dimensions) > known:
            raise QueryError(
                "query.distinct-order", f"in {part}: SELECT DISTINCT is ordered by what it shows"
            )
        return shown

    def _shown(self, node: exp.Expr, part: str) -> Bound:
        with refusing_in(part):
            bound = self._bind(node, part)
        if not bound.columns:
            return replace(bound, sides=frozenset({RELEASED}))
        self._notes.marked(bound.columns, "listed")
        name = self._dimension(node, bound).name
        return Bound(name, bound.type, frozenset({RELEASED}), frozenset(), bound.nullable)

    def _dimension(self, node: exp.Expr, bound: Bound) -> Dimension:
        for known, dimension in self.dimensions:
            if (known.sql, known.sides) == (bound.sql, bound.sides):
                return dimension
        width = self._width(node, bound) if bound.sides == {self._sender.full_name} else 0
        made = Dimension(f"d{len(self.dimensions)}", bound.sql, str(bound.type), width)
        self.dimensions.append((bound, made))
        return made

    def _width(self, node: exp.Expr, bound: Bound) -> int:
        """Bytes that the owner's text is padded to."""
        if bound.type != STRING:
            return 0
        columns = [self._sender.column(name) for _, name in sorted(bound.columns)]
        texts = [c for c in columns if c is not None and c.type == "string"]
        for column in texts:
            if column.width is None:
                raise QueryError(
                    "query.width-missing",
                    f"{self._sender.full_name}.{column.name} is text without a declared width, so lengths "
                    f"would show; ask {self._sender.participant} to declare `width` for it",
                )
        widths = [column.width or 0 for column in texts]
        if isinstance(node.unnest(), exp.Column):
            return max(widths)
        literals = [len(text.this.encode()) for text in node.find_all(exp.Literal) if text.is_string]
        return text_width(widths, literals)


def planned(draft: Plan, statement: Statement, distinct: bool) -> Plan:
    """The draft of a list. `distinct`: the asker's rows only say which of the owner's are wanted."""
    assert draft.receiver is not None
    shows_owner = bool(draft.sender.dimensions)
    if not draft.sender.unique and (shows_owner or statement.join == "inner"):
        raise QueryError(
            "query.list-key-repeats",
            f"a list joins on a key that {draft.owner} declares unique, so that each key has one row; ask "
            f"{draft.owner} for an offer with one row for each key",
        )
    return replace(
        draft,
        kind="list",
        unrepeated=statement.unrepeated,
        maximum_cells=1,
        receiver=replace(draft.receiver, distinct=distinct),
    )


def not_a_key(bound: Bound, sender: DatasetInfo, keys: Sequence[str], part: str) -> None:
    """Refuse the owner's spelling of a key: the asker's own says which row it is."""
    if bound.columns & {(sender.full_name, key) for key in keys}:
        raise QueryError(
            "query.list-key",
            f"in {part}: a list shows the asker's own key, never {sender.participant}'s; name the column of "
            "your own dataset",
        )


def own_column(node: exp.Expr, using: Sequence[exp.Identifier], alias: str) -> exp.Expr:
    """`node`, in which an unqualified USING column is the asker's own: the owner's key is never shown."""
    names = {name.name.casefold() for name in using}
    copy = node.copy()
    for column in copy.find_all(exp.Column):
        if not column.table and column.name.casefold() in names:
            column.set("table", exp.to_identifier(alias, quoted=True))
    return copy
