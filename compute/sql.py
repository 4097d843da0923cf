"""The analyst's SQL, parsed against an allow-list: one SELECT over one or two datasets.

Refuses everything that is not on the list below, node by node and argument by argument: other
statements, several statements, subqueries other than those of compute/derived.py and compute/subqueries.py,
set operations, window functions, table functions, files, parameters, stars in what is answered, and any
function that is not named here. sqlglot reads far more SQL than this, so what is absent from `_ALLOWED` is
refused even where it would be harmless.

INVARIANT: no message holds a literal or an identifier that the catalogue does not know: an analyst may
type a person's name as either.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Literal, cast

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from compute.derived import DATE_PARTS, Layer, conjuncts, unfold
from compute.errors import QueryError
from compute.subqueries import Subquery, lifted

MAX_BYTES = 100_000
MAX_TOKENS = 20_000
MAX_DEPTH = 120
MAX_ITEMS = 128
MAX_LIMIT = 10**9

# sqlglot logs the text of what it cannot parse, literals included.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset named in FROM, and the name by which columns refer to it."""

    participant: str
    dataset: str
    alias: str
    layers: tuple[Layer, ...] = ()  # queries of WITH or FROM over it alone, innermost first


@dataclass(frozen=True, slots=True)
class Item:
    """One SELECT item: the name of the answer's column and its expression."""

    name: str
    node: exp.Expr


@dataclass(frozen=True, slots=True)
class Ordering:
    """One ORDER BY item."""

    node: exp.Expr
    descending: bool
    nulls_first: bool


Join = Literal["inner", "semi", "anti", "left"]
"""Which rows count: pairs that match; rows of the first source with a match, without one, or all of them."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The shape of the question; names are not resolved yet."""

    sources: tuple[Source, ...]  # the first one's rows are kept in a LEFT, SEMI or ANTI join
    join: Join
    using: tuple[exp.Identifier, ...]
    on: tuple[exp.Expr, ...]  # conjuncts
    within: tuple[exp.Expr, ...]  # conjuncts of EXISTS or IN (SELECT …): names mean the second source's first
    pairs: tuple[tuple[exp.Expr, exp.Expr], ...]  # a IN (SELECT b …): a of the first source, b of the second
    not_in: bool  # an anti join that NULLs decide about
    where: tuple[exp.Expr, ...]  # conjuncts
    select: tuple[Item, ...]
    group: tuple[exp.Expr, ...] | None  # None: GROUP BY ALL
    having: exp.Expr | None
    order: tuple[Ordering, ...]
    limit: int | None
    unrepeated: bool = False  # SELECT DISTINCT
    # Until compute/inlining.py has written the question without them:
    layers: tuple[Layer, ...] = ()  # queries of WITH or FROM over all that was named so far
    above: tuple[exp.Expr, ...] = ()  # conjuncts of WHERE over what they show
    given: tuple[tuple[exp.Expr, ...], ...] = ()  # conjuncts over each source alone, after it


_THIS = frozenset({"this"})
_BINARY = frozenset({"this", "expression"})
_LIST = frozenset({"this", "expressions"})

