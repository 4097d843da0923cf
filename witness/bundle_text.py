"""A verified bundle, or why it is not one, for people: English and Chinese.

A bundle may end before its exchange does, and verify all the same: whoever hands it over chooses what to
show. So the text says where an exchange has no outcome in it.
"""

import json
import math
from collections.abc import Mapping
from decimal import Decimal

from witness import document_text
from witness.checks import VerificationFailed
from witness.encoding import format_time
from witness.evidence_words import learned, opened, plain, said, visible
from witness.members import MemberList
from witness.record import Record
from witness.verify import Verified, VerifiedItem

# Events after which more must follow; a bundle that ends there leaves out what came of it.
_BEGUN = frozenset({"contract.request", "contract.offer", "contract.acceptance", "query.intent"})
_CHINESE = {
    "commitment": "所打开的内容不是记录当初承诺的内容。",
    "key": "签名密钥不属于该参与方,或在记录时无效。",
    "members": "成员名单缺失、不是运营方签署的、属于其他数据空间,或前后分叉。",
}
_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "verified": "VERIFIED",
        "exchange": "exchange {id}, step {step}, space {space}",
        "signed": "signed by {who}",
        "one-sided": " — ONE-SIDED",
        "contract": "under policy {policy} ({version})",
        "agreed": "under agreement {agreement}, policy {policy} ({version})",
        "data": "protocol {protocol}",
        "dataset": "dataset of {holder} {commitment}",
        "recorded": "recorded {at} as entry {index} of {log} (tree of {size})",
        "cosigned": "cosigned by {who}",
        "alone": "cosigned by nobody: the log is trusted alone",
        "timestamped": "timestamped {at} by {who}",
        "receipt": "COSE receipt: entry {index} of a tree of {size}",
        "learned": "{who} learned {what}",
        "list": "member list version {version}, issued {at}, signed by the operator with {keys}: {who}",
        "before": "its keys before: {keys}",
        "disclosed": "disclosed {name}: {value}",
        "opened": "opened {name}: {value}",
        "unknown": "{count} timestamp(s) by authorities unknown to the trust file",
        "policy": "policy {digest}, in full:",
        "open": "exchange {id}: this bundle does not show what came of it",
    },
    "zh": {
        "verified": "核验通过",
        "exchange": "交换 {id},第 {step} 步,数据空间 {space}",
        "signed": "签名方 {who}",
        "one-sided": " — 仅单方签名",
        "contract": "策略 {policy}({version})",
        "agreed": "合约 {agreement},策略 {policy}({version})",
        "data": "协议 {protocol}",
        "dataset": "{holder} 的数据集承诺 {commitment}",
        "recorded": "记录时间 {at},日志 {log} 第 {index} 条(树大小 {size})",
        "cosigned": "联署见证方 {who}",
        "alone": "无见证方联署:仅信任日志本身",
        "timestamped": "时间戳 {at},签发机构 {who}",
        "receipt": "COSE 回执:大小为 {size} 的树中第 {index} 条",
        "learned": "{who} 获知 {what}",
        "list": "第 {version} 版成员名单,签发时间 {at},运营方签名算法 {keys}:{who}",
        "before": "此前的密钥:{keys}",
        "disclosed": "披露 {name}:{value}",
        "opened": "打开承诺 {name}:{value}",
        "unknown": "{count} 个时间戳的签发机构不在信任文件中,不予采信",
        "policy": "策略 {digest} 全文:",
        "open": "交换 {id}:本文件未包含其结果",
    },
}


def to_text(verified: Verified, language: str = "en") -> str:
    """What was verified, for people."""
    words = _WORDS[language]
    lists = {members.digest: members for members in verified.members}
    items = enumerate(verified.items, 1)
    lines = [words["verified"], *(_item_text(n, item, language, lists) for n, item in items)]
    if verified.unknown_timestamps:
        lines.append(words["unknown"].format(count=verified.unknown_timestamps))
    lines += [words["open"].format(id=exchange) for exchange in open_exchanges(verified)]
    for digest, text in verified.policies.items():
        lines += [words["policy"].format(digest=digest), *_policy_lines(text)]
    return "\n".join(lines)


