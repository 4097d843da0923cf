"""The policy language as frozen types: one YAML word, one field. Unknown words are refused.

Three kinds of words, three meanings of absence:
- *permissions* (analysis.*): absent means nothing of the kind is allowed;
- *who and why* (assignee, purpose): must be written; everybody and everything only by the word `any`;
- *limits* (where, when, uses, transfer, minimum_identities, ...): absent means no such limit, and lint
  says so.

Lists that stand for sets are kept sorted and without duplicates, so that the digest depends on what a
policy says and not on the order in which it says it. What the runtime cannot enforce yet is listed in
`check.py` and refused when the policy is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    StringConstraints,
    Tag,
)

from policy_enforcer.moments import Period, duration, moment

ANY = ("any",)
"""What `assignee: any` and `purpose: any` are read as."""

FilterKind = Literal["equality", "range", "membership", "null", "pattern", "column"]
Measure = Literal[
    "sum",
    "count",
    "count_distinct",
    "avg",
    "min",
    "max",
    "var",
    "stddev",
    "covar",
    "corr",
    "regr",
    "logistic",  # logistic regression over a federation, whose owners see the sums of every step
    "histogram",  # groups by fixed buckets of the column, and quantiles, which are read off such buckets
]
ScalarFunction = Literal[
    "abs",
    "arithmetic",  # + - * / // % and unary minus
    "case",  # CASE outside aggregates; what it compares needs `filters` as well
    "ceil",
    "coalesce",
    "date_trunc",
    "extract",  # also date_part, year(), quarter(), month(), week(), day(), hour()
    "floor",
    "greatest",
    "least",
    "length",
    "lower",
    "nullif",
    "product",  # of two columns inside an aggregate; needs arithmetic too
    "round",
    "substr",  # also left() and right()
    "trim",
    "upper",
]

T = TypeVar("T", bound=Hashable)


def _set(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("the list names something twice")
    return tuple(sorted(values, key=str))


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    # by type too: 1 and true are equal in Python
    if len({(type(value), value) for value in values}) != len(values):
        raise ValueError("the list names something twice")
    return values


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _any_listed(value: Any) -> Any:
    return list(ANY) if value == "any" else value


_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,37})(\.\d{1,18})?", re.ASCII)


def _exact(value: Any) -> Decimal:
    """An exact decimal in its shortest form. Floats are refused: 0.1 would not be 0.1."""
    if not isinstance(value, int | str | Decimal):
        raise ValueError("write a plain decimal number")
    text = format(value, "f") if isinstance(value, Decimal) else str(value)
    if not _PLAIN_NUMBER.fullmatch(text):
        raise ValueError("write a plain decimal number: digits, at most one point, no exponent")
    return Decimal(plain(Decimal(text)))


def plain(number: Decimal) -> str:
    """The shortest decimal form without an exponent: 1.50 becomes 1.5, -0 becomes 0."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


OF_THEIR_OWN = frozenset({"CN-HK", "CN-MO", "CN-TW"})
"""Places that ISO 3166 lists under a country and with a code of their own, which alone counts here."""


def _jurisdiction(code: str) -> str:
    if code in OF_THEIR_OWN:
        raise ValueError(
            f"write {code.partition('-')[2]}: it goes by its own code, and is no part of CN here"
        )
    return code


Whole = Annotated[int, Strict(), Field(ge=1, le=2**63 - 1)]
Number = Annotated[
    Decimal,
    BeforeValidator(_exact, json_schema_input_type=int | float | str),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9a-f]{64}$")]
Assignee = Annotated[str, StringConstraints(pattern=r"^((role|claim):)?[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
DatasetName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")
]
Place = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]
Jurisdiction = Annotated[Place, AfterValidator(_jurisdiction)]
ColumnName = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]{0,126}[^\x00-\x20\x7f])?$")
]
Moment = Annotated[str, AfterValidator(moment)]
Duration = Annotated[str, AfterValidator(duration)]
FederationName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_][a-z0-9_-]{0,63}$")]
Mask = Annotated[
    str,
    StringConstraints(
        pattern=r"^(redact|hash|year|quarter|month|keep-(first|last)-[1-9][0-9]?"
        r"|step-([1-9][0-9]{0,14}(\.[0-9]{0,5}[1-9])?|0\.[0-9]{0,5}[1-9]))$"
    ),
]
DomainValue = Annotated[str, Strict()] | Annotated[bool, Strict()] | Annotated[int, Strict()]

KnownWay = Literal[
    "plaintext",  # in every way below
    "as-join-payload",  # its values in rows that both sides have
    "after-join",  # which of the recipient's own values this column also has
    "join-hidden",  # it is joined, and nobody learns which values match
    "after-group-by",  # its values as labels of groups
    "after-aggregate",  # figures over it
    "after-compare",  # what is computed from the rows that a comparison with it leaves
    "rank-only",  # the order of its values; nothing here gives that without the values
    "never",
]
ConnectorKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}@[0-9a-f]{64}$")]

