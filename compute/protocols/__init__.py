"""Joint protocols: one file each, one entry in `PROTOCOLS`."""

from __future__ import annotations

from compute.errors import QueryError
from compute.protocols import (
    he_sum,
    logistic_steps,
    masked_sum,
    private_join_and_compute,
    psi_aggregate,
    psi_count,
    psi_list,
    single_domain,
)
from compute.protocols.base import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    single_domain.PROTOCOL,
    psi_aggregate.PROTOCOL,
    private_join_and_compute.PROTOCOL,
    psi_count.PROTOCOL,
    psi_list.PROTOCOL,
    masked_sum.PROTOCOL,
    he_sum.PROTOCOL,
    logistic_steps.PROTOCOL,
)
"""Every protocol a plan may name; planner, policy and explain read only these declarations."""


def candidates(name: str = "") -> tuple[Protocol, ...]:
    """The protocols that may answer: all of them, or the one that an asker names. Raises `QueryError`."""
    found = tuple(protocol for protocol in PROTOCOLS if name in ("", protocol.name))
    if not found:
        names = ", ".join(protocol.name for protocol in PROTOCOLS)
        raise QueryError("protocol.unknown", f"no protocol has the name that was given; there are {names}")
    return found


def protocol_named(name: str) -> Protocol:
    """The declaration of that name; `KeyError` when there is none."""
    return {protocol.name: protocol for protocol in PROTOCOLS}[name]
