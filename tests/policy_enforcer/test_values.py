# ruff: noqa: E501 - one word of the language a line
"""The limits of single values: the last that a policy may say and the first that it may not."""

from copy import deepcopy
from dataclasses import MISSING, fields

import pytest
from pydantic import TypeAdapter, ValidationError

from policy_enforcer import model
from policy_enforcer.facts import ColumnUse, Decision, FederationUse, LedgerView, Request, TransferList
from policy_enforcer.load import load
from policy_enforcer.model import Policy, json_schema
from policy_enforcer.problems import PolicyError
from policy_enforcer.transfer_lists import within
from policy_enforcer.write import to_yaml

WHOLE = {
    "policy": "p",
    "dataset": "owner.data",
    "assignee": ["asker"],
    "purpose": ["why"],
    "where": {"processing": ["HK"]},
    "when": {"from": "2026-01-01"},
    "uses": {"count": 5},
    "transfer": {"grade_at_most": 2},
    "analysis": {
        "kinds": ["aggregate"],
        "join": {"columns": ["k"], "disclosure": "hidden"},
        "dimensions": ["d"],
        "domains": {"d": ["a"]},
        "filters": {"v": "range"},
        "measures": {"v": "sum"},
        "bounds": {"v": [0, 1]},
        "federation": {"name": "loans", "scope": "total", "minimum_participants": 3},
        "differencing": {"minimum_difference": 10},
    },
    "masking": {"v": "redact"},
    "duties": [{"log": "witness"}],
}
LONG = "a" * 64
VALUES = [
    ("policy", ["p", LONG, "a.b-c_d"], ["", "a b", "-a", ".a", LONG + "a", "名", "a\n"]),
    ("dataset", ["a.b", f"{LONG}.{LONG}"], ["a", ".b", "a.", "a.b.c", "a b.c", "a.b\n"]),
    ("assignee", [["a"], "any"], [[], ["a b"], ["a", "a"], [""], "a", ["other:a"], [":a"]]),
    ("purpose", [["a"], "any"], [[], ["a b"], ["a", "a"], [""], "a"]),
    ("where.processing", [["CN"], ["CN-SZ", "HK"], ["US-1"]], [[], ["cn"], ["CHN"], ["CN-"], ["CN-LONG"], ["CN", "CN"], "CN"]),
    ("where.recipients", [["CN"]], [[], ["cn"], "CN"]),
    ("when.from", ["2026-01-01", "2026-01-01T00:00:00Z"], ["", "2026", "2026-01-01T00:00:00", 20260101]),
    ("when.until", ["2026-01-01"], ["tomorrow"]),
    ("when.elapsed", ["P1D", "PT1M"], ["", "P", "P0D", "1D", "-P1D"]),
    ("uses.count", [1, 2**63 - 1], [0, -1, 2**63, "5", 1.0, True]),
    ("uses.rows", [1, 2**63 - 1], [0, True, "5"]),
    ("uses.bytes", [1, 2**63 - 1], [0, True, "5"]),
    ("uses.max_concurrent", [1], [0, True]),
    ("uses.per", ["hour", "day", "week", "month", "year", "agreement"], ["", "minute"]),
    ("transfer.grade_at_most", [0, 100], [-1, 101, True, "1", 1.0]),
    ("transfer.basis", ["a", "a" * 500], ["", "a" * 501, 1]),
    ("analysis.kinds", [["list"], ["list", "aggregate"]], [[], ["lists"], ["list", "list"], "list"]),
    ("analysis.join.columns", [["a", "b"]], [[], ["a", "a"], [" a"], [""], "a"]),
    ("analysis.join.operators", [[], ["and"], ["or", "and"]], [["xor"], ["and", "and"]]),
    ("analysis.join.required", ["asker"], ["owner", True]),
    ("analysis.dimensions", [[], ["列", "a b"]], [["a", "a"], ["a "], ["a\x7f"], ["a" * 129]]),
    ("analysis.domains.d", [["a"], [True, 1], [0, "0", False], list(range(10_000))], [[], [1, 1], ["a", "a"], [1.5], [None], list(range(10_001))]),
    ("analysis.filters.v", ["range", ["range", "null"]], [[], "ranges", ["range", "range"]]),
    ("analysis.measures.v", ["sum", ["sum", "avg"]], [[], "total", ["sum", "sum"]]),
    ("analysis.payload", [[], ["a"]], [["a", "a"]]),
    ("analysis.scalar_functions", [[], ["abs"]], [["abs", "abs"], ["random"]]),
    ("analysis.identity", ["k"], ["", " k", ["k"]]),
    ("analysis.minimum_identities", [1], [0, True, "1"]),
    ("analysis.maximum_peer_keys", [1], [0, True]),
    ("analysis.max_rows_per_identity", [1], [0]),
    ("analysis.max_cells_per_identity", [1], [0]),
    ("analysis.weighted", [True, False], [1, "true", "yes"]),
    ("analysis.suppressions", [{"complementary": True}], [{"complementary": 1}, {"count": "secret"}]),
    ("analysis.bounds.v", [[0, 1], ["-0.5", "1" + "0" * 37], ["0", "0." + "1" * 18]], [
        [0], [0, 1, 2], [True, 1], [0.5, 1], ["1e3", 1], ["01", 1], ["+1", 1], ["", 1], [".5", 1], ["1.", 1],
        [None, 1], [[0], 1], ["1" + "0" * 38, 1], ["0." + "1" * 19, 1], ["٣", 1],
    ]),
    ("analysis.federation.name", ["loans", "_a", LONG], ["Loans", "", "-a", LONG + "a"]),
    ("analysis.federation.minimum_participants", [2, 64], [1, 65, True, "3"]),
    ("analysis.federation.participants", [["a"], ["role:b", "a"]], [[], ["a", "a"], "any", ["a b"], ["other:a"]]),
    ("analysis.differencing.minimum_difference", [1], [0, True]),
    ("masking.v", ["redact", "hash", "keep-last-4", "keep-first-99", "step-10", "step-0.5", "month"], [
        "", "keep-last-0", "keep-last-100", "step-0", "step-05", "day", "xredact", "redactx", "step-1.10",
    ]),
    ("duties", [[], [{"log": "witness", "minimum_witnesses": 16}], [{"payment": "a", "declared": True}]], [
        [{"log": "witness", "minimum_witnesses": 0}], [{"log": "witness", "minimum_witnesses": 17}],
        [{"log": "witness", "minimum_witnesses": True}], [{"log": "file"}], [{"notify": "owner", "declared": 1}],
        [{"notify": "asker"}], [{"payment": ""}], [{"log": "witness"}, {"log": "witness", "minimum_witnesses": 1}],
        [{"log": "witness", "notify": "owner"}], [{"delete": "result", "after": "never"}], [{}], ["log"],
    ]),
]  # fmt: skip


