"""Session ids bind every part; the transcript notices every change to the order of frames."""

from __future__ import annotations

import pytest

from compute.errors import PeerViolation
from compute.protocols.base import Frame
from compute.session import Header, Transcript, session_id
from policy_enforcer.disclosure import Party

PARTS = {
    "version": "1",
    "roles": (Party.RECEIVER, Party.SENDER),
    "participants": ("hk-bank", "sz-trade"),
    "agreement": "a1",
    "query_digest": b"q" * 32,
    "plan_digest": b"p" * 32,
    "nonces": (b"r" * 32, b"s" * 32),
}
FRAMES = [Frame("keys", b"one"), Frame("keys", b"two"), Frame("tags", b"")]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("version", "2"),
        ("roles", (Party.SENDER, Party.RECEIVER)),
        ("participants", ("sz-trade", "hk-bank")),
        ("participants", ("hk-banks", "z-trade")),
        ("agreement", "a2"),
        ("query_digest", b"p" * 32),
        ("plan_digest", b"q" * 32),
        ("nonces", (b"s" * 32, b"r" * 32)),
    ],
)
def test_session_id_changes_with_every_part(part, value):
    changed = session_id(**{**PARTS, part: value})
    assert changed != session_id(**PARTS)
    assert len(changed) == 32


@pytest.mark.parametrize("nonces", [(b"r" * 32, b"r" * 32), (b"r" * 31, b"s" * 32), (b"", b"")])
def test_reflected_or_short_nonce_is_refused(nonces):
    with pytest.raises(PeerViolation, match=r"peer\.nonce"):
        session_id(**{**PARTS, "nonces": nonces})


@pytest.fixture
def ends():
    return Transcript(b"x" * 32, Party.RECEIVER), Transcript(b"x" * 32, Party.SENDER)


def test_both_sides_agree_when_directions_interleave_differently(ends):
    r, s = ends
    headers_r = [r.sending(f) for f in FRAMES]
    headers_s = [s.sending(Frame("back", b"1"))]
    s.receiving(headers_r[0], FRAMES[0])
    headers_s.append(s.sending(Frame("back", b"2")))
    for header, frame in zip(headers_r[1:], FRAMES[1:], strict=True):
        s.receiving(header, frame)
    for header, body in zip(headers_s, [b"1", b"2"], strict=True):
        r.receiving(header, Frame("back", body))
    assert r.digest() == s.digest()
    assert [h.sequence for h in headers_r] == [0, 1, 2]


def test_unequal_transcripts_have_unequal_digests(ends):
    r, s = ends
    s.receiving(r.sending(FRAMES[0]), FRAMES[0])
    before = s.digest()
    assert r.digest() == before
    r.sending(FRAMES[1])
    assert r.digest() != before


def _refused(transcript, header, frame):
    with pytest.raises(PeerViolation, match=r"peer\.transcript"):
        transcript.receiving(header, frame)


def test_reordered_dropped_and_duplicated_frames_are_refused(ends):
    r, s = ends
    first, second = (r.sending(f) for f in FRAMES[:2])
    _refused(s, second, FRAMES[1])
    s.receiving(first, FRAMES[0])
    _refused(s, first, FRAMES[0])
    s.receiving(second, FRAMES[1])


def test_reflected_frame_is_refused(ends):
    r, _ = ends
    _refused(r, r.sending(FRAMES[0]), FRAMES[0])


@pytest.mark.parametrize("frame", [Frame("keys", b"onf"), Frame("key", b"sone"), Frame("tags", b"one")])
def test_altered_frame_is_refused(ends, frame):
    r, s = ends
    _refused(s, r.sending(FRAMES[0]), frame)


def test_wrong_number_or_other_session_is_refused(ends):
    r, s = ends
    header = r.sending(FRAMES[0])
    _refused(s, Header(1, header.digest), FRAMES[0])
    _refused(Transcript(b"y" * 32, Party.SENDER), header, FRAMES[0])
