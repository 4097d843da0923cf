"""What `explain` shows of a question over a federation: whose policies, and who could learn what together.

It states what the protocols' tests show, in English and Chinese; the verdict is `connector/rounds.py`'s.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from compute import extremes
from compute.choice import kind_of
from compute.errors import QueryError
from compute.protocols import PROTOCOLS
from connector import inquiry as single
from connector.inquiry import Inquiry
from connector.node import Node
from connector.references import transfer_of
from connector.rounds import Round, prepared_by
from policy_enforcer.describe import declared
from policy_enforcer.disclosure import Party
from policy_enforcer.explain import Language, sentence
from policy_enforcer.model import Policy, plain
from policy_enforcer.obligations import obligations
from policy_enforcer.privacy import billionths, rho


def explanation(node: Node, asked: Inquiry | Round, language: Language) -> dict[str, Any]:
    """What `explain` shows, as JSON values; of a round also its participants and what it could be instead."""
    if isinstance(asked, Inquiry):
        return single.explanation(node, asked, language)
    first = asked.inquiries[0]
    merged = replace(first, decisions={asked.prepared.plan.sender.dataset: asked.decision})
    demanded = max(obligations(inquiry.agreement.policy).witnesses for inquiry in asked.inquiries)
    found = single.explanation(node, merged, language)
    participants = [_participant(node, inquiry, language) for inquiry in asked.inquiries]
    return {
        **found,
        "agreement": None,
        "transfer": {},
        "declared": {},
        "budget": min((one["budget"] for one in participants), key=_left),
        "learns": _learns(node, asked, language),
        "evidence": {**found["evidence"], "demanded": demanded},
        "federation": {
            "participants": participants,
            "own": _own_part(asked, language),
            "coalitions": _coalitions(node, asked, language),
            "assumes": _ASSUMES[language],
            "why": _why(asked, language),
            "protocols": _protocols(node, asked),
        },
    }


def _left(budget: dict[str, Any]) -> tuple[float, float]:
    """How much a participant's budgets leave: the round needs all of them, so the tightest is shown."""
    uses, privacy = budget["uses"]["left_after"], budget.get("privacy")
    rho_left = float(privacy["left_after_rho"]) if privacy else inf
    return inf if uses is None else uses, rho_left


_ASSUMES = {
    "en": (
        "That holds for participants that follow the protocol and may study what they see. One that vanishes "
        "ends the round, which counts as a use at those who had started; asking again without it is a new "
        "query."
    ),
    "zh": (
        "以上结论适用于遵守协议、但可研究其所见数据的参与方。"
        "任一参与方中途退出则本轮失败,已开始的参与方计一次使用;不含该方的重新提问是一次新的查询。"
    ),
}


_WHO = {"en": ("each participant", "the participants"), "zh": ("每个参与方", "全体参与方")}


def _learns(node: Node, asked: Round, language: Language) -> list[dict[str, Any]]:
    """Each learns alike; what the asker learns is of all of them together."""
    each, together = _WHO[language]
    return [
        {
            **event.as_json(),
            "who": node.id if event.to is Party.RECEIVER else each,
            "sentence": sentence(
                event,
                {Party.RECEIVER: node.id, Party.SENDER: together if event.to is Party.RECEIVER else each},
                language,
            ),
        }
        for event in asked.prepared.plan.reveals
    ]


def _participant(node: Node, inquiry: Inquiry, language: Language) -> dict[str, Any]:
    policy = inquiry.agreement.policy
    federation = policy.analysis.federation
    return {
        "participant": inquiry.agreement.provider,
        "dataset": inquiry.agreement.full_name,
        "agreement": inquiry.agreement.digest,
        "verdict": "permit" if inquiry.decision.permitted else "refuse",
        "scope": federation.scope if federation else None,
        "minimum_identities": policy.analysis.minimum_identities,
        "minimum_participants": federation.minimum_participants if federation else None,
        "beside": list(federation.participants) if federation and federation.participants else None,
        "protection": _protection(policy, language),
        "transfer": transfer_of(inquiry.agreement),
        "declared": declared(inquiry.agreement.policy),
        "budget": single.budget(node, inquiry),
    }


