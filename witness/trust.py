"""The trust file: what an auditor must hold independently of any bundle.

The data space, the space operator's public keys, and a C2SP tlog-policy (accepted logs with their verifier
keys, known witnesses, quorum). People may edit it, so spacing is free; unknown fields are still refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from witness import canonical
from witness.encoding import b64
from witness.keys import KeyInvalid, PublicKey
from witness.policy import Policy, PolicyInvalid
from witness.policy import parse as parse_policy
from witness.schema import ID, Fields, FormatError

FORMAT = "bayspace-trust/v1"


@dataclass(frozen=True)
class Trust:
    """Data space, operator keys, and the text of the tlog-policy."""

    space: str
    operator_keys: tuple[PublicKey, ...]
    policy_text: str

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return parse_policy(self.policy_text)

    def to_bytes(self) -> bytes:
        """The file, spaced for people."""
        value = {
            "format": FORMAT,
            "operator_keys": [{"algorithm": k.algorithm, "public": b64(k.raw)} for k in self.operator_keys],
            "policy": self.policy_text.splitlines(),
            "space": self.space,
        }
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def of_logs(space: str, operator_keys: Sequence[PublicKey], vkeys: Sequence[str]) -> Trust:
    """Trust in these logs, without a quorum of witnesses."""
    lines = [*(f"log {vkey}" for vkey in vkeys), "quorum none"]
    return parse(Trust(space, tuple(operator_keys), "\n".join(lines)).to_bytes())


def parse(data: bytes) -> Trust:
    """The trust file with this content. Raises FormatError."""
    try:
        with Fields(canonical.parse_strict(data), "the trust file") as f:
            f.literal("format", FORMAT)
            trust = Trust(
                space=f.text("space", ID),
                operator_keys=tuple(_key(k) for k in f.items("operator_keys")),
                policy_text="\n".join(_line(line) for line in f.items("policy")),
            )
        if not trust.operator_keys or not trust.policy.logs:
            raise FormatError("the trust file names no operator key, or no log")
    except (canonical.CanonicalError, PolicyInvalid) as error:
        raise FormatError(f"the trust file: {error}") from error
    return trust


def _key(value: Any) -> PublicKey:
    with Fields(value, "operator key") as f:
        try:
            return PublicKey(f.text("algorithm", ID), f.base64("public"))
        except KeyInvalid as error:
            raise FormatError(f"operator key: {error}") from error


def _line(value: Any) -> str:
    if not isinstance(value, str) or "\n" in value:
        raise FormatError("the trust file's policy is not a list of lines")
    return value
