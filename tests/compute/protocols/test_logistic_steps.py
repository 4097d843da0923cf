"""Logistic regression over participants in memory: equals an independent fit, or says why there is none.

Every attack of an asker or of a network that changes what participants see of each other ends the round.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from compute import federation as f
from compute import logistic, pooling
from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import PeerViolation, QueryError
from compute.facts import Prepared
from compute.federation import Entry, Member, Roster, Seat
from compute.finish import finish
from compute.frames import Frame
from compute.inputs import Cells, Context
from compute.local import observations
from compute.plan import Logistic, Regressor
from compute.planner import prepare
from compute.pooling import Part
from compute.protocols import PROTOCOLS, logistic_steps
from compute.protocols._masks import Masks
from compute.protocols.base import run_round
from policy_enforcer.disclosure import Fact, Party
from policy_enforcer.obligations import NOTHING_DEMANDED, NoiseDemand, Obligations
from tests.compute.protocols.test_federated_sums import _entropy as shake

LOANS = DatasetInfo(
    participant="bank-0",
    name="loans",
    columns=(
        Column("client", "string"),
        Column("defaulted", "bool"),
        Column("late", "int64", bounds=("0", "1")),
        Column("age", "int64", bounds=("0", "120")),
        Column("rate", "decimal(6,4)", bounds=("0", "1")),
        Column("debt", "float64", scale=2, bounds=("-1000", "100000")),
        Column("secured", "bool"),
        Column("same", "int64", bounds=("0", "9")),
        Column("fixed", "int64", bounds=("3", "3")),
        Column("free", "int64"),
    ),
    rows_bound=4000,
    keys_bound=4000,
    commitment="00" * 32,
)
SCHEMA = pa.schema(
    [
        ("client", pa.string()),
        ("defaulted", pa.bool_()),
        ("late", pa.int64()),
        ("age", pa.int64()),
        ("rate", pa.decimal128(6, 4)),
        ("debt", pa.float64()),
        ("secured", pa.bool_()),
        ("same", pa.int64()),
        ("fixed", pa.int64()),
        ("free", pa.int64()),
    ]
)
DEMANDS = replace(NOTHING_DEMANDED, identity="client")
ALL = "SELECT logistic_regression(defaulted, [age, rate, debt, secured]) FROM federation.loans"
ONE = "SELECT logistic_regression(defaulted, [age]) FROM federation.loans"


def table(seed: int, rows: int) -> pa.Table:
    """A bank's rows: one value in ten is missing."""
    draw = np.random.default_rng(seed)
    age, rate = draw.integers(18, 90, rows), draw.integers(100, 1500, rows) / 10_000
    debt, secured = np.round(draw.gamma(2, 4000, rows) - 500, 2), draw.random(rows) < 0.4
    z = -2.5 + 0.02 * age + 9 * rate + 0.00004 * debt - 0.8 * secured
    y = draw.random(rows) < 1 / (1 + np.exp(-z))

    def some(values: Sequence[Any]) -> list[Any]:
        return [None if draw.random() < 0.02 else value for value in values]

    columns = {
        "client": [f"{seed}-{i}" for i in range(rows)],
        "defaulted": some(y.tolist()),
        "late": y.astype(int).tolist(),
        "age": some(age.tolist()),
        "rate": pa.array([f"{x:.4f}" for x in rate]).cast(pa.decimal128(6, 4)),
        "debt": some(debt.tolist()),
        "secured": some(secured.tolist()),
        "same": [4] * rows,
        "fixed": [3] * rows,
        "free": age.tolist(),
    }
    return pa.table({n: pa.array(columns[n], SCHEMA.field(n).type) for n in SCHEMA.names})


TABLES = (table(1, 600), table(2, 500), table(3, 0), table(4, 300))


def prepared(sql: str, banks: int = 4, demands: Obligations = DEMANDS) -> Prepared:
    parts = [Part(f"bank-{i}.loans", LOANS.rows_bound) for i in range(banks)]
    info = pooling.pooled("loans", LOANS, parts)
    return prepare(sql, "asker", {info.full_name: info}, PROTOCOLS, {info.full_name: demands}, parts)


def sign(name: str) -> Callable[[bytes], bytes]:
    return lambda message: hmac.digest(name.encode(), message, "sha256")


def verify(name: str, message: bytes, signature: bytes) -> None:
    if not hmac.compare_digest(sign(name)(message), signature):
        raise PeerViolation("peer.signature", "a participant's signature does not hold")


