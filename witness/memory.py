"""Whether a cosigner still knows all that it cosigned. One restored from an old copy does not.

C2SP tlog-witness has a witness remember the newest checkpoint of each log that it cosigned; what to do when
that memory is lost it does not say. A witness that goes on from an older one could cosign a second history of
a log beside the one that it has cosigned, and nobody could tell. So after a start, before the first
cosignature of a log whose policy line has a URL, this looks at the checkpoint that the log publishes. A
cosignature by our own key on a larger tree than we remember, or on another one, means that the memory is an
old copy: from then on, and after the next start, nothing is cosigned with that key any more. The note that
shows it is kept. A new key ends it. A kept note that cannot be read counts for a loss.

A log without a URL cannot be looked at, and one that means ill shows us nothing newer: the look at any honest
log stops the cosigning of all.
"""

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus

from witness import checkpoint as checkpoints
from witness import note
from witness.background import Background
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.cosignature import cosigned_at
from witness.database import Database
from witness.files import Folder
from witness.note import Note, NoteInvalid, VerifierKey
from witness.policy import Policy
from witness.quorum import Call, HttpWitness

_log = logging.getLogger(__name__)

PAUSE = 2.0
COSIGNER_FORGOT = "cosigner-forgot"
FORGOTTEN = "this witness has lost what it cosigned, and cosigns nothing until it has a new key"
UNREADABLE = "the note of what this witness forgot cannot be read, and counts for a loss: it needs a new key"
UNSEEN = "this witness has not seen the log since its start; ask again"


class Memory:
    """What was looked at since the start. folder: where the note that shows a loss is kept."""

    def __init__(
        self,
        keys: Sequence[VerifierKey],
        logs: Policy,
        database: Database,
        folder: Folder,
        connect: Callable[[str], Call] = HttpWitness,
    ) -> None:
        self._keys, self._logs, self._database, self._folder = keys, logs, database, folder
        self._calls = {origin: connect(url) for origin, url in logs.log_urls.items()}
        self._unseen = set(self._calls)
        self._said = set[str]()
        loss = known_loss(folder, keys, database)
        self.forgotten = loss is not None
        if self.forgotten:
            _log.error("ALARM: %s", loss)
        self._thread = Background("memory", self._step, "a log cannot be looked at now", PAUSE)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def close(self) -> None:
        """Ends the looking."""
        self._thread.close()

    def objection(self, origin: str) -> str | None:
        """Why nothing of this log may be cosigned now; None when it may."""
        if self.forgotten:
            return FORGOTTEN
        return UNSEEN if origin in self._unseen else None

    def _step(self) -> float | None:
        for origin in sorted(self._unseen):
            self.look(origin)
        return PAUSE if self._unseen and not self.forgotten else None

    def look(self, origin: str) -> None:
        """Looks at one log, which stays unseen while it shows no checkpoint of its own."""
        shown = self._published(origin)
        if shown is None:
            if origin not in self._said:
                _log.warning(
                    "log %s shows no checkpoint at its URL: it is not cosigned until it does", origin
                )
            self._said.add(origin)
            return
        if _forgot(shown, self._keys, self._database):
            self._folder.write(COSIGNER_FORGOT, str(shown).encode())
            self.forgotten = True
            _log.error("ALARM: log %s shows a cosignature of ours that is forgotten: %s", origin, FORGOTTEN)
        self._unseen.discard(origin)

    def _published(self, origin: str) -> Note | None:
        try:
            reply = self._calls[origin]("GET", "checkpoint", b"")
            signed = note.parse(reply.body.decode())
            keys = [key for key in self._logs.logs if key.name == origin]
            checkpoints.open_checkpoint(signed, keys, extensions=True)
        except (OSError, UnicodeDecodeError, NoteInvalid, CheckpointInvalid):
            return None
        return signed if reply.status == HTTPStatus.OK else None


def known_loss(folder: Folder, keys: Sequence[VerifierKey], database: Database) -> str | None:
    """What a kept note shows: that the memory of these keys' cosignatures is an old copy, or nothing."""
    try:
        forgot = _forgot(note.parse(folder.read(COSIGNER_FORGOT).decode()), keys, database)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, NoteInvalid, CheckpointInvalid):
        return UNREADABLE
    return FORGOTTEN if forgot else None


def _forgot(shown: Note, keys: Sequence[VerifierKey], database: Database) -> bool:
    """Whether this note bears a cosignature by one of our keys that the database does not know of."""
    head = checkpoints.parse(shown.text, extensions=True)
    ours = any(_cosigned(shown, key) for key in keys)
    return ours and not _remembered(head, database.cosigned(head.origin))


def _cosigned(shown: Note, key: VerifierKey) -> bool:
    try:
        return cosigned_at(shown, key) is not None
    except NoteInvalid:  # a line under our name that is not ours
        return False


def _remembered(head: Checkpoint, kept: str | None) -> bool:
    if kept is None:
        return False
    last = checkpoints.parse(note.parse(kept).text, extensions=True)
    return head.size < last.size or (head.size, head.root) == (last.size, last.root)
