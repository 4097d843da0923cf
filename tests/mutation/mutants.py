"""Mutants of a module: copies that each have one small mistake, as a careless edit would make it.

Comparisons are turned and their limits moved by one, conditions are decided beforehand, parts of conditions,
entries of tables, arguments and statements are left out. Sentences for people are left alone, and so are the
words of `Literal` types: fewer of them refuse more.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

_TURNED = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,),
}
_SWAPPED = {"any": "all", "all": "any", "max": "min", "min": "max"}
_SENTENCES = {"sentence", "what", "instead", "outside"}
_FOR_PEOPLE = {"allowed", "column", "hint", "repr", "description", "json_schema_input_type"}
_TYPES = {"Literal", "Callable", "Mapping", "Iterator", "Collection", "tuple"}
_ALIASES = {"Document", "Finding", "Contradiction", "Rule", "ColumnRule", "T"}
_ADVICE = {
    "warnings",
    "as_problem",
    "_WARNINGS",
    "_wide_open",
    "_small_groups",
    "_ungateable",
    "_enumerable",
    "_looked_up",
    "_composite",
    "_declared",
    "_unused",
    "_unknown_recipients",
    "_selecting",
    "_noise",
    "_dominance",
    "_federation",
}
_LEFT_ALONE = defaultdict(lambda: _ALIASES, check=_ALIASES | _ADVICE, known=_ALIASES | {"SPOKEN"})
"""Type aliases, what check.py says about policies that load all the same, and words for people."""
_NOTHING = ast.YieldFrom(ast.Tuple([], ast.Load()))


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake. `name` does not hold the line, so that it outlives edits elsewhere in the file."""

    module: str
    line: int
    name: str
    code: CodeType


def mutants(module: str, path: Path) -> Iterator[Mutant]:
    """Every mutant of one source file, in the order of its text."""
    tree = ast.parse(path.read_text("utf-8"))
    for scope, owner, field, index, node in _places(tree):
        for new in _alternatives(node, field) if scope not in _LEFT_ALONE[module] else ():
            shown = owner if isinstance(new, ast.operator | ast.boolop | ast.cmpop) else node
            before = ast.unparse(shown)
            _put(owner, field, index, new)
            after = ast.unparse(owner if shown is owner else new)
            name = f"{module}.{scope}: {_difference(before, after)}"
            try:
                code = compile(ast.fix_missing_locations(tree), str(path), "exec")
            except (SyntaxError, ValueError):
                continue
            finally:
                _put(owner, field, index, node)
            yield Mutant(module, getattr(node, "lineno", 0), name, code)


def _difference(before: str, after: str) -> str:
    """Both texts, without what long ones have in common at their ends."""
    before, after = " ".join(before.split()), " ".join(after.split())
    if max(len(before), len(after)) > 100:
        start = _common(before, after)
        end = _common(before[start:][::-1], after[start:][::-1])
        before, after = (
            f"...{text[max(0, start - 20) : len(text) - end + 20]}..." for text in (before, after)
        )
    return f"{before} -> {after}"


def _common(one: str, two: str) -> int:
    """How many first letters are the same."""
    pairs = zip(one, two, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))


def _put(owner: ast.AST, field: str, index: int | None, new: ast.AST) -> None:
    if index is None:
        setattr(owner, field, new)
    else:
        getattr(owner, field)[index] = new


_Place = tuple[str, ast.AST, str, "int | None", ast.AST]


def _places(node: ast.AST, scope: str = "") -> Iterator[_Place]:
    """Each node with what holds it. Left out: annotations of functions, texts for people, docstrings."""
    for field, value in ast.iter_fields(node):
        if _untouched(node, field):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or _is_docstring(child):
                continue
            inner = _scope(child, scope)
            yield inner, node, field, index, child
            yield from _places(child, inner)


def _scope(node: ast.AST, scope: str) -> str:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return f"{scope}.{node.name}".lstrip(".")
    if isinstance(node, ast.Assign) and not scope and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return f"{scope}.{node.target.id}".lstrip(".") if not scope or scope[0].isupper() else scope
    return scope


