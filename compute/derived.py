"""WITH, and queries in FROM: columns, expressions and conditions over datasets, under another name.

`unfold` takes them apart before anything is bound. What remains is a SELECT over datasets, and for each query
that stood in between what it shows and which rows it keeps. `compute/inlining.py` then writes the question
without them, so that its plan and facts are those of the same question over the datasets themselves.

Refused, by the part that is at fault: recursion, queries that nothing reads, and whatever changes which rows
there are otherwise than WHERE and a join do: aggregates, DISTINCT, LIMIT, UNION, windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from sqlglot import exp

from compute.errors import QueryError

MAX_NESTED = 16
"""Queries between a dataset and the SELECT that is answered."""

_MAX_READ = 2 * MAX_NESTED
"""Queries of WITH and FROM that are read in all. One of WITH counts as often as it is named."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One query of WITH or FROM."""

    alias: str  # what those who read it call it; "": nothing
    items: tuple[exp.Expr, ...]  # over what it reads; `*` may be among them
    where: tuple[exp.Expr, ...]  # conjuncts
    names: tuple[str, ...]  # what its first columns are called instead: WITH x(a, b)


@dataclass(frozen=True, slots=True)
class Unfolded:
    """A SELECT over datasets, and the queries that stood between them and the SELECT that was asked."""

    core: exp.Select  # its FROM, joins and WHERE; without layers, the SELECT that was asked
    layers: tuple[Layer, ...]  # over the core's rows, innermost first
    views: Mapping[int, tuple[Layer, ...]]  # over one table of the core alone, by the id of its node


def unfold(select: exp.Select) -> Unfolded:
    """Take the queries of WITH and FROM out of a SELECT, which is changed. Raises `QueryError`."""
    unfolding = _Unfolding()
    core, layers = unfolding.read(select, {})
    if unfolding.unread:
        raise QueryError("query.derived", "a query of WITH is read by nothing; leave it out")
    return Unfolded(core, layers, unfolding.views)


@dataclass(frozen=True, slots=True)
class _Query:
    """A query of WITH or FROM, and the queries of WITH that it may name: those before it."""

    select: exp.Select
    known: Mapping[str, _Query]
    names: tuple[str, ...]


@dataclass(slots=True)
class _Unfolding:
    views: dict[int, tuple[Layer, ...]] = field(default_factory=dict)
    unread: dict[int, exp.Select] = field(default_factory=dict)  # by id, of what WITH names
    count: int = 0

    def read(
        self, select: exp.Select, known: Mapping[str, _Query], depth: int = 0
    ) -> tuple[exp.Select, tuple[Layer, ...]]:
        """The SELECT whose FROM names datasets, and the layers between it and this one."""
        known = self._with(select, known)
        start = select.args.get("from_")
        single = start is not None and not select.args.get("joins") and not _looks_up(select)
        found = self._derived(start.this, known, depth) if start is not None and single else None
        if found is not None:
            select.set("from_", None)
            return self._below(*found, depth)
        for holder in _holders(select):
            holder.set("this", self._dataset(holder.this, known, depth))
        return select, ()

    def _below(self, alias: str, query: _Query, depth: int) -> tuple[exp.Select, tuple[Layer, ...]]:
        """What a query comes down to, and the layers up to itself. The core keeps its own WHERE."""
        core, layers = self.read(query.select, query.known, depth + 1)
        where = () if core is query.select else tuple(conjuncts(query.select.args.get("where")))
        return core, (*layers, Layer(alias, tuple(query.select.expressions), where, query.names))

    def _dataset(self, table: exp.Expr, known: Mapping[str, _Query], depth: int) -> exp.Expr:
        """The dataset that a table of a join or of a subquery comes down to."""
        found = self._derived(table, known, depth)
        if found is None:
            return table
        core, (first, *others) = self._below(*found, depth)
        start = core.args.get("from_")
        if start is None or core.args.get("joins") or _looks_up(core):
            raise QueryError(
                "query.derived",
                "a query of WITH or FROM that is joined, or looked up in, reads one dataset; join in the "
                "outer SELECT",
            )
        dataset: exp.Expr = start.this
        self.views[id(dataset)] = (
            replace(first, where=tuple(conjuncts(core.args.get("where")))),
            *others,
        )
        return dataset

    def _with(self, select: exp.Select, known: Mapping[str, _Query]) -> Mapping[str, _Query]:
        """The queries that a SELECT may name: those around it, and its own. Takes WITH off the SELECT."""
        clause = select.args.get("with_")
        if clause is None:
            return known
        if clause.args.get("recursive"):
            raise _refused("RECURSIVE", "one SELECT for each step, or a dataset that its owner prepares")
        select.set("with_", None)
        own: dict[str, _Query] = {}
        for cte in clause.expressions:
            name = cte.alias.casefold()
            if name in own:
                raise QueryError("query.alias", "WITH gives two queries the same name; rename one")
            query = _Query(_plain(cte.this), {**known, **own}, _names(cte))
            own[name] = query
            self.unread[id(query.select)] = query.select
        return {**known, **own}

    def _derived(self, table: exp.Expr, known: Mapping[str, _Query], depth: int) -> tuple[str, _Query] | None:
        """The query that a table of FROM is, and what it is called here; None: no query."""
        alias, names = table.alias, _names(table)
        inner = table
        while isinstance(inner, exp.Subquery) and _bare(inner) and not isinstance(inner.this, exp.Table):
            inner = inner.this
            alias, names = alias or inner.alias, names or _names(inner)
        if inner is not table:
            query = _Query(_plain(inner), known, names)
        elif isinstance(table, exp.Table) and not table.db and _bare(table) and _key(table) in known:
            named = known[_key(table)]
            self.unread.pop(id(named.select), None)
            query = replace(named, select=named.select.copy(), names=(*names, *named.names[len(names) :]))
            alias = alias or table.name
        else:
            return None
        self.count += 1
        if depth >= MAX_NESTED or self.count > _MAX_READ:
            raise QueryError(
                "query.too-deep", f"queries of WITH and FROM nest at most {MAX_NESTED} deep; write fewer"
            )
        return alias, query


