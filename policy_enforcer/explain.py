"""Who learns what, in words a data-protection officer reads: one sentence per disclosure event."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from policy_enforcer.disclosure import Disclosure, Fact, Party

Language = Literal["en", "zh"]

_ENGLISH: Mapping[Fact, str] = MappingProxyType(
    {
        Fact.RELEASED_CELLS: "{to} learns the cells of the result, {gate}",
        Fact.SUPPRESSED_CELLS: "{to} learns how many cells of the result {of} held back, {gate}",
        Fact.TOTAL_COUNTS: (
            "{to}'s connector learns how many identities and participants each cell has in total, {gate}"
        ),
        Fact.STEP_TOTALS: (
            "{to}'s connector learns, at every step of the fit, the coefficients reached and the sums over "
            "all participants that the next ones are computed from, {gate}"
        ),
        Fact.OWN_MATCHES: "{to}'s connector learns which of its own keys {of} also has, {gate}",
        Fact.CELL_MATCH_COUNTS: "{to}'s connector learns how many keys both sides share in each cell, {gate}",
        Fact.GROUP_COUNT: "{to}'s connector learns how many groups {of}'s data has, {gate}",
        Fact.GROUP_SIZES: "{to}'s connector learns the size of each of {of}'s groups, not its name, {gate}",
        Fact.PADDED_SIZE: "{to}'s connector learns the padded size of {of}'s key set, {gate}",
        Fact.MATCHED_ROWS: "{to} learns the agreed columns of {of}'s matched rows, {gate}",
        Fact.WEIGHT_FIGURES: "{to}'s connector learns how many of {of}'s weights are not zero and the "
        "share of the largest, {gate}",
    }
)
_CHINESE: Mapping[Fact, str] = MappingProxyType(
    {
        Fact.RELEASED_CELLS: "{to} 获知结果中的单元格({gate})",
        Fact.SUPPRESSED_CELLS: "{to} 获知 {of} 隐去了多少个结果单元格({gate})",
        Fact.TOTAL_COUNTS: "{to} 的连接器获知各参与方在每个单元格中的主体总数与参与方数({gate})",
        Fact.STEP_TOTALS: (
            "{to} 的连接器在拟合的每一步获知当前系数,以及用于计算下一步系数的全体参与方合计({gate})"
        ),
        Fact.OWN_MATCHES: "{to} 的连接器获知自己的哪些键 {of} 也有({gate})",
        Fact.CELL_MATCH_COUNTS: "{to} 的连接器获知每个单元格中双方共有多少个键({gate})",
        Fact.GROUP_COUNT: "{to} 的连接器获知 {of} 的数据有多少个分组({gate})",
        Fact.GROUP_SIZES: "{to} 的连接器获知 {of} 每个分组的大小,但不知道分组名称({gate})",
        Fact.PADDED_SIZE: "{to} 的连接器获知 {of} 键集合填充后的大小({gate})",
        Fact.MATCHED_ROWS: "{to} 获知 {of} 匹配行中约定的列({gate})",
        Fact.WEIGHT_FIGURES: "{to} 的连接器获知 {of} 有多少个非零权重以及最大权重的占比({gate})",
    }
)
_GATES: Mapping[Language, tuple[str, str]] = MappingProxyType(
    {
        "en": ("before any threshold", "after the owner's thresholds"),
        "zh": ("在任何阈值检查之前", "经数据所有方阈值检查之后"),
    }
)


def sentence(disclosure: Disclosure, names: Mapping[Party, str], lang: Language = "en") -> str:
    """One event with the participants' names in it. `names` has both parties."""
    sentences = _ENGLISH if lang == "en" else _CHINESE
    other = Party.SENDER if disclosure.to is Party.RECEIVER else Party.RECEIVER
    gate = _GATES[lang][disclosure.gated]
    return spaced(sentences[disclosure.fact].format(to=names[disclosure.to], of=names[other], gate=gate))


def spaced(text: str) -> str:
    """Without the spaces between Chinese characters, for names in Latin letters need them."""
    return _BETWEEN.sub("", text)


_BETWEEN = re.compile(r"(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])")