def _untouched(node: ast.AST, field: str) -> bool:
    if isinstance(node, ast.arg) or field in ("returns", "decorator_list", "bases", "type_params"):
        return True
    if isinstance(node, ast.Assign) and field == "value":
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id in _SENTENCES
    if isinstance(node, ast.AnnAssign) and field == "annotation":
        # pydantic reads those of the model's classes; the rest is for mypy
        return "Annotated" not in ast.unparse(node.annotation)
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
        return True
    if isinstance(node, ast.Yield):
        return True
    if isinstance(node, ast.keyword):
        return node.arg in _FOR_PEOPLE
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in _TYPES


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _alternatives(node: ast.AST, field: str) -> Iterator[ast.AST]:
    if field in ("test", "ifs"):
        yield from (ast.Constant(value) for value in (True, False))
    kind = type(node)
    for turned in _TURNED.get(kind, ()):
        yield turned()
    rule = _RULES.get(kind)
    if rule is not None:
        yield from rule(node)
    if kind is ast.Constant and field in ("elts", "comparators", "left", "args", "value", "values", "keys"):
        yield from _constant(node)


def _constant(node: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(node, ast.Constant)
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield from (ast.Constant(value + step) for step in (1, -1))


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(node, ast.BoolOp)
    for index in range(len(node.values)):
        rest = [*node.values[:index], *node.values[index + 1 :]]
        yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


def _sides(node: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(node, ast.BinOp)
    yield from (node.left, node.right)


def _chain(node: ast.AST) -> Iterator[ast.AST]:
    # 0 <= x < y without one of its ends
    assert isinstance(node, ast.Compare)
    if len(node.ops) == 2:
        yield ast.Compare(node.comparators[0], [node.ops[1]], [node.comparators[1]])
        yield ast.Compare(node.left, [node.ops[0]], [node.comparators[0]])
    text = node.comparators[-1]
    if len(node.ops) == 1 and isinstance(text, ast.Constant) and isinstance(text.value, str):
        yield ast.Compare(node.left, node.ops, [ast.Constant("another")])
    if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
        yield ast.Compare(ast.Constant("another"), node.ops, node.comparators)


def _entries(node: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(node, ast.Tuple | ast.Set | ast.List)
    if isinstance(node, ast.Set) or isinstance(node.ctx, ast.Load):
        for index in range(len(node.elts)):
            rest = [*node.elts[:index], *node.elts[index + 1 :]]
            yield ast.Set(rest) if isinstance(node, ast.Set) and rest else ast.Tuple(rest, ast.Load())


def _pairs(node: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(node, ast.Dict)
    for index in range(len(node.keys)):
        keys, values = list(node.keys), list(node.values)
        del keys[index], values[index]
        yield ast.Dict(keys, values)


def _call(node: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(node, ast.Call)
    if isinstance(node.func, ast.Name) and node.func.id in _SWAPPED:
        yield ast.Call(ast.Name(_SWAPPED[node.func.id], ast.Load()), node.args, node.keywords)
    for index, keyword in enumerate(node.keywords):
        if keyword.arg not in _FOR_PEOPLE:
            rest = [*node.keywords[:index], *node.keywords[index + 1 :]]
            yield ast.Call(node.func, node.args, rest)


def _statement(node: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(node, ast.Expr)
    # a generator stays one
    yielding = isinstance(node.value, ast.Yield | ast.YieldFrom)
    yield ast.Expr(_NOTHING) if yielding else ast.Pass()


_RULES = {
    ast.BoolOp: _parts,
    ast.BinOp: _sides,
    ast.Compare: _chain,
    ast.Tuple: _entries,
    ast.Set: _entries,
    ast.List: _entries,
    ast.Dict: _pairs,
    ast.Call: _call,
    ast.Expr: _statement,
    ast.UnaryOp: lambda node: iter((node.operand,)) if isinstance(node.op, ast.Not) else iter(()),
    ast.Return: lambda node: iter((ast.Pass(),)) if node.value is None else iter(()),
    ast.Raise: lambda _node: iter((ast.Pass(),)),
}
