"""The answer in an envelope: sealed before the receipt is signed, opened by the key that follows it.

The owner encrypts every release frame under a fresh key; the asker signs a receipt that names the sealed
bytes and the commitment to what is inside; only then does the owner hand over key and salt. So there is no
answer without a receipt, and no receipt for another answer than the one received. Refuses a key that does
not open to the committed bytes.
"""

from __future__ import annotations

import hashlib
from collections import deque

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from compute.errors import PeerViolation
from compute.federation import Roster
from compute.protocols._aggregate import WEIGHT_FIGURES
from compute.protocols._release import RELEASE_BYTES
from compute.protocols.base import Frame
from witness import bundle
from witness.encoding import Entropy
from witness.record import commit

KEY_BYTES = SALT_BYTES = 32
MOST_SEALED = RELEASE_BYTES + (1 << 20)
"""What a protocol may release, with room for the tags of its frames."""


class _Envelope:
    """What both ends note: the sealed bytes' digest, and what the receiver commits to and attests."""

    def __init__(self, sid: bytes) -> None:
        self._sid = sid
        self._sealed = hashlib.sha256(b"bayspace sealed release v1\0")
        self._named: dict[str, str] = {}  # digests of what the receiver sent, by their names in the record
        self.largest_weight: int | None = None  # the receiver's word, where the plan has weights

    def observe(self, frame: Frame | None) -> None:
        """Note the commitment to its mask totals, what it attests of its weights, a round's roster."""
        if frame is not None and frame.kind == "selection-commitment":
            self._named["masks"] = frame.body.hex()
        if frame is not None and frame.kind == "roster":
            self._named["roster"] = Roster.parse(frame.body).digest.hex()
        if frame is not None and frame.kind == WEIGHT_FIGURES:
            self.largest_weight = int.from_bytes(frame.body, "big")

    def digests(self, transcript: bytes) -> dict[str, str]:
        """The unsalted digests the release record states."""
        return {"sealed": self._sealed.hexdigest(), "transcript": transcript.hex(), **self._named}


class Sealer(_Envelope):
    """The owner's end."""

    def __init__(self, entropy: Entropy, sid: bytes, *, keeping: bool = False) -> None:
        super().__init__(sid)
        self._keeping = keeping
        self._key, self._salt = entropy(KEY_BYTES), entropy(SALT_BYTES)
        self._plain = hashlib.sha256()
        self._count = 0
        self.bodies: list[bytes] = []  # what is inside, where the same is to leave once more some day

    def seal(self, frame: Frame) -> Frame:
        """The same frame, encrypted. The key is fresh and the nonce counts: no pair occurs twice."""
        nonce, self._count = self._count.to_bytes(12, "big"), self._count + 1
        if self._keeping:
            self.bodies.append(frame.body)
        body = ChaCha20Poly1305(self._key).encrypt(nonce, frame.body, self._sid)
        self._sealed.update(len(body).to_bytes(8, "big") + body)
        self._plain.update(len(frame.body).to_bytes(8, "big") + frame.body)
        return Frame("sealed", body)

    @property
    def commitment(self) -> str:
        """The salted commitment to what is inside."""
        return commit("release", self._salt, self._plain.digest())

    @property
    def opening(self) -> bytes:
        """Key and salt: the body of the "key" frame."""
        return self._key + self._salt

    @property
    def evidence(self) -> bundle.Opening:
        """What opens the commitment in the release record: the digest of the frames inside."""
        return bundle.Opening("release", self._salt, self._plain.digest())


class Opener(_Envelope):
    """The asker's end: collects sealed frames, later opens them."""

    def __init__(self, sid: bytes) -> None:
        super().__init__(sid)
        self._bodies: deque[bytes] = deque()
        self._room = MOST_SEALED
        self.answer = b""  # salt and content, where we committed to masks: with them an auditor recomputes

    def collect(self, frame: Frame) -> None:
        """Keep one sealed frame. Raises `PeerViolation` when the answer outgrows every honest one."""
        self._room -= len(frame.body)
        if self._room < 0:
            raise PeerViolation("peer.release", "the sealed answer is larger than any honest one")
        self._sealed.update(len(frame.body).to_bytes(8, "big") + frame.body)
        self._bodies.append(frame.body)

    def open(self, opening: bytes, committed: str) -> deque[Frame]:
        """The release frames. Raises `PeerViolation` when key or content are not what was committed to."""
        key, salt = opening[:KEY_BYTES], opening[KEY_BYTES:]
        plain, frames = hashlib.sha256(), deque[Frame]()
        try:
            for number, body in enumerate(self._bodies):
                inside = ChaCha20Poly1305(key).decrypt(number.to_bytes(12, "big"), body, self._sid)
                plain.update(len(inside).to_bytes(8, "big") + inside)
                frames.append(Frame("release", inside))
        except InvalidTag:
            raise PeerViolation("peer.release-key", "the key does not open the sealed answer") from None
        if commit("release", salt, plain.digest()) != committed:
            raise PeerViolation("peer.release", "the answer is not the one the receipt was signed for")
        if "masks" in self._named:
            framed = (len(frame.body).to_bytes(8, "big") + frame.body for frame in frames)
            self.answer = salt + b"".join(framed)
        return frames
