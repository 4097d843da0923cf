"""A question without WITH and queries in FROM: their expressions stand where their columns were named.

Everything after this sees columns of datasets only, so a query in between can hide nothing from the facts:
which column is read, compared with what, inside which aggregate. Names are resolved here: a column that a
query does not show cannot be named outside it, and each name means what it means in SQL, where it stands.

Refused: names that are not shown or shown twice, expressions over the side of a LEFT JOIN that may be
missing which would not be NULL there, and questions that grow beyond `MAX_NODES` when written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sqlglot import exp

from compute.dataset import DatasetInfo
from compute.derived import Layer
from compute.errors import QueryError
from compute.joining import refusing_in
from compute.scope import named_column
from compute.sql import Ordering, Source, Statement, check_nodes, regressing

CALLED = "called"
"""Beside what a column stands for: what the question calls it, for answers that are named after columns."""

MAX_NODES = 20_000
"""Parts of all expressions that are written out: queries that name each other grow without bound."""


def inlined(statement: Statement, infos: Sequence[DatasetInfo]) -> Statement:
    """The same question over datasets alone; `infos` describe its sources. Raises `QueryError`."""
    if not statement.layers and not any(source.layers for source in statement.sources):
        return statement
    return _Inlining(statement, infos).written()


_BETWEEN, _SUBQUERY = "a query of WITH or FROM", "the subquery"


class _Names(Protocol):
    """What columns may be named at one place."""

    def find(self, node: exp.Column) -> exp.Expr | None:
        """What a name stands for; None where there is no such column."""


class _Written:
    """Writes expressions out, up to a size."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def out(self, node: exp.Expr, found: Callable[[exp.Column], exp.Expr]) -> exp.Expr:
        """A copy of `node` with what its columns stand for."""
        copy = self._copied(node)
        for column in list(copy.find_all(exp.Column)):
            stands_for = self._copied(found(column))
            stands_for.meta[CALLED] = column.name
            if column is copy:
                return stands_for
            column.replace(stands_for)
        return copy

    def _copied(self, node: exp.Expr) -> exp.Expr:
        self._left -= sum(1 for _ in node.walk())
        if self._left < 0:
            raise QueryError(
                "query.too-long",
                f"queries of WITH and FROM name each other so often that more than {MAX_NODES} parts result; "
                "name expressions once",
            )
        return node.copy()


@dataclass(frozen=True, slots=True)
class _Dataset:
    """A dataset, by the name that it has inside the queries that read it."""

    source: Source
    info: DatasetInfo
    alias: str  # of its own, among all datasets of the question

    def find(self, node: exp.Column) -> exp.Expr | None:
        if not _called(node, self.source.alias, self.source):
            return None
        column = named_column(self.info, node.name)
        return None if column is None else exp.column(column.name, self.alias, quoted=True)


@dataclass(slots=True)
class _View:
    """What one query shows."""

    layer: Layer
    reads: _Names
    written: _Written
    known: dict[str, exp.Expr | None] = field(default_factory=dict)

    def find(self, node: exp.Column) -> exp.Expr | None:
        if not _called(node, self.layer.alias):
            return None
        if node.name not in self.known:
            self.known[node.name] = self._shown(node.name)
        return self.known[node.name]

    def _shown(self, name: str) -> exp.Expr | None:
        """The item of that name, else one that differs in capitals alone, else what `*` stands for."""
        named = [(shown, item) for shown, item in self._items() if shown.casefold() == name.casefold()]
        exact = [(shown, item) for shown, item in named if shown == name] or named
        inside = [found for star in self._stars() if (found := self._in_star(star, name)) is not None]
        if len(exact) + len(inside) > 1:
            raise QueryError(
                "query.ambiguous-column",
                "a query of WITH or FROM shows two columns of the same name; give each an alias of its own",
            )
        return self._out(exact[0][1]) if exact else next(iter(inside), None)

    def _items(self) -> Iterable[tuple[str, exp.Expr]]:
        items, names = self.layer.items, self.layer.names
        if names and (len(names) > len(items) or any(map(_is_star, items[: len(names)]))):
            raise QueryError(
                "query.derived",
                "names after a query of WITH or FROM are for its columns, one for one, without *",
            )
        for place, item in enumerate(items):
            if not _is_star(item):
                yield names[place] if place < len(names) else item.alias_or_name, item.unalias()

    def _stars(self) -> list[exp.Expr]:
        return [item for item in self.layer.items if _is_star(item)]

    def _in_star(self, star: exp.Expr, name: str) -> exp.Expr | None:
        table = star.table if isinstance(star, exp.Column) else ""
        return self.reads.find(exp.column(name, table or None, quoted=True))

    def _out(self, item: exp.Expr) -> exp.Expr:
        return self.written.out(item, lambda column: resolved(self.reads, column))


