"""The decision against a small evaluator written from docs/reference/policy.md alone, and its properties.

The evaluator below shares nothing with `policy_enforcer` but the facts' types: it works on the YAML data,
answers yes or no, and is one conjunction after another.
"""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import combinations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policy_enforcer.check import errors
from policy_enforcer.decide import decide
from policy_enforcer.describe import matrix
from policy_enforcer.diff import diff
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.facts import ColumnUse, FederationUse, LedgerView, ProtocolUse, Request, TransferList
from policy_enforcer.load import load
from policy_enforcer.model import Policy
from policy_enforcer.odrl import digest, from_odrl, to_odrl
from policy_enforcer.write import to_yaml

SPEED = settings(max_examples=32, deadline=None)

# -- the independent evaluator

LEVELS = ["hidden", "cardinality", "receiver", "rows"]
EVENT_LEVELS = {
    "released-cells": 0,
    "suppressed-cells": 0,
    "padded-size": 0,
    "total-counts": 0,
    "step-totals": 0,
    "group-count": 1,
    "group-sizes": 1,
    "cell-match-counts": 1,
    "own-matches": 2,
    "weight-figures": 2,
    "matched-rows": 3,
}


def permits(p, q, used):
    if q.dataset != p["dataset"] or q.owner != p["dataset"].split(".")[0]:
        return False
    if q.asker == q.owner and set(q.recipients) == {q.owner}:
        return not q.joint or (
            in_time(p, q, used) and witnessed(p, q) and q.kind in p["analysis"]["kinds"] and join_fits(p, q)
        )
    return (
        who_fits(p, q)
        and in_time(p, q, used)
        and has_uses(p, q, used)
        and witnessed(p, q)
        and places_fit(p, q)
        and q.kind in p["analysis"]["kinds"]
        and join_fits(p, q)
        and asker_fits(p, q)
        and gate_fits(p, q)
        and conditions_hold(p.get("conditions", {}), q)
        and all(known_as_allowed(p["analysis"], q, use) for use in q.columns)
        and dominance_fits(p["analysis"], q)
        and differencing_fits(p["analysis"], q)
        and noise_fits(p["analysis"], q, used)
        and federation_fits(p["analysis"], q)
        and all(column_fits(p["analysis"], q, use) for use in q.columns)
        and returns_something(q)
        and (q.kind != "list" or (q.joint and any(use.joined for use in q.columns)))
        and not q.literals_on_total
        and q.query_template in (p["analysis"].get("templates") or [q.query_template])
        and grades_fit(p, q)
        and lists_fit(p.get("transfer", {}), q)
    )


def returns_something(q):
    if q.kind == "list" and any(use.joined for use in q.columns):
        return True
    return any(use.aggregated or use.grouped or use.listed for use in q.columns)


def certified(p, q, who):
    return any(word == who or word in q.standing.get(who, ()) for word in p["assignee"])


def who_fits(p, q):
    everybody = p["assignee"] == "any"
    named = everybody or certified(p, q, q.asker)
    receivers = q.recipients and (everybody or all(r == q.owner or certified(p, q, r) for r in q.recipients))
    return named and receivers and (p["purpose"] == "any" or q.purpose in p["purpose"])


def in_time(p, q, used):
    when = p.get("when", {})
    if not when:
        return True
    if q.at.tzinfo is None:
        return False
    if "from" in when and q.at < datetime.fromisoformat(when["from"] + "T00:00:00+00:00"):
        return False
    if "until" in when:
        last = datetime.fromisoformat(when["until"] + "T00:00:00+00:00")
        if q.at - last >= timedelta(days=1):
            return False
    if "elapsed" in when:
        days = int(when["elapsed"][1:-1])
        return used.agreed is not None and timedelta(0) <= q.at - used.agreed < timedelta(days=days)
    return True


def has_uses(p, q, used):
    limits = p.get("uses", {})
    rows, size = limits.get("rows"), limits.get("bytes")
    if rows is not None and not (q.rows_at_most > 0 and used.rows_used + q.rows_at_most <= rows):
        return False
    if size is not None and not (q.bytes_at_most > 0 and used.bytes_used + q.bytes_at_most <= size):
        return False
    return used.uses < limits.get("count", 10**9) and used.running < limits.get("max_concurrent", 10**9)


def witnessed(p, q):
    return all(q.witnesses >= d.get("minimum_witnesses", 1) for d in p.get("duties", []) if "log" in d)


def places_fit(p, q):
    for word, actual in (("processing", q.processing), ("recipients", q.receiving)):
        allowed = p.get("where", {}).get(word)
        if allowed is not None and not actual:
            return False
        if allowed is not None and not all(belongs(x, allowed) for x in actual):
            return False
    return True


def belongs(place, allowed):
    """Hong Kong, Macao and Taiwan are no part of CN, whatever a member is listed as."""
    return place in allowed or (place[:2] in allowed and place not in ("CN-HK", "CN-MO", "CN-TW"))


