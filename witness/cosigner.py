"""C2SP tlog-witness (c2sp.org/tlog-witness), the witness's side: cosigns what other logs append.

    POST /add-checkpoint                 old <size>, consistency proof, empty line, checkpoint
    GET  /<SHA-256 of origin>/checkpoint the newest checkpoint cosigned

Answers 200 with its cosignatures only for a checkpoint that a configured log signed and that extends the
one cosigned before; else 400, 403, 404, 409 or 422, exactly as the specification says, and 503 while what
this witness remembers may be an old copy. What the log signed and cannot both be true is kept, and reported.
Refuses to cosign logs of its own operator.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from witness import checkpoint as checkpoints
from witness import cosignature, merkle, note
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.database import Database, Fork
from witness.encoding import EncodingError, b64, unb64
from witness.keys import PrivateKeys
from witness.merkle import ProofInvalid
from witness.note import Note, NoteInvalid, NoteSignature, VerifierKey
from witness.policy import Policy, PolicyInvalid, operator_of

_log = logging.getLogger(__name__)

MOST_PROOF_LINES = 63
LARGEST_REQUEST = 512 * 1024
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")
SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT_TYPE


@dataclass(frozen=True)
class Request:
    """An add-checkpoint request: the size cosigned before, the proof, and the signed checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    signed: Note

    def __str__(self) -> str:
        lines = [f"old {self.old}", *map(b64, self.proof), "", str(self.signed)]
        return "\n".join(lines)


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, body: str, content_type: str = TEXT_TYPE) -> None:
        super().__init__(body)
        self.answer = Answer(status, body.encode(), content_type)


def parse_request(body: bytes) -> Request:
    """The request with exactly these bytes. Raises NoteInvalid."""
    try:
        head, separator, signed = body.decode().partition("\n\n")
        lines = head.split("\n")
        match = _OLD.fullmatch(lines.pop(0))
        proof = tuple(unb64(line) for line in lines)
    except (UnicodeDecodeError, EncodingError) as error:
        raise NoteInvalid("not an add-checkpoint request") from error
    if not separator or not match or len(proof) > MOST_PROOF_LINES:
        raise NoteInvalid("not an add-checkpoint request")
    if any(len(line) != merkle.HASH_SIZE for line in proof):
        raise NoteInvalid("a consistency proof that is not one of SHA-256 hashes")
    return Request(int(match[1]), proof, note.parse(signed))