READ: dict[tuple[bytes, int], tuple[pa.Table, pa.Table]] = {}


def rows_of(made: Round, i: int) -> pa.Table:
    """What a bank's connector reads for the plan; read once for each plan and table."""
    logistic_, table_ = made.plan.logistic, made.tables[i]
    assert logistic_ is not None
    key = made.plan.digest, id(table_)
    if key not in READ:
        args = (made.plan.sender, logistic_, LOANS, made.demands, table_, Limits(threads=1))
        READ[key] = observations(*args), table_  # kept, so that its id stays its own
    return READ[key][0]


class Round:
    """One round over these banks; what happens in it can be watched and changed."""

    def __init__(
        self,
        sql: str,
        tables: Sequence[pa.Table] = TABLES,
        demands: Obligations = DEMANDS,
        local: int = 1,
        total: tuple[int, int] = (1, 1),
        seed: str = "round",
    ) -> None:
        self.plan, self.tables, self.demands = prepared(sql, len(tables), demands).plan, tables, demands
        names = [f"bank-{i}" for i in range(len(tables))]
        self.roster = Roster(tuple(Entry(n, "aa", "bb", f"{seed}-{n}", *total) for n in names))
        self.local, self.seed = local, seed
        self.sent: list[tuple[int, Frame]] = []
        self.given: list[tuple[int, Frame]] = []

    def member(self, i: int) -> Member:
        names = tuple(self.roster.names)
        return Member(self.roster.entries[i], names, sign(names[i]), verify, lambda: None)

    def sender(self, i: int) -> Any:
        entropy = random.Random(f"{self.seed}/{i}").randbytes
        context = Context(
            bytes(32), self.plan, entropy, lambda *_: None, self.local, federated=self.member(i)
        )
        role = logistic_steps.PROTOCOL.sender(context, rows_of(self, i), lambda counts: counts >= self.local)
        return self.watched(i, role)

    def watched(self, i: int, role: Any) -> Any:
        item = role.send(None)
        while True:
            try:
                if isinstance(item, Frame):
                    self.sent.append((i, item))
                    yield item
                    item = role.send(None)
                else:
                    frame = yield item
                    self.given.append((i, frame))
                    item = role.send(frame)
            except StopIteration as end:
                return end.value

    def receiver(self) -> Any:
        context = Context(
            bytes(32), self.plan, lambda _n: b"", lambda *_: None, 1, federated=Seat(self.roster)
        )
        return logistic_steps.PROTOCOL.receiver(context, None)

    def run(self, receivers: Sequence[Any] | None = None) -> Cells:
        count = len(self.tables)
        found, summaries = run_round(
            receivers or [self.receiver() for _ in range(count)], [self.sender(i) for i in range(count)]
        )
        assert {s.released for s in summaries} == {found[0].table.num_rows}
        return found[0]

    def answer(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = finish(self.plan, self.run()).to_pylist()
        return rows


def irls(tables: Sequence[pa.Table], names: Sequence[str]) -> tuple[Any, Any, int]:
    """Coefficients, standard errors and rows by iteratively reweighted least squares, on scaled columns."""
    rows = pa.concat_tables(tables).select(["defaulted", *names]).drop_null()
    y, *xs = (np.array([float(v) for v in rows[n].to_pylist()]) for n in ("defaulted", *names))
    columns = np.column_stack([np.ones(len(y)), *xs])
    unit = np.abs(columns).max(axis=0)
    x, b = columns / unit, np.zeros(len(unit))
    for _ in range(40):
        p = 1 / (1 + np.exp(-x @ b))
        h = (x * (p * (1 - p))[:, None]).T @ x
        b = b + np.linalg.solve(h, x.T @ (y - p))
    return b / unit, np.sqrt(np.diag(np.linalg.inv(h))) / unit, len(y)


def test_it_is_the_fit_of_the_pooled_rows() -> None:
    names = ["age", "rate", "debt", "secured"]
    (found,) = Round(ALL).answer()
    coefficients, errors, n = irls(TABLES, names)
    assert list(found)[:5] == ["n", "fit", "steps", "intercept", "intercept_se"]
    assert (found["n"], found["fit"]) == (n, "fitted")
    assert 4 <= found["steps"] <= 7
    shown = ["intercept", *names]
    assert np.allclose([found[name] for name in shown], coefficients, rtol=1e-7)
    assert np.allclose([found[f"{name}_se"] for name in shown], errors, rtol=1e-5)


def test_an_outcome_of_zeros_and_ones_and_a_name_of_its_own() -> None:
    sql = "SELECT logistic_regression(late, [age]) AS f FROM federation.loans WHERE rate > 0.05"
    (found,) = Round(sql, demands=DEMANDS).answer()
    assert found["f_fit"] == "fitted"
    assert set(found) == {"f_n", "f_fit", "f_steps", "f_intercept", "f_intercept_se", "f_age", "f_age_se"}


def changed(tables: Sequence[pa.Table], name: str, values: Callable[[pa.Table], list[Any]]) -> list[pa.Table]:
    place = SCHEMA.get_field_index(name)
    return [t.set_column(place, name, pa.array(values(t), SCHEMA.field(name).type)) for t in tables]


def separated(rows: pa.Table) -> list[Any]:
    return [None if age is None else age > 50 for age in rows["age"].to_pylist()]


@pytest.mark.parametrize(
    ("sql", "tables", "verdict", "steps"),
    [
        pytest.param(ONE, changed(TABLES, "defaulted", separated), "separated", 25, id="a threshold"),
        pytest.param(
            *(ONE, changed(TABLES, "defaulted", lambda t: [True] * len(t)), "separated", 25),
            id="no other outcome",
            marks=pytest.mark.deep,
        ),
        pytest.param(ONE.replace("[age]", "[age, same]"), TABLES, "collinear", 1, id="does not vary"),
        pytest.param(
            *(ONE.replace("[age]", "[age, free2]"), TABLES, "collinear", 1),
            id="a column twice",
            marks=pytest.mark.deep,
        ),
    ],
)
def test_rows_that_have_no_fit_say_so(sql: str, tables: Any, verdict: str, steps: int) -> None:
    if "free2" in sql:  # the same values in another column
        sql = sql.replace("age, free2", "age, same")
        tables = changed(
            TABLES, "same", lambda t: [None if a is None else a // 10 for a in t["age"].to_pylist()]
        )
        tables = changed(
            tables, "age", lambda t: [None if s is None else s * 7 + 1 for s in t["same"].to_pylist()]
        )
    (found,) = Round(sql, tables).answer()
    assert (found["fit"], found["steps"]) == (verdict, steps)
    assert {found[name] for name in found if name not in ("n", "fit", "steps")} == {None}


LEAST = 25 * 5  # for one column


def shown_of(*sizes: int, total: tuple[int, int] = (1, 1)) -> int:
    """How many rows the answer of a round over banks of so many identities has."""
    whole, starts = pa.concat_tables([table(7, 600), table(8, 600)]).drop_null(), np.cumsum((0, *sizes))
    made = Round(ONE, [whole.slice(s, n) for s, n in zip(starts, sizes, strict=False)], total=total)
    cells = made.run()
    answered = {frame.body for _, frame in made.sent if frame.kind == "more"}
    assert cells.suppressed == 1 - cells.table.num_rows
    assert bool(cells.table.num_rows) == (b"\x01" in answered)  # a round held back shows no step
    return cells.table.num_rows


def test_nobody_less_its_own_part_is_left_with_fewer_identities_than_sums() -> None:
    assert logistic.least_identities(1, logistic.MOST_STEPS) == LEAST
    assert shown_of(200, 40) == 0  # the first would read the 40 rows out of the steps
    assert shown_of(LEAST, LEAST - 1) == 0
    assert shown_of(LEAST, LEAST) == 1
    assert shown_of(200, LEAST - 60, 60) == 1
    assert shown_of(200, LEAST - 60, 59) == 0
    assert shown_of(200, 0, LEAST) == 1
    assert shown_of(400, 0, 0) == 0


def test_nobody_less_its_own_part_is_left_with_fewer_identities_than_policies_demand() -> None:
    assert shown_of(200, 150, total=(150, 2)) == 1
    assert shown_of(200, 149, total=(150, 2)) == 0


def test_who_does_not_refuse_cannot_make_another_show_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank of 200 that takes the other's refusal back, and says that all is well: nobody takes a step."""
    whole, up = table(7, 400).drop_null(), logistic_steps._Adding.up
    sees = logistic_steps._others_suffice

    def denied(adding: Any, label: str, own: Any) -> Any:
        lies = label == "refusals" and adding.member.participant == "bank-0"
        return (yield from up(adding, label, [-1] if lies else own))

    def blind(plan: Any, roster: Any, own: Any, counts: Any) -> bool:
        return own.identities == 200 or sees(plan, roster, own, counts)

    monkeypatch.setattr(logistic_steps._Adding, "up", denied)
    monkeypatch.setattr(logistic_steps, "_others_suffice", blind)
    made = Round(ONE, [whole.slice(0, 200), whole.slice(200, 40)])
    with pytest.raises(PeerViolation) as error:
        made.run()
    assert error.value.code == "peer.fit"
    assert [frame.kind for i, frame in made.sent if i == 1].count("part") == 2  # counts and refusals


def test_a_step_too_far_is_halved_until_the_fit_that_there_is_is_found() -> None:
    """Newton's steps alone end beyond every row, where no curvature is left, and call it separated."""
    weights = [(-0.008, -0.192, 3000, 30), (1.0, -0.638, 30, 3), (-0.095, 0.111, 0, 300), (-1.0, -1.0, 0, 30)]
    points = [(u, v, y) for u, v, *counts in weights for y, n in enumerate(counts) for _ in range(n)]
    first, second, y = map(np.array, zip(*points, strict=True))
    plan = Logistic("y", tuple(Regressor(n, "", 0, -1000, 1000) for n in "uv"), logistic.MOST_STEPS, 0)
    rows, state = logistic.Rows((first, second), y.astype(float)), logistic.State.start(plan)
    while not state.verdict:
        state = state.after(plan, rows.sums(state.b), ())
    assert (state.verdict, state.rows) == ("fitted", len(points))
    assert np.allclose([b / 2**32 for b in state.b], [-0.796, -21.933, 18.579], atol=1e-3)
    assert max(map(abs, rows.sums(state.b)[:3])) < 2**48 * 1e-3  # the likelihood is level there


@pytest.mark.parametrize(
    ("apart", "noise", "verdict"),
    [(1e-6, (), "collinear"), (1e-6, (Fraction(1), Fraction(1)), "drowned"), (1e-4, (), "")],
)
def test_a_column_that_hardly_varies_within_its_bounds_determines_nothing(
    apart: float, noise: tuple[Fraction, ...], verdict: str
) -> None:
    """The 1/65,000 of docs/reference/sql.md; without it the fit would be one of rounding errors."""
    plan = Logistic("y", (Regressor("u", "", 0, -1000, 1000),), logistic.MOST_STEPS, 0)
    rows = logistic.Rows((0.5 + apart * (np.arange(400) % 2),), (np.arange(400) % 3 > 0).astype(float))
    state = logistic.State.start(plan)
    assert state.after(plan, rows.sums(state.b), noise).verdict == verdict


def test_the_minima_of_the_policies_hold() -> None:
    assert Round(ONE, total=(10**4, 1)).run().suppressed == 1
    assert Round(ONE, total=(1, 4)).run().suppressed == 1  # a bank without rows is none
    assert Round(ONE, total=(1, 3)).run().suppressed == 0
    (found,) = Round(ONE, local=400).answer()  # the smallest bank's own gate keeps it out
    assert found["n"] == irls(TABLES[:2], ["age"])[2]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT logistic_regression(age, [rate]) FROM federation.loans",
        "SELECT logistic_regression(defaulted, [age + 1]) FROM federation.loans",
        "SELECT logistic_regression(age > 4, [rate]) FROM federation.loans",
        "SELECT logistic_regression(defaulted, [fixed]) FROM federation.loans",
        "SELECT logistic_regression(defaulted, [age]), count(*) FROM federation.loans",
        "SELECT secured, logistic_regression(defaulted, [age]) FROM federation.loans GROUP BY secured",
        "SELECT logistic_regression(defaulted, [age]) FILTER (WHERE age > 4) FROM federation.loans",
    ],
)
def test_what_cannot_be_asked(sql: str) -> None:
    with pytest.raises(QueryError) as error:
        prepared(sql)
    assert error.value.code == "query.logistic"