def join_fits(p, q):
    join = p["analysis"].get("join")
    joined = [use.column for use in q.columns if use.joined]
    if q.joint and (join is None or not joined):
        return False
    if any(column not in (join or {}).get("columns", []) for column in joined):
        return False
    most = p["analysis"].get("maximum_peer_keys")
    if q.joint and most is not None and not 1 <= q.peer_keys <= most:
        return False
    tolerated = LEVELS.index(join["disclosure"]) if join else 0
    facts = [EVENT_LEVELS.get(str(event.fact)) for event in q.protocol.reveals]
    return q.protocol.level in range(4) and None not in facts and max([q.protocol.level, *facts]) <= tolerated


def asker_fits(p, q):
    join = p["analysis"].get("join", {})
    if join.get("required") == "asker" and not (q.joint and q.asker_data):
        return False
    return set(q.join_operators) <= set(join.get("operators", []))


def gate_fits(p, q):
    a = p["analysis"]
    if "minimum_identities" not in a:
        return True
    shown = [e.gated for e in q.protocol.reveals if str(e.fact) in ("released-cells", "matched-rows")]
    return "minimum-identities" in q.protocol.gates and a["identity"] in q.identity_columns and all(shown)


def shown_through_a_gate(q):
    return all(e.gated for e in q.protocol.reveals if str(e.fact) in ("released-cells", "matched-rows"))


def learners(q):
    """Whoever asks or receives, but the owner."""
    return {q.asker, *q.recipients} - {q.owner}


def conditions_hold(c, q):
    for who in learners(q):
        levels = [
            int(word[21:]) for word in q.standing.get(who, ()) if word.startswith("claim:security-level-")
        ]
        if max(levels, default=0) < c.get("security_level", 0):
            return False
        keys = [who + "@" + key for key in q.connectors.get(who, ())]
        if "connectors" in c and (not keys or any(key not in c["connectors"] for key in keys)):
            return False
    return True


def known_as_allowed(a, q, use):
    """`column_disclosure`: every entry that fits a recipient allows every way in which it learns."""
    entries = a.get("column_disclosure", {}).get(use.column)
    if entries is None:
        return True
    beside = beside_it(q)
    if beside is None:
        return not ways_of(q, use, asks=False)
    for who in learners(q) | beside:
        fitting = [
            ways for name, ways in entries.items() if name in (who, "any") or name in q.standing.get(who, ())
        ]
        needed = ways_of(q, use, asks=who == q.asker)
        if not fitting and needed:
            return False
        for ways in fitting:
            allowed = set([ways] if isinstance(ways, str) else ways)
            if "after-join" in allowed:
                allowed.add("join-hidden")
            if "plaintext" not in allowed and not needed <= allowed:
                return False
    return True


def beside_it(q):
    """Whose connectors sum with the owner's and are told totals; None where that is not known."""
    if q.federation is None or all(e.to != "sender" for e in q.protocol.reveals):
        return set()
    if len(q.federation.others) + 1 != q.federation.participants:
        return None
    return set(q.federation.others) - {q.owner}


def ways_of(q, use, asks):
    needed = set()
    if (
        use.filtered
        or use.compared_with_literal
        or use.compared_with_column
        or use.conditional
        or use.selecting
    ):
        needed.add("after-compare")
    if use.aggregated or use.weighted:
        needed.add("after-aggregate")
    if use.grouped:
        needed.add("after-group-by")
    if use.listed:
        needed.add("as-join-payload")
    if use.joined:
        told = [
            e for e in q.protocol.reveals if e.to == "receiver" and e.fact in ("own-matches", "matched-rows")
        ]
        needed.add("after-join" if q.kind == "list" or (asks and told) else "join-hidden")
    return needed


def dominance_fits(a, q):
    """Over a federation of own cells alone, and of what rows add to."""
    if "dominance" not in a:
        return True
    looked_at = not q.joint and "dominance" in q.protocol.gates and shown_through_a_gate(q)
    if q.federation is None:
        return looked_at
    added = not any(use.aggregated & {"min", "max"} for use in q.columns)
    return looked_at and added and a.get("federation", {}).get("scope") == "local"


def differencing_fits(a, q):
    if "differencing" not in a or "noise" in a:
        return True
    return "differencing" in q.protocol.gates and shown_through_a_gate(q)


def federation_fits(a, q):
    """`federation`: the name asked for, enough participants, a gate that counts them, no word it lacks."""
    if q.federation is None:
        return "federation" not in a  # its own figures have one participant behind them
    own = a.get("federation", {"name": None, "minimum_participants": 2})
    return (
        own["name"] == q.federation.name
        and q.federation.participants >= own["minimum_participants"]
        and companions_fit(own.get("participants"), q)
        and "minimum-participants" in q.protocol.gates
        and shown_through_a_gate(q)
        and not a.get("suppressions", {}).get("complementary", False)
    )


def companions_fit(named, q):
    """`participants`: all others are known, and each is on the list by id, role or claim."""
    if named is None:
        return True
    known = [{who} | set(q.standing.get(who, set())) for who in q.federation.others]
    return len(known) == q.federation.participants - 1 and all(names & set(named) for names in known)


def noise_fits(a, q, used):
    if "noise" not in a:
        return True
    cost, budget = Fraction(a["noise"]["rho_per_query"]), Fraction(a["noise"]["budget"]["rho"])
    dataset = Fraction(a["noise"].get("dataset_budget", {}).get("rho", 10**6))
    own = used.loss + 10**9 * cost <= 10**9 * budget
    paid = used.answered or (own and used.dataset_loss + 10**9 * cost <= 10**9 * dataset)
    gated = "noise" in q.protocol.gates and a["identity"] in q.identity_columns and shown_through_a_gate(q)
    return paid and gated and all(noise_covers(a, q, use) for use in q.columns)


