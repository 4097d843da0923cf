"""C2SP tlog-witness, the log's side: asks witnesses to cosign each published checkpoint until the quorum did.

One round asks every witness about one checkpoint, so that their cosignatures meet on the same one; a witness
that is still busy with an earlier round is left out. Until the first quorum after a start the log takes no
entries: a cosigned checkpoint shows that what was restored is not older than what witnesses have seen. When
a witness holds a checkpoint that this log signed and that the present tree contradicts, the log stops.
"""

import contextlib
import hashlib
import http.client
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from witness import checkpoint as checkpoints
from witness import note
from witness.background import Background
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
LOOK = 0.2  # between two looks whether to stop
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
    """One witness as the log knows it: its keys, and the size that it cosigned last.

    forgot: whether it cosigned a smaller tree at a later time than a larger one. Then it goes on from an old
    copy: its cosignatures count on, but exclude no fork any more. The size in a conflict nobody signed, and
    whoever is on the line can make one up: it says which question to ask, and no more.
    """

    def __init__(self, log: Log, keys: Sequence[VerifierKey], call: Call, clock: Callable[[], int]) -> None:
        self._log, self._keys, self._call, self._clock = log, keys, call, clock
        self._held, self._held_at = self._cosigned_before()
        self._size = self._held
        self.forgot = False

    def cosign(self, head: Note) -> list[NoteSignature]:
        """The witness's lines on this checkpoint. Raises WitnessRefused, OSError, or Contradicted."""
        for _ in range(MOST_ATTEMPTS):
            old, held = self._size, self._held
            lines = self._try(head)
            if lines:
                self._doubt(old, held)
                return lines
            if self._size < self._held and not self.forgot:
                self._test_memory()
        raise WitnessRefused("its size changes with every request")

    def _try(self, head: Note) -> list[NoteSignature]:
        """The lines; none when the witness remembers another size, which is asked from next time."""
        size = checkpoints.parse(head.text).size
        if self._size > size:
            self._inspect()
            self._size = 0  # or a size that it made up would keep it from being asked until we reach it
            raise WitnessRefused("it says that it cosigned a larger tree")
        reply = self._call("POST", "add-checkpoint", str(self._request(head, size)).encode())
        if reply.status == HTTPStatus.OK:
            lines, at = self._lines(head, reply.body)
            self._compare(size, at)
            self._size = size
            return lines
        if reply.status != HTTPStatus.CONFLICT or reply.content_type != SIZE_TYPE:
            if reply.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                self._inspect()
            raise WitnessRefused(f"it answers {reply.status}")
        self._size = _size(reply.body)
        return []

    def _test_memory(self) -> None:
        """Asks a witness that names a smaller size than we hold of it to cosign that tree once more.

        One that remembers refuses with the size that it remembers. One that does cosign says by its own
        signature and time that it knows of no larger tree; nobody between can make that, or replay it.
        """
        with contextlib.suppress(WitnessRefused):
            self._try(self._log.head_at(self._size))

    def _doubt(self, old: int, held: int) -> None:
        """Says that it cosigned from less than we hold of it, which no signature of its own explains."""
        if old < held and not self.forgot:
            _log.warning(
                "witness %s cosigned from size %d though it cosigned size %d before: it may have forgotten, "
                "or whoever is on the line hides what it remembers",
                *(self._keys[0].name, old, held),
            )

    def _compare(self, size: int, at: int) -> None:
        """Notes what was cosigned, and that it is smaller than what was cosigned before it."""
        if size >= self._held:
            self._held, self._held_at = size, at
        elif at > self._held_at:
            self.forgot = True
            _log.error(
                "ALARM: witness %s has forgotten what it cosigned of this log: size %d at %d, then %d at %d",
                self._keys[0].name,
                *(self._held, self._held_at, size, at),
            )

    def _cosigned_before(self) -> tuple[int, int]:
        """Size and time of the checkpoint that counts, when this witness cosigned it."""
        head = self._log.witnessed
        times = [] if head is None else [at for key in self._keys if (at := cosigned_at(head, key))]
        return (checkpoints.parse(head.text).size, max(times)) if head is not None and times else (0, 0)

    def _request(self, head: Note, size: int) -> Request:
        grown = 0 < self._size < size
        proof = self._log.prove_consistency(self._size, size) if grown else []
        return Request(self._size, tuple(proof), head)

    def _lines(self, head: Note, body: bytes) -> tuple[list[NoteSignature], int]:
        """The known keys' lines and their time. All hold: one false witness must not spoil the others'."""
        try:
            signed = note.parse(f"{head.text}\n{body.decode()}")
            if signed.text != head.text:  # the body goes on with the text: its line is of another
                raise NoteInvalid("its lines are not on this checkpoint")
            # One line of a key: a note has room for so many only, and a witness could fill it with its own.
            times = {key: at for key in self._keys if (at := cosigned_at(signed, key))}
            lines = [signed.by(key)[0] for key in times]
        except (UnicodeDecodeError, NoteInvalid) as error:
            raise WitnessRefused("its answer holds no signature that verifies") from error
        if not lines:
            raise WitnessRefused("it did not sign with a key that the quorum names")
        if min(times.values()) * 1000 < self._clock() - CLOCK_TOLERANCE:
            raise WitnessRefused("its clock is behind by more than verifiers accept")
        return lines, max(times.values())

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
        self._busy: dict[str, _Request] = {}
        self._thread = Background("quorum", self._step, "checkpoints cannot be cosigned now", PAUSE)
        self.confirmed, self.contradicted = threading.Event(), threading.Event()
        self._silent: dict[str, str] = {}

    def start(self) -> None:
        """Begins to ask."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. Witnesses that have not answered yet are not waited for."""
        self._thread.close()

    @property
    def failing(self) -> Mapping[str, str]:
        """The URLs of the witnesses that did not cosign when last asked, and why."""
        return dict(self._silent)

    @property
    def forgetful(self) -> frozenset[str]:
        """The URLs of the witnesses that lost what they cosigned."""
        return frozenset(url for url, asked in self._asked.items() if asked.forgot)

    def _step(self) -> float | None:
        if self.contradicted.is_set():
            return None
        head = self._log.head
        if not self._round(head):
            return PAUSE
        self.confirmed.set()
        while self._log.head == head and not self._thread.stopping and not self.contradicted.is_set():
            self._log.wait_published(head, timeout=0.5)
            self._hear_late_answers()
        return 0.0

    def _round(self, head: Note) -> bool:
        """Asks every witness that is free about `head`; whether the quorum cosigned it."""
        self._hear_late_answers()
        free = {name: witness for name, witness in self._asked.items() if name not in self._busy}
        asked = {name: _Request(witness, head) for name, witness in free.items()}
        self._busy |= asked
        waiting, lines = {request.answer: name for name, request in asked.items()}, list[NoteSignature]()
        until = time.monotonic() + ROUND
        while waiting and time.monotonic() < until and not self._thread.stopping:
            done, _ = wait(waiting, timeout=LOOK, return_when=FIRST_COMPLETED)
            for answer in done:
                name = waiting.pop(answer)
                del self._busy[name]
                lines += self._taken(name, answer)
            if done and self._log.cosigned(head, lines):
                return True
        return False

    def _hear_late_answers(self) -> None:
        """What came after its round: no cosignature is of use any more, but a contradiction is."""
        for name, request in list(self._busy.items()):
            if request.answer.done():
                del self._busy[name]
                self._taken(name, request.answer)
            elif time.monotonic() > request.since + ROUND:
                self._note_silence(name, "it has not answered an earlier request yet")

    def _taken(self, name: str, future: Future[list[NoteSignature]]) -> list[NoteSignature]:
        try:
            lines = future.result()
        except Contradicted as error:
            self._contradict(error.theirs)
            return []
        except (WitnessRefused, OSError) as error:
            self._note_silence(name, str(error))
            return []
        except Exception as error:  # noqa: BLE001  whatever one witness brings about, the others' lines count
            self._note_silence(name, f"its answer could not be used ({type(error).__name__})")
            return []
        self._silent.pop(name, None)
        return lines

    def _note_silence(self, name: str, why: str) -> None:
        if self._silent.get(name) != why:
            _log.warning("witness %s does not cosign: %s", name, why)
        self._silent[name] = why

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


class _Request:
    """One request to a witness, in a thread of its own: one that never ends must hold up nobody's end."""

    def __init__(self, witness: Asked, head: Note) -> None:
        self.answer: Future[list[NoteSignature]] = Future()
        self.since = time.monotonic()
        threading.Thread(target=self._ask, args=(witness, head), name="cosign", daemon=True).start()

    def _ask(self, witness: Asked, head: Note) -> None:
        try:
            self.answer.set_result(witness.cosign(head))
        except Exception as error:  # noqa: BLE001  who waits for the answer hears of it
            self.answer.set_exception(error)