# Every node that may appear, with the arguments it may carry. What a node carries beyond these is
# refused too: that is where sqlglot keeps TABLESAMPLE, PIVOT, QUALIFY, ESCAPE and the like.
_ALLOWED: dict[type[exp.Expr], frozenset[str]] = {
    exp.Select: frozenset(
        {"expressions", "from_", "joins", "where", "group", "having", "order", "limit", "distinct"}
    ),
    exp.From: _THIS,
    exp.Join: frozenset({"this", "on", "using", "kind", "side"}),
    exp.Table: frozenset({"this", "db", "alias"}),
    exp.TableAlias: _THIS,
    exp.Where: _THIS,
    exp.Group: frozenset({"expressions", "all"}),
    exp.Having: _THIS,
    exp.Order: frozenset({"expressions"}),
    exp.Ordered: frozenset({"this", "desc", "nulls_first"}),
    exp.Limit: frozenset({"expression"}),
    exp.Alias: frozenset({"this", "alias"}),
    exp.Column: frozenset({"this", "table", "db"}),
    exp.Identifier: frozenset({"this", "quoted"}),
    exp.Literal: frozenset({"this", "is_string"}),
    exp.Boolean: _THIS,
    exp.Null: frozenset(),
    exp.Star: frozenset(),
    exp.Var: _THIS,
    exp.Paren: _THIS,
    exp.And: _BINARY,
    exp.Or: _BINARY,
    exp.Not: _THIS,
    exp.EQ: _BINARY,
    exp.NEQ: _BINARY,
    exp.GT: _BINARY,
    exp.GTE: _BINARY,
    exp.LT: _BINARY,
    exp.LTE: _BINARY,
    exp.NullSafeEQ: _BINARY,
    exp.NullSafeNEQ: _BINARY,
    exp.Between: frozenset({"this", "low", "high"}),
    exp.In: _LIST,
    exp.Is: _BINARY,
    exp.Like: frozenset({"this", "expression", "negate"}),
    exp.ILike: frozenset({"this", "expression", "negate"}),
    exp.Add: _BINARY,
    exp.Sub: _BINARY,
    exp.Mul: _BINARY,
    exp.Div: _BINARY,
    exp.IntDiv: _BINARY,
    exp.Mod: _BINARY,
    exp.Neg: _THIS,
    exp.Cast: frozenset({"this", "to"}),
    exp.DataType: frozenset({"this", "expressions"}),
    exp.DataTypeParam: _THIS,
    exp.Interval: frozenset({"this", "unit"}),
    exp.Case: frozenset({"this", "ifs", "default"}),
    exp.If: frozenset({"this", "true", "false"}),
    exp.Coalesce: _LIST,
    exp.Nullif: _BINARY,
    exp.Greatest: _LIST | {"ignore_nulls"},
    exp.Least: _LIST | {"ignore_nulls"},
    exp.Abs: _THIS,
    exp.Floor: _THIS,
    exp.Ceil: _THIS,
    exp.Round: frozenset({"this", "decimals"}),
    exp.Lower: _THIS,
    exp.Upper: _THIS,
    exp.Trim: frozenset({"this", "position"}),
    exp.Substring: frozenset({"this", "start", "length"}),
    exp.Left: _BINARY,
    exp.Right: _BINARY,
    exp.Length: _THIS,
    exp.DateTrunc: frozenset({"this", "unit"}),
    exp.TimestampTrunc: frozenset({"this", "unit"}),
    exp.Extract: _BINARY,
    exp.Year: _THIS,
    exp.Quarter: _THIS,
    exp.Month: _THIS,
    exp.Week: _THIS,
    exp.Day: _THIS,
    exp.DayOfMonth: _THIS,
    exp.DayOfWeek: _THIS,
    exp.DayOfWeekIso: _THIS,
    exp.Hour: _THIS,
    exp.WidthBucket: frozenset({"this", "min_value", "max_value", "num_buckets"}),
    exp.Array: frozenset({"expressions"}),  # the edges of width_bucket, the columns of a regression
    exp.ApproxQuantile: frozenset({"this", "quantile"}),
    exp.Anonymous: _LIST,  # only the names in DATE_PARTS, REGRESSION and LOGISTIC
    exp.Count: frozenset({"this", "big_int"}),
    exp.CountIf: _THIS,
    exp.Distinct: frozenset({"expressions"}),
    exp.Filter: _BINARY,
    exp.Sum: _THIS,
    exp.Avg: _THIS,
    exp.Min: _THIS,
    exp.Max: _THIS,
    exp.Variance: _THIS,
    exp.VariancePop: _THIS,
    exp.Stddev: _THIS,
    exp.StddevPop: _THIS,
    exp.StddevSamp: _THIS,
    exp.CovarPop: _BINARY,
    exp.CovarSamp: _BINARY,
    exp.Corr: _BINARY,
    exp.RegrSlope: _BINARY,
    exp.RegrIntercept: _BINARY,
    exp.RegrR2: _BINARY,
    exp.RegrCount: _BINARY,
    exp.RegrAvgy: _BINARY,
    exp.RegrAvgx: _BINARY,
    exp.RegrSyy: _BINARY,
    exp.RegrSxx: _BINARY,
    exp.RegrSxy: _BINARY,
}
REGRESSION, LOGISTIC = "linear_regression", "logistic_regression"

