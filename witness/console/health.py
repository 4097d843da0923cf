"""How the log stands: what is published and witnessed, who signed and cosigned when, what contradicts it.

Reads the published files and the database as they are, and believes no signature that it has not checked.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from witness import checkpoint as checkpoints
from witness import dsse, merkle, note, policy, tiles
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.cosignature import cosigned_at
from witness.database import Database
from witness.leaf import parse as parse_leaf
from witness.members import MemberList, MembersInvalid, verify
from witness.memory import COSIGNER_FORGOT
from witness.note import Note, NoteInvalid, VerifierKey
from witness.policy import NONE, Policy, PolicyInvalid
from witness.server import WitnessConfig
from witness.tlog_proof import TlogProof

LATE = 10 * 60  # seconds: a witness that has not cosigned for so long, while the log grew, is late
LAGGING = 60 * 1000  # ms: an entry that is not witnessed after so long is an alarm


@dataclass(frozen=True)
class Head:
    """A checkpoint as it stands in its file; `checkpoint` is None when the file is absent or malformed."""

    signed: Note | None
    checkpoint: Checkpoint | None


class Standing:
    """One witness's files and database, read when asked."""

    def __init__(self, config: WitnessConfig, database: Database, clock: Callable[[], int]) -> None:
        self.config, self._database, self._clock = config, database, clock
        self._public = config.data / "public"
        self._members: tuple[tuple[bytes, ...], tuple[MemberList, ...]] = ((), ())

    # --- what there is --------------------------------------------------------------------------------

    def published(self) -> Head:
        """The checkpoint that was written last."""
        return _head(self._public / "checkpoint")

    def counted(self) -> Head:
        """The newest checkpoint that counts: cosigned by the quorum, where one is demanded."""
        return _head(self.config.data / "witnessed") if self.quorum() else self.published()

    def quorum(self) -> Policy | None:
        """The policy that witnesses have to satisfy; None when none is demanded, or it cannot be read."""
        if self.config.quorum is None:
            return None
        try:
            found = policy.parse(self.config.quorum.read_text("utf-8"))
        except (OSError, PolicyInvalid, UnicodeDecodeError):
            return None
        return None if found.quorum == NONE else found

    def members(self) -> tuple[MemberList, ...]:
        """The member lists that this witness has known, oldest first; none when one does not verify."""
        data = tuple(self._database.member_lists())
        if data != self._members[0]:
            self._members = (data, self._verified(data))
        return self._members[1]

    def _verified(self, lists: tuple[bytes, ...]) -> tuple[MemberList, ...]:
        found: tuple[MemberList, ...] = ()
        try:
            for data in lists:
                settled = found[-1].operator_keys if found else ()
                found = (*found, verify(dsse.parse(data), self.config.operator_keys, settled))
        except (ValueError, MembersInvalid):
            return ()
        return found

    def log_keys(self) -> tuple[VerifierKey, ...]:
        """The log's verifier keys, as the newest member list names them."""
        lists = self.members()
        member = lists[-1].participant(self.config.participant) if lists else None
        return tuple(note.parse_vkey(text) for text in member.logs) if member else ()

    def prove(self, index: int) -> TlogProof | None:
        """The proof that an entry is in the tree that counts; None when it is not, or tiles are missing."""
        head = self.counted()
        if head.signed is None or head.checkpoint is None or index >= head.checkpoint.size:
            return None
        size = head.checkpoint.size
        try:
            path = merkle.inclusion_proof(index, size, tiles.TileHashes(self._tile, size))
        except (OSError, tiles.TileInvalid):
            return None
        return TlogProof(index, tuple(path), head.signed, self._database.leaf(index))

    def _tile(self, path: str) -> bytes:
        try:
            return (self._public / path).read_bytes()
        except FileNotFoundError:  # it was partial when the tree was this large, and has filled up since
            tile = tiles.parse_path(path)
            full = (self._public / tiles.Tile(tile.level, tile.n).path).read_bytes()
            return full[: tile.width * merkle.HASH_SIZE]

    # --- what it means --------------------------------------------------------------------------------

    def signatures(self, head: Head) -> list[dict[str, Any]]:
        """Each signature line of a checkpoint: whose, of which kind, whether it holds, when it was made."""
        if head.signed is None:
            return []
        keys = {(k.name, k.id): ("log", k.name, k) for k in self.log_keys()}
        quorum = self.quorum()
        for name, key in (quorum.witnesses if quorum else {}).items():
            keys[key.name, key.id] = ("witness", name, key)
        return [
            _line(head.signed, line.name, keys.get((line.name, line.key_id)))
            for line in head.signed.signatures
        ]

    def witnesses(self) -> list[dict[str, Any]]:
        """Every witness of the quorum's policy, and whether it keeps up."""
        quorum, head = self.quorum(), self.counted()
        if quorum is None:
            return []
        return [self._witness(name, key, head) for name, key in quorum.witnesses.items()]

    def _witness(self, name: str, key: VerifierKey, head: Head) -> dict[str, Any]:
        at = _when(head.signed, key)
        state = "missing" if at is None else "ok"
        if at is not None and self._behind() and self._clock() // 1000 - at > LATE:
            state = "late"
        return {"name": name, "key": str(key), "algorithm": key.public.algorithm, "at": at, "state": state}

    def _behind(self) -> bool:
        published, counted = self.published().checkpoint, self.counted().checkpoint
        return published is not None and (counted is None or counted.size < published.size)

    def forks(self) -> list[dict[str, Any]]:
        """Contradictions that logs signed, newest first."""
        return [asdict(fork) for fork in reversed(self._database.forks())]

    def others(self) -> list[dict[str, Any]]:
        """The logs that this witness cosigns, and the newest checkpoint of each."""
        found = []
        for origin, text in sorted(self._database.all_cosigned().items()):
            head = _parsed(text)
            size = None if head.checkpoint is None else head.checkpoint.size
            found.append({"origin": origin, "size": size, "checkpoint": text})
        return found

    def alarms(self) -> list[dict[str, Any]]:
        """What somebody has to look at, each with a stable code."""
        published, locked = self.published().checkpoint, _parsed(self._database.locked() or "").checkpoint
        found = [{"code": code} for code in _contradiction(published, locked)]
        if self.config.quorum is not None and self.quorum() is None:
            found.append({"code": "quorum.unreadable"})
        if published is not None and not self._signed_by_log():
            found.append({"code": "checkpoint.signature"})
        if (self.config.data / COSIGNER_FORGOT).exists():
            found.append({"code": "cosigner.forgot"})
        found += self._waiting()
        kinds = {True: "fork.proved", False: "fork.unproved"}
        return found + [{"code": kinds[f["proved"]], "origin": f["origin"]} for f in self.forks()]

    def _signed_by_log(self) -> bool:
        """Whether every known line on the published checkpoint holds, and every key of the log has one."""
        lines = [line for line in self.signatures(self.published()) if line["known"]]
        by_log = {line["algorithm"] for line in lines if line["by"] == "log"}
        return all(line["holds"] for line in lines) and by_log == {
            k.public.algorithm for k in self.log_keys()
        }

    def _waiting(self) -> list[dict[str, Any]]:
        """Entries that wait too long for their cosignatures."""
        counted = self.counted().checkpoint
        first = 0 if counted is None else counted.size
        entries = self._database.entries(first, first + 1) if self._behind() else []
        if entries and self._clock() - parse_leaf(entries[0][2]).received_at > LAGGING:
            return [{"code": "quorum.late"}]
        return []


