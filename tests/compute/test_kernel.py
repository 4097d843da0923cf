"""The curve kernel against the RFCs, an executable specification in big integers, and OpenSSL.

Every test that touches the curve runs once per implementation that this CPU supports; they must
agree to the byte.
"""

import functools
import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import _native, kernel

P = 2**255 - 19
A = 486662
VECTORS = Path(__file__).parents[1] / "vectors" / "kernel"


# --- the specification: RFC 7748 section 5, RFC 9380 sections 5 and 6.7.1 ---


def spec_ladder(k: int, u: int) -> int:
    x1, x2, z2, x3, z3, swap = u, 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return x2 * pow(z2, P - 2, P) % P


def spec_mask(point: bytes, scalar: bytes) -> bytes | None:
    """None where the kernel must refuse."""
    u = int.from_bytes(point, "little")
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    result = spec_ladder(k, u) if u < P else 0
    return result.to_bytes(32, "little") if result else None


def spec_expand(key: bytes, tag: bytes, length: int) -> bytes:
    tag_prime = tag + bytes([len(tag)])
    b0 = hashlib.sha512(bytes(128) + key + length.to_bytes(2, "big") + b"\0" + tag_prime).digest()
    return hashlib.sha512(b0 + b"\1" + tag_prime).digest()[:length]


def spec_hash(key: bytes, tag: bytes) -> bytes:
    u = int.from_bytes(spec_expand(key, tag, 48), "big") % P
    x1 = -A * pow(1 + 2 * u * u, -1, P) % P
    is_square = pow(x1**3 + A * x1**2 + x1, (P - 1) // 2, P) == 1
    return (x1 if is_square else (-x1 - A) % P).to_bytes(32, "little")


def openssl_mask(point: bytes, scalar: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))


# --- helpers ---


@pytest.fixture(params=_native.implementations(), autouse=True)
def implementation(request, monkeypatch):
    monkeypatch.setenv("BAYSPACE_KERNEL", request.param)
    return request.param


def points_of(items):
    return pa.array(items, pa.binary(32))


def random_points(n):
    return kernel.hash_to_group(pa.array([os.urandom(16) for _ in range(n)], pa.binary()), b"test")


def read_vector(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split(": ", 1) if ": " in line else (line.rstrip(":"), "") for line in lines)


