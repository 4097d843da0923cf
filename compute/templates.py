"""Reviewed query texts with typed parameters: what a policy's `templates` names, and which query is one.

A template is a YAML file whose SHA-256 stands in the policy: name, parameters, SQL with `$name` where a value
goes. A query is an instance when its syntax tree is the template's, literal for literal, with one value of
the declared kind in each parameter's place. Layout and comments are free; everything else is as reviewed:
another order of conditions, another alias, one more column is another query. `asker` as a participant in FROM
stands for whoever asks. Refuses a template without bounds on what a parameter may be: nobody could have
reviewed it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal

import sqlglot
from pydantic import Field, StringConstraints, ValidationError, model_validator
from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from compute import sql as sqltext
from compute.errors import ConfigError, QueryError
from policy_enforcer.explained import explained
from policy_enforcer.model import Closed, Text, Word, plain
from policy_enforcer.references import reference
from policy_enforcer.yamltree import parse as parse_yaml

ASKER = "asker"
"""The participant of a template's FROM that stands for whoever asks."""

MOST_VALUES = 1024
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)
_DECIMAL = re.compile(r"-?\d{1,18}(\.\d{1,18})?", re.ASCII)
_ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_Sql = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]


class Parameter(Closed):
    """What may stand in one place: one of `values`, or anything of the type from `least` to `most`."""

    type: Literal["integer", "decimal", "text", "date"]
    values: tuple[Any, ...] | None = Field(default=None, min_length=1, max_length=MOST_VALUES)
    least: Any = None
    most: Any = None

    @model_validator(mode="after")
    def _bounded(self) -> Parameter:
        ends = [end for end in (self.least, self.most) if end is not None]
        if (self.values is None) != (len(ends) == 2) or (self.values is not None and ends):
            raise ValueError("write `values`, or `least` and `most`")
        if self.type == "text" and self.values is None:
            raise ValueError("a text is one of `values`: no range of texts can be reviewed")
        for value in self.values or ends:
            if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
                raise ValueError("write plain values")
            self.read(str(value))
        return self

    def read(self, text: str) -> Any:
        """The value that a literal's text means. Raises ValueError for one of another type."""
        if self.type == "text":
            return text
        if self.type == "date":
            if len(text) != 10:
                raise ValueError("a date is written 2026-01-31")
            return date.fromisoformat(text)
        if not (_WHOLE if self.type == "integer" else _DECIMAL).fullmatch(text):
            raise ValueError(f"write a plain {self.type} number")
        return Decimal(text)

    def admits(self, text: str) -> bool:
        """Whether a literal's text is a value that was reviewed."""
        try:
            value = self.read(text)
            if self.values is not None:
                return value in [self.read(str(one)) for one in self.values]
            return bool(self.read(str(self.least)) <= value <= self.read(str(self.most)))
        except ValueError:
            return False

    @property
    def quoted(self) -> bool:
        """Whether its literals are strings in SQL."""
        return self.type in ("text", "date")

    def literal(self, text: str) -> str:
        """The SQL literal of a value. Raises `ConfigError` for one that was not reviewed."""
        if not self.admits(text):
            raise ConfigError("template.parameter", f"a value is outside what was reviewed: {self.allowed}")
        return "'" + text.replace("'", "''") + "'" if self.quoted else plain(Decimal(text))

    @property
    def allowed(self) -> str:
        """What it admits, in words."""
        if self.values is not None:
            return f"{self.type}, one of {', '.join(map(str, self.values))}"
        return f"{self.type} from {self.least} to {self.most}"

    @property
    def example(self) -> str:
        """Some value that it admits."""
        return str(self.values[0] if self.values is not None else self.least)


class _File(Closed):
    template: Word
    title: Text
    parameters: Mapping[_ParameterName, Parameter] = {}
    sql: _Sql


@dataclass(frozen=True, slots=True)
class Template:
    """One reviewed text. `reference` is what policies name it by."""

    name: str
    title: str
    parameters: Mapping[str, Parameter]
    sql: str
    reference: str

    def filled(self, values: Mapping[str, str], asker: str) -> str:
        """The query with one value for each parameter. Raises `ConfigError` for any other values."""
        if set(values) != set(self.parameters):
            wanted = ", ".join(f"{name} ({p.allowed})" for name, p in sorted(self.parameters.items()))
            raise ConfigError("template.parameter", f"{self.name} takes these parameters: {wanted or 'none'}")
        literals = {name: parameter.literal(values[name]) for name, parameter in self.parameters.items()}
        return _substituted(self.sql, literals, asker)