def _protection(policy: Policy, language: Language) -> str:
    """What a participant's own policy does for its rows in this round."""
    analysis, words = policy.analysis, _PROTECTION[language]
    federation, noise = analysis.federation, analysis.noise
    if federation is None:
        raise AssertionError("no federation is agreed")
    said = [words["least"].format(federation.minimum_participants)]
    if analysis.minimum_identities is not None:
        said.append(words[federation.scope].format(analysis.minimum_identities))
    if analysis.dominance is not None:
        said.append(words["share"].format(plain(analysis.dominance.share_at_most)))
    if federation.participants is not None:
        said.append(words["beside"].format(", ".join(federation.participants)))
    if noise is not None:
        loss, honest = billionths(noise.rho_per_query), federation.honest_participants
        said.append(words["noise"].format(noise.mechanism, rho(loss)))
        if honest is not None:
            said.append(words["shares"].format(honest - 1, rho((honest - 1) * loss)))
    return words["join"].join(said)


_PROTECTION = {
    "en": {
        "join": "; ",
        "least": "its part goes into totals with at least {} participants",
        "total": "of at least {} identities in all",
        "local": "no cell of its own with fewer than {} identities goes into any",
        "share": "no cell of its own in which one identity holds more than {} of a figure goes into any",
        "beside": "only {} may stand beside it",
        "noise": "its part carries its own noise ({}), rho {} of its budget",
        "shares": "that noise is a share: those of any {} participants are whole together; were all others "
        "to work with the asker, its part would cost rho {}",
    },
    "zh": {
        "join": ";",
        "least": "其数据仅计入至少 {} 个参与方的合计",
        "total": "合计至少 {} 个主体",
        "local": "其自身不足 {} 个主体的单元格不计入",
        "share": "其自身单元格中若有单个主体占某项数值超过 {},该单元格不计入",
        "beside": "仅允许 {} 同轮参与",
        "noise": "其数值带有自身噪声({}),消耗预算 rho {}",
        "shares": "该噪声为份额:任意 {} 个参与方的份额合为完整噪声;若其余各方均合谋,其损失为 rho {}",
    },
}


def _own_part(asked: Round, language: Language) -> dict[str, str] | None:
    if asked.own is None:
        return None
    name = asked.own.dataset.full_name
    return {"dataset": name, "sentence": _OWN[language].format(name)}


_OWN = {
    "en": (
        "Our own rows of {} are added here to what the round releases: they help no minimum, and nobody else "
        "learns of them."
    ),
    "zh": "本方数据 {} 在本地计入本轮放行的结果:不计入任何门槛,其他方不会得知。",
}


def _coalitions(node: Node, asked: Round, language: Language) -> list[dict[str, str]]:
    """What each set of parties can compute from all that they see together, the answer included."""
    plan = asked.prepared.plan
    noise = _NOISY[language] if plan.noise is not None else ""
    far = _FAR[language] if extremes.scaled(plan.sender) else ""
    names = {"asker": node.id, "count": len(asked.inquiries), "noise": noise, "far": far}
    return [
        {"who": who.format(**names), "learns": learns.format(**names)}
        for who, learns in (_COALITIONS if plan.logistic is None else _OF_FITS)[language]
    ]


_NOISY = {"en": ", with its noise", "zh": "(含其噪声)"}

_FAR = {"en": " (of MIN and MAX: how far both together reach)", "zh": "(MIN、MAX 为两方合并后的极值)"}