# Edges of the field and of every limb, where carries go wrong.
EDGES = sorted(
    {value % P for k in range(256) for value in (2**k - 1, 2**k, 2**k + 1, -(2**k), P - 2**k + 1)}
    | {(P - 1) // 2, (P + 1) // 2, A, P - A, 2**255 - 20, sum(2 ** (51 * i + 50) for i in range(5))}
)


@functools.cache
def edges_of_large_order():
    return [value for value in EDGES if spec_ladder(8, value)]


# --- vectors ---


@pytest.mark.parametrize("path", sorted(VECTORS.glob("rfc9380-*.txt")), ids=lambda path: path.stem)
def test_hash_to_group_gives_the_rfc_9380_points_before_the_cofactor(path):
    v = read_vector(path)
    key, tag = v["key"].encode(), v["tag"].encode()
    u = int.from_bytes(spec_expand(key, tag, 48), "big") % P
    [q] = kernel.hash_to_group(pa.array([key], pa.binary()), tag).to_pylist()
    assert f"{u:064x}" == v["u"]
    assert q[::-1].hex() == v["expect"]
    assert f"{spec_ladder(8, int.from_bytes(q, 'little')):064x}" == v["p"]


MASK_VECTORS = [p for p in sorted(VECTORS.glob("*.txt")) if read_vector(p)["run"] == "mask"]


@pytest.mark.parametrize("path", MASK_VECTORS, ids=lambda path: path.stem)
@pytest.mark.parametrize("company", [0, 1, 18])
def test_mask_gives_the_rfc_7748_results_or_refuses(path, company):
    v = read_vector(path)
    scalar = bytes.fromhex(v["scalar"])
    items = random_points(company).to_pylist()
    items.insert(company // 2, bytes.fromhex(v["point"]))
    if v["expect"] == "invalid-point":
        with pytest.raises(kernel.InvalidPoint) as refusal:
            kernel.mask(points_of(items), scalar)
        assert v["point"][:8] not in str(refusal.value)
    else:
        assert kernel.mask(points_of(items), scalar).to_pylist()[company // 2].hex() == v["expect"]


def test_mask_iterated_a_thousand_times():
    v = read_vector(VECTORS / "rfc7748-iterated.txt")
    k = u = (9).to_bytes(32, "little")
    for i in range(int(v["rounds"])):
        k, u = kernel.mask(points_of([u]), k)[0].as_py(), k
        # The RFC feeds k back as a point; ours may not have bit 255 set, and outputs never do.
        assert i or k.hex() == v["once"]
    assert k.hex() == v["expect"]


# --- differential ---


@settings(max_examples=24, deadline=None)
@given(
    st.lists(st.sampled_from(EDGES) | st.integers(0, P - 1), min_size=1, max_size=40),
    st.binary(min_size=32, max_size=32),
)
def test_mask_agrees_with_the_specification(values, scalar):
    points = [value.to_bytes(32, "little") for value in values]
    expected = [spec_mask(point, scalar) for point in points]
    if None in expected:
        with pytest.raises(kernel.InvalidPoint):
            kernel.mask(points_of(points), scalar)
    else:
        assert kernel.mask(points_of(points), scalar).to_pylist() == expected


@pytest.mark.parametrize("scalar", [bytes(32), b"\xff" * 32, os.urandom(32)], ids=["low", "high", "random"])
def test_mask_agrees_with_openssl_on_edges_and_random_points(scalar):
    points = [value.to_bytes(32, "little") for value in edges_of_large_order()] + random_points(
        1500
    ).to_pylist()
    expected = [openssl_mask(point, scalar) for point in points]
    assert kernel.mask(points_of(points), scalar).to_pylist() == expected


@settings(max_examples=24, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=40), st.binary(min_size=1, max_size=255), st.booleans())
def test_hash_to_group_agrees_with_the_specification(keys, tag, large):
    column = pa.array(keys, pa.large_binary() if large else pa.binary())
    assert kernel.hash_to_group(column, tag).to_pylist() == [spec_hash(key, tag) for key in keys]


def test_hash_to_group_over_several_chunks():
    keys = [i.to_bytes(4, "big") for i in range(2100)]
    points = kernel.hash_to_group(pa.array(keys, pa.binary()), b"chunks").to_pylist()
    assert points == [spec_hash(key, b"chunks") for key in keys]


@pytest.mark.parametrize("tag_length", [1, 45, 46, 47, 255])
def test_hash_to_group_where_a_key_fills_another_block(tag_length):
    tag = b"t" * tag_length
    for length in {0, 16, *(end - tag_length - 4 + more for end in (112, 128, 240) for more in (-1, 0, 1))}:
        keys = [bytes([i]) * max(length, 0) for i in range(9)]
        points = kernel.hash_to_group(pa.array(keys, pa.binary()), tag).to_pylist()
        assert points == [spec_hash(key, tag) for key in keys]


def test_masks_commute_and_land_in_the_prime_order_group():
    points, a, b = random_points(33), os.urandom(32), os.urandom(32)
    ab = kernel.mask(kernel.mask(points, a), b)
    assert ab == kernel.mask(kernel.mask(points, b), a)
    # Never on the twist, whose points would be told apart by anybody, masked or not.
    order = 2**252 + 27742317777372353535851937790883648493
    assert all(spec_ladder(order, int.from_bytes(p, "little")) == 0 for p in ab.to_pylist())


# --- tags, matches, orders ---


def test_tags_are_truncated_sha256():
    points, sid = random_points(50), os.urandom(32)
    for width in (1, 12, 17, 32):
        tags = kernel.truncated_tags(points, sid, width)
        assert tags.type == pa.binary(width)
        assert tags.to_pylist() == [hashlib.sha256(sid + p).digest()[:width] for p in points.to_pylist()]


@pytest.mark.parametrize(
    ("receiver", "sender", "width"),
    [
        (1, 1, 12),
        (2**20, 2**20, 12),
        (2**28, 2**28, 12),
        (2**28 + 1, 2**28, 13),
        (2**32, 2**32, 13),
        (2**33, 2**32, 14),
    ],
)
def test_tag_width(receiver, sender, width):
    assert kernel.tag_width(receiver, sender) == width


def spec_match(left, right):
    where = {element: position for position, element in enumerate(right)}
    pairs = [(i, where[element]) for i, element in enumerate(left) if element in where]
    return [i for i, _ in pairs], [j for _, j in pairs]


MEMORY = [0, 100, kernel.MATCH_MEMORY]  # a pass for each element, some passes, one


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 12), st.sampled_from(MEMORY))
def test_match_agrees_with_a_dictionary(data, width, memory):
    # Few distinct bytes, so that elements share their first eight bytes and many are equal.
    element = st.lists(st.sampled_from([0, 1, 255]), min_size=width, max_size=width).map(bytes)
    column = st.lists(element, unique=True, max_size=60)
    left, right = data.draw(column), data.draw(column)
    columns = pa.array(left, pa.binary(width)), pa.array(right, pa.binary(width))
    result = kernel.match(*columns, memory=memory)
    assert tuple(positions.to_pylist() for positions in result) == spec_match(left, right)


