"""Terms on the table: which a side may put there, and what each version changes, for people.

A proposal is a policy in full. The proposer's loader and the receiver's both must pass it; at the provider it
must fit the dataset too, as a published policy does.
Refuses terms about something else, terms that name documents they do not carry, and what no loader passes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from compute.errors import ConfigError, PeerViolation
from connector import consent, datasets, references, transfer_lists
from connector.contract import Proposal, unacceptable
from connector.node import Node, Offered
from connector.state.rows import NegotiationRecord, ProposalRecord
from policy_enforcer import load, write
from policy_enforcer.diff import diff
from policy_enforcer.model import Policy
from policy_enforcer.problems import PolicyError
from policy_enforcer.references import named


def of_offer(offered: Offered) -> Proposal:
    """An offer's own terms."""
    return Proposal(offered.policy, offered.documents)


def drafted(node: Node, full_name: str, text: str, known: list[Proposal]) -> Proposal:
    """Our own people's terms, from YAML. The documents they name are in `known` terms or in our folders."""
    try:
        policy = load.load(text, "terms")
    except PolicyError as error:
        raise unacceptable(error) from None
    carried = {reference: text for proposal in known for reference, text in proposal.documents.items()}
    wanted = [reference for _, reference in named(policy)]
    if all(reference in carried for reference in wanted):
        documents = references.checked(policy, {reference: carried[reference] for reference in wanted})
    else:
        documents = references.read(node.config.policies_folder, policy)
    proposal = Proposal(policy, documents)
    check(node, full_name, proposal)
    return proposal


def received(node: Node, full_name: str, document: bytes, ours: Proposal | None) -> Proposal:
    """A peer's terms. Raises `PeerViolation`, and `ConfigError` for what cannot be agreed here.

    `ours`: our last word on the same table. About our own offer a peer's terms name its consent set and no
    other: which sets there are is not a peer's to find out.
    """
    proposal = Proposal.parse(document)
    if proposal.policy.owner == node.id:
        _check_consent(proposal, ours)
    try:
        references.checked(proposal.policy, proposal.documents)
    except ConfigError as error:
        raise PeerViolation("contract.differs", f"the terms: {error.sentence}") from None
    check(node, full_name, proposal)
    return proposal


def _check_consent(proposal: Proposal, ours: Proposal | None) -> None:
    if ours is None or _consent(proposal) != _consent(ours):
        raise ConfigError(
            "contract.terms", "the proposed policy changes the consent set, which is its owner's"
        )


def _consent(proposal: Proposal) -> str | None:
    transfer = proposal.policy.transfer
    return None if transfer is None else transfer.consent


def check(node: Node, full_name: str, proposal: Proposal) -> None:
    """Raise `ConfigError` unless the terms can be agreed about this offer."""
    policy = proposal.policy
    if policy.dataset != full_name:
        raise ConfigError("contract.terms", f"the proposed policy is not about {full_name}")
    if policy.owner == node.id:
        _check_own(node, full_name.partition(".")[2], proposal)


def _check_own(node: Node, offer: str, proposal: Proposal) -> None:
    """As its provider: the policy fits the dataset, as one that is published must."""
    policy = proposal.policy
    columns = {column.name: column for column in node.own_offer(offer).dataset.columns}
    problems = [p for p in load.lint(write.to_yaml(policy), columns) if not p.warning]
    if problems:
        raise unacceptable(PolicyError("terms", problems))
    datasets.check_columns(columns, policy, "the proposed policy")
    datasets.info_under(node.store, node.id, offer, policy)  # its bounds meet the declared ones
    transfer_lists.check(node.config.trust, policy, proposal.documents, node.now())
    consent.check(node.config.policies_folder, policy)


# --- for people ---------------------------------------------------------------------------------------


def shown(node: Node, record: NegotiationRecord) -> list[dict[str, Any]]:
    """Everything that was on the table, each version with what it changes in the one before.

    Of one whose document is not kept the digest alone is shown.
    """
    versions = [(kept, _policy(kept)) for kept in node.store.proposals(record.id)]
    before = [None, *(policy for _, policy in versions)]
    return [
        _shown(node, record, kept, policy, old) for (kept, policy), old in zip(versions, before, strict=False)
    ]


def _policy(kept: ProposalRecord) -> Policy | None:
    return Proposal.parse(kept.document).policy if kept.document else None


def _shown(
    node: Node, record: NegotiationRecord, kept: ProposalRecord, policy: Policy | None, old: Policy | None
) -> dict[str, Any]:
    changes = None if old is None or policy is None else asdict(diff(old, policy))
    return {
        "sequence": kept.sequence,
        "author": node.id if kept.author == record.role else record.peer,
        "policy": None if policy is None else policy.policy,
        "policy_digest": kept.policy_digest,
        "published": kept.published,
        "changes": changes,
        "text": None if policy is None else write.to_yaml(policy),
        "at": kept.at,
    }