_COALITIONS = {
    "en": (
        (
            "{asker} alone",
            "totals over {count} participants, and how many identities and participants are in each cell",
        ),
        (
            "any participants without {asker}",
            "identities and participants of each cell, less their own; no figure",
        ),
        (
            "{asker} and all participants but two",
            (
                "the sum of the two others in every released cell{noise}{far}, and how many identities both "
                "have together in every cell; nothing more of either"
            ),
        ),
        (
            "{asker} and all participants but one",
            (
                "that one's part of every released cell{noise}, as from any sum, and how many identities it "
                "has in every cell, released or not"
            ),
        ),
    ),
    "zh": (
        ("{asker} 单独", "{count} 个参与方的合计,以及每个单元格的主体数与参与方数"),
        ("不含 {asker} 的任意参与方", "每个单元格减去自身后的主体数与参与方数;不含数值"),
        (
            "{asker} 与除两方外的全部参与方",
            "其余两方在已放行单元格中的数值之和{noise}{far},以及两方在每个单元格中的主体数之和;无法区分其中任一方",
        ),
        (
            "{asker} 与除一方外的全部参与方",
            "该方在已放行单元格中的数值{noise},与任何求和相同,以及该方在每个单元格中的主体数,无论是否放行",
        ),
    ),
}

_OF_FITS = {
    "en": (
        (
            "{asker} alone",
            "the coefficients for the rows of {count} participants, their errors, how many rows and steps",
        ),
        (
            "any participants without {asker}",
            "identities and participants in total, and the sums of every step{noise}, less their own",
        ),
        (
            "{asker} and all participants but two",
            "the two others' sums together at every step{noise}, and nothing more of either",
        ),
        ("{asker} and all participants but one", "that one's sums at every step{noise}"),
    ),
    "zh": (
        ("{asker} 单独", "{count} 个参与方数据的拟合系数、标准误、行数与步数"),
        ("不含 {asker} 的任意参与方", "主体与参与方总数,以及每一步减去自身后的合计{noise}"),
        ("{asker} 与除两方外的全部参与方", "其余两方在每一步的合计之和{noise},无法得知其中任一方"),
        ("{asker} 与除一方外的全部参与方", "该方在每一步的合计{noise}"),
    ),
}

_STEPS = {
    "en": "A logistic regression takes up to {} steps, for which there is one protocol",
    "zh": "逻辑回归最多 {} 步拟合,仅有一种协议",
}

_LEAST = {
    "en": "; it begins only with {} identities or more besides any one participant's, as many as "
    "sums may be shown",
    "zh": ";除任一参与方外,其余合计至少 {} 个主体(不少于可能披露的合计数)才开始",
}

_WHY = {
    "en": "Both protocols disclose the same; the one that is cheaper by the estimate is taken:",
    "zh": "两种协议披露的内容相同;取估算成本较低者:",
}

_NAMED = {
    "en": "Both protocols disclose the same; {} is taken, because it was named:",
    "zh": "两种协议披露的内容相同;采用提问时指定的 {}:",
}


def _why(asked: Round, language: Language) -> str:
    """Why the protocol is the one that it is, in front of what each would cost."""
    fit, named = asked.prepared.plan.logistic, asked.inquiries[0].protocol
    if fit is None:
        return _NAMED[language].format(named) if named else _WHY[language]
    least = _LEAST[language].format(fit.identities) if fit.identities else ""
    return _STEPS[language].format(fit.steps) + least + ":"


def _protocols(node: Node, round_: Round) -> list[dict[str, Any]]:
    """What each federated protocol would cost, the cheapest first: that one is chosen where none is named."""
    first, chosen = round_.inquiries[0], round_.prepared.plan
    name = chosen.sender.dataset.split(".", 1)[1]
    found: list[dict[str, Any]] = []
    for protocol in PROTOCOLS:
        if kind_of(chosen) not in protocol.kinds:
            continue
        try:
            plan = prepared_by(node, name, first.sql, first.agreement, first.parts, protocol.name).plan
        except QueryError as error:
            found.append({"name": protocol.name, "refused": error.code, "because": error.sentence})
            continue
        cost = protocol.cost(plan)
        found.append(
            {
                "name": protocol.name,
                "chosen": protocol.name == chosen.protocol,
                "seconds": round(cost.seconds, 2),
                "bytes": cost.bytes,
            }
        )
    return sorted(found, key=lambda one: float(one.get("seconds", float("inf"))))