Columns = Annotated[tuple[ColumnName, ...], AfterValidator(_set)]
SomeColumns = Annotated[tuple[ColumnName, ...], Field(min_length=1), AfterValidator(_set)]
Jurisdictions = Annotated[tuple[Place, ...], Field(min_length=1), AfterValidator(_set)]
Who = Annotated[
    tuple[Assignee, ...],
    Field(min_length=1),
    AfterValidator(_set),
    BeforeValidator(_any_listed, json_schema_input_type=Literal["any"] | list[Assignee]),
]
Members = Annotated[tuple[Assignee, ...], Field(min_length=1), AfterValidator(_set)]
Why = Annotated[
    tuple[Word, ...],
    Field(min_length=1),
    AfterValidator(_set),
    BeforeValidator(_any_listed, json_schema_input_type=Literal["any"] | list[Word]),
]
FilterKinds = Annotated[
    tuple[FilterKind, ...],
    Field(min_length=1),
    AfterValidator(_set),
    BeforeValidator(_listed, json_schema_input_type=FilterKind | list[FilterKind]),
]
Measures = Annotated[
    tuple[Measure, ...],
    Field(min_length=1),
    AfterValidator(_set),
    BeforeValidator(_listed, json_schema_input_type=Measure | list[Measure]),
]
KnownWays = Annotated[
    tuple[KnownWay, ...],
    Field(min_length=1),
    AfterValidator(_set),
    BeforeValidator(_listed, json_schema_input_type=KnownWay | list[KnownWay]),
]
Audience = Annotated[Mapping[Assignee, KnownWays], Field(min_length=1)]
Domain = Annotated[tuple[DomainValue, ...], Field(min_length=1, max_length=10_000), AfterValidator(_distinct)]


class Closed(BaseModel):
    """A group of words: nothing else is understood, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Where(Closed):
    """Jurisdictions. A country covers its subdivisions: CN covers CN-SZ; HK is not part of CN here."""

    processing: Jurisdictions | None = None
    recipients: Jurisdictions | None = None


class When(Closed):
    """Time. Dates are whole UTC days; `until` is included; `elapsed` runs from the agreement's signing."""

    start: Moment | None = Field(default=None, alias="from")
    until: Moment | None = None
    elapsed: Duration | None = None


class Uses(Closed):
    """How often, per period of the UTC calendar or over the whole agreement, and how many at once."""

    count: Whole | None = None
    rows: Whole | None = None
    bytes: Whole | None = None
    per: Period = "agreement"
    max_concurrent: Whole | None = None


class Transfer(Closed):
    """Cross-border facts. `basis` and `filing` are declared: recorded and shown, enforced by law only."""

    basis: Text | None = None
    filing: Text | None = None
    whitelist: Reference | None = None
    negative_list: Reference | None = None
    low_risk: Reference | None = None
    consent: Word | None = None
    grade_at_most: Annotated[int, Strict(), Field(ge=0, le=100)] | None = None


class Declared(Closed):
    """Conditions that nothing here can check: recorded in the agreement and shown, kept by people."""

    application: Text | None = None
    event: Text | None = None
    state: Text | None = None


class Conditions(Closed):
    """What must hold of whoever asks and receives, besides being named in `assignee`.

    `connectors`: `participant@key`, every evidence key that the member list has of it now;
    `security_level`: the highest N of `claim:security-level-N` that the operator certifies.
    """

    connectors: Annotated[tuple[ConnectorKey, ...], Field(min_length=1), AfterValidator(_set)] | None = None
    security_level: Annotated[int, Strict(), Field(ge=1, le=99)] | None = None
    declared: Declared | None = None


class Join(Closed):
    """Joins with another participant. `disclosure` is the loosest level tolerated for the join keys."""

    columns: SomeColumns
    disclosure: Literal["hidden", "cardinality", "receiver", "rows"]
    required: Literal["asker"] | None = None
    operators: Annotated[tuple[Literal["and", "or"], ...], AfterValidator(_set)] = ()


class Budget(Closed):
    """Privacy loss (zCDP) for one agreement."""

    rho: Number
    per: Period = "agreement"


class DatasetBudget(Closed):
    """Privacy loss (zCDP) of the dataset over all agreements and renewals."""

    rho: Number


class Noise(Closed):
    """Differentially private release."""

    mechanism: Literal["discrete-gaussian", "discrete-laplace"]
    rho_per_query: Number
    budget: Budget
    dataset_budget: DatasetBudget | None = None


class Dominance(Closed):
    """No released cell in which one identity holds more than this share of a figure: the p%-rule."""

    share_at_most: Number


class Suppressions(Closed):
    """What is done about cells that are held back, besides holding them back."""

    complementary: Annotated[bool, Strict()] = False
    count: Literal["shown", "hidden"] = "shown"


