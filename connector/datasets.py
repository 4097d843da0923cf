"""Publishing a dataset: its description beside the data, the checks on it, its catalogue entry.

`datasets/<name>.yaml` is written once from the source's schema and then belongs to its owner, who declares
what nobody can guess: which columns are join keys and under which normalisers, bounds, grades, uniqueness,
rights, and the offers (a name and a policy each; several offers may stand over one table). `add` checks the
data against all of it, commits to the content and registers a new version; equal content and description
make no new version.

Refuses: a column that is missing or of another type than declared, data outside its declared bounds or
sizes, an offer whose policy does not load, names another dataset or joins on a column that is no key. A
source that changed since it was registered is not served: the commitment in the evidence would be false.
Figures go out rounded (powers of two, coarse shares, days), and only those that the description names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import rfc8785
from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from compute.dataset import MOST_WIDTH, Column, DatasetInfo
from compute.engine import Limits, locked
from compute.errors import ConfigError, DataError
from compute.expressions import quoted
from compute.keys import Normaliser, canonical_keys, check_key
from compute.local import Source as Rows
from compute.masking import masked
from compute.types import Type, parse_type
from connector import commitment, consent, references, transfer_lists
from connector.config import ConnectorConfig
from connector.identity import utc_now
from connector.sources import EXTENSIONS, Source, SourceSpec, open_source
from connector.state.rows import DatasetRecord, OfferRecord
from connector.storage import Store
from policy_enforcer import load as policies
from policy_enforcer import odrl, yamltree
from policy_enforcer.disclosure import Level
from policy_enforcer.model import Policy, plain
from policy_enforcer.problems import PolicyError, closest
from witness.encoding import system_entropy

ENTRY_FORMAT = "bayspace-offer/v1"

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
Figure = Literal["nulls", "distinct", "freshness"]
_Whole = Annotated[int, Strict(), Field(ge=1, le=2**40)]
_Flag = Annotated[bool, Strict()]
_Number = Annotated[int, Strict()] | Annotated[Decimal, Strict()]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Words(_Closed):
    """The same text in English and Chinese; either may be left out."""

    en: str = ""
    zh: str = ""


class ColumnSpec(_Closed):
    """What the owner declares about one column."""

    type: str
    nullable: _Flag = True
    key: tuple[Normaliser, ...] | None = None
    unique: _Flag = False
    bounds: tuple[_Number, _Number] | None = None
    scale: Annotated[int, Strict(), Field(ge=0, le=12)] | None = None
    width: Annotated[int, Strict(), Field(ge=1, le=MOST_WIDTH)] | None = None
    grade: Annotated[int, Strict(), Field(ge=0, le=100)] | None = None
    category: transfer_lists.Category | None = None
    description: Words = Words()


class Rights(_Closed):
    """持有权 / 使用权 / 经营权: who holds the data, who may process it, who may trade it."""

    holder: str
    may_process: tuple[str, ...] = ()
    may_trade: tuple[str, ...] = ()


class Size(_Closed):
    """Declared upper bounds; without them the next power of two of what is there."""

    rows: _Whole | None = None
    keys: _Whole | None = None


class Description(_Closed):
    """One dataset, as its owner describes it in YAML."""

    title: Words
    description: Words = Words()
    source: SourceSpec
    rights: Rights
    size: Size = Size()
    quality: tuple[Figure, ...] = ()
    columns: dict[str, ColumnSpec] = Field(min_length=1)
    offers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` registered: unchanged things keep their version."""

    record: DatasetRecord
    offers: tuple[OfferRecord, ...]
    description: Path
    drafted: bool  # the description was written just now and waits for its owner


@dataclass(frozen=True, slots=True)
class Published:
    """An offer with what a query needs: description, policy and rows."""

    dataset: DatasetInfo
    policy: Policy
    source: Rows
    record: OfferRecord


# --- adding -------------------------------------------------------------------------------------------


def add(config: ConnectorConfig, store: Store, name: str, source: Mapping[str, Any] | None = None) -> Added:
    """Register dataset `name`: draft its description if there is none, check the data, publish its offers.

    `source` is needed for the draft only; afterwards the description names it. Raises ConfigError or
    PolicyError (description, policy), DataError (the data does not fit); then nothing is registered.
    """
    path = _description_path(config, name)
    drafted = not path.exists()
    if drafted:
        if source is None:
            raise ConfigError("dataset.source", f"there is no {path.name} yet: say where the data is")
        path.write_text(draft(config, name, source), encoding="utf-8")
    try:
        description = load(path)
        offers = _offers(config, description)
        opened = _open(config, description)
        measured = _measure(
            opened, description, Limits(config.limits.threads, config.limits.memory_mib << 20)
        )
        return _register(config, store, name, description, opened, measured, offers, drafted)
    except BaseException:
        if drafted:
            path.unlink()
        raise


