"""The member lists that a running witness knows: a file that the operator replaces, and all lists before.

Refuses a list that the space operator did not sign with every key it had, or with both where two are
configured, of another space, or older than the newest known; the witness then goes on with the list it has,
so that a bad file cannot stop the recording. Lists that were taken up before stay known.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from witness import dsse, members
from witness.database import Database
from witness.keys import PublicKey
from witness.members import MemberList, MembersInvalid

_log = logging.getLogger(__name__)

LONGEST_UNSEEN = 0.05
"""Seconds after which a file that the operator replaced is looked at."""


class Registry:
    """The known member lists of one space, oldest first."""

    def __init__(
        self, database: Database, file: Path, space: str, operator_keys: Sequence[PublicKey]
    ) -> None:
        self._database, self._file = database, file
        self._space, self._operator_keys = space, operator_keys
        self._lock, self._seen, self._look_at = threading.Lock(), (0, 0), 0.0
        self._lists: tuple[MemberList, ...] = ()
        for envelope in database.member_lists():
            self._lists = (*self._lists, self._verify(envelope))
        self._refresh()
        if not self._lists:
            _log.warning("no member list yet: every caller is refused until %s holds one", file)

    def lists(self) -> tuple[MemberList, ...]:
        """All known lists, as of LONGEST_UNSEEN seconds ago or less."""
        if time.monotonic() >= self._look_at:  # not at every call: threads would wait for each other here
            with self._lock:
                self._refresh()
                self._look_at = time.monotonic() + LONGEST_UNSEEN
        return self._lists

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
            if (status.st_mtime_ns, status.st_size) == self._seen:
                return
            data = self._file.read_bytes()
        except OSError:
            return
        try:
            self._add(data)
        except (MembersInvalid, dsse.EnvelopeInvalid) as error:
            _log.warning("the member list file is refused: %s", error)
        # Only now: what the database could not keep, perhaps a revocation, is taken up at the next look.
        self._seen = (status.st_mtime_ns, status.st_size)

    def _add(self, data: bytes) -> None:
        new = self._verify(data)
        if self._lists and new == self._lists[-1]:
            return
        if members.names_both(self._operator_keys) and not new.operator_keys:
            raise MembersInvalid("one key signed it, and both of the operator's are known here")
        if self._lists and new.version <= self._lists[-1].version:
            raise MembersInvalid("its version is not above the one known")
        self._database.add_members(new.version, data)
        self._lists = (*self._lists, new)
        _log.info("member list version %d with %d participants", new.version, len(new.participants))

    def _verify(self, data: bytes) -> MemberList:
        settled = self._lists[-1].operator_keys if self._lists else ()
        new = members.verify(dsse.parse(data), self._operator_keys, settled)
        if new.space != self._space:
            raise MembersInvalid("it is of another data space")
        return new