# What to say about the constructs people try first: (what it is, what to write instead).
_ADVICE: dict[str, tuple[str, str]] = {
    "Subquery": (
        "a subquery in this place",
        "it in FROM, as columns and conditions of a dataset, or in WHERE as EXISTS or key IN (SELECT key …)",
    ),
    "Select": (
        "a SELECT in this place",
        "it in FROM, as columns and conditions of a dataset, or in WHERE as EXISTS or key IN (SELECT key …)",
    ),
    "With": ("WITH in this place", "it before the SELECT that is answered"),
    "Exists": (
        "EXISTS in this place",
        "it as a condition of WHERE of its own, or FROM a SEMI JOIN b USING (key)",
    ),
    "Window": ("a window function", "GROUP BY with an aggregate"),
    "Qualify": ("QUALIFY", "HAVING"),
    "Union": ("UNION", "one question for each SELECT"),
    "Except": ("EXCEPT", "one question for each SELECT"),
    "Intersect": ("INTERSECT", "one question for each SELECT"),
    "Lateral": ("LATERAL", "one SELECT over the datasets themselves"),
    "Values": ("VALUES", "a dataset of your own, published in your connector"),
    "Parameter": ("a parameter", "the value itself"),
    "Placeholder": ("a parameter", "the value itself"),
    "PositionalColumn": ("a positional column", "the column's name"),
    "Offset": ("OFFSET", "LIMIT alone"),
    "TableSample": ("sampling", "a filter in WHERE"),
    "Pivot": ("PIVOT", "GROUP BY"),
    "Rollup": ("ROLLUP", "one question for each level of grouping"),
    "Cube": ("CUBE", "one question for each level of grouping"),
    "GroupingSets": ("GROUPING SETS", "one question for each level of grouping"),
    "TryCast": ("a cast", "the column in its declared type"),
    "RegexpLike": ("a regular expression", "LIKE or ILIKE with a fixed pattern"),
    "Escape": ("ESCAPE", "LIKE with a pattern that needs none"),
    "DPipe": ("joining strings", "grouping by both columns"),
    "Tuple": ("a tuple", "a condition for each key, joined by AND; count tuples by grouping by columns"),
    "Any": ("ANY", "key IN (SELECT key FROM dataset WHERE …)"),
    "All": ("ALL", "NOT EXISTS (SELECT 1 FROM dataset WHERE …)"),
    "AtTimeZone": ("a time zone", "timestamps as the dataset has them, which are without zone"),
    "CurrentDate": ("the current date", "the date itself: DATE '2024-03-01'"),
    "CurrentTimestamp": ("the current time", "the moment itself: TIMESTAMP '2024-03-01 12:00:00'"),
    "DateDiff": ("a difference of dates", "date_trunc or extract, or a column that its owner publishes"),
    "TimeToStr": ("formatting a date", "date_trunc or extract"),
    "ArrayAgg": ("a list of values", "a list of rows: SELECT columns without aggregates and GROUP BY"),
    "GroupConcat": ("a list of values", "a list of rows: SELECT columns without aggregates and GROUP BY"),
    "AnyValue": ("any value", "the column in GROUP BY"),
    "First": ("any value", "the column in GROUP BY"),
    "Last": ("any value", "the column in GROUP BY"),
    "ApproxDistinct": ("an estimate of distinct values", "COUNT(DISTINCT column)"),
    "Median": ("a median", "approx_quantile(column, 0.5)"),
    "PercentileCont": ("an exact quantile", "approx_quantile(column, q)"),
    "PercentileDisc": ("an exact quantile", "approx_quantile(column, q)"),
    "LogicalAnd": ("BOOL_AND", "COUNT(*) FILTER (WHERE NOT …) = 0"),
    "LogicalOr": ("BOOL_OR", "COUNT(*) FILTER (WHERE …) > 0"),
    "Command": ("this statement", "a SELECT"),
    **dict.fromkeys(
        ("RawString", "ByteString", "National"), ("this kind of text", "it in single quotes: 'text'")
    ),
}


def parse(sql: str) -> Statement:
    """Parse one question. `QueryError` when it is anything but a SELECT made of allowed parts."""
    select = tree(sql)
    unfolded = unfold(select)
    core = unfolded.core
    where, subquery = lifted(list(conjuncts(core.args.get("where"))))
    above = () if core is select else tuple(conjuncts(select.args.get("where")))
    core.set("where", None)
    select.set("where", None)
    for node in (select, core, *where, *above, *((subquery.select, *subquery.outer) if subquery else ())):
        check_nodes(node)
    for layer in (*unfolded.layers, *chain(*unfolded.views.values())):
        for node in (*layer.items, *layer.where):
            check_nodes(node)
    joins = core.args.get("joins") or ()
    join, sources = _joined(core, subquery, unfolded.views)
    return Statement(
        sources=sources,
        join=join,
        using=tuple(name for join in joins for name in join.args.get("using") or ()),
        on=tuple(c for join in joins for c in conjuncts(join.args.get("on"))),
        within=tuple(conjuncts(subquery.select.args.get("where"))) if subquery else (),
        pairs=tuple(zip(subquery.outer, subquery.inner, strict=True)) if subquery else (),
        not_in=subquery is not None and subquery.negated and bool(subquery.outer),
        where=tuple(where),
        select=_items(select),
        group=_group(select),
        having=_inner(select, "having"),
        order=_order(select),
        limit=_limit(select),
        unrepeated=bool(select.args.get("distinct")),
        layers=unfolded.layers,
        above=above,
    )