def test_columns_of_a_query_in_from_are_called_as_it_calls_them() -> None:
    sql = "SELECT logistic_regression(bad, [years]) FROM (SELECT defaulted AS bad, age AS years FROM {}) t"
    plan = prepared(sql.format("federation.loans")).plan
    assert [output.name for output in plan.outputs][-2:] == ["years", "years_se"]


def test_a_column_without_bounds_and_a_dataset_alone_are_refused() -> None:
    with pytest.raises(QueryError) as error:
        prepared("SELECT logistic_regression(defaulted, [free]) FROM federation.loans")
    assert error.value.code == "query.bounds-missing"
    sql = "SELECT logistic_regression(defaulted, [age]) FROM bank-0.loans"
    with pytest.raises(QueryError) as error:
        prepare(sql, "asker", {LOANS.full_name: LOANS})
    assert error.value.code == "query.logistic"


def test_a_policy_sees_its_own_word_for_every_column() -> None:
    question = prepared(ALL)
    uses = {use.column: use.aggregated for use in question.uses["federation.loans"]}
    assert uses == {n: {"logistic"} for n in ("defaulted", "age", "rate", "debt", "secured")}
    reveals = {(d.to, d.fact, d.gated) for d in question.plan.reveals}
    assert (Party.SENDER, Fact.STEP_TOTALS, True) in reveals
    assert (Party.RECEIVER, Fact.TOTAL_COUNTS, False) not in reveals