def parse(text: str) -> Template:
    """The template in this file. Raises `ConfigError` with every problem's line."""
    tree = parse_yaml(text)
    problems = tree.problems
    if not problems:
        try:
            return _checked(_File.model_validate(tree.data), text)
        except ValidationError as error:
            problems = explained(error, tree, _File)
    raise ConfigError("template.malformed", "a template cannot be read: " + "; ".join(map(str, problems)))


def matching(templates: Iterable[Template], sql: str, asker: str) -> str | None:
    """The reference of the template that this query is an instance of, if any."""
    try:
        query = sqltext.tree(sql)
    except QueryError:
        return None
    return next((t.reference for t in templates if _is_instance(query, t, asker)), None)


def _checked(file: _File, text: str) -> Template:
    template = Template(file.template, file.title, file.parameters, file.sql, reference(file.template, text))
    filled = template.filled({name: p.example for name, p in file.parameters.items()}, ASKER)
    try:
        sqltext.parse(filled)
        form = sqltext.tree(file.sql)
    except QueryError as error:
        raise ConfigError("template.sql", f"{file.template}: {error.sentence}") from None
    named = {place.name for place in form.find_all(exp.Placeholder)}
    if named != set(file.parameters):
        raise ConfigError("template.parameters", f"{file.template}: SQL and parameters name different places")
    if matching([template], filled, ASKER) is None:
        raise ConfigError("template.sql", f"{file.template}: a parameter stands where no literal can")
    return template


def _substituted(sql: str, literals: Mapping[str, str], asker: str) -> str:
    """The text with literals for `$name`, and the asker's name in FROM. Strings and comments stay."""
    pieces, done = [], 0
    for token, following in pairwise(sqlglot.tokenize(sql, read="duckdb")):
        if token.token_type is TokenType.PARAMETER:
            pieces += [sql[done : token.start], literals.get(following.text, "")]
            done = following.end + 1
        elif token.text == ASKER and following.token_type is TokenType.DOT:
            pieces += [sql[done : token.start], asker if asker == ASKER else f'"{asker}"']
            done = token.end + 1
    return "".join([*pieces, sql[done:]])


# --- is this query that text? -------------------------------------------------------------------------


def _is_instance(query: exp.Select, template: Template, asker: str) -> bool:
    taken: dict[str, tuple[bool, str]] = {}
    form = sqltext.tree(template.sql)
    for table in form.find_all(exp.Table):
        if table.db == ASKER:
            table.set("db", exp.to_identifier(asker))
    if not _same(query, form, template.parameters, taken):
        return False
    return all(
        quoted == template.parameters[name].quoted and template.parameters[name].admits(text)
        for name, (quoted, text) in taken.items()
    )


def _same(
    node: Any, form: Any, parameters: Mapping[str, Parameter], taken: dict[str, tuple[bool, str]]
) -> bool:
    """Equal trees, and one equal literal wherever the form names the same parameter."""
    if isinstance(form, exp.Placeholder):
        found = _literal(node)
        return found is not None and form.name in parameters and taken.setdefault(form.name, found) == found
    if isinstance(form, list) and isinstance(node, list):
        return len(form) == len(node) and all(
            _same(a, b, parameters, taken) for a, b in zip(node, form, strict=True)
        )
    if not isinstance(form, exp.Expr):
        return bool(node == form) or not (node or form)
    if type(node) is not type(form):
        return False
    # whether a name is quoted says nothing that its text does not
    names = {*node.args, *form.args} - ({"quoted"} if isinstance(form, exp.Identifier) else set())
    return all(_same(node.args.get(n), form.args.get(n), parameters, taken) for n in names)


def _literal(node: Any) -> tuple[bool, str] | None:
    """Whether a literal is a string, and its text; a negative number is one literal."""
    sign = ""
    if isinstance(node, exp.Neg):
        node, sign = node.this, "-"
    if not isinstance(node, exp.Literal) or (sign and node.is_string):
        return None
    return bool(node.is_string), sign + str(node.this)
