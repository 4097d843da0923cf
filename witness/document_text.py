"""A verified carried document, or why it is not one, for people: English and Chinese, and as JSON."""

from collections.abc import Mapping
from typing import Any

from witness.checks import VerificationFailed
from witness.document import VerifiedDocument
from witness.encoding import format_time
from witness.evidence_words import plain, said

LANGUAGES = ("en", "zh")

_CHINESE = {
    "altered": "文件在携带途中被改动:内容与生成时不一致。",
    "chain": "记录的前后次序不成立。",
    "checkpoint": "见证日志不是受信任的日志,或其签名不成立。",
    "checksum": "文件在签名未覆盖之处被改动。",
    "commitment": "打开承诺所用的盐值或摘要不属于这条记录。",
    "disclosure": "所披露的声明不属于这条记录。",
    "document": "这不是签发方当初承诺的那份文件。",
    "format": "文件格式不正确,或版本未知。",
    "inclusion": "见证日志中没有这条记录。",
    "issuer": "签发方不是预期的一方,或数据空间没有这一签发方。",
    "key": "签名密钥不属于签发方,或在记录时无效。",
    "members": "成员名单缺失、不是运营方签署的,或不是最新的。",
    "one-sided": "记录只有一方签名。",
    "policy": "文件中的策略不是任何一条记录所指的策略。",
    "quorum": "联署的见证方不足。",
    "receipt": "COSE 回执不是该日志签发的,或属于另一条记录。",
    "revoked": "签发方或其密钥此后已被撤销。",
    "signature": "签名与记录不符。",
    "time": "时间先后矛盾。",
    "timestamp": "时间戳不成立。",
}
_WORDS = {
    "en": {
        "verified": "VERIFIED",
        "failed": "NOT VERIFIED",
        "record": " (record {number})",
        "issued": "issued by {issuer}, of {space}",
        "recorded": "recorded {at} as entry {index} of {log}",
        "cosigned": "cosigned by {who}",
        "alone": "cosigned by nobody: the log is trusted alone",
        "document": "document SHA-256 {digest}",
        "stands": "the issuer stands by member list {version}",
        "unchecked": "whether the issuer still stands was not checked: no newer member list was given",
    },
    "zh": {
        "verified": "核验通过",
        "failed": "核验未通过",
        "record": "(第 {number} 条记录)",
        "issued": "签发方 {issuer},数据空间 {space}",
        "recorded": "记录时间 {at},日志 {log} 第 {index} 条",
        "cosigned": "联署见证方 {who}",
        "alone": "无见证方联署:仅信任日志本身",
        "document": "文件 SHA-256 {digest}",
        "stands": "按第 {version} 版成员名单,签发方仍然有效",
        "unchecked": "未核对签发方目前是否有效:没有提供更新的成员名单",
    },
}


def to_json(verified: VerifiedDocument) -> dict[str, Any]:
    """What was verified, as one JSON document."""
    issued = verified.issued
    return {
        "cosigners": sorted(issued.included.cosigners),
        "current_members": verified.current,
        "disclosed": issued.disclosed.claims(),
        "document_sha256": verified.digest.hex(),
        "index": issued.included.index,
        "issuer": verified.issuer,
        "log": issued.included.checkpoint.origin,
        "record": issued.digest,
        "recorded_at": format_time(issued.included.leaf.received_at),
        "space": issued.record.space,
        "verified": True,
    }


def to_text(verified: VerifiedDocument, language: str = "en") -> str:
    """What was verified, for people."""
    words, issued = _WORDS[language], verified.issued
    cosigners = ", ".join(sorted(issued.included.cosigners))
    lines = [
        words["issued"].format(issuer=verified.issuer, space=issued.record.space),
        words["recorded"].format(
            at=format_time(issued.included.leaf.received_at),
            index=issued.included.index,
            log=issued.included.checkpoint.origin,
        ),
        words["cosigned"].format(who=cosigners) if cosigners else words["alone"],
        words["document"].format(digest=verified.digest.hex()),
        words["unchecked" if verified.current is None else "stands"].format(version=verified.current),
        *(f"{said(name, language)}: {plain(value)}" for name, value in issued.disclosed.claims().items()),
    ]
    return "\n".join([words["verified"], *(f"   {line}" for line in lines)])


def failed_text(
    failure: VerificationFailed, language: str = "en", chinese: Mapping[str, str] = _CHINESE
) -> str:
    """Why a file is not verified, in one line; behind the Chinese sentence stands the English detail.

    chinese: sentences that fit another kind of file better.
    """
    words = _WORDS[language]
    where = "" if failure.item is None else words["record"].format(number=failure.item + 1)
    sentence = failure.sentence
    if language == "zh":
        sentence = f"{chinese.get(failure.code) or _CHINESE[failure.code]}({sentence})"
    return f"{words['failed']} [{failure.code}]{where}: {sentence}"