# --- who sees what ------------------------------------------------------------------------------------

TWO = (table(11, 190), table(12, 150))


def blocks(made: Round, kinds: Sequence[str]) -> dict[tuple[int, str, int], bytes]:
    found: dict[tuple[int, str, int], bytes] = {}
    for i, frame in made.sent:
        if frame.kind in kinds:
            at = sum(key[:2] == (i, frame.kind) for key in found)
            found[i, frame.kind, at] = frame.body
    return found


def test_the_askers_view_is_made_of_the_answer_alone() -> None:
    """All it passes on are keys, hashes, signatures and vectors under a key that it does not have.

    Two rounds with one answer, in which whose rows are whose is swapped: frames are of the same kinds and
    sizes. In place of each vector a simulation puts uniform bytes.
    """
    one, other = Round(ONE, TWO), Round(ONE, TWO[::-1])
    assert one.answer() == other.answer()
    shapes = [[(i, frame.kind, len(frame.body)) for i, frame in made.sent] for made in (one, other)]
    assert shapes[0] == shapes[1]
    # a vector under the participants' key: their sum, which the asker can make, is not the totals
    steps = [f.split(body)[0] for (_, _, at), body in blocks(one, ["part"]).items() if at == 0]
    assert abs(f.integers(f.added(steps))[0]) > 10**20