def noise_covers(a, q, use):
    measures = {"sum", "count", "avg", "var", "stddev", "covar", "corr", "regr", "logistic"}
    measures |= set() if q.joint else {"histogram"}
    if use.column == a["identity"] and not q.joint:
        measures.add("count_distinct")
    declared = use.column in a.get("domains", {}) and not use.functions and not q.joint
    return set(use.aggregated) <= measures and (not use.grouped or declared)


def column_fits(a, q, use):
    name, keys = use.column, a.get("join", {}).get("columns", [])
    identity, dimension = name == a.get("identity"), name in a.get("dimensions", [])
    ways = set(a.get("filters", {}).get(name, []))
    if "range" in ways:
        ways |= {"equality"}
    if dimension and (q.kind != "list" or name in a.get("payload", [])):
        ways |= {"equality", "membership", "null"}
    used = use.filtered or use.compared_with_literal or use.compared_with_column or use.joined
    return (
        bool(used or use.grouped or use.listed or use.aggregated or use.selecting)
        and not use.conditional
        and (not use.selecting or a.get("conditional", False))
        and (not use.grouped or (dimension and not identity and name not in keys))
        and (not (use.filtered or use.compared_with_literal) or (bool(ways) and not identity))
        and set(use.filtered) <= ways
        and (not use.compared_with_column or "column" in ways)
        and set(use.aggregated) <= set(a.get("measures", {}).get(name, []))
        and set(use.functions) <= set(a.get("scalar_functions", []))
        and (not use.weighted or (a.get("weighted", False) and bool(use.aggregated)))
        and (not use.listed or (name in a.get("payload", []) and q.kind == "list"))
    )


def grades_fit(p, q):
    most = p.get("transfer", {}).get("grade_at_most")
    names = {use.column for use in q.columns} - {"*"}
    return most is None or all(name in q.grades and q.grades[name] <= most for name in names)


def lists_fit(transfer, q):
    """Each list trusted, of its kind, in force, reaching there; then each column by its category."""
    says = {}
    for word in ("whitelist", "negative_list", "low_risk"):
        if word not in transfer:
            continue
        found = q.lists.get(transfer[word])
        if not isinstance(found, TransferList) or found.kind != word or q.at.tzinfo is None:
            return False
        day = q.at.astimezone(UTC).date().isoformat()
        if not found.start <= day <= (found.until or "9999-12-31"):
            return False
        if not belongs(q.origin, [found.jurisdiction]) or not reaches(found, q):
            return False
        says[word] = found.categories
    if not says:
        return True
    for name in {use.column for use in q.columns} - {"*"}:
        category = q.categories.get(name)
        held_back = {one.upper() for one in says.get("negative_list", ())}
        if category is None or category.upper() in held_back:
            return False
        if "whitelist" in says and category not in says["whitelist"] | says.get("low_risk", set()):
            return False
    return True


def reaches(found, q):
    if not found.recipients:
        return True
    good = [found.jurisdiction, *found.recipients]
    places = [*q.processing, *q.receiving]
    return bool(q.processing) and bool(q.receiving) and all(belongs(x, good) for x in places)


# -- policies and requests

COLUMNS = ["company", "industry", "quarter", "amount", "note"]
FILTERS = ["equality", "range", "membership", "null", "pattern", "column"]
MEASURES = ["sum", "count", "avg", "logistic", "max"]
FUNCTIONS = ["date_trunc", "coalesce"]


def some(words, least=1):
    """Any subset; one draw, since draws are what hypothesis spends its time on."""
    sizes = range(least, len(words) + 1)
    return st.sampled_from([list(chosen) for n in sizes for chosen in combinations(words, n)])


def maybe(strategy):
    return st.one_of(st.none(), strategy)


def per_column(values):
    return st.fixed_dictionaries(dict.fromkeys(COLUMNS[1:], maybe(values)))


def written(**words):
    return {word: value for word, value in words.items() if value is not None}


