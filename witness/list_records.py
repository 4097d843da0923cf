"""Each new member list as an entry of the log: a record by the witness that it verified this list then.

The public leaf names nobody; the record in it names the list by its digest, and the list the one before it.
So an auditor sees when a list, and with it every key in it, came into force here; an operator that shows two
people two lists has at most one of them on record. Only the newest list is recorded, once. Refuses to record
what would not verify: the list must name this witness with its evidence keys, and they must be valid by now.
Until they are (the operator's clock may be ahead of this one) it tries again.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from witness import dsse
from witness.background import Background
from witness.checks import VerificationFailed, check_signed
from witness.database import Database, OwnRecord
from witness.encoding import system_entropy
from witness.keys import PrivateKeys
from witness.log import Submission
from witness.members import MemberList
from witness.record import PAYLOAD_TYPE, Data, Exchange, Outcome, Party, exchange_tag, seal
from witness.registry import Registry
from witness.sequencer import Sequencer

_log = logging.getLogger(__name__)

EVENT, ROLE, NAME = "member-list", "verifier", "member-list"
LOOK = 2.0
PAUSE = 10.0
PATIENCE = 30.0


@dataclass(frozen=True)
class Author:
    """Who records: this witness as a member of the space, with its evidence keys. clock: ms since 1970."""

    space: str
    participant: str
    keys: PrivateKeys
    clock: Callable[[], int]


class ListRecords:
    """The thread that records new member lists. confirmed: whether the log takes entries yet."""

    def __init__(
        self,
        author: Author,
        database: Database,
        registry: Registry,
        sequencer: Sequencer,
        confirmed: Callable[[], bool],
    ) -> None:
        self._author, self._database, self._registry = author, database, registry
        self._sequencer, self._confirmed = sequencer, confirmed
        self._done: str | None = None  # the newest list that needs no further look
        self._said: tuple[str, str] | None = None  # of which list which trouble is in the log already
        self._thread = Background("lists", self._step, "a member list could not be recorded yet", PAUSE)

    def start(self) -> None:
        """Begins to look for new lists."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after the step under way."""
        self._thread.close()

    def _step(self) -> float:
        self.record_newest()
        return LOOK

    def record_newest(self) -> None:
        """Records the newest list unless it is on record. Raises Busy, LogRefused or TimeoutError."""
        lists = self._registry.lists()
        if not lists or lists[-1].digest == self._done or not self._confirmed():
            return
        newest = lists[-1]
        kept = self._database.own_record(exchange_of(newest.digest))
        if (kept and self._recorded(kept)) or not self._named_in(newest) or self._record(newest, kept):
            self._done = newest.digest

    def _recorded(self, kept: OwnRecord) -> bool:
        return bool(self._database.indexes([hashlib.sha256(kept.envelope).digest()]))

    def _named_in(self, members: MemberList) -> bool:
        keys = self._author.keys.public.ids
        named = all(members.key(self._author.participant, key) is not None for key in keys)
        if not named:
            self._say(members, "it does not give this witness its evidence keys")
        return named

    def _record(self, members: MemberList, kept: OwnRecord | None) -> bool:
        """Sends the kept record, or one made and kept now: sent twice, it must be the same bytes.

        False when it would not verify now.
        """
        made = kept or _made(self._author, members)
        try:
            check_signed(dsse.parse(made.envelope), [members], self._author.clock())
        except VerificationFailed as error:
            self._say(members, error.sentence)
            return False
        if kept is None:
            self._database.keep_own_record(made)
        submission = Submission(hashlib.sha256(made.envelope).digest(), made.envelope, made.tag)
        self._sequencer.submit([submission], self._author.participant).result(PATIENCE)
        _log.info("member list version %d is on record", members.version)
        return True

    def _say(self, members: MemberList, why: str) -> None:
        if self._said != (members.digest, why):
            _log.warning("member list version %d is not recorded: %s", members.version, why)
        self._said = members.digest, why


def _made(author: Author, members: MemberList) -> OwnRecord:
    exchange = exchange_of(members.digest)
    party = Party(author.participant, ROLE, author.keys.public.ids, build_digest(), author.clock())
    sealed = seal(
        event=EVENT,
        space=author.space,
        members=members.digest,
        exchange=Exchange(exchange, 0),
        parties=[party],
        outcome=Outcome("done"),
        data=Data(digests={NAME: members.digest}),
    )
    envelope = dsse.sign(PAYLOAD_TYPE, sealed.payload, author.keys.keys)
    return OwnRecord(exchange, envelope.to_bytes(), exchange_tag(system_entropy(32), 0, author.participant))


def exchange_of(list_digest: str) -> str:
    """The exchange that the record of a member list is all of."""
    return hashlib.sha256(f"bayspace member list v1\n{list_digest}".encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def build_digest() -> str:
    """SHA-256 over this package's own files, in hexadecimal: which build of the witness signed."""
    digest, root = hashlib.sha256(), Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix().encode()
        digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