@pytest.mark.parametrize("memory", [1000, kernel.MATCH_MEMORY])
def test_match_of_many(memory):
    left = [os.urandom(12) for _ in range(5000)]
    right = left[1000:3000] + [os.urandom(12) for _ in range(4000)]
    lefts, rights = kernel.match(pa.array(left, pa.binary(12)), pa.array(right, pa.binary(12)), memory=memory)
    assert (lefts.to_pylist(), rights.to_pylist()) == (list(range(1000, 3000)), list(range(2000)))


@given(
    st.lists(st.sampled_from([bytes([i]) * 9 + bytes([j]) for i in range(3) for j in range(5)]), max_size=12),
    st.sampled_from(MEMORY),
)
def test_duplicates_are_found(elements, memory):
    column = pa.array(elements, pa.binary(10))
    repeated = len(set(elements)) < len(elements)
    assert kernel.has_duplicates(column, memory=memory) is repeated
    for pair in ((column, column.slice(0, 0)), (column.slice(0, 0), column)):
        if repeated:
            with pytest.raises(ValueError, match="twice"):
                kernel.match(*pair, memory=memory)
        else:
            assert kernel.match(*pair, memory=memory)[0].to_pylist() == []


def test_permute():
    points = random_points(5)
    order = pa.array([4, 0, 3, 1, 2], pa.int64())
    assert kernel.permute(points, order).to_pylist() == [points[i].as_py() for i in order.to_pylist()]
    with pytest.raises(pa.ArrowIndexError):
        kernel.permute(points, pa.array([5], pa.int64()))


# --- columns ---


def test_slices_are_honoured():
    points, scalar, sid = random_points(40), os.urandom(32), os.urandom(32)
    part = points.slice(7, 20)
    assert kernel.mask(part, scalar) == kernel.mask(points, scalar).slice(7, 20)
    assert kernel.truncated_tags(part, sid, 12) == kernel.truncated_tags(points, sid, 12).slice(7, 20)
    assert kernel.match(part, points)[1].to_pylist() == list(range(7, 27))
    for kind in (pa.binary(), pa.large_binary()):
        keys = pa.array([b"k" * i for i in range(30)], kind)
        assert kernel.hash_to_group(keys.slice(3, 9), b"t") == kernel.hash_to_group(keys, b"t").slice(3, 9)