class Differencing(Closed):
    """Refuse a query whose set of identities differs from an earlier one's by too few."""

    minimum_difference: Whole
    window: Duration | None = None


class Federation(Closed):
    """Sums over this dataset and those of other participants: `FROM federation.<name>`.

    `scope` says whose cells `minimum_identities` holds for: this participant's own, or the totals of all.
    `participants`: who may stand beside this dataset, by id, role or claim; absent means any member.
    `honest_participants`: so many, the owner among them, work neither with the asker nor with each other: the
    noise of all but one of them, which may study the totals that it sees, is together what `noise` demands.
    Absent means the owner alone, whose noise is all of it.
    """

    name: FederationName
    scope: Literal["local", "total"]
    minimum_participants: Annotated[int, Strict(), Field(ge=2, le=64)]
    participants: Members | None = None
    honest_participants: Whole | None = None


class Analysis(Closed):
    """What a query may do. Every list is a permission: what it does not name is refused."""

    kinds: Annotated[tuple[Literal["aggregate", "list"], ...], Field(min_length=1), AfterValidator(_set)]
    join: Join | None = None
    dimensions: Columns = ()
    domains: Mapping[ColumnName, Domain] = {}
    filters: Mapping[ColumnName, FilterKinds] = {}
    measures: Mapping[ColumnName, Measures] = {}
    payload: Columns = ()
    column_disclosure: Mapping[ColumnName, Audience] = {}
    scalar_functions: Annotated[tuple[ScalarFunction, ...], AfterValidator(_set)] = ()
    identity: ColumnName | None = None
    minimum_identities: Whole | None = None
    dominance: Dominance | None = None
    suppressions: Suppressions | None = None
    bounds: Mapping[ColumnName, tuple[Number, Number]] = {}
    noise: Noise | None = None
    max_rows_per_identity: Whole | None = None
    max_cells_per_identity: Whole | None = None
    weighted: Annotated[bool, Strict()] = False
    conditional: Annotated[bool, Strict()] = False
    maximum_peer_keys: Whole | None = None
    differencing: Differencing | None = None
    federation: Federation | None = None
    templates: Annotated[tuple[Reference, ...], AfterValidator(_set)] = ()


class LogDuty(Closed):
    """The exchange is recorded by this many witnesses before anything leaves."""

    word: ClassVar[str] = "log"
    log: Literal["witness"]
    minimum_witnesses: Annotated[int, Strict(), Field(ge=1, le=16)] = 1


class NotifyDuty(Closed):
    """The owner is told of each use."""

    word: ClassVar[str] = "notify"
    notify: Literal["owner"]
    declared: Annotated[bool, Strict()] = False


class DeleteDuty(Closed):
    """The result is deleted after a time."""

    word: ClassVar[str] = "delete"
    delete: Literal["result"]
    after: Duration
    declared: Annotated[bool, Strict()] = False


class PassOnDuty(Closed):
    """The result is not passed on."""

    word: ClassVar[str] = "pass_on"
    pass_on: Literal["never"]
    declared: Annotated[bool, Strict()] = False


class PaymentDuty(Closed):
    """Something is paid; the words are the parties' own."""

    word: ClassVar[str] = "payment"
    payment: Text
    declared: Annotated[bool, Strict()] = False


DUTY_WORDS = ("log", "notify", "delete", "payment", "pass_on")


def _duty_word(value: Any) -> str | None:
    words = value if isinstance(value, Mapping) else getattr(value, "model_fields_set", ())
    return next((word for word in DUTY_WORDS if word in words), None)


Duty = Annotated[
    Annotated[LogDuty, Tag("log")]
    | Annotated[NotifyDuty, Tag("notify")]
    | Annotated[DeleteDuty, Tag("delete")]
    | Annotated[PassOnDuty, Tag("pass_on")]
    | Annotated[PaymentDuty, Tag("payment")],
    Discriminator(_duty_word),
]


def _in_order(duties: tuple[Any, ...]) -> tuple[Any, ...]:
    texts = [duty.model_dump_json() for duty in duties]
    if len(set(texts)) != len(texts):
        raise ValueError("the list names a duty twice")
    return tuple(sorted(duties, key=lambda duty: (DUTY_WORDS.index(duty.word), duty.model_dump_json())))


class Policy(Closed):
    """One policy for one dataset offer."""

    policy: Word
    dataset: DatasetName
    assignee: Who
    purpose: Why
    where: Where | None = None
    when: When | None = None
    uses: Uses | None = None
    conditions: Conditions | None = None
    transfer: Transfer | None = None
    analysis: Analysis
    masking: Mapping[ColumnName, Mask] = {}
    duties: Annotated[tuple[Duty, ...], AfterValidator(_in_order)] = ()

    @property
    def owner(self) -> str:
        """The participant whose dataset this is."""
        return self.dataset.split(".", 1)[0]


def json_schema() -> dict[str, Any]:
    """JSON Schema of the YAML form, for editors that complete and check while one types."""
    schema = Policy.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