@dataclass(frozen=True, slots=True)
class _Joined:
    """What a join shows: columns of both sides, and one for two that USING made the same."""

    members: tuple[_Names, ...]
    merged: Mapping[str, exp.Expr]
    first: int | None = None  # whose column is meant where both have one of that name

    def find(self, node: exp.Column) -> exp.Expr | None:
        if not node.table and node.name.casefold() in self.merged:
            return self.merged[node.name.casefold()]
        found = [one for member in self.members if (one := member.find(node)) is not None]
        if len(found) > 1 and self.first is not None:
            return found[self.first]
        if len(found) > 1:
            raise QueryError(
                "query.ambiguous-column", "a column exists on both sides of the join; put an alias before it"
            )
        return found[0] if found else None


def resolved(names: _Names, node: exp.Column) -> exp.Expr:
    """What a name stands for. Raises `QueryError`; what was typed may be a value, so nobody repeats it."""
    found = names.find(node)
    if found is None:
        raise QueryError(
            "query.unknown-column",
            "a column is named that nothing in FROM shows at this place; a query of WITH or FROM shows what "
            "its SELECT names",
        )
    return found


class _Inlining:
    """One statement on its way."""

    def __init__(self, statement: Statement, infos: Sequence[DatasetInfo]) -> None:
        self._asked, self._written = statement, _Written()
        aliases = [f"{source.alias}{'' if i == 0 else f' {i}'}" for i, source in enumerate(statement.sources)]
        self._datasets = [
            _Dataset(source, info, alias)
            for source, info, alias in zip(statement.sources, infos, aliases, strict=True)
        ]
        self._given: list[tuple[exp.Expr, ...]] = []
        self._members = tuple(self._member(dataset) for dataset in self._datasets)
        self._using: list[exp.Identifier] = []
        self._matched: list[exp.Expr] = []
        self._merged: dict[str, exp.Expr] = {}
        for name in statement.using:
            self._merge(name)

    def _member(self, dataset: _Dataset) -> _Names:
        """A dataset under the queries over it alone; their conditions are kept for it."""
        names: _Names = dataset
        given: list[exp.Expr] = []
        for layer in dataset.source.layers:
            given += self._all(layer.where, names, _BETWEEN)
            names = _View(layer, names, self._written)
        self._given.append(tuple(given))
        return names

    def _merge(self, name: exp.Identifier) -> None:
        """USING: a pair of columns of one name, or an equality of two that only queries call the same."""
        pair = [resolved(member, exp.column(name.name, quoted=True)) for member in self._members]
        key = name.name.casefold()
        if len({node.name if isinstance(node, exp.Column) else None for node in pair}) == 1:
            self._using.append(exp.to_identifier(pair[0].name, quoted=True))
            self._merged[key] = exp.column(pair[0].name, quoted=True)
        else:
            self._matched.append(exp.EQ(this=pair[0].copy(), expression=pair[-1].copy()))
            self._merged[key] = pair[0]

    def written(self) -> Statement:
        """The statement over datasets alone."""
        asked, kept = self._asked, 0 if self._asked.join in ("semi", "anti") else None
        core = _Joined(self._members, self._merged, kept)
        looked_up = replace(core, first=1)
        where = self._all(asked.where, core, _BETWEEN if asked.layers else "WHERE")
        top = self._optional(core)
        for layer in asked.layers:
            where += self._all(layer.where, top, _BETWEEN)
            top = _View(layer, top, self._written)
        where += self._all(asked.above, top, "WHERE")
        select = tuple(
            replace(item, node=self._one(item.node, top, f"SELECT item {number}"))
            for number, item in enumerate(asked.select, 1)
        )
        aliases = {item.name.casefold(): item.node for item in reversed(select)}
        named = _Aliased(top, aliases)
        statement = replace(
            asked,
            sources=tuple(replace(d.source, alias=d.alias, layers=()) for d in self._datasets),
            using=tuple(self._using),
            on=(*self._matched, *self._all(asked.on, core, "ON")),
            within=tuple(self._all(asked.within, looked_up, _SUBQUERY)),
            pairs=tuple(
                (self._one(a, core, "WHERE"), self._one(b, looked_up, _SUBQUERY)) for a, b in asked.pairs
            ),
            where=tuple(where),
            select=select,
            group=None if asked.group is None else tuple(self._all(asked.group, named, "GROUP BY")),
            having=None if asked.having is None else self._one(asked.having, named, "HAVING"),
            order=tuple(self._ordering(order, named) for order in asked.order),
            layers=(),
            above=(),
            given=tuple(self._given),
        )
        for node in _expressions(statement):
            check_nodes(node)
        return statement

    def _optional(self, core: _Names) -> _Names:
        """After LEFT JOIN, what a query over the other side shows is NULL where there is no row."""
        if self._asked.join != "left" or not self._asked.sources[1].layers:
            return core
        return _NullWhereMissing(core, self._members[1])

    def _ordering(self, order: Ordering, named: _Names) -> Ordering:
        """ORDER BY takes the names of the answer's columns first."""
        node = order.node
        shown = {item.name.casefold() for item in self._asked.select}
        several = any(regressing(item.node.unnest()) for item in self._asked.select)
        if isinstance(node, exp.Column) and not node.table and (node.name.casefold() in shown or several):
            return order
        return replace(order, node=self._one(node, named, "ORDER BY"))

    def _one(self, node: exp.Expr, names: _Names, part: str) -> exp.Expr:
        with refusing_in(part):
            return self._written.out(node, lambda column: resolved(names, column))

    def _all(self, nodes: Iterable[exp.Expr], names: _Names, part: str) -> list[exp.Expr]:
        return [self._one(node, names, part) for node in nodes]