def tree(sql: str) -> exp.Select:
    """SQL text to one syntax tree, unchecked; sqlglot's own messages quote the text and never leave here."""
    _check_text(sql)
    try:
        text = _quote_hyphenated(sql, sqlglot.tokenize(sql, read="duckdb"))
        _check_tokens(sqlglot.tokenize(text, read="duckdb"))
        statements = sqlglot.parse(text, read="duckdb")
    except (SqlglotError, RecursionError, ValueError) as error:
        raise QueryError("query.syntax", f"the text is not SQL that can be read{_place(error)}") from None
    if len(statements) != 1 or statements[0] is None:
        raise QueryError("query.one-statement", "a question is exactly one SELECT statement")
    if type(statements[0]) is not exp.Select:
        what, instead = _advice(statements[0])
        raise QueryError("query.not-a-select", f"{what} is not available; write {instead}")
    return statements[0]


def _place(error: Exception) -> str:
    """Where a text stops making sense; never what stands there, which may be a value."""
    if isinstance(error, TokenError):
        return "; a quotation mark or a comment has no end"
    found = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    line, column = found.get("line"), found.get("col")
    return f", near line {line}, column {column}" if line and column else ""


def _check_text(sql: str) -> None:
    try:
        size = len(sql.encode())
    except UnicodeEncodeError:
        raise QueryError("query.syntax", "the text is not valid Unicode") from None
    if size > MAX_BYTES:
        raise QueryError("query.too-long", f"a question has at most {MAX_BYTES} bytes")
    if any(ord(c) < 32 and c not in "\t\n\r" for c in sql):
        raise QueryError("query.syntax", "the text holds control characters")


def _check_tokens(tokens: list[Token]) -> None:
    if len(tokens) > MAX_TOKENS:
        raise QueryError("query.too-long", f"a question has at most {MAX_TOKENS} words and signs")
    for left, right in pairwise(tokens):
        # sqlglot reads 0x10 as `0 AS x10`: a number glued to a word means something else to everybody.
        glued = left.token_type is TokenType.NUMBER and left.end + 1 == right.start
        if glued and right.token_type in (TokenType.VAR, TokenType.NUMBER):
            raise QueryError("query.syntax", "a number is followed by letters; write it in decimal digits")


_HYPHENATED = re.compile(r"([^\W\d]\w*(?:-\w+)*)\s*\.\s*([^\W\d]\w*(?:-\w+)*)")


def _quote_hyphenated(sql: str, tokens: list[Token]) -> str:
    """Let FROM and JOIN name `sz-trade.invoices` without quotes: participants' names have hyphens."""
    pieces, done, in_from = [], 0, False
    for token, following in pairwise(tokens):
        if token.token_type in (TokenType.FROM, TokenType.JOIN):
            in_from = True
        elif token.token_type in _AFTER_FROM:
            in_from = False
        elif not (in_from and token.token_type is TokenType.COMMA):
            continue
        found = _HYPHENATED.match(sql, following.start) if in_from else None
        if found and "-" in found[1] + found[2]:
            pieces += [sql[done : found.start()], f'"{found[1]}"."{found[2]}"']
            done = found.end()
    return "".join([*pieces, sql[done:]])


_AFTER_FROM = frozenset(
    {
        TokenType.WHERE,
        TokenType.GROUP_BY,
        TokenType.ON,
        TokenType.USING,
        TokenType.SELECT,
        TokenType.HAVING,
        TokenType.R_PAREN,
    }
)