class Cosigner:
    """One witness's keys, the logs it cosigns, and its memory of them.

    clock: milliseconds since 1970. alarm: called with each new contradiction of a log. objection: why a log's
    checkpoints may not be cosigned now, by its origin (memory.py).
    """

    def __init__(
        self,
        name: str,
        keys: PrivateKeys,
        logs: Policy,
        database: Database,
        clock: Callable[[], int],
        alarm: Callable[[Fork], None] = lambda _fork: None,
        objection: Callable[[str], str | None] = lambda _origin: None,
    ) -> None:
        if any(operator_of(key.name) == operator_of(name) for key in logs.logs):
            raise PolicyInvalid("a log of this witness's own operator: cosigning it would prove nothing")
        self.name, self._keys, self._database = name, keys, database
        self._logs: dict[str, list[VerifierKey]] = {}
        for key in logs.logs:
            self._logs.setdefault(key.name, []).append(key)
        self._clock, self._alarm, self._objection = clock, alarm, objection

    @property
    def vkeys(self) -> tuple[VerifierKey, ...]:
        """Under which this witness cosigns."""
        return tuple(cosignature.cosigner_key(self.name, key) for key in self._keys.keys)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answers `POST /add-checkpoint`."""
        try:
            return Answer(HTTPStatus.OK, self._add(body).encode())
        except _Refused as refused:
            return refused.answer

    def checkpoint(self, origin_hash: str) -> bytes | None:
        """The newest cosigned checkpoint of the log whose origin has this SHA-256 (hexadecimal)."""
        for origin, text in self._database.all_cosigned().items():
            if hashlib.sha256(origin.encode()).hexdigest() == origin_hash:
                return text.encode()
        return None

    def _add(self, body: bytes) -> str:
        # 1. The request is one, its log is known, and the log signed.
        try:
            request = parse_request(body)
        except NoteInvalid as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{error}\n") from error
        head = self._open(request.signed)
        # 2. The sizes can be true, and the client knows what was cosigned last.
        if request.old > head.size:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the old size is beyond the checkpoint\n")
        if head.size == 0 and head.root != merkle.EMPTY_ROOT:
            raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "the root of an empty tree is another\n")
        kept = self._database.cosigned(head.origin)
        last = None if kept is None else _head_of(kept)
        self._check_fork(request.signed, head, kept, last)
        self._check_size(request.old, last)
        # 3. The new tree extends the old one.
        try:
            _check_extends(last, head, request.proof)
        except ProofInvalid as error:
            self._suspect(request, head, kept)
            raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"{error}\n") from error
        # 4. What is remembered is all that was cosigned.
        objection = self._objection(head.origin)
        if objection is not None:
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"{objection}\n")
        # 5. Remember first, then answer: a cosignature that leaves is never forgotten.
        lines = self._cosign(request.signed.text)
        # One line of a key: what is kept must stay within what a note has room for, and be read again.
        trusted = [s for key in self._logs[head.origin] for s in request.signed.by(key)[:1]]
        signed = Note(request.signed.text, (*trusted, *lines))
        if not self._database.cosign(head.origin, kept, head.size, str(signed)):
            newer = self._database.cosigned(head.origin)
            self._check_size(-1, None if newer is None else _head_of(newer))
        return "".join(map(str, lines))

    def _open(self, signed: Note) -> Checkpoint:
        origin = signed.text.partition("\n")[0]
        if origin not in self._logs:
            raise _Refused(HTTPStatus.NOT_FOUND, "this witness does not know the log\n")
        try:
            checkpoints.parse(signed.text, extensions=True)
        except CheckpointInvalid as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{error}\n") from error
        try:
            return checkpoints.open_checkpoint(signed, self._logs[origin], extensions=True)
        except CheckpointInvalid as error:
            raise _Refused(HTTPStatus.FORBIDDEN, f"{error}\n") from error

    @staticmethod
    def _check_size(old: int, last: Checkpoint | None) -> None:
        known = 0 if last is None else last.size
        if old != known:
            raise _Refused(HTTPStatus.CONFLICT, f"{known}\n", SIZE_TYPE)

    def _cosign(self, text: str) -> Sequence[NoteSignature]:
        now = self._clock() // 1000
        return [cosignature.sign(text, key, self.name, now) for key in self._keys.keys]

    def _check_fork(self, signed: Note, head: Checkpoint, kept: str | None, last: Checkpoint | None) -> None:
        """Two roots of one size, both signed, are a proof whatever else the request says."""
        if kept is not None and last is not None and last.size == head.size and last.root != head.root:
            self._keep(Fork(head.origin, True, kept, str(signed), self._clock()))

    def _suspect(self, request: Request, head: Checkpoint, kept: str | None) -> None:
        """Keeps what the log signed without showing that it extends what it signed before."""
        same = kept is not None and _head_of(kept).size == head.size
        if kept is not None and not same:
            self._keep(Fork(head.origin, False, kept, str(request.signed), self._clock()))

    def _keep(self, fork: Fork) -> None:
        if self._database.keep_fork(fork):
            words = "signed two trees of one size" if fork.proved else "did not show that its tree only grew"
            _log.error("ALARM: log %s %s; both checkpoints are kept", fork.origin, words)
            self._alarm(fork)


def _head_of(kept: str) -> Checkpoint:
    return checkpoints.parse(note.parse(kept).text, extensions=True)


def _check_extends(last: Checkpoint | None, head: Checkpoint, proof: Sequence[bytes]) -> None:
    if last is None or last.size == 0:
        if proof:
            raise ProofInvalid("a consistency proof from an empty tree")
        if last is not None and head.size == 0 and last.root != head.root:
            raise ProofInvalid("two roots for one tree size")
        return
    merkle.verify_consistency(last.size, last.root, head.size, head.root, proof)