JOINS = st.builds(
    lambda columns, disclosure, required, operators: written(
        columns=columns, disclosure=disclosure, required=required, operators=operators
    ),
    some(["company", "note"]),
    st.sampled_from(LEVELS),
    st.sampled_from([None, None, None, "asker"]),
    st.sampled_from([None, ["and"], ["and", "or"]]),
)
WHITE, NEGATIVE, LOW = "white@" + "1" * 64, "negative@" + "2" * 64, "low@" + "3" * 64
TRANSFERS = [
    None,
    None,
    {"grade_at_most": 1},
    {"grade_at_most": 2},
    {"whitelist": WHITE},
    {"negative_list": NEGATIVE, "grade_at_most": 1},
    {"whitelist": WHITE, "negative_list": NEGATIVE},
    {"whitelist": WHITE, "negative_list": NEGATIVE, "low_risk": LOW},
]
CONNECTOR = "asker@" + "4" * 64
CONDITIONS = [
    None,
    None,
    None,
    {"security_level": 2},
    {"connectors": [CONNECTOR], "declared": {"application": "one", "event": "two", "state": "three"}},
]
AUDIENCES = [
    {"company": {"any": "join-hidden"}, "amount": {"any": ["after-aggregate", "after-compare"]}},
    {"company": {"asker": "after-join"}, "industry": {"asker": "plaintext", "role:bank": "never"}},
    {
        "amount": {"asker": "after-aggregate"},
        "industry": {"other": "after-group-by", "role:bank": "rank-only"},
    },
    {"industry": {"any": "after-group-by"}, "note": {"any": ["as-join-payload", "join-hidden"]}},
]
GAUSSIAN = {"mechanism": "discrete-gaussian", "rho_per_query": "0.5", "budget": {"rho": "1"}}
ANALYSES = st.builds(
    lambda kinds, measures, filters, **words: written(
        kinds=kinds,
        measures={**written(**measures), "*": ["count"]},
        filters=written(**filters),
        payload=["note", "amount"] if "list" in kinds else None,
        **words,
    ),
    kinds=st.sampled_from([["aggregate"], ["aggregate"], ["aggregate", "list"]]),
    measures=per_column(some(MEASURES)),
    filters=per_column(some(FILTERS)),
    dimensions=some(["industry", "quarter", "note"]),
    scalar_functions=some(FUNCTIONS, least=0),
    join=maybe(JOINS),
    weighted=st.booleans(),
    conditional=st.sampled_from([None, None, True]),
    column_disclosure=st.sampled_from([None, None, None, *AUDIENCES]),
    maximum_peer_keys=st.sampled_from([None, None, 1, 2, 3]),
    identity=st.sampled_from([None, "company", "quarter"]),
    minimum_identities=st.sampled_from([None, 1, 20]),
    domains=st.sampled_from([None, {"industry": ["a"]}, {"industry": ["a"], "quarter": [1], "note": ["x"]}]),
    noise=st.sampled_from([None, None, GAUSSIAN, {**GAUSSIAN, "dataset_budget": {"rho": "2"}}]),
    dominance=st.sampled_from([None, None, {"share_at_most": "0.5"}]),
    templates=st.sampled_from([None, None, ["t@" + "1" * 64, "u@" + "1" * 64]]),
    differencing=st.sampled_from([None, None, {"minimum_difference": 5, "window": "P9D"}]),
    suppressions=st.sampled_from([None, None, {"count": "hidden"}, {"complementary": True}]),
    federation=st.sampled_from(
        [
            None,
            {"name": "loans", "scope": "local", "minimum_participants": 3},
            {"name": "loans", "scope": "total", "minimum_participants": 2},
            {"name": "leases", "scope": "total", "minimum_participants": 2},
            {"name": "loans", "scope": "local", "minimum_participants": 2, "participants": ["other"]},
            {"name": "loans", "scope": "local", "minimum_participants": 2, "participants": ["role:bank"]},
        ]
    ),
)


def consistent(analysis):
    """Without what would contradict itself, so that most drawn policies load."""
    keys = {*analysis.get("join", {}).get("columns", []), analysis.get("identity")}
    analysis["dimensions"] = [c for c in analysis["dimensions"] if c not in keys]
    analysis["measures"] = {c: m for c, m in analysis["measures"].items() if c not in keys}
    if "payload" in analysis:
        analysis["payload"] = [c for c in analysis["payload"] if c not in keys]
    analysis["filters"] = {c: f for c, f in analysis["filters"].items() if c != analysis.get("identity")}
    if "identity" not in analysis:
        analysis.pop("minimum_identities", None)
        analysis.pop("noise", None)
        analysis.pop("dominance", None)
        analysis.pop("differencing", None)
    if "list" in analysis["kinds"]:
        analysis.pop("differencing", None)
    if "differencing" in analysis:
        analysis.pop("conditional", None)
    if "noise" in analysis:
        analysis.pop("dominance", None)
        if "complementary" in analysis.get("suppressions", {}):
            analysis.pop("suppressions")
        analysis.update(kinds=["aggregate"], weighted=False)
        analysis.update(max_rows_per_identity=3, max_cells_per_identity=2)
        analysis.pop("payload", None)
    if lists_what_it_hides(analysis):
        analysis.pop("column_disclosure")
    analysis["domains"] = {
        c: v for c, v in analysis.get("domains", {}).items() if c in analysis["dimensions"]
    }
    if "list" in analysis["kinds"]:
        analysis["join"] = {"columns": ["company"], **analysis.get("join", {}), "disclosure": "rows"}
    return analysis


def lists_what_it_hides(analysis):
    """Groups of one by the asker's key, where it must not learn which of its keys match."""
    audiences = analysis.get("column_disclosure", {}).values()
    shown = "noise" not in analysis and analysis.get("minimum_identities", 1) == 1
    return shown and any("join-hidden" in entries.values() for entries in audiences)


