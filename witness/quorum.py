"""C2SP tlog-witness, the log's side: asks witnesses to cosign each published checkpoint until the quorum did.

One round asks every witness about one checkpoint, so that their cosignatures meet on the same one; a witness
that is still busy with an earlier round is left out. Until the first quorum after a start the log takes no
entries: a cosigned checkpoint shows that what was restored is not older than what witnesses have seen. When
a witness holds a checkpoint that this log signed and that the present tree contradicts, the log stops.
"""

import hashlib
import http.client
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from witness import checkpoint as checkpoints
from witness import note
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.checks import CLOCK_TOLERANCE
from witness.cosignature import cosigned_at
from witness.cosigner import LARGEST_REQUEST, SIZE_TYPE, Request
from witness.database import Fork
from witness.log import Log
from witness.note import MOST_SIGNATURES, Note, NoteInvalid, NoteSignature, VerifierKey
from witness.policy import Policy, PolicyInvalid, operator_of

_log = logging.getLogger(__name__)

TIMEOUT = 5.0
ROUND = 5.0
PAUSE = 1.0
MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Reply:
    """What a witness answered over HTTP."""

    status: int
    content_type: str
    body: bytes


# Sends (method, path below the prefix, body) to a witness; raises OSError when it does not answer.
Call = Callable[[str, str, bytes], Reply]


class WitnessRefused(Exception):
    """A witness did not cosign, and says why."""


class Contradicted(Exception):
    """A witness holds a checkpoint that this log signed and that its present tree contradicts."""

    def __init__(self, theirs: str) -> None:
        super().__init__("a witness cosigned a tree of this log that the present one does not extend")
        self.theirs = theirs


class HttpWitness:
    """A witness at a URL prefix, over one connection that is kept open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise PolicyInvalid("a witness's URL is http(s)://host[:port][/prefix]")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=TIMEOUT)
        self._prefix = parts.path.rstrip("/")

    def __call__(self, method: str, path: str, body: bytes) -> Reply:
        """One request, repeated when the witness has closed a kept connection. Raises OSError."""
        kept = self._connection.sock is not None
        try:
            return self._once(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if kept:
                return self(method, path, body)
            raise OSError(f"no answer ({type(error).__name__})") from error

    def _once(self, method: str, path: str, body: bytes) -> Reply:
        self._connection.request(method, f"{self._prefix}/{path}", body or None)
        answer = self._connection.getresponse()
        content = answer.read(LARGEST_REQUEST)
        return Reply(answer.status, answer.getheader("Content-Type", ""), content)


class Asked:
    """One witness as the log knows it: its keys, and the size that it cosigned last."""

    def __init__(self, log: Log, keys: Sequence[VerifierKey], call: Call, clock: Callable[[], int]) -> None:
        self._log, self._keys, self._call, self._clock = log, keys, call, clock
        self._size = 0

    def cosign(self, head: Note) -> list[NoteSignature]:
        """The witness's lines on this checkpoint. Raises WitnessRefused, OSError, or Contradicted."""
        size = checkpoints.parse(head.text).size
        for _ in range(MOST_ATTEMPTS):
            if self._size > size:
                self._inspect()
                raise WitnessRefused("it cosigned a larger tree already")
            reply = self._call("POST", "add-checkpoint", str(self._request(head, size)).encode())
            if reply.status == HTTPStatus.OK:
                lines = self._lines(head, reply.body)
                self._size = size
                return lines
            if reply.status != HTTPStatus.CONFLICT or reply.content_type != SIZE_TYPE:
                if reply.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                    self._inspect()
                raise WitnessRefused(f"it answers {reply.status}")
            self._size = _size(reply.body)
        raise WitnessRefused("its size changes with every request")

    def _request(self, head: Note, size: int) -> Request:
        grown = 0 < self._size < size
        proof = self._log.prove_consistency(self._size, size) if grown else []
        return Request(self._size, tuple(proof), head)

    def _lines(self, head: Note, body: bytes) -> list[NoteSignature]:
        """The lines of the known keys, all of which hold: one false witness must not spoil the others'."""
        try:
            signed = note.parse(f"{head.text}\n{body.decode()}")
            # One line of a key: a note has room for so many only, and a witness could fill it with its own.
            times = {key: at for key in self._keys if (at := cosigned_at(signed, key))}
            lines = [signed.by(key)[0] for key in times]
        except (UnicodeDecodeError, NoteInvalid) as error:
            raise WitnessRefused("its answer holds no signature that verifies") from error
        if not lines:
            raise WitnessRefused("it did not sign with a key that the quorum names")
        if min(times.values()) * 1000 < self._clock() - CLOCK_TOLERANCE:
            raise WitnessRefused("its clock is behind by more than verifiers accept")
        return lines

    def _inspect(self) -> None:
        """Looks at what the witness holds of us. Raises Contradicted when we signed it and it cannot be."""
        digest = hashlib.sha256(self._log.origin.encode()).hexdigest()
        reply = self._call("GET", f"{digest}/checkpoint", b"")
        if reply.status != HTTPStatus.OK:
            return
        try:
            theirs = checkpoints.open_checkpoint(note.parse(reply.body.decode()), self._log.vkeys)
        except (UnicodeDecodeError, NoteInvalid, CheckpointInvalid):
            _log.error("witness %s shows a checkpoint that this log did not sign", self._keys[0].name)
            return
        if not self._holds(theirs):
            raise Contradicted(reply.body.decode())

    def _holds(self, theirs: Checkpoint) -> bool:
        return theirs.size <= self._log.size and self._log.root_at(theirs.size) == theirs.root


