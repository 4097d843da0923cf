"""What the codes in a record mean, for people: events, roles, claims, and what a party learned.

A record holds codes, which never change; who verifies it years later must not need the connector's documents
to read them. A code that is not here is shown as it stands. What parties wrote is shown so that it cannot
pretend to be something else: nothing of it is invisible, and none of its lines begins like one of ours.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

_SUFFIX = "+ungated"
_UNGATED = {"en": ", before any gate", "zh": ",在任何放行检查之前"}
LEARNED: Mapping[str, tuple[str, str]] = {
    "released-cells": ("cells of the answer that passed the owner's gate", "通过所有者放行检查的结果单元格"),
    "suppressed-cells": ("how many cells did not pass the gate", "未通过放行检查的单元格数量"),
    "total-counts": (
        "identities and participants behind every cell of a federation",
        "联合统计中每个单元格背后的主体数与参与方数",
    ),
    "step-totals": (
        "sums over all participants at each step of a fit, and the coefficients then",
        "拟合每一步的全体合计及当时的系数",
    ),
    "own-matches": ("which of its own keys matched", "自己的哪些键匹配"),
    "cell-match-counts": ("exact matches per cell", "每个单元格的准确匹配数"),
    "group-count": ("how many groups the other side has", "对方的分组数量"),
    "group-sizes": ("sizes of the other side's groups, without labels", "对方各分组的大小(不含标签)"),
    "padded-size": ("the other side's number of keys, padded", "对方填充后的键数量"),
    "matched-rows": ("agreed columns of the matched rows", "匹配行中约定的列"),
    "weight-figures": ("signed figures about the weights", "关于权重的已签署指标"),
}
CHINESE: Mapping[str, str] = {
    "contract.request": "合约请求",
    "contract.offer": "合约要约",
    "contract.acceptance": "合约接受",
    "contract.agreement": "合约签订",
    "contract.termination": "合约终止",
    "document.commitment": "文件承诺登记",
    "document.verification": "文件核验",
    "key.rotation": "密钥轮换",
    "member-list": "成员名单",
    "offer": "数据要约",
    "policy.change": "策略变更",
    "query.failure": "查询失败",
    "query.intent": "查询意向",
    "query.refusal": "查询被拒",
    "query.release": "结果放行",
    "query.result": "接收方对结果的声明",
    "usage.statement": "使用情况声明",
    "done": "完成",
    "refused": "拒绝",
    "failed": "失败",
    "aggregator": "汇总方",
    "connector": "连接器",
    "consumer": "消费方",
    "contributor": "贡献方",
    "holder": "持有方",
    "issuer": "签发方",
    "operator": "运营方",
    "provider": "提供方",
    "verifier": "核验方",
    "witness": "见证方",
    "budget": "预算",
    "correlation": "关联编号",
    "data_categories": "数据类别",
    "destination_jurisdictions": "接收地辖区",
    "figures": "指标",
    "filing_number": "备案编号",
    "purpose": "用途",
    "recipient_categories": "接收方类别",
    "retain_until": "保存期限",
    "source_jurisdictions": "来源地辖区",
    "transfer_basis": "出境依据",
}


def said(code: str, language: str) -> str:
    """A code as people of this language read it; beside Chinese words stands the code."""
    chinese = CHINESE.get(code) if language == "zh" else None
    return code if chinese is None else f"{chinese} {code}"


def learned(code: str, language: str) -> str:
    """What a party learned: the code, and what it means."""
    fact = code.removesuffix(_SUFFIX)
    if fact not in LEARNED:
        return code
    meaning = LEARNED[fact][language == "zh"]
    when = _UNGATED[language] if code.endswith(_SUFFIX) else ""
    return f"{code} ({meaning}{when})"


def visible(text: str) -> str:
    """The text with everything written out that a reader would not see, or that turns what is beside it."""
    return "".join(char if _is_seen(char) else f"\\u{{{ord(char):04x}}}" for char in text)


def plain(value: Any) -> str:
    """A disclosed value: texts as they are, lists with commas, everything else as JSON."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def opened(value: bytes, language: str) -> str:
    """An opened value: text, digests in hexadecimal, and of anything else its size and digest."""
    try:
        lines = value.decode().splitlines() or [""]
    except UnicodeDecodeError:
        digest = hashlib.sha256(value).hexdigest()
        return (
            value.hex()
            if len(value) <= _LONGEST_HEX
            else _BYTES[language].format(n=len(value), digest=digest)
        )
    return visible(lines[0]) if len(lines) == 1 else "".join(f"\n   | {visible(line)}" for line in lines)


_LONGEST_HEX = 64
_BYTES = {"en": "{n} bytes, SHA-256 {digest}", "zh": "{n} 字节,SHA-256 {digest}"}
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and a symbol that show nothing


def _is_seen(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind[0] != "C" and kind not in ("Zl", "Zp") and char not in _BLANK