@st.composite
def policies(draw):
    """YAML data of policies that load."""
    analysis = consistent(draw(ANALYSES))
    policy = written(
        policy="p",
        dataset="owner.data",
        assignee=draw(st.sampled_from([["asker"], ["asker", "other"], ["other", "role:bank"], "any"])),
        purpose=draw(st.sampled_from([["why"], ["else", "why"], "any"])),
        analysis=analysis,
        uses=draw(
            st.sampled_from(
                [
                    {"count": 1},
                    {"count": 3},
                    {"count": 3, "rows": 5},
                    {"count": 3, "bytes": 5},
                    {"count": 2, "max_concurrent": 1},
                ]
            )
        ),
        where=draw(st.sampled_from([None, {"processing": ["CN", "HK"]}, {"recipients": ["HK"]}])),
        when=draw(
            st.sampled_from([None, {"from": "2026-05-01"}, {"until": "2026-06-15"}, {"elapsed": "P40D"}])
        ),
        transfer=draw(st.sampled_from(TRANSFERS)),
        conditions=draw(st.sampled_from(CONDITIONS)),
        masking={"amount": "step-10"} if draw(st.booleans()) else None,
        duties=draw(
            st.sampled_from([None, [{"log": "witness"}], [{"log": "witness", "minimum_witnesses": 2}]])
        ),
    )
    assume(not errors(Policy.model_validate(policy)))
    return policy


def subsets(words):
    return [frozenset(chosen) for n in (1, 2) for chosen in combinations(words, n)]


def column_uses():
    """What a query may do with one column: every single thing, with and without functions and weights."""
    for name in COLUMNS[1:]:
        for functions in (frozenset(), frozenset({"coalesce"}), frozenset({"coalesce", "date_trunc"})):
            for flag in ("grouped", "joined", "listed", "conditional", "selecting", "compared_with_literal"):
                yield ColumnUse(name, functions=functions, **{flag: True})
            yield ColumnUse(name, functions=functions, compared_with_column=True)
            for kinds in subsets(FILTERS[:5]):
                yield ColumnUse(name, functions=functions, filtered=kinds)
            for measures in subsets(MEASURES):
                for weighted in (False, True):
                    yield ColumnUse(name, functions=functions, aggregated=measures, weighted=weighted)


USES = list(column_uses())
RELEASE = Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True)
PROTOCOLS = [
    ProtocolUse("p", 1, level, reveals, frozenset(gates))
    for level in (Level.HIDDEN, Level.HIDDEN, Level.CARDINALITY, *Level)
    for reveals in (
        (),
        (RELEASE,),
        (RELEASE,),
        (replace(RELEASE, gated=False),),
        *((RELEASE, Disclosure(to, fact)) for to in Party for fact in Fact),
    )
    for gates in (
        {"minimum-identities", "noise", "dominance"},
        {"minimum-identities", "differencing"},
        {"minimum-identities", "minimum-participants"},
        {"minimum-identities", "minimum-participants", "dominance"},
        {"minimum-identities"},
        {"noise"},
        set(),
    )
]


@st.composite
def requests(draw):
    """A plausible request, with up to two facts replaced by odd ones."""
    joint = draw(st.booleans())
    columns = (
        *([ColumnUse("company", joined=True)] if joint else []),
        *draw(st.sampled_from([(), (ColumnUse("*", aggregated=frozenset({"count"})),)])),
        *(draw(st.sampled_from(USES)) for _ in range(draw(st.integers(0, 2)))),
    )
    request = Request(
        dataset="owner.data",
        owner="owner",
        asker="asker",
        recipients=frozenset({"asker"}),
        purpose="why",
        at=datetime(2026, 6, 1, tzinfo=UTC),
        kind="aggregate",
        columns=columns,
        protocol=draw(st.sampled_from(PROTOCOLS)),
        joint=joint,
        asker_data=joint,
        identity_columns=("company", "quarter"),
        peer_keys=1,
        witnesses=2,
        processing=frozenset({"CN-SZ", "HK"}),
        receiving=frozenset({"HK"}),
        grades=dict.fromkeys(COLUMNS, 1),
        categories=CATEGORIES,
        origin="CN-SZ",
        lists=LISTED,
        rows_at_most=1,
        bytes_at_most=1,
    )
    for name, value in (draw(st.sampled_from(ODDITIES)) for _ in range(draw(st.integers(0, 2)))):
        request = replace(request, **{name: value})
    return request


def listed(kind, *categories, **other):
    return TransferList(kind, "issuer", "CN", "2026-05-01", frozenset(categories), **other)