def _size(body: bytes) -> int:
    text = body.decode(errors="replace").removesuffix("\n")
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise WitnessRefused("its conflict names no size")
    return int(text)


class Quorum:
    """The thread that has one log's checkpoints cosigned.

    connect: makes the call to a witness from its URL. alarm: called when a witness contradicts the log.
    """

    def __init__(
        self,
        log: Log,
        policy: Policy,
        clock: Callable[[], int],
        connect: Callable[[str], Call] = HttpWitness,
        alarm: Callable[[Fork], None] = lambda _fork: None,
    ) -> None:
        self._log, self._policy, self._clock, self._alarm = log, policy, clock, alarm
        own = operator_of(log.origin)
        others = {name: key for name, key in policy.witnesses.items() if operator_of(key.name) != own}
        if not policy.satisfied_by(others.keys() & policy.urls.keys()):
            raise PolicyInvalid("no quorum is possible: its witnesses lack URLs or are the log's operator's")
        if len(others) + len(log.vkeys) > MOST_SIGNATURES:
            raise PolicyInvalid("more witnesses than a checkpoint has room for")
        keys: dict[str, list[VerifierKey]] = {}
        for name, key in others.items():
            if name in policy.urls:
                keys.setdefault(policy.urls[name], []).append(key)
        self._asked = {url: Asked(log, found, connect(url), clock) for url, found in keys.items()}
        self._busy: dict[str, Future[list[NoteSignature]]] = {}
        self._pool = ThreadPoolExecutor(len(self._asked), thread_name_prefix="cosign")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quorum", daemon=True)
        self.confirmed, self.contradicted = threading.Event(), threading.Event()
        self._silent: dict[str, str] = {}

    def start(self) -> None:
        """Begins to ask."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after the requests under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    @property
    def failing(self) -> Mapping[str, str]:
        """The URLs of the witnesses that did not cosign when last asked, and why."""
        return dict(self._silent)

    def _run(self) -> None:
        while not self._stop.is_set() and not self.contradicted.is_set():
            head = self._log.head
            try:
                done = self._round(head)
            except Exception as error:  # noqa: BLE001  a full disk, say: without this thread nothing is witnessed
                _log.error("checkpoints cannot be cosigned now: %s", type(error).__name__)
                done = False
            if done:
                self.confirmed.set()
            while done and self._log.head == head and not self._stop.is_set():
                self._log.wait_published(head, timeout=0.5)
            if not done:
                self._stop.wait(PAUSE)

    def _round(self, head: Note) -> bool:
        """Asks every witness that is free about `head`; whether the quorum cosigned it."""
        self._busy = {name: future for name, future in self._busy.items() if not future.done()}
        asked = {
            name: self._pool.submit(witness.cosign, head)
            for name, witness in self._asked.items()
            if name not in self._busy
        }
        self._busy |= asked
        waiting, lines = {future: name for name, future in asked.items()}, list[NoteSignature]()
        while waiting and not self._stop.is_set():
            done, _ = wait(waiting, timeout=ROUND, return_when=FIRST_COMPLETED)
            if not done:
                return False
            for future in done:
                lines += self._taken(waiting.pop(future), future)
            if self._log.cosigned(head, lines):
                return True
        return False

    def _taken(self, name: str, future: Future[list[NoteSignature]]) -> list[NoteSignature]:
        try:
            lines = future.result()
        except Contradicted as error:
            self._contradict(error.theirs)
            return []
        except (WitnessRefused, OSError) as error:
            if self._silent.get(name) != str(error):
                _log.warning("witness %s does not cosign: %s", name, error)
            self._silent[name] = str(error)
            return []
        self._silent.pop(name, None)
        return lines

    def _contradict(self, theirs: str) -> None:
        mine = str(self._log.head)
        same = checkpoints.parse(note.parse(theirs).text).size == self._log.size
        fork = Fork(self._log.origin, same, theirs, mine, self._clock())
        self._log.refuse()
        if self.contradicted.is_set():
            return
        self.contradicted.set()
        self._log.database.keep_fork(fork)
        _log.error("ALARM: a witness holds a tree of this log that the present one contradicts: a rollback")
        self._alarm(fork)