def check_nodes(root: exp.Expr) -> None:
    """Refuse any node or argument that is not on the list; iterative, so that depth cannot hurt."""
    todo: list[tuple[exp.Expr, int]] = [(root, 0)]
    while todo:
        node, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise QueryError("query.too-deep", f"expressions may nest at most {MAX_DEPTH} deep")
        allowed = _ALLOWED.get(type(node))
        if allowed is None or (isinstance(node, exp.Select) and depth):
            what, instead = _advice(node)
            raise QueryError("query.construct", f"{what} is not available; write {instead}")
        if isinstance(node, exp.Anonymous) and node.name.lower() in ("now", "today"):
            what, instead = _ADVICE["CurrentTimestamp"]
            raise QueryError("query.construct", f"{what} is not available; write {instead}")
        if isinstance(node, exp.Anonymous) and node.name.lower() not in {*DATE_PARTS, REGRESSION, LOGISTIC}:
            raise QueryError("query.function", f"an unknown function is used; {_FUNCTIONS}")
        for name, value in node.args.items():
            if value and name not in allowed:
                _refuse_argument(node, name, value)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, exp.Expr):
                    todo.append((child, depth + 1))


_FUNCTIONS = "docs/reference/sql.md lists the functions that are available"


def _advice(node: object) -> tuple[str, str]:
    name = type(node).__name__
    if name in _ADVICE:
        return _ADVICE[name]
    if isinstance(node, exp.Func):
        return f"the function {node.sql_names()[0].lower()}", "one of the functions in docs/reference/sql.md"
    return f"{name.upper()} in this place", "a SELECT as docs/reference/sql.md describes"


def _refuse_argument(node: exp.Expr, name: str, value: object) -> None:
    first = value[0] if isinstance(value, list) else value
    if type(first).__name__ in _ADVICE:
        what, instead = _advice(first)
        raise QueryError("query.construct", f"{what} is not available; write {instead}")
    if isinstance(node, exp.Join):
        raise QueryError("query.join", _JOINS)
    if isinstance(node, exp.Count):
        raise QueryError("query.construct", "COUNT takes one column, or *; count others by themselves")
    if isinstance(node, exp.Order):
        raise QueryError("query.construct", "ORDER BY inside an aggregate is not available; leave it out")
    what = f"{name.strip('_').upper().replace('_', ' ')} in {type(node).__name__.upper()}"
    raise QueryError("query.construct", f"{what} is not available; see docs/reference/sql.md")


_JOINS = (
    "two datasets are joined by INNER, LEFT, RIGHT, SEMI or ANTI JOIN with ON or USING; for a FULL JOIN ask "
    "two questions, a LEFT JOIN and an ANTI JOIN from the other side"
)
_KINDS: dict[tuple[str, str], tuple[Join, bool]] = {
    ("", ""): ("inner", False),
    ("", "INNER"): ("inner", False),
    ("", "SEMI"): ("semi", False),
    ("", "ANTI"): ("anti", False),
    ("LEFT", ""): ("left", False),
    ("LEFT", "OUTER"): ("left", False),
    ("RIGHT", ""): ("left", True),
    ("RIGHT", "OUTER"): ("left", True),
}
"""(side, kind) as written: which join it is, and whether the dataset named last is the one that is kept."""


def _inner(select: exp.Select, clause: str) -> exp.Expr | None:
    node = select.args.get(clause)
    return cast(exp.Expr, node.this) if node is not None else None


def _joined(
    select: exp.Select, subquery: Subquery | None, views: Mapping[int, tuple[Layer, ...]]
) -> tuple[Join, tuple[Source, ...]]:
    """Which rows count, and the datasets, the kept one first."""
    start = select.args.get("from_")
    if start is None:
        raise QueryError("query.no-dataset", "FROM must name a dataset as participant.dataset")
    joins: list[exp.Join] = select.args.get("joins") or []
    found = _KINDS["", ""]
    for join in joins:
        written = (join.args.get("side") or "", join.args.get("kind") or "")
        if written not in _KINDS:
            raise QueryError("query.join", _JOINS)
        found = _KINDS[written]
    tables = [start.this, *(join.this for join in joins)]
    if subquery is not None:
        found = ("anti" if subquery.negated else "semi"), False
        tables.append(subquery.table)
    if len(tables) > 2:
        raise QueryError(
            "query.join",
            "a question is over at most two datasets; ask their owner to publish the join of its own as one",
        )
    sources = tuple(replace(_source(table), layers=views.get(id(table), ())) for table in tables)
    aliases = [s.layers[-1].alias or str(i) if s.layers else s.alias for i, s in enumerate(sources)]
    if len({alias.casefold() for alias in aliases}) < len(sources) and subquery is None:
        raise QueryError("query.alias", "two datasets have the same name here; give each its own alias")
    kind, swapped = found
    return kind, sources[::-1] if swapped else sources