def source_for(path: Path) -> dict[str, Any]:
    """The source specification of a file, by its extension, or of a folder, by the files in it."""
    entries = sorted(path.iterdir()) if path.is_dir() else [path]
    kinds = {EXTENSIONS[entry.suffix] for entry in entries if entry.suffix in EXTENSIONS}
    if len(kinds) != 1 or kinds == {"duckdb"}:
        raise ConfigError(
            "dataset.source", f"{path.name} does not say what it is: name kind (and table) of the source"
        )
    return {"kind": kinds.pop(), "path": str(path.resolve())}


def _description_path(config: ConnectorConfig, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ConfigError(
            "dataset.name", "a dataset's name is lower-case letters, digits and _, a letter first"
        )
    return config.datasets_folder / f"{name}.yaml"


def load(path: Path) -> Description:
    """The description in a YAML file. Raises ConfigError with line and key."""
    try:
        tree = yamltree.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("dataset.missing", f"the description {path} cannot be read") from error
    if tree.problems:
        raise ConfigError("dataset.description", f"{path.name}:{tree.problems[0]}")
    try:
        return Description.model_validate(tree.data)
    except ValidationError as error:
        raise ConfigError("dataset.description", _explained(path, error, tree)) from None


def _explained(path: Path, error: ValidationError, tree: yamltree.Tree) -> str:
    said = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        # a union puts its member's name into the path
        place = tuple(
            part for part in item["loc"] if part not in {"parquet", "csv", "arrow", "duckdb", "postgres"}
        )
        why = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        said.append(f"{path.name}:{tree.where(place)[0]}: {'.'.join(map(str, place))}: {why}")
    return "; ".join(said)


def _offers(config: ConnectorConfig, description: Description) -> dict[str, tuple[str, Policy]]:
    return {name: _policy(config, description, name, file) for name, file in description.offers.items()}


def _policy(config: ConnectorConfig, description: Description, offer: str, file: str) -> tuple[str, Policy]:
    if not NAME.fullmatch(offer):
        raise ConfigError(
            "dataset.name", "an offer's name is lower-case letters, digits and _, a letter first"
        )
    try:
        text = (config.policies_folder / file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("dataset.policy", f"offer {offer}: policies/{file} cannot be read") from error
    errors = [problem for problem in policies.lint(text, description.columns) if not problem.warning]
    if errors:
        raise PolicyError(file, errors)
    policy = policies.load(text, file)
    if policy.dataset != f"{config.participant}.{offer}":
        raise ConfigError("dataset.policy", f"policies/{file} is not about {config.participant}.{offer}")
    check_columns(description.columns, policy, f"policies/{file}")
    check_named(config, policy, utc_now())
    return text, policy


def check_named(config: ConnectorConfig, policy: Policy, now: datetime) -> dict[str, str]:
    """The documents that a policy names, lists verified. Raises `ConfigError`, for its consent set too."""
    documents = references.read(config.policies_folder, policy)
    transfer_lists.check(config.trust, policy, documents, now)
    consent.check(config.policies_folder, policy)
    return documents


def check_columns(columns: Mapping[str, ColumnSpec | Column], policy: Policy, named: str) -> None:
    """What a policy says of these columns fits them. `named`: the policy, in words. Raises `ConfigError`."""
    joined = policy.analysis.join.columns if policy.analysis.join else ()
    for column in joined:
        if columns[column].key is None:
            raise ConfigError(
                "dataset.not-a-key", f"{named} joins on {column!r}, which the description declares no key"
            )
    for column in policy.analysis.bounds:
        if not parse_type(columns[column].type).numeric:
            raise ConfigError("dataset.bounds", f"{named} bounds {column!r}, which is no number")
    _check_shown_rows(columns, policy, named)


def _check_shown_rows(columns: Mapping[str, ColumnSpec | Column], policy: Policy, named: str) -> None:
    """Masks fit their columns, and what a list shows has a length that says nothing."""
    for name, mask in policy.masking.items():
        try:
            masked(Column(name, columns[name].type), mask)
        except ConfigError as error:
            raise ConfigError(error.code, f"{named}: {error.sentence}") from None
    for name in policy.analysis.payload:
        column = columns[name]
        if column.type == "string" and column.width is None and name not in policy.masking:
            raise ConfigError(
                "dataset.width",
                f"{named} lists {name!r}, which is text: declare its `width`, the most UTF-8 bytes "
                "of a value, to which every value is padded",
            )


def info_under(store: Store, participant: str, offer: str, policy: Policy) -> DatasetInfo:
    """What an agreement says of an offer's dataset when its policy is another than the offer's."""
    published = store.offer(offer)
    record = published and store.dataset(published.dataset, published.dataset_version)
    if not record:
        raise ConfigError("offer.unknown", f"{participant} offers nothing named {offer!r}")
    return _info(participant, offer, json.loads(record.entry)["info"], policy)


def _open(config: ConnectorConfig, description: Description) -> Source:
    declared = {name: column.type for name, column in description.columns.items()}
    source = open_source(description.source, config.datasets_folder, declared)
    actual = source.types()
    for name, column in description.columns.items():
        _check_column(name, column, actual, source.unsupported)
    return source


def _check_column(
    name: str, column: ColumnSpec, actual: Mapping[str, Type], unsupported: Mapping[str, str]
) -> None:
    if name in unsupported:
        raise ConfigError(
            "dataset.column",
            f"column {name!r} is of a type that no query can touch; in the source, cast it to "
            f"{unsupported[name]}",
        )
    if name not in actual:
        raise ConfigError(
            "dataset.column", f"the source has no column {name!r}. {closest(name, actual) or ''}"
        )
    kind = parse_type(column.type)
    if actual[name] != kind:
        raise ConfigError(
            "dataset.type", f"column {name!r} is {actual[name]} in the source, not {column.type}"
        )
    if column.key is not None:
        check_key(column.key, kind)
    if column.bounds is not None and not (kind.numeric and column.bounds[0] <= column.bounds[1]):
        raise ConfigError("dataset.bounds", f"column {name!r}: bounds are [least, most] of a numeric column")
    if column.width is not None and kind.kind != "string":
        raise ConfigError("dataset.width", f"column {name!r}: width is for text")
    if column.scale is not None and kind.kind != "float64":
        raise ConfigError("dataset.scale", f"column {name!r}: scale is for float64, other numbers are exact")


# --- measuring ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Measured:
    """Exact figures, which stay inside the domain; what leaves is rounded from them."""

    rows: int
    keys: int
    present: Mapping[str, int]
    distinct: Mapping[str, int]


def _measure(source: Source, description: Description, limits: Limits) -> _Measured:
    """Count, and check every declaration against the data. Raises DataError naming the column."""
    columns = description.columns
    keys = [name for name, column in columns.items() if column.key is not None]
    counted = [n for n, c in columns.items() if c.unique or "distinct" in description.quality]
    bounded = [n for n, c in columns.items() if c.bounds is not None]
    padded = [n for n, c in columns.items() if c.width is not None]
    tuples = f"count(DISTINCT ({', '.join(map(quoted, keys))}))" if keys else "0"
    figures = [
        *("count(*)", tuples),
        *(f"count({quoted(n)})" for n in columns),
        *(f"count(DISTINCT {quoted(n)})" for n in counted),
        *(f"{function}({quoted(n)})" for n in bounded for function in ("min", "max")),
        *(f"max(strlen({quoted(n)}))" for n in padded),
    ]
    stored = source.rows(list(columns))
    with locked({"source": stored() if callable(stored) else stored}, limits) as connection:
        row = connection.sql(f"SELECT {', '.join(figures)} FROM source").fetchall()[0]  # noqa: S608
    taken = iter(row)
    rows, distinct_keys = next(taken), next(taken)
    measured = _Measured(rows, distinct_keys, _take(taken, columns), _take(taken, counted))
    extremes = {name: (next(taken), next(taken)) for name in bounded}
    _check_data(source, description, measured, extremes)
    for name in padded:
        if (next(taken) or 0) > (columns[name].width or 0):
            raise DataError("dataset.width", f"column {name!r} holds text longer than its declared width")
    return measured


def _take(figures: Iterator[Any], names: Sequence[str] | Mapping[str, Any]) -> dict[str, int]:
    return {name: next(figures) for name in names}


def _check_data(
    source: Source, description: Description, measured: _Measured, extremes: Mapping[str, tuple[Any, Any]]
) -> None:
    for name, column in description.columns.items():
        if not column.nullable and measured.present[name] < measured.rows:
            raise DataError("dataset.null", f"column {name!r} holds NULLs and is declared not nullable")
        if column.unique:
            _check_unique(source, name, column, measured)
        if column.bounds is not None and not _within(extremes[name], column.bounds):
            raise DataError("dataset.bounds", f"column {name!r} holds values outside its declared bounds")
    for what, found, declared in (
        ("rows", measured.rows, description.size.rows),
        ("keys", measured.keys, description.size.keys),
    ):
        if declared is not None and declared < found:
            raise DataError("dataset.size", f"there are more {what} than size.{what} declares")


def _check_unique(source: Source, name: str, column: ColumnSpec, measured: _Measured) -> None:
    unique = measured.distinct[name] == measured.present[name]
    if unique and column.key:  # values that differ may be one key once normalised
        values = source.scan([name]).read_all().column(0)
        keys = [canonical_keys([c], [column.key], [parse_type(column.type)]) for c in values.chunks]
        found = pa.chunked_array(keys, pa.large_binary()).drop_null()
        unique = pc.count_distinct(found).as_py() == len(found)
    if not unique:
        raise DataError("dataset.unique", f"column {name!r} is declared unique and repeats a value")


def _within(extremes: tuple[Any, Any], bounds: tuple[int | Decimal, int | Decimal]) -> bool:
    low, high = extremes
    if low is None:
        return True
    # NaN is the greatest for DuckDB and within nothing for Decimal
    least, most = Decimal(low), Decimal(high)
    return not (least.is_nan() or most.is_nan()) and bounds[0] <= least and most <= bounds[1]


# --- registering --------------------------------------------------------------------------------------


def _register(
    config: ConnectorConfig,
    store: Store,
    name: str,
    description: Description,
    source: Source,
    measured: _Measured,
    offers: Mapping[str, tuple[str, Policy]],
    drafted: bool,
) -> Added:
    before = store.dataset(name)
    # The salt stays with the dataset, so that equal content keeps its commitment.
    master = before.master_salt if before else system_entropy(32)
    root = commitment.commit(source.scan(list(description.columns)), master)
    entry = rfc8785.dumps(_entry(description, source, measured, root))
    opened = json.dumps({"description": _source_json(description), "stamp": source.stamp}, sort_keys=True)
    with store.atomic():
        if before and (before.entry, before.source, before.commitment) == (entry, opened, root):
            record = before
        else:
            record = store.add_dataset(name, opened, entry, root, master, measured.rows)
        published = tuple(
            _publish(config, store, record, offer, text, policy) for offer, (text, policy) in offers.items()
        )
        for offer in store.offers():
            if offer.dataset == name and offer.name not in offers:
                store.withdraw_offer(offer.name)
    return Added(record, published, _description_path(config, name), drafted)


def _publish(
    config: ConnectorConfig, store: Store, record: DatasetRecord, offer: str, text: str, policy: Policy
) -> OfferRecord:
    dataset = json.loads(record.entry)
    info = _info(config.participant, offer, dataset.pop("info"), policy)
    named = references.read(config.policies_folder, policy)
    stated = {"documents": named} if named else {}
    entry = rfc8785.dumps({**dataset, **stated, "dataset": info.as_json(), "format": ENTRY_FORMAT})
    before = store.offer(offer)
    if before and before.dataset != record.name and not before.withdrawn:
        raise ConfigError(
            "dataset.offer-taken", f"offer {offer} stands over dataset {before.dataset} already"
        )
    digest = odrl.digest(policy).hex()
    same = before and (before.entry, before.policy_text, before.policy_digest) == (entry, text, digest)
    if before and same and not before.withdrawn and before.dataset_version == record.version:
        return before
    return store.add_offer(offer, record.name, record.version, entry, odrl.canonical(policy), text, digest)


def _source_json(description: Description) -> dict[str, Any]:
    return {
        "source": description.source.model_dump(by_alias=True),
        "types": {name: column.type for name, column in description.columns.items()},
    }


def _entry(description: Description, source: Source, measured: _Measured, root: str) -> dict[str, Any]:
    """The part of a catalogue entry that all offers over this table share."""
    quality = description.quality
    fresh = source.modified.date().isoformat() if source.modified and "freshness" in quality else None
    return {
        "title": description.title.model_dump(),
        "description": description.description.model_dump(),
        "rights": description.rights.model_dump(),
        "fresh": fresh,
        "columns": [
            {
                "name": name,
                "description": column.description.model_dump(),
                "nulls": _share(measured, name) if "nulls" in quality else None,
                "distinct": _bucket(measured.distinct[name]) if "distinct" in quality else None,
            }
            for name, column in description.columns.items()
        ],
        "info": {
            "columns": [_column_json(name, column) for name, column in description.columns.items()],
            "rows_bound": description.size.rows or _bucket(measured.rows),
            "keys_bound": description.size.keys or _bucket(measured.keys),
            "commitment": root,
        },
    }


def _column_json(name: str, column: ColumnSpec) -> dict[str, Any]:
    return {
        "name": name,
        "type": column.type,
        "nullable": column.nullable,
        "scale": column.scale,
        "bounds": None if column.bounds is None else [plain(Decimal(bound)) for bound in column.bounds],
        **({} if column.grade is None else {"grade": column.grade}),
        "key": None if column.key is None else list(column.key),
        "unique": column.unique,
        **({} if column.width is None else {"width": column.width}),
        **({} if column.category is None else {"category": column.category}),
    }


def _disclosure(policy: Policy | None) -> Level:
    """The loosest level the policy tolerates; without a policy any, for nothing is decided then."""
    if policy is None:
        return Level.ROWS
    return Level.parse(policy.analysis.join.disclosure) if policy.analysis.join else Level.HIDDEN


def _info(participant: str, offer: str, shared: Mapping[str, Any], policy: Policy | None) -> DatasetInfo:
    columns = [
        Column(
            **{
                **column,
                "bounds": _clamp(policy, column["name"], column["bounds"]),
                "key": None if column["key"] is None else tuple(column["key"]),
            }
        )
        for column in shared["columns"]
    ]
    return DatasetInfo(
        participant=participant,
        name=offer,
        columns=tuple(columns),
        rows_bound=shared["rows_bound"],
        keys_bound=shared["keys_bound"],
        commitment=shared["commitment"],
        disclosure=_disclosure(policy),
    )


def _clamp(policy: Policy | None, column: str, declared: Sequence[str] | None) -> tuple[str, str] | None:
    """What sums clamp this offer's column to: the policy's bounds within the declared ones."""
    wanted = policy.analysis.bounds.get(column) if policy is not None else None
    if wanted is None:
        return (declared[0], declared[1]) if declared else None
    low, high = wanted
    if declared:
        low, high = max(low, Decimal(declared[0])), min(high, Decimal(declared[1]))
    if low > high:
        raise ConfigError(
            "dataset.bounds", f"column {column!r}: the policy's bounds lie outside the declared"
        )
    return plain(low), plain(high)


def planned(description: Description, full_name: str, policy: Policy | None) -> DatasetInfo:
    """What a description alone says of `participant.offer`: enough to plan with, for `policy test`."""
    participant, _, offer = full_name.partition(".")
    shared = {
        "columns": [_column_json(name, column) for name, column in description.columns.items()],
        "rows_bound": description.size.rows or 1 << 10,
        "keys_bound": description.size.keys or 1 << 10,
        "commitment": "0" * 64,
    }
    return _info(participant, offer, shared, policy)


def _bucket(count: int) -> int:
    """The next power of two: what an exact count is rounded to before it leaves."""
    return 1 << max(0, count - 1).bit_length()


_SHARES = ((0.01, "under 1 %"), (0.05, "under 5 %"), (0.2, "under 20 %"), (0.5, "under 50 %"))


def _share(measured: _Measured, name: str) -> str:
    missing = measured.rows - measured.present[name]
    if missing == 0:
        return "none"
    share = missing / measured.rows
    return next((word for limit, word in _SHARES if share < limit), "50 % or more")


# --- using --------------------------------------------------------------------------------------------


def open_offer(
    config: ConnectorConfig,
    store: Store,
    name: str,
    commitment: str | None = None,
    agreed: Policy | None = None,
) -> Published:
    """The offer of this name, ready to be queried.

    `commitment`: the content that an agreement is about; another one is refused, or evidence would name
    data that did not answer. `agreed`: the policy whose consent set holds; without one, the offer's own.
    Raises ConfigError when there is no such offer, DataError when the source
    changed since it was registered or the content is another than agreed.
    """
    record = store.offer(name)
    if record is None or record.withdrawn:
        raise ConfigError("offer.unknown", f"{config.participant} offers nothing named {name!r}")
    dataset = DatasetInfo.from_json(json.loads(record.entry)["dataset"])
    if commitment not in (None, dataset.commitment):
        raise DataError(
            "dataset.superseded",
            f"{dataset.full_name} holds newer content than was agreed on: request a new agreement",
        )
    policy = odrl.from_odrl(json.loads(record.policy))
    source = open_dataset(config, store, record.dataset, record.dataset_version)
    kept = consent.consented(source, dataset, agreed or policy, config.policies_folder)
    return Published(
        dataset=dataset,
        policy=policy,
        source=source.rows([column.name for column in dataset.columns]) if kept is None else kept,
        record=record,
    )


def open_dataset(config: ConnectorConfig, store: Store, name: str, version: int | None = None) -> Source:
    """A registered dataset's source. Raises ConfigError or DataError as `open_offer`."""
    record = store.dataset(name, version)
    if record is None:
        raise ConfigError("dataset.unknown", f"there is no dataset {name!r}: run `bayspace dataset add`")
    kept = json.loads(record.source)
    spec: SourceSpec = TypeAdapter(SourceSpec).validate_json(json.dumps(kept["description"]["source"]))
    source = open_source(spec, config.datasets_folder, kept["description"]["types"])
    if source.stamp != kept["stamp"]:
        raise DataError(
            "dataset.changed",
            f"the data of {name!r} changed since it was registered: run `bayspace dataset add`",
        )
    return source


# --- the draft ----------------------------------------------------------------------------------------


def draft(config: ConnectorConfig, name: str, source: Mapping[str, Any]) -> str:
    """The description of a source that has none: every column, no key, no bound, no offer."""
    try:
        spec: SourceSpec = TypeAdapter(SourceSpec).validate_python(dict(source))
    except ValidationError as error:
        keys = sorted({str(part) for item in error.errors(include_input=False) for part in item["loc"]})
        raise ConfigError(
            "dataset.source", f"the source cannot be understood at: {', '.join(keys)}"
        ) from None
    opened = open_source(spec, config.datasets_folder)
    if not opened.types():
        raise DataError("dataset.columns", "the source has no column of a type that queries can touch")
    columns = "".join(
        f"  {_yaml(column)}: {{type: {_yaml(str(kind))}}}\n" for column, kind in opened.types().items()
    )
    left_out = "".join(
        f"  # {_yaml(column)}: of a type that no query can touch; cast it to {cast}\n"
        for column, cast in opened.unsupported.items()
    )
    # Only what was said: a CSV source's default `null` would also be a key that YAML reads as no value.
    said = spec.model_dump(by_alias=True, exclude_defaults=True)
    fields = "".join(f"  {key}: {_yaml(value)}\n" for key, value in said.items())
    return _DRAFT.format(name=name, owner=config.participant, source=fields, columns=columns + left_out)


def _yaml(value: Any) -> str:
    """JSON is YAML; quotes keep every word a word."""
    return json.dumps(value, ensure_ascii=False)


_DRAFT = """\
# A dataset description. `bayspace dataset add {name}` checks it against the data and publishes it.
# Nothing here is guessed: a column is no join key and has no bounds until you declare it.

title: {{en: "{name}", zh: "{name}"}}
description: {{en: "", zh: ""}}

source:
{source}
# 持有权 / 使用权 / 经营权: who holds the data, who may process it, who may trade it. Declared, for people.
rights: {{holder: "{owner}", may_process: [], may_trade: []}}

# Upper bounds that peers see and sets are padded to. Left out: the next power of two of what is there.
# size: {{rows: 200000, keys: 20000}}

# Which rounded figures the catalogue shows: nulls, distinct, freshness.
quality: []

# Per column, after its type:
#   key: [trim, nfkc]      it may be a join key; the normalisers are applied in this order
#   unique: true           no value occurs twice
#   bounds: [0, 1000000]   least and most; exact joint sums need them
#   nullable: false        there are no NULLs
#   scale: 2               float64 only: decimal digits kept when summed
#   width: 64              text only: most UTF-8 bytes of a value; lists of rows pad every value to it
#   grade: 2               classification grade (分类分级); without one `grade_at_most` refuses the column
#   category: trade-value  what lists of the law (policy.md, Lists) know it by
#   description: {{en: "...", zh: "..."}}
# A column that you delete here is not part of the dataset.
columns:
{columns}
# Offers over this table: a name that SQL uses, and a policy in the folder policies/.
# offers: {{{name}: {name}.yaml}}
"""