CATEGORIES = {"company": "a", "industry": "a", "quarter": "b", "amount": "c", "note": "d"}
LISTED = {
    WHITE: listed("whitelist", "a", "b", recipients=frozenset({"HK"})),
    NEGATIVE: listed("negative_list", "d", until="2026-06-15"),
    LOW: listed("low_risk", "c", "d"),
}
ODDITIES = [
    ("origin", "HK"),
    ("origin", "CN"),
    ("origin", ""),
    ("categories", {}),
    ("categories", {**CATEGORIES, "amount": "d", "industry": "c"}),
    ("categories", {**CATEGORIES, "amount": "D", "industry": "A"}),
    ("lists", {}),
    ("lists", {**LISTED, WHITE: "list.signature"}),
    ("lists", {**LISTED, WHITE: listed("whitelist", "a", "b", "c", "d")}),
    ("lists", {**LISTED, WHITE: LISTED[NEGATIVE]}),
    ("lists", {**LISTED, LOW: listed("low_risk", "c", until="2026-05-31")}),
    ("dataset", "owner.other"),
    ("owner", "other"),
    ("asker", "other"),
    ("asker", "owner"),
    ("recipients", frozenset({"owner"})),
    ("recipients", frozenset({"owner", "asker"})),
    ("recipients", frozenset({"other"})),
    ("recipients", frozenset()),
    ("purpose", None),
    ("purpose", "else"),
    ("at", datetime(2026, 4, 30, 23, 59, 59, tzinfo=UTC)),
    ("at", datetime(2026, 6, 15, 23, 59, 59, tzinfo=UTC)),
    ("at", datetime(2026, 6, 16, tzinfo=UTC)),
    ("at", datetime(2026, 7, 1, tzinfo=UTC)),
    ("at", datetime(2026, 6, 1)),
    ("kind", "list"),
    ("kind", "unheard-of"),
    ("joint", True),
    ("joint", False),
    ("asker_data", False),
    ("join_operators", frozenset({"and"})),
    ("join_operators", frozenset({"or", "unheard-of"})),
    ("identity_columns", ()),
    ("identity_columns", ("quarter",)),
    ("peer_keys", 0),
    ("peer_keys", 2),
    ("peer_keys", 4),
    ("witnesses", 0),
    ("witnesses", 1),
    ("processing", frozenset()),
    ("processing", frozenset({"US"})),
    ("processing", frozenset({"CN-SZ", "CN-HK"})),
    ("origin", "CN-MO"),
    ("receiving", frozenset({"CN-SZ"})),
    ("grades", {}),
    ("grades", dict.fromkeys(COLUMNS, 2)),
    ("literals_on_total", True),
    ("standing", {"asker": frozenset({"role:bank"})}),
    ("standing", {"asker": frozenset({"claim:security-level-1", "claim:security-level-2"})}),
    ("standing", {"asker": frozenset({"claim:security-level-1", "role:bank"})}),
    ("connectors", {"asker": frozenset({"4" * 64})}),
    ("connectors", {"asker": frozenset({"4" * 64, "5" * 64})}),
    ("connectors", {"other": frozenset({"4" * 64})}),
    ("standing", {"other": frozenset({"role:bank", "claim:iso"})}),
    ("rows_at_most", 0),
    ("rows_at_most", 2),
    ("rows_at_most", 5),
    ("bytes_at_most", 0),
    ("bytes_at_most", 2),
    ("bytes_at_most", 5),
    ("query_template", "t@" + "1" * 64),
    ("query_template", "t@" + "2" * 64),
    ("federation", FederationUse("loans", 2)),
    ("federation", FederationUse("loans", 3)),
    ("federation", FederationUse("loans", 4)),
    ("federation", FederationUse("loans", 2, frozenset({"other"}))),
    ("federation", FederationUse("loans", 2, frozenset({"stranger"}))),
    ("federation", FederationUse("loans", 3, frozenset({"other", "stranger"}))),
]
LEDGERS = st.sampled_from(
    [
        LedgerView(uses, running, agreed, *losses, rows_used=uses, bytes_used=uses, answered=running == 1)
        for uses in (0, 1, 3)
        for running in (0, 1)
        for losses in ((0, 0), (500_000_000, 0), (500_000_001, 0), (0, 1_500_000_001))
        for agreed in (None, datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 6, 2, tzinfo=UTC))
    ]
)


def allowed(data, request, ledger):
    return decide(Policy.model_validate(data), request, ledger).permitted


# -- properties


@settings(max_examples=240, deadline=None)
@given(policies(), requests(), LEDGERS)
def test_the_decision_is_the_evaluators(policy, request, ledger):
    assert allowed(policy, request, ledger) == bool(permits(policy, request, ledger))


def shorter(words):
    return words if words == "any" or len(words) < 2 else words[1:]


def drop_one(mapping):
    return dict(list(mapping.items())[1:])


