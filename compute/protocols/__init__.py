"""Joint protocols: one file each, one entry in `PROTOCOLS`."""

from __future__ import annotations

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


def protocol_named(name: str) -> Protocol:
    """The declaration of that name; `KeyError` when there is none."""
    return {protocol.name: protocol for protocol in PROTOCOLS}[name]