def test_empty_columns_stay_empty():
    empty = points_of([])
    assert len(kernel.mask(empty, bytes(32))) == 0
    assert len(kernel.truncated_tags(empty, b"", 12)) == 0
    assert not kernel.has_duplicates(empty)
    assert [len(positions) for positions in kernel.match(empty, empty)] == [0, 0]
    for kind in (pa.binary(), pa.large_binary()):
        assert len(kernel.hash_to_group(pa.array([], kind), b"t")) == 0
        bare = pa.Array.from_buffers(kind, 0, [None, pa.py_buffer(b""), pa.py_buffer(b"")])
        assert len(kernel.hash_to_group(bare, b"t")) == 0


NULLED = pa.array([bytes(32), None], pa.binary(32))


@pytest.mark.parametrize(
    "call",
    [
        lambda: kernel.mask(NULLED, bytes(32)),
        lambda: kernel.truncated_tags(NULLED, b"", 12),
        lambda: kernel.match(NULLED, NULLED),
        lambda: kernel.has_duplicates(NULLED),
        lambda: kernel.permute(NULLED, pa.array([0])),
        lambda: kernel.permute(points_of([bytes(32)]), pa.array([None], pa.int64())),
        lambda: kernel.hash_to_group(pa.array([b"a", None], pa.binary()), b"t"),
    ],
)
def test_nulls_are_refused(call):
    with pytest.raises(ValueError, match="nulls"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: kernel.mask(pa.array([bytes(31)], pa.binary(31)), bytes(32)),
        lambda: kernel.mask(pa.array([bytes(32)], pa.binary()), bytes(32)),
        lambda: kernel.mask(points_of([bytes(32)]), bytes(31)),
        lambda: kernel.truncated_tags(points_of([bytes(32)]), b"", 0),
        lambda: kernel.truncated_tags(points_of([bytes(32)]), b"", 33),
        lambda: kernel.hash_to_group(pa.array(["text"]), b"t"),
        lambda: kernel.hash_to_group(pa.array([b"a"]), b""),
        lambda: kernel.hash_to_group(pa.array([b"a"]), bytes(256)),
        lambda: kernel.match(points_of([bytes(32)]), pa.array([bytes(12)], pa.binary(12))),
        lambda: kernel.match(pa.array([1]), pa.array([1])),
        lambda: kernel.has_duplicates(pa.array([b"a"], pa.binary())),
        lambda: kernel.tag_width(0, 1),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize("offsets", [[], [0, 9], [0, 3, 1], [-1, 1], [0, 2**31 - 1]])
@pytest.mark.parametrize("width", [4, 8])
def test_forged_offsets_are_refused(implementation, offsets, width):
    # pyarrow itself looks at the first and the last one only.
    packed = b"".join(offset.to_bytes(width, "little", signed=True) for offset in offsets)
    with pytest.raises(ValueError, match="offsets"):
        _native.hash_to_group(implementation, memoryview(packed), width, memoryview(b"keys"), b"t")


# --- choice of implementation ---


def test_the_named_implementation_is_used(implementation):
    assert kernel.implementation() == implementation


def test_without_a_name_the_fastest_is_used(monkeypatch):
    monkeypatch.delenv("BAYSPACE_KERNEL")
    assert kernel.implementation() == _native.implementations()[0]


@pytest.mark.parametrize("name", ["", "IFMA", "sse9"])
def test_an_unknown_implementation_is_refused(monkeypatch, name):
    monkeypatch.setenv("BAYSPACE_KERNEL", name)
    for call in (kernel.implementation, lambda: kernel.mask(points_of([]), bytes(32))):
        with pytest.raises(ValueError, match="BAYSPACE_KERNEL"):
            call()
