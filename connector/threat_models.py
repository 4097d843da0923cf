"""What a protocol assumes of those who take part, in the language that `explain` is asked in.

Each protocol says it in English (`Protocol.threat_model`); here is the Chinese, by the protocol's name.
"""

from __future__ import annotations

from compute.protocols.base import Protocol
from policy_enforcer.explain import Language

_BOTH = "双方连接器遵守协议,但可研究其所见数据。"
_ALL = "各方连接器均遵守协议,但可研究其所见数据;除两方外的全部参与方可合谋汇集所见。"
_FALSE = "偏离协议的参与方可提供任意数值,也可用其并不持有的主体通过按合计检查的门槛。"
_CELLS = "答案若有数百个单元格,还可推算出发送方各列的全部数值。"
_KEYS = "偏离协议的接收方可询问其并不持有的键;偏离协议的发送方可得知其部分键的匹配数。"

_CHINESE = {
    "single_domain": "接收方即使任意偏离协议亦无妨:由数据所有方独自计算并把关。",
    "psi_aggregate": (
        _BOTH + "偏离协议的接收方可询问其并不持有的键,也可选取并未匹配的位置,并任意设定权重;" + _CELLS
    ),
    "private_join_and_compute": (
        _BOTH + "偏离协议的接收方可得知自己的哪些行匹配,可询问其并不持有的键,也可谎报分组大小;" + _CELLS
    ),
    "psi_count": _BOTH + _KEYS,
    "psi_list": _BOTH + _KEYS,
    "masked_sum": (_ALL + "偏离协议的提问方可向门槛检查宣布错误的合计,但只能得到全体参与方的合计。" + _FALSE),
    "he_sum": (
        _ALL
        + "偏离协议的提问方可向门槛检查宣布错误的合计;即使有参与方一同偏离,也只能得到全体参与方的合计。"
        + _FALSE
    ),
    "logistic_steps": (
        _ALL + "偏离协议的提问方只能使本轮终止。"
        "偏离协议的参与方可把拟合引向其选定的系数,并得知其余各方在该处的合计;他人无从察觉。"
    ),
}


def threat_model(protocol: Protocol, language: Language) -> str:
    """In one paragraph. INVARIANT: every protocol has both; tests/connector/test_threat_models.py."""
    return protocol.threat_model if language == "en" else _CHINESE[protocol.name]