TIGHTEN = {
    "assignee": lambda p: p.update(assignee=["asker"] if p["assignee"] == "any" else shorter(p["assignee"])),
    "purpose": lambda p: p.update(purpose=["why"] if p["purpose"] == "any" else shorter(p["purpose"])),
    "kinds": lambda p: p["analysis"].update(kinds=shorter(p["analysis"]["kinds"])),
    "dimensions": lambda p: p["analysis"].update(dimensions=p["analysis"]["dimensions"][1:]),
    "filters": lambda p: p["analysis"].update(filters=drop_one(p["analysis"]["filters"])),
    "filter": lambda p: p["analysis"].update(
        filters={c: shorter(kinds) for c, kinds in p["analysis"]["filters"].items()}
    ),
    "measures": lambda p: p["analysis"].update(measures=drop_one(p["analysis"]["measures"])),
    "measure": lambda p: p["analysis"].update(
        measures={c: shorter(m) for c, m in p["analysis"]["measures"].items()}
    ),
    "functions": lambda p: p["analysis"].update(scalar_functions=p["analysis"]["scalar_functions"][1:]),
    "payload": lambda p: p["analysis"].update(payload=p["analysis"].get("payload", [])[1:]),
    # one that requires the asker's data refuses what stands alone: taking it away permits that
    "no join": lambda p: "required" in p["analysis"].get("join", {}) or p["analysis"].pop("join", None),
    "join column": lambda p: (
        p["analysis"].get("join", {}).update(columns=["company"])
        if p["analysis"].get("join", {}).get("columns", ["x"]) != ["note"]
        else None
    ),
    "level": lambda p: p["analysis"].get("join", {}).update(disclosure="hidden"),
    "required": lambda p: p["analysis"].get("join", {}).update(required="asker"),
    "operators": lambda p: p["analysis"].get("join", {}).pop("operators", None),
    "weights": lambda p: p["analysis"].update(weighted=False),
    "keys": lambda p: p["analysis"].update(maximum_peer_keys=1),
    "identity": lambda p: p["analysis"].setdefault("identity", "company"),
    "minimum": lambda p: (
        p["analysis"].setdefault("identity", "company") and p["analysis"].update(minimum_identities=20)
    ),
    "uses": lambda p: p["uses"].update(count=1),
    "concurrent": lambda p: p["uses"].update(max_concurrent=1),
    "from": lambda p: p.setdefault("when", {}).update({"from": "2026-06-01"}),
    "until": lambda p: p.setdefault("when", {}).update(until="2026-06-01"),
    "elapsed": lambda p: p.setdefault("when", {}).update(elapsed="P5D"),
    "processing": lambda p: p.setdefault("where", {}).update(processing=["HK"]),
    "recipients": lambda p: p.setdefault("where", {}).update(recipients=["HK"]),
    "grade": lambda p: p.setdefault("transfer", {}).update(grade_at_most=0),
    "witnesses": lambda p: p.update(duties=[{"log": "witness", "minimum_witnesses": 3}]),
    "noise": lambda p: (
        p["analysis"].setdefault("identity", "company")
        and p["analysis"].update(noise=GAUSSIAN, max_rows_per_identity=2, max_cells_per_identity=1)
    ),
    "noise alone": lambda p: p["analysis"].update(noise=GAUSSIAN),
    "dearer noise": lambda p: (
        p["analysis"].update(noise={**GAUSSIAN, "rho_per_query": "1"}) if "noise" in p["analysis"] else None
    ),
    "budget of the dataset": lambda p: (
        p["analysis"].update(noise={**p["analysis"]["noise"], "dataset_budget": {"rho": "1"}})
        if "noise" in p["analysis"]
        else None
    ),
    "domains": lambda p: p["analysis"].pop("domains", None),
    "dominance": lambda p: (
        p["analysis"].setdefault("identity", "company")
        and p["analysis"].update(dominance={"share_at_most": "0.6"})
    ),
    "differencing": lambda p: (
        p["analysis"].setdefault("identity", "company")
        and p["analysis"].update(differencing={"minimum_difference": 2})
    ),
    "suppressions": lambda p: p["analysis"].update(suppressions={"complementary": True}),
    "no federation": lambda p: p["analysis"].pop("federation", None),
    "another federation": lambda p: p["analysis"].get("federation", {}).update(name="elsewhere"),
    "more participants": lambda p: p["analysis"].get("federation", {}).update(minimum_participants=4),
    "beside one alone": lambda p: p["analysis"].get("federation", {}).update(participants=["role:bank"]),
    "companions": lambda p: p["analysis"].get("federation", {}).update(participants=["other", "third"]),
    "rows": lambda p: p["analysis"].update(max_rows_per_identity=1),
    "masking": lambda p: p.update(masking={"note": "redact"}),
    "rows answered": lambda p: p.setdefault("uses", {}).update(rows=2),
    "bytes answered": lambda p: p.setdefault("uses", {}).update(bytes=2),
    "templates": lambda p: p["analysis"].update(templates=["t@" + "1" * 64]),
    "consent": lambda p: p.setdefault("transfer", {}).update(consent="set-1"),
    "white list": lambda p: p.setdefault("transfer", {}).setdefault("whitelist", WHITE),
    "negative list": lambda p: p.setdefault("transfer", {}).update(negative_list=NEGATIVE),
    "no exemption": lambda p: p.get("transfer", {}).pop("low_risk", None),
    "security level": lambda p: p.setdefault("conditions", {}).update(security_level=9),
    "connectors": lambda p: p.setdefault("conditions", {}).update(connectors=["other@" + "5" * 64]),
    "no conditional": lambda p: p["analysis"].pop("conditional", None),
    "an audience": lambda p: (
        p["analysis"].setdefault("column_disclosure", {}).setdefault("quarter", {"any": "after-group-by"})
    ),
    "never": lambda p: p["analysis"].setdefault("column_disclosure", {}).update(amount={"any": "never"}),
    "forbidden to a role": lambda p: [
        entries.update({"role:bank": "never"})
        for entries in p["analysis"].get("column_disclosure", {}).values()
    ],
    "role": lambda p: p.update(assignee=["role:nobody"]),
    "notify": lambda p: p.update(duties=[*p.get("duties", []), {"notify": "owner"}]),
}


@settings(max_examples=40, deadline=None)
@given(policies(), st.lists(requests(), min_size=6, max_size=6), LEDGERS)
def test_adding_a_constraint_never_permits_more(policy, requests, ledger):
    before = Policy.model_validate(policy)
    refused = [request for request in requests if not decide(before, request, ledger).permitted]
    for step, tighten in TIGHTEN.items():
        tighter = deepcopy(policy)
        tighten(tighter)
        after = Policy.model_validate(tighter) if tighter != policy else before
        # the one exception: without `federation` the dataset may be asked about alone
        judged = [r for r in refused if step != "no federation" or r.federation is not None]
        assert not any(decide(after, request, ledger).permitted for request in judged), step