def _contradiction(published: Checkpoint | None, locked: Checkpoint | None) -> list[str]:
    """What the published checkpoint and the locked tree head say that cannot both be true."""
    if published is None:
        return ["checkpoint.unreadable"]
    if locked is not None and published.size > locked.size:
        return ["log.rollback"]
    if locked is not None and published.size == locked.size and published.root != locked.root:
        return ["log.fork"]
    return []


def _head(path: Path) -> Head:
    try:
        return _parsed(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return Head(None, None)


def _parsed(text: str) -> Head:
    try:
        signed = note.parse(text)
        return Head(signed, checkpoints.parse(signed.text))
    except (NoteInvalid, CheckpointInvalid):
        return Head(None, None)


def _line(signed: Note, name: str, known: tuple[str, str, VerifierKey] | None) -> dict[str, Any]:
    if known is None:
        return {"name": name, "by": "unknown", "known": False, "holds": False, "algorithm": None, "at": None}
    by, _, key = known
    at = _when(signed, key)
    holds = at is not None if key.type != note.TYPE_ED25519 else _plainly_signed(signed, key)
    algorithm = key.public.algorithm
    return {"name": name, "by": by, "known": True, "holds": holds, "algorithm": algorithm, "at": at}


@lru_cache(maxsize=256)  # every page looks at the same few lines
def _plainly_signed(signed: Note, key: VerifierKey) -> bool:
    try:
        note.verify(signed, [key])
    except NoteInvalid:
        return False
    return True


@lru_cache(maxsize=256)
def _when(signed: Note | None, key: VerifierKey) -> int | None:
    """When this key cosigned (seconds since 1970); None when it did not, or its line does not hold."""
    if signed is None or key.type == note.TYPE_ED25519:
        return None
    try:
        return cosigned_at(signed, key)
    except NoteInvalid:
        return None
