"""An explanation as a person reads it: verdict first, then who learns what, then the plan and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from connector.cli import answers
from connector.cli.report import console

if TYPE_CHECKING:
    from rich.console import Console

Words = Mapping[str, str]
"""What stands around the sentences of an explanation, in its language."""

_WORDS: Mapping[str, Words] = {
    "en": {
        "permit": "PERMIT",
        "refuse": "REFUSE",
        "allowed": "; allowed: {}",
        "protocol": "protocol {}, disclosure level {}; {}",
        "named": "this protocol was named; without a name the cheapest is taken that everybody tolerates",
        "learns": "who learns what",
        "columns": "columns",
        "of columns": "dataset; column; used; becomes known; verdict",
        "masked": "masked ({})",
        "plan": "plan",
        "of plan": "dataset; rows at most; keys padded to; groups by, or lists; measures",
        "federation": "federation",
        "of federation": "participant; dataset; verdict; uses left",
        "together": "who learns what by working together",
        "not possible": "not possible: {} ({})",
        "chosen": "chosen, as the cheapest",
        "as named": "chosen, as it was named",
        "possible": "possible",
        "estimate": "{}; about {} s and {:,} bytes",
        "noise": "noise of the totals behind a column, one deviation: {}",
        "cost": "costs about {} s and {:,} bytes; 1 use ({} used{})",
        "limit": " of {} per {}; {} left after this",
        "counts": "counts as {:,} {} of {:,} per {}",
        "rows": "rows",
        "bytes": "bytes",
        "same noise": "answered before: the same answer is given again, with the same noise",
        "privacy": "privacy loss: rho {} ({}); {} of {} per {} left after this; our queries of this dataset "
        "have cost {} in all",
        "answered": "answered before, {}: `query` shows that answer and asks nobody",
        "transfer": "{}transfer {}: {} (declared by the owner)",
        "list": "{}{}: {} of {}, {}: {}",
        "from": "from {}",
        "until": " until {}",
        "consent": "{}consent: only rows of identities in the owner's set {}",
        "declared": "{}{}: {} (declared: not enforced by software)",
        "evidence": "evidence: {} witness(es) demanded, configured: {}",
        "none": "none",
    },
    "zh": {
        "permit": "准许",
        "refuse": "拒绝",
        "allowed": ";允许:{}",
        "protocol": "协议 {},披露级别 {};{}",
        "named": "该协议由提问时指定;不指定时,取各方容许的协议中成本最低者",
        "learns": "谁获知什么",
        "columns": "列",
        "of columns": "数据集; 列; 用法; 由谁获知; 结论",
        "masked": "脱敏({})",
        "plan": "计划",
        "of plan": "数据集; 最多行数; 键填充至; 分组或列出; 度量数",
        "federation": "联邦",
        "of federation": "参与方; 数据集; 结论; 剩余次数",
        "together": "合谋时谁获知什么",
        "not possible": "不可用:{}({})",
        "chosen": "选用(成本最低)",
        "as named": "选用(由提问时指定)",
        "possible": "可用",
        "estimate": "{};约 {} 秒,{:,} 字节",
        "noise": "各列背后合计所带噪声的标准差:{}",
        "cost": "约需 {} 秒,{:,} 字节;计一次使用(已用 {} 次{})",
        "limit": ",上限 {} 次,周期 {};此后剩余 {} 次",
        "counts": "计 {:,} {},上限 {:,},周期 {}",
        "rows": "行",
        "bytes": "字节",
        "same noise": "此前已回答:再次给出同一答案,噪声相同",
        "privacy": "隐私损失:rho {}({});此后剩余 {},上限 {},周期 {};我方对该数据集的查询累计已耗 {}",
        "answered": "此前已回答({}):`query` 显示该答案,不再询问任何一方",
        "transfer": "{}跨境 {}:{}(由所有方声明)",
        "list": "{}{}:{},发布方 {},{}:{}",
        "from": "自 {} 起",
        "until": "至 {}",
        "consent": "{}主体授权:仅限所有方授权集 {} 中的主体",
        "declared": "{}{}:{}(仅为声明,软件不强制)",
        "evidence": "存证:要求见证方 {} 个,已配置:{}",
        "none": "无",
    },
}


def written(found: Mapping[str, Any], kind: str, out: Path | None) -> None:
    """Print an explanation whole (table, json), or its verdict per column (csv, markdown, parquet)."""
    if kind == "table" and out is None:
        render(console(), found)
        return
    verdicts = [
        {
            "dataset": row["dataset"],
            "column": row["column"],
            "used": ", ".join(row["uses"]),
            "mask": row["mask"],
            "known": _known(row),
            "verdict": row["verdict"],
            "reasons": ", ".join(reason["code"] for reason in row["reasons"]),
        }
        for row in found["columns"]
    ]
    answers.written(pa.Table.from_pylist(verdicts), kind, out, found)


def render(console: Console, found: Mapping[str, Any]) -> None:
    """Print an explanation (`Space.explain`), in its language."""
    words, protocol = _WORDS[found["language"]], found["protocol"]
    colour = "green" if found["verdict"] == "permit" else "red"
    console.print(f"[bold {colour}]{words[found['verdict']]}[/]")
    _reasons(console, found, words)
    said = words["protocol"].format(protocol["name"], protocol["disclosure"], protocol["threat_model"])
    console.print(said, markup=False)
    if protocol["named"]:
        console.print(words["named"], markup=False)
    console.print(f"[bold]{words['learns']}[/]")
    for event in found["learns"]:
        console.print(f"  - {event['sentence']}", markup=False)
    _columns(console, found, words)
    _plan(console, found, words)
    if "federation" in found:
        _federation(console, found["federation"], words, "as named" if protocol["named"] else "chosen")
    _noise(console, found["noise"], words)
    _cost(console, found, words)
    _transfer(console, found["transfer"], words)
    _declared(console, found["declared"], words)
    witnesses = ", ".join(found["evidence"]["witnesses"]) or words["none"]
    console.print(words["evidence"].format(found["evidence"]["demanded"], witnesses), markup=False)


def _reasons(console: Console, found: Mapping[str, Any], words: Words) -> None:
    for reason in found["reasons"]:
        place = f" ({reason['column']})" if reason["column"] else ""
        allowed = words["allowed"].format(reason["allowed"]) if reason["allowed"] else ""
        console.print(
            f"  {reason['code']}{place}: {reason['sentence']} — {reason['rule']}{allowed}", markup=False
        )


def _columns(console: Console, found: Mapping[str, Any], words: Words) -> None:
    from rich.table import Table

    drawn = Table(*words["of columns"].split("; "), title=words["columns"], title_justify="left")
    for row in found["columns"]:
        why = "; ".join(reason["code"] for reason in row["reasons"])
        used = [*row["uses"], *([words["masked"].format(row["mask"])] if row["mask"] else [])]
        drawn.add_row(row["dataset"], row["column"], ", ".join(used), _known(row), why or row["verdict"])
    console.print(drawn)


def _plan(console: Console, found: Mapping[str, Any], words: Words) -> None:
    from rich.table import Table

    drawn = Table(*words["of plan"].split("; "), title=words["plan"], title_justify="left")
    for side in found["plan"]:
        keys = f"{side['keys_padded_to']:,}" if side["keys"] else "–"
        groups = ", ".join(side["groups_by"] or side["lists"])
        drawn.add_row(side["dataset"], f"{side['rows_at_most']:,}", keys, groups, str(len(side["measures"])))
    console.print(drawn)


def _cost(console: Console, found: Mapping[str, Any], words: Words) -> None:
    """What asking takes of time, network and budgets; nothing where the answer is here already."""
    cost, uses = found["cost"], found["budget"]["uses"]
    limit = words["limit"].format(uses["limit"], uses["per"], uses["left_after"]) if uses["limit"] else ""
    console.print(words["cost"].format(cost["seconds"], cost["bytes"], uses["used"], limit))
    for what in ("rows", "bytes"):
        if what in found["budget"]:
            size = found["budget"][what]
            console.print(words["counts"].format(size["costs"], words[what], size["limit"], size["per"]))
    if "privacy" in found["budget"]:
        privacy = found["budget"]["privacy"]
        if privacy["answered_before"]:
            console.print(words["same noise"])
        names = ("costs_rho", "mechanism", "left_after_rho", "limit_rho", "per", "dataset_lifetime_rho")
        console.print(words["privacy"].format(*(privacy[name] for name in names)))
    if found["answered_at"]:
        console.print(words["answered"].format(found["answered_at"]))


def _noise(console: Console, found: Mapping[str, Any], words: Words) -> None:
    """How large it is, so that a reader knows what a figure is worth."""
    sizes = [f"{name} {', '.join(f'{size:,.6g}' for size in every)}" for name, every in found.items()]
    if sizes:
        console.print(words["noise"].format("; ".join(sizes)), markup=False)


def _known(row: Mapping[str, Any]) -> str:
    """To whom a column becomes known, and in which ways; nothing for the asker's own."""
    return "; ".join(f"{who}: {', '.join(ways)}" for who, ways in row["known"].items())