def parts_of(made: Round) -> tuple[list[list[list[int]]], list[list[int]]]:
    """Each participant's sums at each step, and their totals, from the rows themselves."""
    assert made.plan.logistic is not None
    plan, state = made.plan.logistic, logistic.State.start(made.plan.logistic)
    rows = [logistic.Rows.of(plan, rows_of(made, i)) for i in range(len(made.tables))]
    each, totals = [], []
    while not state.verdict:
        each.append([one.sums(state.b) for one in rows])
        totals.append([sum(column) for column in zip(*each[-1], strict=True)])
        state = state.after(plan, totals[-1], ())
    return each, totals


class Colluders:
    """The last participant, with the asker: what it knows of the others' masks and reads with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, made: Round) -> None:
        self.made, self.adding = made, dict[str, Any]()
        whole = logistic_steps._Adding.up

        def up(adding: Any, label: str, own: Any) -> Any:
            self.adding[adding.member.participant] = adding
            return (yield from whole(adding, label, own))

        monkeypatch.setattr(logistic_steps._Adding, "up", up)
        made.run()
        monkeypatch.undo()

    def seen(self, honest: int, at: int) -> bytes:
        """An honest participant's vector, without the colluder's own mask and the key that all share."""
        label, name = f"step {at}", f"bank-{honest}"
        vector = f.split(blocks(self.made, ["part"])[honest, "part", at + 1])[0]
        own = self.adding["bank-2"]
        mine = own.masks
        both = [s for (n, _), s in zip(mine.secrets, mine.pads(label, len(vector)), strict=True) if n == name]
        ((adds, stream),) = both  # what one adds, the other takes off
        pads = [own._pad(label, name, len(vector)), f.negated(stream) if adds else stream]
        return f.added([vector, f.negated(f.added([pads[0], pads[1]]))])


def test_colluders_are_left_with_the_sum_of_the_two_others_at_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both vectors, without all that colluders know, are the pair's sum and one pad: for every pair of
    vectors with this sum there is exactly one pad that gives the bytes that were seen."""
    made = Round(ONE, (*TWO, table(13, 100)))
    found = Colluders(monkeypatch, made)
    each, steps = parts_of(made)
    assert len(steps) > 3
    for at, (totals, own) in enumerate(zip(steps, each, strict=True), 1):
        first, second = found.seen(0, at), found.seen(1, at)
        pair = [total - mine for total, mine in zip(totals, own[2], strict=True)]
        assert f.integers(f.added([first, second])) == pair
        assert all(abs(word) > 2**100 for word in f.integers(first)[:1])
        assert f.integers(first) != own[0]