def _source(table: exp.Expr) -> Source:
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
        raise QueryError("query.no-dataset", "FROM must name a dataset as participant.dataset")
    if table.args.get("db") is None:
        raise QueryError("query.no-dataset", "a dataset is named with its participant: participant.dataset")
    return Source(table.db, table.name, table.alias or table.name)


def _items(select: exp.Select) -> tuple[Item, ...]:
    nodes: list[exp.Expr] = select.expressions
    if any(isinstance(node, exp.Star) or (isinstance(node, exp.Column) and node.is_star) for node in nodes):
        raise QueryError("query.construct", "* is not available in SELECT; name the columns")
    if not 1 <= len(nodes) <= MAX_ITEMS:
        raise QueryError("query.too-long", f"SELECT has between one and {MAX_ITEMS} items")
    names: dict[str, int] = {}
    return tuple(
        Item(unique(_name(node), names), node.this if isinstance(node, exp.Alias) else node) for node in nodes
    )


def _name(node: exp.Expr) -> str:
    """The column's name in the answer: its alias, the column's own, or the function's."""
    if node.alias_or_name and isinstance(node, exp.Alias | exp.Column):
        return node.alias_or_name
    node = node.this if isinstance(node, exp.Filter) else node
    if regressing(node):
        return node.name.lower()
    if isinstance(node, exp.Count) and isinstance(node.this, exp.Star):
        return "count_star()"
    if isinstance(node, exp.Func) and not isinstance(node, exp.Case | exp.Cast | exp.Anonymous):
        inner = node.find(exp.Column)
        word = "var_pop" if isinstance(node, exp.VariancePop) else node.sql_names()[0].lower()
        distinct = "DISTINCT " if isinstance(node.this, exp.Distinct) else ""
        return f"{word}({distinct}{inner.name if inner else ''})"
    return "expression"


def regressing(node: exp.Expr) -> bool:
    """Is this `linear_regression(…)` or `logistic_regression(…)`, which sqlglot knows as names only?"""
    return isinstance(node, exp.Anonymous) and node.name.lower() in (REGRESSION, LOGISTIC)


def unique(name: str, taken: dict[str, int]) -> str:
    """Arrow allows two columns of one name; people's tools do not."""
    seen = taken.get(name.casefold(), 0)
    taken[name.casefold()] = seen + 1
    return name if not seen else unique(f"{name}_{seen}", taken)


def _group(select: exp.Select) -> tuple[exp.Expr, ...] | None:
    group = select.args.get("group")
    if group is None:
        return ()
    if group.args.get("all"):
        return None
    if len(group.expressions) > MAX_ITEMS:
        raise QueryError("query.too-long", f"GROUP BY has at most {MAX_ITEMS} items")
    return tuple(group.expressions)


def _order(select: exp.Select) -> tuple[Ordering, ...]:
    order = select.args.get("order")
    nodes = order.expressions if order is not None else []
    for node in nodes:
        if isinstance(node.this, exp.Var):
            raise QueryError(
                "query.construct", "ORDER BY ALL is not available; write the items: ORDER BY 1, 2"
            )
        _check_named(node.this, select.expressions)
    return tuple(
        Ordering(node.this, bool(node.args.get("desc")), bool(node.args.get("nulls_first"))) for node in nodes
    )


def _check_named(node: exp.Expr, items: Sequence[exp.Expr]) -> None:
    """Two items may have one name as they are written; which of them is meant nobody can tell."""
    name = node.name.casefold() if isinstance(node, exp.Column) and not node.table else None
    if len({item.unalias() for item in items if _name(item).casefold() == name}) > 1:
        raise QueryError(
            "query.ambiguous-column", "ORDER BY names two items of SELECT; give each an alias of its own"
        )


def _limit(select: exp.Select) -> int | None:
    limit = select.args.get("limit")
    if limit is None:
        return None
    count = limit.expression
    if (
        not isinstance(count, exp.Literal)
        or count.is_string
        or not re.fullmatch(r"\d{1,10}", count.this, re.ASCII)
    ):
        raise QueryError("query.limit", "LIMIT takes a whole number")
    return min(int(count.this), MAX_LIMIT)
