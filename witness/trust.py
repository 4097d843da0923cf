"""The trust file: what an auditor must hold independently of any bundle.

The data space, the space operator's public keys, and a C2SP tlog-policy (accepted logs with their verifier
keys, known witnesses, quorum). A key of the operator's with `since` must have signed the member list of every
record from then on; where there are two and no `since`, both that of every record. `require` says from when
on logs and parties must sign with an algorithm too; what was recorded before verifies with what it has, for
ever. People may edit the file, so spacing is free; unknown fields are still refused.
"""

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.x509 import load_der_x509_certificate

from witness import canonical
from witness.checks import Requirement
from witness.encoding import b64, unb64
from witness.keys import SIGNATURE_SIZES, KeyInvalid, PublicKey
from witness.members import names_both
from witness.policy import Policy, PolicyInvalid
from witness.policy import parse as parse_policy
from witness.schema import ID, Fields, FormatError, items, utc
from witness.sm2 import SM2

FORMAT = "bayspace-trust/v1"
LARGEST = 16 * 1024 * 1024
NO_QUORUM = "quorum none"


@dataclass(frozen=True)
class Trust:
    """Data space, operator keys, the text of the tlog-policy, and which signatures are required when."""

    space: str
    operator_keys: tuple[PublicKey, ...]
    policy_text: str
    require: tuple[Requirement, ...] = ()
    timestamp_authorities: tuple[bytes, ...] = ()  # DER certificates of whoever certifies authorities
    operator_since: Mapping[PublicKey, int] = field(default_factory=dict)
    """Operator keys that have signed every member list from then on, ms since 1970."""

    @property
    def operator_signs_with_both(self) -> bool:
        """Whether both algorithms must have signed every member list: no `since` says from when on."""
        return names_both(self.operator_keys) and not self.operator_since

    @cached_property
    def policy(self) -> Policy:
        """The policy in force."""
        return parse_policy(self.policy_text)

    def to_bytes(self) -> bytes:
        """The file, spaced for people."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "operator_keys": [self._key_json(key) for key in self.operator_keys],
            "policy": self.policy_text.splitlines(),
            "space": self.space,
        }
        if self.require:
            value["require"] = [{"algorithm": r.algorithm, "since": utc(r.since)} for r in self.require]
        if self.timestamp_authorities:
            value["timestamp_authorities"] = [b64(c) for c in self.timestamp_authorities]
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

    def _key_json(self, key: PublicKey) -> dict[str, str]:
        since = self.operator_since.get(key)
        said = {"algorithm": key.algorithm, "public": b64(key.raw)}
        return said if since is None else {**said, "since": utc(since)}


def of_logs(
    space: str,
    operator_keys: Sequence[PublicKey],
    vkeys: Sequence[str],
    require: Sequence[Requirement] = (),
    quorum: str = NO_QUORUM,
) -> Trust:
    """Trust in these logs, with the witness, group and quorum lines of `quorum`. Raises FormatError."""
    lines = [*(f"log {vkey}" for vkey in vkeys), *(line for line in quorum.splitlines() if line.strip())]
    return parse(Trust(space, tuple(operator_keys), "\n".join(lines), tuple(require)).to_bytes())


def parse(data: bytes) -> Trust:
    """The trust file with this content. Raises FormatError."""
    if len(data) > LARGEST:
        raise FormatError(f"the trust file: it has more than {LARGEST} bytes")
    try:
        # Some editors put a byte order mark before what people write.
        with Fields(canonical.parse_strict(data.removeprefix(codecs.BOM_UTF8)), "the trust file") as f:
            f.literal("format", FORMAT)
            keys = [_key(k) for k in f.items("operator_keys")]
            trust = Trust(
                space=f.text("space", ID),
                operator_keys=tuple(key for key, _ in keys),
                policy_text="\n".join(_line(line) for line in f.items("policy")),
                require=f.optional("require", lambda name: _requirements(f.take(name))) or (),
                timestamp_authorities=f.optional(
                    "timestamp_authorities", lambda name: _certificates(f.items(name))
                )
                or (),
                operator_since={key: since for key, since in keys if since is not None},
            )
        if not trust.operator_keys or not trust.policy.logs:
            raise FormatError("the trust file names no operator key, or no log")
    except (canonical.CanonicalError, PolicyInvalid) as error:
        raise FormatError(f"the trust file: {error}") from error
    return trust


def _key(value: Any) -> tuple[PublicKey, int | None]:
    with Fields(value, "operator key") as f:
        try:
            return PublicKey(f.text("algorithm", ID), f.base64("public")), f.optional("since", f.time)
        except KeyInvalid as error:
            raise FormatError(f"operator key: {error}") from error


def _requirements(value: Any) -> tuple[Requirement, ...]:
    found = []
    for item in items(value, "require"):
        with Fields(item, "require") as f:
            requirement = Requirement(f.text("algorithm", ID), f.time("since"))
        if requirement.algorithm not in (*SIGNATURE_SIZES, SM2):
            raise FormatError("the trust file requires an algorithm that this version does not know")
        found.append(requirement)
    return tuple(found)


def _certificates(values: list[Any]) -> tuple[bytes, ...]:
    try:
        found = tuple(unb64(_line(value)) for value in values)
        for certificate in found:
            load_der_x509_certificate(certificate)
    except ValueError as error:  # EncodingError is one
        raise FormatError("the trust file: a timestamp authority is no certificate in base64 DER") from error
    return found


def _line(value: Any) -> str:
    if not isinstance(value, str) or "\n" in value:
        raise FormatError("the trust file's policy is not a list of lines")
    return value