def open_exchanges(verified: Verified) -> tuple[str, ...]:
    """The exchanges whose last record here is one that must be followed by another."""
    last = {item.record.exchange.id: item.record.event for item in verified.items}
    return tuple(exchange for exchange, event in last.items() if event in _BEGUN)


def failed_text(failure: VerificationFailed, language: str = "en") -> str:
    """Why a bundle is not verified, in one line."""
    return document_text.failed_text(failure, language, _CHINESE)


def policy_json(text: str) -> object:
    """A policy as parsed JSON, or its text where parsing would lose or change anything of it.

    All that was verified is the digest of the text: who reads the terms must not be shown others.
    """
    try:
        found: object = json.loads(
            text, object_pairs_hook=_unique, parse_float=_exact, parse_constant=_no_number
        )
    except (ValueError, ArithmeticError, RecursionError):
        return text
    return found if isinstance(found, dict) else text


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object repeats a name")
    return found


def _exact(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or Decimal(text) != Decimal(repr(value)):
        raise ValueError("a number that no float holds")
    return value


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _policy_lines(text: str) -> list[str]:
    found = policy_json(text)
    shown = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, indent=1)
    return [f"   | {visible(line)}" for line in shown.splitlines()]


def _item_text(number: int, item: VerifiedItem, language: str, lists: Mapping[str, MemberList]) -> str:
    record, place, words = item.record, item.included, _WORDS[language]
    reason = f" ({record.outcome.reason})" if record.outcome.reason else ""
    cosigners = ", ".join(sorted(place.cosigners))
    at, log = format_time(place.leaf.received_at), place.checkpoint
    roles = {party.id: said(party.role, language) for party in record.parties}
    signed = words["signed"].format(who=", ".join(f"{id_} ({roles[id_]})" for id_ in item.signers))
    lines = [
        words["exchange"].format(id=record.exchange.id, step=record.exchange.sequence, space=record.space),
        signed + (words["one-sided"] if item.one_sided else ""),
        *_about(record, words),
        words["recorded"].format(at=at, index=place.index, log=log.origin, size=log.size),
        words["cosigned"].format(who=cosigners) if cosigners else words["alone"],
        *(words["timestamped"].format(at=format_time(t.at * 1000), who=t.authority) for t in item.timestamps),
        *(words["receipt"].format(index=r.index, size=r.size) for r in (item.receipt,) if r),
        *_told(item, words, lists),
        *(words["learned"].format(who=r.party, what=learned(r.what, language)) for r in record.data.reveals),
        *(
            words["disclosed"].format(name=said(n, language), value=plain(v))
            for n, v in item.disclosed.claims().items()
        ),
        *(words["opened"].format(name=n, value=opened(v, language)) for n, v in item.opened.items()),
    ]
    event, status = said(record.event, language), said(record.outcome.status, language)
    return "\n   ".join([f"{number}. {event}: {status}{reason}", *lines])


def _about(record: Record, words: Mapping[str, str]) -> list[str]:
    """The contract, the protocol and the data that a record binds itself to."""
    lines, contract, data = [], record.contract, record.data
    if contract is not None:
        named = {"policy": contract.policy, "version": contract.version, "agreement": contract.agreement}
        lines.append(words["contract" if contract.agreement is None else "agreed"].format(**named))
    if data.protocol is not None:
        lines.append(words["data"].format(protocol=data.protocol))
    return [
        *lines,
        *(words["dataset"].format(holder=d.holder, commitment=d.commitment) for d in data.datasets),
    ]


def _told(item: VerifiedItem, words: Mapping[str, str], lists: Mapping[str, MemberList]) -> list[str]:
    """What a record is about that says it by digests: a member list, or keys that were replaced."""
    digests = item.record.data.digests
    if item.record.event == "key.rotation":
        return [words["before"].format(keys=", ".join(digests.values()))]
    if item.record.event != "member-list":
        return []
    found = lists.get(digests.get("member-list", ""))
    if found is None:
        return []
    keys = ", ".join(key.algorithm for key in found.operator_keys) or "ed25519"
    who = ", ".join(p.id for p in found.participants)
    at = format_time(found.issued_at)
    return [words["list"].format(version=found.version, at=at, keys=keys, who=who)]