def changed(path, value):
    data = deepcopy(WHOLE)
    *groups, last = path.split(".")
    group = data
    for word in groups:
        group = group.setdefault(word, {})
    group[last] = value
    return data


def valid(data):
    try:
        Policy.model_validate(data)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, good, _ in VALUES for value in good])
def test_what_may_be_said(path, value):
    assert valid(changed(path, value))


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, _, bad in VALUES for value in bad])
def test_what_may_not(path, value):
    assert not valid(changed(path, value))


GROUPS = [
    "",
    "where",
    "when",
    "uses",
    "transfer",
    "analysis",
    "analysis.join",
    "analysis.federation",
    "analysis.differencing",
]


@pytest.mark.parametrize("group", GROUPS)
def test_no_group_takes_another_word(group):
    assert not valid(changed(f"{group}.surprise".lstrip("."), 1))


@pytest.mark.parametrize("word", ["policy", "dataset", "assignee", "purpose", "analysis"])
def test_what_must_be_written(word):
    assert not valid({name: value for name, value in WHOLE.items() if name != word})


def test_a_policy_does_not_change_after_reading():
    with pytest.raises(ValidationError):
        Policy.model_validate(WHOLE).policy = "q"


def test_numbers_are_kept_in_their_shortest_form():
    bounds = Policy.model_validate(changed("analysis.bounds.v", ["-0", "1.50"])).analysis.bounds["v"]
    assert [str(number) for number in bounds] == ["0", "1.5"]


def test_what_is_a_set_has_one_order():
    one, two = (changed("assignee", names) for names in (["b", "a"], ["a", "b"]))
    assert Policy.model_validate(one) == Policy.model_validate(two)


def test_duties_have_one_order():
    days = [{"delete": "result", "after": after, "declared": True} for after in ("P1D", "P2D")]
    duties = [*days, {"log": "witness"}, {"notify": "owner", "declared": True}]
    orders = [duties, duties[::-1], [duties[1], duties[3], duties[0], duties[2]]]
    found = [Policy.model_validate({**WHOLE, "duties": order}).duties for order in orders]
    assert found[0] == found[1] == found[2]
    assert [duty.word for duty in found[0]] == ["log", "notify", "delete", "delete"]


def test_a_policy_made_of_parsed_duties_is_the_same():
    policy = Policy.model_validate(WHOLE)
    assert Policy.model_validate({**WHOLE, "duties": policy.duties}) == policy


def test_the_schema_is_of_the_yaml_form():
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert "from" in schema["$defs"]["When"]["properties"]


def test_what_facts_do_not_say_is_nothing():
    for kind in (ColumnUse, FederationUse, TransferList, Request, LedgerView, Decision):
        for field in fields(kind):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            assert default is MISSING or not default, (kind.__name__, field.name)


@pytest.mark.parametrize("code", ["CN-HK", "CN-MO", "CN-TW"])
def test_what_goes_by_its_own_code_is_no_part_of_a_country(code):
    assert within("CN-SZ", {"CN"})
    assert not within(code, {"CN"})
    with pytest.raises(PolicyError, match=f"Write {code[3:]}"):
        load(to_yaml(Policy.model_validate({**WHOLE, "where": {"processing": [code]}})))


def test_lists_of_the_law_name_such_places_by_their_own_code():
    places = TypeAdapter(model.Jurisdiction)
    assert [places.validate_python(code) for code in ("CN", "CN-SZ", "HK")] == ["CN", "CN-SZ", "HK"]
    with pytest.raises(ValidationError, match="write HK"):
        places.validate_python("CN-HK")
