"""Canonical JSON: what is written is RFC 8785, and a reader takes no other bytes."""

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from witness import canonical
from witness.canonical import CanonicalError

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ascii_names = st.text(st.characters(max_codepoint=127), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ascii_names, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_same_bytes_as_the_reference_implementation(value):
    assert canonical.serialise(value) == rfc8785.dumps(value)


@given(values)
def test_parse_reads_back(value):
    assert canonical.parse(canonical.serialise(value)) == value


def test_escapes_of_rfc_8785_section_3_2_2_2():
    assert (
        canonical.serialise('\u20ac$\u000f\nA\'B"\\\\"/\u007f')
        == b'"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/\x7f"'
    )


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        2**53 + 1,
        -(2**53) - 1,
        {1: 2},
        {"é": 1},
        b"x",
        ("a",),
        "\ud800",
        {"a": [{"b": 0.5}]},
    ],
)
def test_refuses_what_is_outside_the_subset(value):
    with pytest.raises(CanonicalError):
        canonical.serialise(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        b'"\\u0041"',
        b'"\\/"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"1 ",
        b"1\n",
        b"",
        b"[1,]",
        b'"\\ud800"',
        b"[" * 20 + b"]" * 20,
        b"[" * 200_000,
        b"9" * 5000,
        b"9007199254740993",
    ],
)
def test_parse_refuses_any_other_form(data):
    with pytest.raises(CanonicalError):
        canonical.parse(data)


@given(values, st.integers(0), st.integers(1, 255))
def test_a_flipped_byte_never_parses_to_the_same_value(value, position, mask):
    data = bytearray(canonical.serialise(value))
    data[position % len(data)] ^= mask
    try:
        other = canonical.parse(bytes(data))
    except CanonicalError:
        return
    assert canonical.serialise(other) == bytes(data) != canonical.serialise(value)


def test_nesting_has_a_limit_when_writing_too():
    deep = []
    for _ in range(30):
        deep = [deep]
    with pytest.raises(CanonicalError):
        canonical.serialise(deep)


@pytest.mark.parametrize("inside", ["", "1", "{}", '"\u00e9"'])
@pytest.mark.parametrize("depth", range(14, 19))
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[0,{"a":', "}]")])
def test_what_is_written_is_read_and_nothing_deeper(inside, depth, opening, closing):
    depth //= len(closing)
    inside = inside or ("1" if opening.endswith(":") else "")
    data = (opening * depth + inside + closing * depth).encode()
    try:
        written = canonical.serialise(json.loads(data))
    except CanonicalError:
        with pytest.raises(CanonicalError, match="deep"):
            canonical.parse(data)
    else:
        assert written == data
        assert canonical.serialise(canonical.parse(data)) == data


def test_files_for_people_may_be_spaced():
    assert canonical.parse_strict(b'{ "b": 1,\n "a": [true] }') == {"a": [True], "b": 1}
    with pytest.raises(CanonicalError):
        canonical.parse_strict(b'{"a":1, "a":2}')
    with pytest.raises(CanonicalError):
        canonical.parse_strict(b'{"a": "\\ud800"}')
