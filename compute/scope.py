"""What the names in a question mean: datasets of FROM, and the columns among them.

Names are matched exactly, else without regard to case where that leaves one. Errors list what there is, and
never repeat what was asked for: it may be a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sqlglot import exp

from compute.dataset import Column, DatasetInfo, checked
from compute.errors import QueryError
from compute.sql import Source


def described(source: Source, catalogue: Mapping[str, DatasetInfo]) -> DatasetInfo:
    """The description of a dataset in FROM. Raises `QueryError`."""
    wanted = f"{source.participant}.{source.dataset}"
    exact = catalogue.get(wanted)
    folded = [info for name, info in sorted(catalogue.items()) if name.casefold() == wanted.casefold()]
    if exact is None and len(folded) != 1:
        known = ", ".join(sorted(catalogue)[:20]) or "none"
        raise QueryError(
            "query.unknown-dataset", f"FROM names a dataset no agreement covers; there are: {known}"
        )
    return checked(exact or folded[0])


@dataclass(frozen=True, slots=True)
class Scope:
    """The datasets in FROM, and what a column's name means among them."""

    sources: tuple[Source, ...]
    infos: tuple[DatasetInfo, ...]
    using: frozenset[str]  # USING makes one column of two, and the left one stands for it
    first: int | None = None  # the dataset whose column is meant where both have one of that name
    optional: int | None = None  # the dataset whose columns are NULL where LEFT JOIN found no row of it

    def column(self, node: exp.Column) -> tuple[DatasetInfo, Column]:
        """The one column that a name means."""
        info, column = self._named(node)
        if self.optional is not None and info is self.infos[self.optional]:
            column = replace(column, nullable=True)
        return info, column

    def _named(self, node: exp.Column) -> tuple[DatasetInfo, Column]:
        places = [i for i in range(len(self.infos)) if self._qualifies(i, node)]
        if not places:
            raise QueryError(
                "query.unknown-column", "a column's prefix names no dataset of FROM; use its alias"
            )
        found = [
            (self.infos[i], c) for i in places if (c := named_column(self.infos[i], node.name)) is not None
        ]
        if not found:
            raise QueryError("query.unknown-column", f"a column is named that {self._listed(places)}")
        if len(found) > 1 and self.first is not None:
            return found[self.first]
        if len(found) > 1 and node.name.casefold() not in self.using:
            raise QueryError(
                "query.ambiguous-column",
                f"{found[0][1].name} exists in both datasets; put an alias before it",
            )
        return found[0]

    def _qualifies(self, place: int, node: exp.Column) -> bool:
        source = self.sources[place]
        if node.db:
            return (node.db.casefold(), node.table.casefold()) == (
                source.participant.casefold(),
                source.dataset.casefold(),
            )
        return not node.table or node.table.casefold() == source.alias.casefold()

    def _listed(self, places: Iterable[int]) -> str:
        """The columns there are; what was asked for is not repeated, since it may be a value."""
        return " and ".join(
            f"{info.full_name} does not have; it has {', '.join(c.name for c in info.columns[:30])}"
            for info in (self.infos[i] for i in places)
        )


def named_column(info: DatasetInfo, name: str) -> Column | None:
    """The column of that name, or None."""
    exact = info.column(name)
    folded = [c for c in info.columns if c.name.casefold() == name.casefold()]
    return exact or (folded[0] if len(folded) == 1 else None)