@dataclass(frozen=True, slots=True)
class _Aliased:
    """GROUP BY, HAVING and ORDER BY: columns, and where there is none, what SELECT calls so."""

    names: _Names
    aliases: Mapping[str, exp.Expr]

    def find(self, node: exp.Column) -> exp.Expr | None:
        found = self.names.find(node)
        return self.aliases.get(node.name.casefold()) if found is None and not node.table else found


@dataclass(frozen=True, slots=True)
class _NullWhereMissing:
    """Lets only those expressions of the side that may be missing through which are NULL over NULLs."""

    names: _Names
    side: _Names

    def find(self, node: exp.Column) -> exp.Expr | None:
        found = self.names.find(node)
        if found is None or self.side.find(node) is None or isinstance(found, exp.Column):
            return found
        reads = found.find(exp.Column) is not None
        if not reads or any(type(part) not in _STRICT for part in found.walk()):
            raise QueryError(
                "query.left-join",
                "a query of WITH or FROM on the side that LEFT JOIN may leave without a row shows an "
                "expression that is not NULL for NULLs; show the column, and write the expression in the "
                "outer SELECT",
            )
        return found


_STRICT: set[type[exp.Expr]] = {
    *(exp.Column, exp.Identifier, exp.Literal, exp.Paren, exp.Neg, exp.Add, exp.Sub, exp.Mul),
    *(exp.Div, exp.IntDiv, exp.Mod, exp.Abs, exp.Floor, exp.Ceil, exp.Round),
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like, exp.ILike, exp.Not),
    *(exp.Lower, exp.Upper, exp.Trim, exp.Substring, exp.Left, exp.Right, exp.Length),
    *(exp.DateTrunc, exp.TimestampTrunc, exp.Extract, exp.Var, exp.Year, exp.Quarter, exp.Month, exp.Week),
    *(exp.Day, exp.DayOfMonth, exp.DayOfWeek, exp.DayOfWeekIso, exp.Hour, exp.Cast, exp.DataType),
}
"""What is NULL as soon as one of its parts is."""


def _expressions(statement: Statement) -> Iterable[exp.Expr]:
    yield from (*statement.on, *statement.within, *statement.where, *(statement.group or ()))
    yield from (item.node for item in statement.select)
    yield from (order.node for order in statement.order)
    yield from (node for nodes in (*statement.given, *statement.pairs) for node in nodes)
    if statement.having is not None:
        yield statement.having


def _called(node: exp.Column, alias: str, source: Source | None = None) -> bool:
    """Does the name before a column, if there is one, mean what has this alias?"""
    if node.db:
        return source is not None and (node.db.casefold(), node.table.casefold()) == (
            source.participant.casefold(),
            source.dataset.casefold(),
        )
    return not node.table or node.table.casefold() == alias.casefold()


def _is_star(item: exp.Expr) -> bool:
    return isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star))