def _transfer(console: Console, stated: Mapping[str, Any], words: Words, whose: str = "") -> None:
    """Basis and filing as declared; what lists and consent do; nothing where the policy says nothing."""
    for word in ("basis", "filing"):
        if word in stated:
            console.print(words["transfer"].format(whose, word, stated[word]), markup=False)
    for word in ("whitelist", "negative_list", "low_risk"):
        if word in stated:
            one = stated[word]
            until = words["until"].format(one["until"]) if "until" in one else ""
            when = words["from"].format(one["from"]) + until
            line = words["list"].format(whose, word, one["id"], one["issuer"], when, one["title"])
            console.print(line, markup=False)
    if "consent" in stated:
        console.print(words["consent"].format(whose, stated["consent"]), markup=False)


def _declared(console: Console, stated: Mapping[str, str], words: Words, whose: str = "") -> None:
    """What the owner states and no software enforces; basis and filing stand with the transfer."""
    for place, text in stated.items():
        if not place.startswith("transfer."):
            console.print(words["declared"].format(whose, place, text), markup=False)


def _federation(console: Console, found: Mapping[str, Any], words: Words, taken: str) -> None:
    """Whose rows are summed, what colluding participants would learn, and what was chosen."""
    _participants(console, found["participants"], words)
    if found["own"] is not None:
        console.print(found["own"]["sentence"], markup=False)
    console.print(f"[bold]{words['together']}[/]")
    for coalition in found["coalitions"]:
        console.print(f"  - {coalition['who']}: {coalition['learns']}", markup=False)
    console.print(found["assumes"], markup=False)
    console.print(found["why"], markup=False)
    for protocol in found["protocols"]:
        console.print(f"  {protocol['name']}: {_choice(protocol, words, taken)}", markup=False)


def _participants(console: Console, found: Sequence[Mapping[str, Any]], words: Words) -> None:
    from rich.table import Table

    drawn = Table(*words["of federation"].split("; "), title=words["federation"], title_justify="left")
    protected: dict[str, list[str]] = {}
    for part in found:
        left = part["budget"]["uses"]["left_after"]
        drawn.add_row(
            part["participant"], part["dataset"], part["verdict"], "–" if left is None else f"{left:,}"
        )
        protected.setdefault(part["protection"], []).append(part["participant"])
    console.print(drawn)
    for protection, names in protected.items():
        console.print(f"  {', '.join(names)}: {protection}", markup=False)
    for part in found:
        _transfer(console, part["transfer"], words, f"{part['participant']}: ")
        _declared(console, part["declared"], words, f"{part['participant']}: ")


def _choice(protocol: Mapping[str, Any], words: Words, taken: str) -> str:
    """Whether it was taken, and what it would cost; or why it cannot be."""
    if "refused" in protocol:
        return words["not possible"].format(protocol["because"], protocol["refused"])
    chosen = words[taken if protocol["chosen"] else "possible"]
    return words["estimate"].format(chosen, protocol["seconds"], protocol["bytes"])
