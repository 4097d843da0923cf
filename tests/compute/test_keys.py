"""Canonical keys: fixed bytes, injective, equal exactly where the declared normalisation says so."""

from __future__ import annotations

import struct
import unicodedata
from datetime import date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.errors import ConfigError
from compute.keys import canonical_keys, check_key
from compute.types import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP


def keys(values, kind=STRING, normalisers=()):
    return canonical_keys([pa.array(values, kind.arrow)], [normalisers], [kind]).to_pylist()


def texts(values, *normalisers):
    """The text inside each key, None where there is no key."""
    return [None if key is None else key[5:].decode() for key in keys(values, STRING, normalisers)]


def test_bytes_are_fixed_for_ever():
    assert keys(["a", "公司", "", None]) == [
        b"\x02\x00\x00\x00\x01a",
        b"\x02\x00\x00\x00\x06" + "公司".encode(),
        b"\x02\x00\x00\x00\x00",
        None,
    ]
    assert keys([1, -1, 2**63 - 1, -(2**63), None], INT64) == [
        b"\x01\x00\x00\x00\x08" + n.to_bytes(8, "big", signed=True) for n in (1, -1, 2**63 - 1, -(2**63))
    ] + [None]
    days = [date(1969, 12, 31), date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31)]
    assert keys(days, DATE) == [
        b"\x03\x00\x00\x00\x08" + struct.pack(">q", (d - date(1970, 1, 1)).days) for d in days
    ]
    moment = datetime(1969, 12, 31, 23, 59, 59, 999999)
    assert keys([moment], TIMESTAMP) == [b"\x04\x00\x00\x00\x08" + struct.pack(">q", -1)]


def test_no_type_equals_another():
    assert len({*keys([1], INT64), *keys(["1"]), *keys([date(1970, 1, 2)], DATE)}) == 3


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4), st.integers(-2, 2)), max_size=20))
def test_composite_keys_are_injective(rows):
    columns = [pa.array([row[i] for row in rows], t.arrow) for i, t in enumerate((STRING, STRING, INT64))]
    found = canonical_keys(columns, [(), (), ()], [STRING, STRING, INT64]).to_pylist()
    assert len(set(found)) == len(set(rows))


def test_a_null_part_is_no_key():
    columns = [pa.array(["a", None, "c"]), pa.array([1, 2, None], pa.int64())]
    assert [k is None for k in canonical_keys(columns, [(), ()], [STRING, INT64]).to_pylist()] == [
        False,
        True,
        True,
    ]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=10))
def test_nfkc_and_casefold_equal_python(values):
    assert texts(values, "nfkc") == [v if v is None else unicodedata.normalize("NFKC", v) for v in values]
    assert texts(values, "casefold") == [v if v is None else v.casefold() for v in values]


def test_trim_takes_every_space():
    assert texts([" a ", "\u3000公司\u3000", "\ta\n", "a b", "  "], "trim") == ["a", "公司", "a", "a b", ""]


def test_full_width_text_meets_its_ascii_form():
    assert texts(["ＡＢＣ１２３", "Straße", "ﬁ"], "nfkc", "casefold") == ["abc123", "strasse", "fi"]


def test_digits():
    assert texts(["440-30", "４４0 ３0", "无", "", None], "digits") == ["44030", "44030", None, None, None]


def test_e164_guesses_no_country():
    values = [
        "+86 138-0013-8000",
        "0086 13800138000",
        "＋８６１３８００１３８０００",
        "13800138000",
        "+12",
        "+",
        None,
    ]
    assert texts(values, "e164") == ["+8613800138000"] * 3 + [None] * 4


def test_dates_in_text_equal_dates():
    written = ["2024-03-01", "2024/3/1", "20240301", "2024年3月1日", " 2024.03.01 ", "２０２４-０３-０１"]
    assert set(keys(written, STRING, ("date",))) == set(keys([date(2024, 3, 1)], DATE))
    bad = [
        "2024-02-30",
        "2024-13-01",
        "24-01-01",
        "2024-1",
        "2024年3-1",
        "x",
        "",
        "2023-02-29",
        None,
        "00000101",
    ]
    assert keys(bad, STRING, ("date",)) == [None] * len(bad)
    old = keys(["1899-12-31", "0001-01-01"], STRING, ("date",))
    assert old == keys([date(1899, 12, 31), date(1, 1, 1)], DATE)


@settings(max_examples=24, deadline=None)
@given(st.integers(-719162, 2932896))
def test_every_date_survives(days):
    d = date(1970, 1, 1) + timedelta(days=days)
    assert keys([d.isoformat()], STRING, ("date",)) == keys([d], DATE)


@pytest.mark.parametrize(
    ("normalisers", "kind"),
    [
        (("t2s",), STRING),
        (("unknown",), STRING),
        (("trim",), INT64),
        ((), FLOAT64),
        ((), BOOL),
        (("date", "trim"), STRING),
    ],
)
def test_impossible_keys_are_refused_when_loaded(normalisers, kind):
    with pytest.raises(ConfigError):
        check_key(normalisers, kind)


def test_empty_columns():
    for kind in (STRING, INT64, DATE):
        assert keys([], kind) == []
    assert texts([], "trim", "nfkc", "casefold", "digits") == []
    assert keys([], STRING, ("date",)) == []


def test_slices_and_dictionaries():
    values = pa.array(["x", "a", "b", None]).dictionary_encode()[1:]
    assert canonical_keys([values], [()], [STRING]).to_pylist() == keys(["a", "b", None])