UNKNOWN_USES = [
    ColumnUse("elsewhere", grouped=True),
    ColumnUse("elsewhere", aggregated=frozenset({"sum"})),
    ColumnUse("elsewhere", filtered=frozenset({"equality"})),
    ColumnUse("elsewhere", joined=True),
    ColumnUse("elsewhere", listed=True),
    ColumnUse("elsewhere", compared_with_literal=True),
    ColumnUse("elsewhere", compared_with_column=True),
    ColumnUse("elsewhere"),
    ColumnUse("industry", filtered=frozenset({"unheard-of"})),
    ColumnUse("industry", aggregated=frozenset({"unheard-of"})),
    ColumnUse("industry", grouped=True, functions=frozenset({"unheard-of"})),
    ColumnUse("industry", grouped=True, conditional=True),
]


def unknown(request):
    yield replace(request, kind="unheard-of")
    yield replace(request, federation=FederationUse("unheard-of", 9))
    yield replace(request, join_operators=frozenset({"unheard-of"}))
    yield replace(request, protocol=replace(request.protocol, level=9))
    event = Disclosure(Party.RECEIVER, "unheard-of", gated=True)
    yield replace(request, protocol=replace(request.protocol, reveals=(event,)))
    for use in UNKNOWN_USES:
        yield replace(request, columns=(*request.columns, use))


@SPEED
@given(policies(), requests(), LEDGERS)
def test_what_is_unknown_never_permits(policy, request, ledger):
    assume(request.asker != request.owner)
    for odd in unknown(request):
        assert not allowed(policy, odd, ledger)


@SPEED
@given(policies(), policies(), requests(), LEDGERS)
def test_the_meet_permits_only_what_both_do(one, two, request, ledger):
    first, second = (decide(Policy.model_validate(p), request, ledger) for p in (one, two))
    both = bool(permits(one, request, ledger) and permits(two, request, ledger))
    assert first.meet(second).permitted == both


@SPEED
@given(policies(), policies(), st.lists(requests(), min_size=4, max_size=4), LEDGERS)
def test_diff_names_whatever_becomes_allowed(old, new, requests, ledger):
    found = diff(Policy.model_validate(old), Policy.model_validate(new))
    for request in requests:
        if allowed(new, request, ledger) and not allowed(old, request, ledger):
            assert found.allowed or found.other


@SPEED
@given(policies(), LEDGERS)
def test_the_matrix_says_what_the_decision_says(policy, ledger):
    parsed = Policy.model_validate(policy)
    grades = {"company": 0, "industry": 1, "quarter": 2, "amount": 3, "note": None}
    base = {"kind": "list" if "payload" in policy["analysis"] else "aggregate"}
    for row in matrix(parsed, grades, CATEGORIES, LISTED):
        for name in ("joined", "grouped", "listed"):
            asked = {"kind": "aggregate"} if name == "joined" else base
            assert getattr(row, name) == column_allowed(parsed, row, grades, asked, **{name: True})
        for words, name in ((FILTERS[:5], "filtered"), (MEASURES, "aggregated")):
            shown = row.filtered if name == "filtered" else row.measured
            for word in words:
                use = {name: frozenset({word})}
                # of filters the matrix shows those of aggregates; a list may filter by fewer
                asked = {"kind": "aggregate"} if name == "filtered" else base
                assert (word in shown) == column_allowed(parsed, row, grades, asked, **use)


def column_allowed(policy, row, grades, base, **use):
    """What `decide` says of one of the row's parties about the column itself, other rules aside."""
    party, column = row.parties[-1], row.column
    who = "somebody" if party == "any" or ":" in party else party
    known = {name: grade for name, grade in grades.items() if grade is not None}
    request = Request(
        dataset="owner.data",
        owner="owner",
        asker=who,
        recipients=frozenset({who}),
        standing={"somebody": frozenset({party})},
        purpose="why",
        at=datetime(2026, 6, 1, tzinfo=UTC),
        columns=(ColumnUse(column, **use),),
        protocol=ProtocolUse("p", 1, Level.HIDDEN, (), frozenset()),
        joint=False,
        asker_data=False,
        grades=known,
        categories=CATEGORIES,
        origin="CN-SZ",
        lists=LISTED,
        processing=frozenset({"CN-SZ", "HK"}),
        receiving=frozenset({"HK"}),
        **base,
    )
    return not any(reason.column == column for reason in ledgerless(policy, request))


def ledgerless(policy, request):
    return [r for r in decide(policy, request, LedgerView()).because if not r.code.startswith("gate.")]


@SPEED
@given(policies())
def test_all_forms_are_the_same_policy(data):
    policy = Policy.model_validate(data)
    assert from_odrl(to_odrl(policy)) == policy
    assert load(to_yaml(policy)) == policy


@SPEED
@given(policies(), policies())
def test_digests_differ_when_policies_do(one, two):
    one, two = Policy.model_validate(one), Policy.model_validate(two)
    assert (digest(one) == digest(two)) == (one == two)