def test_without_the_pairs_mask_colluders_read_a_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Masks.pads

    def bare(self: Any, label: str, length: int) -> Any:
        for (other, _), (adds, stream) in zip(self.secrets, whole(self, label, length), strict=True):
            pair = {self.own, other} == {"bank-0", "bank-1"} and label.startswith("step")
            yield adds, bytes(length) if pair else stream

    with monkeypatch.context() as patched:
        patched.setattr(Masks, "pads", bare)
        made = Round(ONE, (*TWO, table(13, 100)))
        found = Colluders(monkeypatch, made)
    assert f.integers(found.seen(0, 1)) == parts_of(made)[0][0][0]


# --- what goes wrong ----------------------------------------------------------------------------------


def relayed(made: Round, change: Callable[[int, str, bytes, int], bytes]) -> list[Any]:
    """The asker's roles, of which what they hand to each participant is changed."""

    def role(i: int) -> Any:
        inner, seen = made.receiver(), dict[str, int]()
        item = inner.send(None)
        while True:
            if isinstance(item, Frame):
                at = seen[item.kind] = seen.get(item.kind, -1) + 1
                item = Frame(item.kind, change(i, item.kind, item.body, at))
            frame = yield item
            try:
                item = inner.send(frame)
            except StopIteration as end:
                return end.value

    return [role(i) for i in range(len(made.tables))]


def flipped(body: bytes, place: int) -> bytes:
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


REFUSED = {"peer.round-key", "peer.signature", "peer.malformed", "peer.roster", "peer.fit", "peer.totals"}


@pytest.mark.parametrize("kind", ["roster", "round-keys", "shared-keys", "commitments", "parts"])
@pytest.mark.parametrize("to", [pytest.param(0, marks=pytest.mark.deep), 1])
def test_whatever_an_asker_changes_on_the_way_ends_the_round(kind: str, to: int) -> None:
    made = Round(ONE, TWO)

    def change(i: int, of: str, body: bytes, at: int) -> bytes:
        last = at == (3 if of in ("commitments", "parts") else 0)
        if i != to or of != kind or not last:
            return body
        place = 4 + 32 * to if of == "shared-keys" else len(body) // 2
        return flipped(body, 6 if of == "shared-keys" else place)

    if kind == "shared-keys" and to == 0:
        return  # the first participant has drawn it, and reads nothing of that
    with pytest.raises(PeerViolation) as error:
        made.run(relayed(made, change))
    assert error.value.code in REFUSED
    assert not any(frame.kind == "release" for _, frame in made.sent)


def test_a_participant_shows_no_two_vectors_with_the_askers_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """bank-0 signs another vector for bank-2 alone: what bank-1 signed is over other hashes."""
    made, held = Round(ONE, (*TWO, table(13, 100))), dict[str, Any]()
    whole, other = logistic_steps._Adding.up, bytes(5 * f.WORD_BYTES)

    def up(adding: Any, label: str, own: Any) -> Any:
        key = hashlib.sha256(adding.key).hexdigest()
        held["scheme"] = f"{logistic_steps.SCHEME} step 1 {key}"
        return (yield from whole(adding, label, own))

    def change(i: int, of: str, body: bytes, at: int) -> bytes:
        if i != 2 or at != 2 or of not in ("commitments", "parts"):
            return body
        about = held["scheme"], made.roster.digest, "bank-0"
        if of == "commitments":
            held["seen"] = f._commitment(*about, other) + body[f.COMMITMENT_BYTES :]
            return bytes(held["seen"])
        signed = sign("bank-0")(f._statement(*about, hashlib.sha256(held["seen"]).digest()))
        return f.joined([f.joined([other, signed]), *f.split(body)[1:]])

    monkeypatch.setattr(logistic_steps._Adding, "up", up)
    with pytest.raises(PeerViolation) as error:
        made.run(relayed(made, change))
    assert error.value.code == "peer.signature"


