"""C2SP tlog-policy (c2sp.org/tlog-policy): which logs are accepted, and which witnesses make a quorum.

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <name>...
    quorum <name>|none

Fails closed: a line that is not understood, a name used twice or not yet defined, a missing quorum line
refuse the whole policy. A witness never counts for a log of its own operator: the operator is the first
part of a key's name, up to the first slash (key names are schema-less URLs).
"""

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from witness.cosignature import cosigned_at
from witness.note import (
    TYPE_COSIGNATURE_ED25519,
    TYPE_COSIGNATURE_ML_DSA_44,
    TYPE_ED25519,
    TYPE_SM2,
    Note,
    NoteInvalid,
    VerifierKey,
    parse_vkey,
)

NONE = "none"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_COUNT = re.compile(r"[1-9][0-9]{0,3}")
_LOG_TYPES = frozenset({TYPE_ED25519, TYPE_COSIGNATURE_ML_DSA_44, TYPE_SM2})
_WITNESS_TYPES = frozenset({TYPE_COSIGNATURE_ED25519, TYPE_COSIGNATURE_ML_DSA_44})


class PolicyInvalid(ValueError):
    """Not a tlog-policy."""


@dataclass(frozen=True)
class Policy:
    """Logs by key, witnesses by name, groups as (threshold, members), and the name that must be satisfied.

    urls: where each witness takes checkpoints (its submission prefix), and log_urls where each log publishes,
    by its origin, where the policy says so.
    """

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey] = field(default_factory=dict)
    groups: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    quorum: str = NONE
    urls: Mapping[str, str] = field(default_factory=dict)
    log_urls: Mapping[str, str] = field(default_factory=dict)

    def cosigners(self, signed: Note) -> dict[str, int]:
        """Which known witnesses cosigned the checkpoint, and when (seconds since 1970).

        Raises NoteInvalid when a known witness's line does not hold. A log's own operator never counts,
        and `parse` refuses one key in both places.
        """
        own = operator_of(signed.text.partition("\n")[0])
        others = {name: key for name, key in self.witnesses.items() if operator_of(key.name) != own}
        times = {name: cosigned_at(signed, key) for name, key in others.items()}
        return {name: time for name, time in times.items() if time is not None}

    def satisfied_by(self, cosigners: AbstractSet[str]) -> bool:
        """Whether these witnesses make the quorum."""
        return self.quorum == NONE or self._holds(self.quorum, cosigners)

    def of_logs(self, vkeys: Sequence[str]) -> "Policy":
        """The same quorum, demanded of the log with these verifier keys.

        Raises PolicyInvalid when that log can never have it: witnesses of its own operator never count.
        """
        logs = tuple(parse_vkey(vkey) for vkey in vkeys)
        if {key.public for key in logs}.intersection(key.public for key in self.witnesses.values()):
            raise PolicyInvalid("a witness with the key of the log itself")
        own = {operator_of(key.name) for key in logs}
        others = {name for name, key in self.witnesses.items() if operator_of(key.name) not in own}
        if not self.satisfied_by(others):
            raise PolicyInvalid("without witnesses of the log's own operator the quorum can never be made")
        return replace(self, logs=logs)

    def _holds(self, name: str, cosigners: AbstractSet[str]) -> bool:
        if name not in self.groups:
            return name in cosigners
        threshold, members = self.groups[name]
        return sum(self._holds(member, cosigners) for member in members) >= threshold


def operator_of(name: str) -> str:
    """Whose key this is: the first part of its name, which is a host or the like."""
    return name.partition("/")[0].lower()


def read(data: bytes) -> Policy:
    """The policy in a file, whose octets beyond ASCII are opaque. Raises PolicyInvalid."""
    return parse(data.decode(errors="surrogateescape"))


def parse(text: str) -> Policy:
    """The policy in `text`. Raises PolicyInvalid with the line's number."""
    if _CONTROL.search(text):
        raise PolicyInvalid("a policy has no control characters but tab and newline")
    reader = _Reader()
    for number, line in enumerate(text.split("\n"), 1):
        words = [word for word in re.split(r"[ \t]+", line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            reader.line(words)
        except (PolicyInvalid, NoteInvalid) as error:
            raise PolicyInvalid(f"line {number}: {error}") from error
    return reader.policy()


class _Reader:
    def __init__(self) -> None:
        self._logs: list[VerifierKey] = []
        self._witnesses: dict[str, VerifierKey] = {}
        self._groups: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._members: set[str] = set()
        self._urls: dict[str, str] = {}
        self._log_urls: dict[str, str] = {}
        self._quorum: str | None = None

    def line(self, words: list[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                self._logs.append(self._new_key(vkey, log=True))
                self._log_urls |= dict.fromkeys([self._logs[-1].name], url[0]) if url else {}
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._witnesses[self._new_name(name)] = self._new_key(vkey, log=False)
                self._urls |= dict.fromkeys([name], url[0]) if url else {}
            case ["group", name, count, *members] if members:
                self._group(name, count, members)
            case ["quorum", name]:
                self._set_quorum(name)
            case _:
                raise PolicyInvalid("not a log, witness, group or quorum line")

    def policy(self) -> Policy:
        if self._quorum is None:
            raise PolicyInvalid("a policy without a quorum line")
        return Policy(
            tuple(self._logs), self._witnesses, self._groups, self._quorum, self._urls, self._log_urls
        )

    def _new_key(self, vkey: str, *, log: bool) -> VerifierKey:
        key = parse_vkey(vkey)
        if key.type not in (_LOG_TYPES if log else _WITNESS_TYPES):
            raise PolicyInvalid("a key of a signature type that does not fit its line")
        if any(key.public == other.public for other in [*self._logs, *self._witnesses.values()]):
            raise PolicyInvalid("a public key listed twice")
        return key

    def _new_name(self, name: str) -> str:
        if name == NONE or name in self._witnesses or name in self._groups:
            raise PolicyInvalid("a name that is taken")
        return name

    def _group(self, name: str, count: str, members: list[str]) -> None:
        for member in members:
            if member not in self._witnesses and member not in self._groups:
                raise PolicyInvalid("a group member that no earlier line defines")
            if member in self._members:
                raise PolicyInvalid("a name that is a member twice")
            self._members.add(member)
        known = {"all": len(members), "any": 1}
        if count not in known and not _COUNT.fullmatch(count):
            raise PolicyInvalid("a group's count is all, any or a number")
        threshold = known.get(count) or int(count)
        if threshold > len(members):
            raise PolicyInvalid("a group that asks for more members than it has")
        self._groups[self._new_name(name)] = (threshold, tuple(members))

    def _set_quorum(self, name: str) -> None:
        if self._quorum is not None:
            raise PolicyInvalid("a second quorum line")
        if name != NONE and name not in self._witnesses and name not in self._groups:
            raise PolicyInvalid("a quorum that no earlier line defines")
        self._quorum = name