def conjuncts(node: exp.Expr | None) -> Iterator[exp.Expr]:
    """The conditions that AND connects, left to right; of a clause, those in it."""
    todo = [node] if node is not None else []
    while todo:
        head = todo.pop()
        if isinstance(head, exp.And):
            todo += [head.expression, head.this]
        elif isinstance(head, exp.Paren | exp.Where):
            todo.append(head.this)
        else:
            yield head


def _key(table: exp.Expr) -> str:
    return table.name.casefold()


def _holders(select: exp.Select) -> Iterator[exp.Expr]:
    """The nodes that hold a table: FROM and joins, and FROM of what WHERE looks up in."""
    start, where = select.args.get("from_"), select.args.get("where")
    yield from () if start is None else (start, *(select.args.get("joins") or ()))
    yield from () if where is None else list(where.find_all(exp.From))


def _looks_up(select: exp.Select) -> bool:
    """Is there EXISTS or IN (SELECT …) in WHERE?"""
    where = select.args.get("where")
    return where is not None and where.find(exp.Select) is not None


def _bare(table: exp.Expr) -> bool:
    """Nothing but a name beside it: no sampling, no LIMIT of its own."""
    return not any(value for name, value in table.args.items() if name not in ("this", "alias"))


def _names(node: exp.Expr) -> tuple[str, ...]:
    """The column names that an alias gives: AS x(a, b)."""
    alias = node.args.get("alias")
    return tuple(column.name for column in alias.args.get("columns") or ()) if alias is not None else ()


_KEPT = frozenset({"expressions", "from_", "joins", "where", "with_"})
_OUTER = (
    "the aggregate in the outer SELECT, where HAVING filters groups: over a join, sums are added key by key "
    "as it is. What is aggregated twice, its owner publishes as a dataset"
)
_ADVICE: dict[str, tuple[str, str]] = {
    "group": ("GROUP BY", _OUTER),
    "having": ("HAVING", _OUTER),
    "distinct": ("DISTINCT", "GROUP BY in the outer SELECT"),
    "order": ("ORDER BY", "it in the outer SELECT"),
    "limit": ("LIMIT", "it in the outer SELECT"),
    "offset": ("OFFSET", "LIMIT in the outer SELECT"),
    "qualify": ("QUALIFY", "HAVING in the outer SELECT"),
    "windows": ("a window", "GROUP BY in the outer SELECT"),
}
_SETS: dict[type[exp.Expr], str] = {exp.Union: "UNION", exp.Except: "EXCEPT", exp.Intersect: "INTERSECT"}
DATE_PARTS = frozenset({"date_part", "datepart"})
"""Functions over rows that sqlglot knows as names only."""


def _plain(query: exp.Expr) -> exp.Select:
    """A query that shows columns and expressions of the rows it keeps."""
    if type(query) in _SETS:
        raise _refused(_SETS[type(query)], "one question for each SELECT, and add their answers")
    if isinstance(query, exp.Subquery):
        _check_arguments(query, frozenset({"this", "alias"}))
    if not isinstance(query, exp.Select):
        raise _refused("anything but SELECT", "SELECT columns FROM dataset WHERE conditions")
    _check_arguments(query, _KEPT)
    for item in query.expressions:
        if item.find(exp.Window) is not None:
            raise _refused("a window function", "GROUP BY with an aggregate in the outer SELECT")
        if any(_aggregates(node) for node in item.walk()):
            raise _refused("an aggregate", _OUTER)
    return query


def _check_arguments(query: exp.Expr, kept: frozenset[str]) -> None:
    for name, value in query.args.items():
        if value and name not in kept:
            raise _refused(*_ADVICE.get(name, (name.strip("_").upper(), "it in the outer SELECT")))


def _aggregates(node: exp.Expr) -> bool:
    if isinstance(node, exp.Anonymous):
        return node.name.lower() not in DATE_PARTS
    return isinstance(node, exp.AggFunc)


def _refused(what: str, instead: str) -> QueryError:
    return QueryError("query.derived", f"{what} in a query of WITH or FROM is not available; write {instead}")