def test_a_step_that_is_shown_once_more_in_place_of_the_next_ends_the_round() -> None:
    made, kept = Round(ONE, TWO), dict[tuple[int, str], bytes]()

    def change(i: int, of: str, body: bytes, at: int) -> bytes:
        if of in ("commitments", "parts") and at == 2:
            kept[i, of] = body
        if i == 1 and of in ("commitments", "parts") and at == 3:
            return kept[i, of]
        return body

    with pytest.raises(PeerViolation) as error:
        made.run(relayed(made, change))
    assert error.value.code == "peer.round-key"  # our own hash is not among them


def test_a_replayed_part_is_refused_even_where_its_hash_is_replayed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """bank-0 hands in its first step's hash, vector and signature again: they are of another label."""
    made, first = Round(ONE, TWO), dict[str, bytes]()
    whole = Round.watched

    def watched(self: Round, i: int, role: Any) -> Any:
        inner, seen = whole(self, i, role), dict[str, int]()
        item = next(inner)
        while True:
            if isinstance(item, Frame) and i == 0 and item.kind in ("commitment", "part"):
                at = seen[item.kind] = seen.get(item.kind, -1) + 1
                if at == 2:
                    first[item.kind] = item.body
                elif at == 3:
                    item = Frame(item.kind, first[item.kind])
            frame = yield item
            try:
                item = inner.send(frame)
            except StopIteration as end:
                return end.value

    monkeypatch.setattr(Round, "watched", watched)
    with pytest.raises(PeerViolation) as error:
        made.run()
    assert error.value.code in ("peer.round-key", "peer.signature")


def test_totals_beyond_what_the_catalogues_declare_end_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logistic_steps._contributed

    def contributed(*args: Any) -> list[int]:
        return [LOANS.rows_bound * logistic.GRADIENT + 1, *whole(*args)[1:]]

    made = Round(ONE, TWO)
    monkeypatch.setattr(logistic_steps, "_contributed", contributed)
    with pytest.raises(PeerViolation) as error:
        made.run()
    assert error.value.code == "peer.totals"


def test_the_asker_passes_no_more_steps_on_than_were_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole = Round(ONE, TWO), logistic.State.after
    assert made.plan.logistic is not None
    made.plan = replace(made.plan, logistic=replace(made.plan.logistic, steps=2))

    def longer(*args: Any) -> logistic.State:
        state = whole(*args)
        return replace(state, verdict="" if state.steps < 4 else "separated")

    monkeypatch.setattr(logistic.State, "after", longer)
    with pytest.raises(PeerViolation) as error:
        made.run()
    assert error.value.code == "peer.fit"
    assert [frame.kind for _, frame in made.given].count("parts") == 2 * 4  # counts, refusals, two steps


def test_participants_that_do_not_come_to_the_same_fit_release_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, whole = Round(ONE, TWO), logistic.Fit.to_bytes

    def one_differs(self: logistic.Fit, regressors: int) -> bytes:
        calls.append(1)
        found = whole(self, regressors)
        return flipped(found, 20) if len(calls) == 1 else found

    calls: list[int] = []
    monkeypatch.setattr(logistic.Fit, "to_bytes", one_differs)
    with pytest.raises(PeerViolation) as error:
        made.run()
    assert error.value.code == "peer.fit"


@pytest.mark.parametrize("step", [1, *(pytest.param(at, marks=pytest.mark.deep) for at in (0, 3))])
def test_a_participant_that_vanishes_in_a_step_leaves_nothing(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, whole = Round(ONE, TWO), Round.watched

    def watched(self: Round, i: int, role: Any) -> Any:
        inner, seen = whole(self, i, role), 0
        item = next(inner)
        while True:
            if i == 1 and isinstance(item, Frame) and item.kind == "part":
                if seen == step:
                    raise PeerViolation("peer.gone", "it went away")
                seen += 1
            frame = yield item
            try:
                item = inner.send(frame)
            except StopIteration as end:
                return end.value

    monkeypatch.setattr(Round, "watched", watched)
    with pytest.raises(PeerViolation, match="went away"):
        made.run()
    assert not any(frame.kind == "release" for _, frame in made.sent)


# --- noise --------------------------------------------------------------------------------------------

NOISY = replace(
    DEMANDS,
    minimum_identities=10,
    rows_per_identity=1,
    cells_per_identity=1,
    noise=NoiseDemand("discrete-gaussian", 5 * 10**8),
)


def test_under_noise_every_step_costs_its_part_and_errors_hold_the_noise() -> None:
    made = Round(ONE, (table(21, 3000), table(22, 3000)), NOISY, total=(10, 2))
    assert made.plan.logistic is not None
    assert (made.plan.logistic.steps, made.plan.logistic.identities) == (logistic.NOISY_STEPS, 0)
    assert made.plan.noise is not None
    assert made.plan.noise.loss == 5 * 10**8
    figures = logistic.NOISY_STEPS * 5 + 1  # 2 sums of g and 3 of H in each step, and identities
    gradient, *_, curvature = (float(Fraction(p.noise)) for p in made.plan.sender.partials)
    assert gradient == figures * logistic.GRADIENT**2 / (2 * 0.5)
    assert curvature == figures * logistic.CURVATURE**2 / (2 * 0.5)
    assert [float(v) for v in logistic_steps._noise(made.plan)] == [2 * gradient] * 2  # both banks', of g
    (found,) = made.answer()
    exact, errors, n = irls(made.tables, ["age"])
    assert (found["fit"], found["steps"]) == ("fitted", logistic.NOISY_STEPS)
    assert abs(found["n"] - n) < 200
    for name, value, error in zip(("intercept", "age"), exact, errors, strict=True):
        assert found[f"{name}_se"] > error
        assert abs(found[name] - value) < 5 * found[f"{name}_se"]


def test_noise_that_is_larger_than_the_sums_is_told() -> None:
    little = replace(NOISY, minimum_identities=1, noise=NoiseDemand("discrete-laplace", 10**5))
    (found,) = Round(ONE, (table(21, 200), table(22, 200)), little).answer()
    assert found["fit"] == "drowned"
    assert found["age"] is None


# --- the same everywhere ------------------------------------------------------------------------------


VECTOR = Path(__file__).parents[2] / "vectors" / "logistic_steps" / "basic.txt"


def test_vector() -> None:
    """The same seeds and rows give the same frames and steps on every machine: a row's terms are basic
    operations of doubles, what follows is whole numbers. Else the protocol's version must change."""
    lines = VECTOR.read_text(encoding="utf-8").splitlines()
    fields = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    named = dict(fields)
    rows = [[pair.split(",") for pair in v.split()] for name, v in fields if name == "participant"]
    tables = [pa.table({"who": range(len(r)), "y": column(r, 1), "x1": column(r, 0)}) for r in rows]
    made = Round(ONE, tables, total=(int(named["minimum"]), 2))
    plan = made.plan = replace(made.plan, logistic=replace(made.plan.logistic, identities=0))
    made.roster = Roster(tuple(replace(e, session=f"{i:064x}") for i, e in enumerate(made.roster.entries)))
    transcript, roles = hashlib.sha256(), []
    for i, table_ in enumerate(tables):
        part = logistic_steps._own(plan, table_, lambda counts: counts >= 1, shake(f"{named['seed']}/{i}"))
        role = logistic_steps.participant(made.member(i), plan, part, shake(f"{named['seed']}/{i}"))
        roles.append(made.watched(i, role))
    (fit, *_), _ = run_round([logistic_steps.coordinator(made.roster, plan) for _ in tables], roles)
    for i in range(len(tables)):
        for at, frame in made.sent:
            if at == i:
                transcript.update(f.joined([bytes([i]), frame.kind.encode(), frame.body]))
    state, steps = logistic.State.start(plan.logistic), []
    while not state.verdict:
        each = [logistic.Rows.of(plan.logistic, table_).sums(state.b) for table_ in tables]
        totals = [sum(sums) for sums in zip(*each, strict=True)]
        state = state.after(plan.logistic, totals, ())
        steps.append("|".join(",".join(map(str, found)) for found in (totals, state.b)))
    assert made.roster.digest.hex() == named["roster"]
    assert steps == [value for name, value in fields if name == "step"]
    assert fit.to_bytes(1).hex() == named["expect"]
    assert transcript.hexdigest() == named["transcript"]
    assert logistic_steps.PROTOCOL.version == 1


def column(rows: Sequence[Sequence[str]], place: int) -> pa.Array:
    return pa.array([int(row[place]) for row in rows], pa.int64())


def test_the_probability_is_that_of_exp_to_the_last_bits() -> None:
    z = np.concatenate([np.linspace(-60, 60, 4001), [0.0, 1e9, -1e9]])
    found = logistic.probability(z)
    exact = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
    assert np.allclose(found, exact, rtol=0, atol=2**-51)
    assert found[4001] == 0.5
