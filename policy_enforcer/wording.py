"""The sentences of `policy describe` and the policy language's own words in them, in English and Chinese.

Which of them is said, `prose` decides. A word that is not here is said as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from policy_enforcer.explain import Language


def spoken(word: str, lang: Language) -> str:
    """One word of a closed list, or a name as it stands."""
    return _WORDS[word][lang == "zh"] if word in _WORDS else word


def listing(words: Iterable[str], lang: Language) -> str:
    """Several of them."""
    return ("、" if lang == "zh" else ", ").join(spoken(word, lang) for word in words)


def span(duration: str, lang: Language) -> str:
    """`P1Y6M` as `1 year 6 months`."""
    days, _, hours = duration.removeprefix("P").partition("T")
    parts = [(*part, _DAYS) for part in _PART.findall(days)] + [
        (*part, _HOURS) for part in _PART.findall(hours)
    ]
    return " ".join(_counted(int(number), units[unit], lang) for number, unit, units in parts if int(number))


def _counted(number: int, unit: tuple[str, str], lang: Language) -> str:
    if lang == "zh":
        return f"{number} {unit[1]}"
    return f"{number} {unit[0]}" + ("" if number == 1 else "s")


def mask(word: str, lang: Language) -> str:
    """What readers see in place of a column's values."""
    form, _, number = word.rpartition("-")
    return _MASKS[form or word][lang == "zh"].format(number)


_PART = re.compile(r"(\d+)([A-Z])")
_DAYS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"Y": ("year", "年"), "M": ("month", "个月"), "W": ("week", "周"), "D": ("day", "天")}
)
_HOURS: Mapping[str, tuple[str, str]] = MappingProxyType({"H": ("hour", "小时"), "M": ("minute", "分钟")})
_MASKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "redact": ("nothing is seen", "完全隐去"),
        "hash": ("codes that are equal for equal values", "以散列码代替,相等的值得到相同的码"),
        "year": ("the year alone", "仅见年份"),
        "quarter": ("year and quarter alone", "仅见年份与季度"),
        "month": ("year and month alone", "仅见年份与月份"),
        "keep-first": ("the first {} characters alone", "仅见前 {} 个字符"),
        "keep-last": ("the last {} characters alone", "仅见末 {} 个字符"),
        "step": ("rounded down to multiples of {}", "向下取整到 {} 的倍数"),
    }
)
_WORDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "any": ("anybody", "任何参与方"),
        # how a column may be compared
        "equality": ("equal to a value", "等于某值"),
        "range": ("above or below a value", "大于或小于某值"),
        "membership": ("one of several values", "属于若干值之一"),
        "null": ("missing or not", "是否缺失"),
        "pattern": ("a pattern of text", "文本模式"),
        "column": ("with another column", "与另一列比较"),
        # which figures
        "sum": ("sum", "求和"),
        "count": ("count", "计数"),
        "count_distinct": ("count of different values", "不同值计数"),
        "avg": ("average", "平均值"),
        "min": ("least value", "最小值"),
        "max": ("greatest value", "最大值"),
        "var": ("variance", "方差"),
        "stddev": ("standard deviation", "标准差"),
        "covar": ("covariance", "协方差"),
        "corr": ("correlation", "相关系数"),
        "regr": ("linear regression", "线性回归"),
        "logistic": ("logistic regression", "逻辑回归"),
        "histogram": ("histogram and quantiles", "直方图与分位数"),
        # per what uses and budgets are counted
        "hour": ("an hour", "每小时"),
        "day": ("a day", "每天"),
        "week": ("a week", "每周"),
        "month": ("a month", "每月"),
        "year": ("a year", "每年"),
        "agreement": ("an agreement", "每个协议期内"),
        # how conditions of a join are combined
        "and": ("and", "与"),
        "or": ("or", "或"),
    }
)
SENTENCES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "who": ("Who may ask, and when", "谁可以提问,何时"),
        "columns": ("What each column may be used for", "各列可作何用"),
        "kept back": ("What is kept back", "隐去与限制什么"),
        "learns": ("What the asker's connector may learn in a join", "连接查询中提问方的连接器可能获知什么"),
        "beware": ("What this opens", "由此开放的风险"),
        "people": ("Not enforced by software: people keep it", "软件不予强制,由人遵守"),
        "anybody": ("every participant may ask and receive", "任何参与方均可提问并接收结果"),
        "assignee": ("these may ask and receive: {}", "可提问并接收结果的:{}"),
        "anything": ("for every purpose, and for none", "任何用途,亦可不声明"),
        "purpose": ("for these purposes, as the asker declares: {}", "限提问方声明的用途:{}"),
        "processing": ("computed in: {}", "处理地限于:{}"),
        "any processing": ("computed anywhere", "处理地不限"),
        "recipients": ("results go to: {}", "结果仅送往:{}"),
        "any recipients": ("results go anywhere", "结果送往何处不限"),
        "start": ("not before {}", "不早于 {}"),
        "start day": ("not before {} (a day of UTC)", "不早于 {}(UTC 日)"),
        "until": ("until {}", "至 {} 为止"),
        "until day": ("not after {} (a day of UTC, included)", "不晚于 {}(UTC 日,含当日)"),
        "elapsed": ("{} after the agreement at most", "签约后至多 {}"),
        "any count": ("any number of queries", "查询次数不限"),
        "count": ("at most {} queries {}", "{1}至多 {0} 次查询"),
        "rows": ("at most {} rows of answers {}", "{1}至多返回 {0} 行"),
        "bytes": ("at most {} bytes of answers {}", "{1}至多返回 {0} 字节"),
        "max_concurrent": ("at most {} at once", "同时至多 {} 个"),
        "security_level": (
            "only who is certified at security level {} or higher",
            "仅限安全等级认证不低于 {} 级的参与方",
        ),
        "connectors": ("only from these connectors: {}", "仅限这些连接器:{}"),
        "rows of the data": ("rows", "行"),
        "and": ("; ", ";"),
        "anyone": ("anybody", "任何参与方"),
        "column": ("{0}, by {1}: {2}", "{0}({1}):{2}"),
        "joined": ("join key, never shown", "连接键,从不输出"),
        "grouped": ("groups, its values are shown as labels", "可分组,其取值作为标签显示"),
        "listed": ("listed for matching rows", "可列出匹配行的值"),
        "weighted": ("multiplied by the asker's values", "可与提问方的数值相乘"),
        "filtered": ("compared ({})", "可比较({})"),
        "measured": ("figures ({})", "可统计({})"),
        "mask": ("always masked: {}", "始终掩码:{}"),
        "too high": ("{}: nothing, its grade is {}", "{}:不可使用,其分级为 {}"),
        "no grade": ("{}: nothing, it has no grade", "{}:不可使用,未标明分级"),
        "unused": ("nothing", "不可使用"),
        "minimum of aggregate": (
            "groups with fewer than {} distinct {} are not shown",
            "不同 {1} 少于 {0} 个的分组不予显示",
        ),
        "minimum of list": (
            "nothing is listed where fewer than {} distinct {} match",
            "匹配的不同 {1} 少于 {0} 个时,不列出任何行",
        ),
        "minimum of total": (
            "in the federation {} that minimum holds for the {} of all together, not for this dataset's own",
            "在联合 {} 中,该门槛按各参与方合计的 {} 判断,不按本方单独判断",
        ),
        "minimum of local": (
            "in the federation {} no group of this dataset with fewer {} goes into a total",
            "在联合 {} 中,本方 {} 不足该门槛的分组不计入合计",
        ),
        "minimum_participants": (
            "in the federation {} groups to which fewer than {} participants contribute are not shown",
            "在联合 {} 中,参与方少于 {} 个的分组不予显示",
        ),
        "count hidden": ("nobody is told how many groups were held back", "不公布隐去的分组数"),
        "max_rows_per_identity": (
            "at most {} rows of one {} enter a query",
            "每次查询单个 {1} 至多计入 {0} 行",
        ),
        "max_cells_per_identity": ("one {1} counts in at most {0} groups", "单个 {1} 至多计入 {0} 个分组"),
        "bounds": ("before it is summed, {} is clamped to {} … {}", "{} 求和前截断至 {} … {}"),
        "domains": ("groups have only the labels that are declared of: {}", "分组标签限于已声明的取值:{}"),
        "scalar_functions": ("of scalar functions only these: {}", "仅限这些标量函数:{}"),
        "window": ("earlier answers are compared for {} and no longer", "仅与之前 {} 内的结果比较"),
        "selecting": ("an aggregate may count some rows of a group (FILTER)", "聚合可带条件(FILTER)"),
        "maximum_peer_keys": (
            "joined with at most {} keys of the asker, padding included",
            "连接时提问方的键(含填充)至多 {} 个",
        ),
        "operators": ("join conditions may be combined with: {}", "连接条件可用以下方式组合:{}"),
        "dataset_budget": (
            "privacy loss of the dataset at most rho {} over all agreements, for ever",
            "数据集在所有协议下的隐私损失终身至多 rho {}",
        ),
        "federation": ("Summed with other participants' data", "与其他参与方的数据求和"),
        "beside": ("in the federation {}, beside these alone: {}", "在联合 {} 中,仅与以下参与方同轮:{}"),
        "beside anybody": ("in the federation {}, beside any member", "在联合 {} 中,与任何成员同轮"),
        "sums alone": (
            "in such sums alone: questions over this dataset by itself, and joins with it, are refused",
            "仅限此类求和:仅针对本数据集的提问及与其连接的提问均被拒绝",
        ),
        "dominance": (
            "groups in which one {} holds more than {} of a figure are not shown",
            "单个 {} 占某项数值超过 {} 的分组不予显示",
        ),
        "dominance of local": (
            "in the federation {} that share is of this dataset's own group, which then goes into no total",
            "在联合 {} 中,该占比按本数据集自己的分组计算;超过时该分组不计入任何合计",
        ),
        "dominance of total": (
            "in the federation {} nobody sees a share of a total in time, so every question is refused",
            "在联合 {} 中,合计发布前无人可见其占比,因此一切提问均被拒绝",
        ),
        "complementary": (
            "further groups are held back where a total would give a hidden one",
            "可由合计推出被隐去分组时,另隐去一组",
        ),
        "differencing": (
            "answers that differ from earlier ones by fewer than {} identities are refused",
            "与先前结果相差少于 {} 个主体的查询被拒绝",
        ),
        "noise": (
            "figures carry noise that hides any one {}: rho {} per query",
            "数值加噪以隐藏任一 {}:每次查询 rho {}",
        ),
        "budget": ("privacy loss of at most rho {} {}", "{1}隐私损失至多 rho {0}"),
        "templates": ("only reviewed queries: {}", "仅限已审查的查询模板:{}"),
        "required": ("every query joins the asker's own data", "每次查询须连接提问方自己的数据"),
        "grade_at_most": ("no column above grade {}", "不得使用高于 {} 级的列"),
        "whitelist": ("only columns of categories on the list {}", "仅限清单 {} 所列类别的列"),
        "negative_list": ("no column of a category on the list {}", "不得使用负面清单 {} 所列类别的列"),
        "low_risk": (
            "columns of categories on {} leave though no list has them",
            "{} 所列低风险类别的列可免白名单",
        ),
        "consent": ("only rows of those in the consent set {}", "仅限同意名单 {} 中主体的行"),
        "witnesses": (
            "nothing leaves before as many witnesses have recorded the intent: {}",
            "{} 个见证方记录意图之前,不输出任何数据",
        ),
        "no witness": ("no witness is demanded", "不要求见证"),
        "alone": (
            "it may not be joined: queries are over this dataset alone, or over a federation that it names",
            "不可连接:仅可对本数据集提问,或在其所列的联合中提问",
        ),
        "unmatched": ("these never learn which keys match: {}", "以下接收方不得获知哪些键匹配:{}"),
        "no minimum": ("a group, or a list, of one is shown", "仅含一个主体的分组或列表也会显示"),
        "conditional": (
            "one query may show a sum and the same under a condition: their difference may be one identity",
            "同一查询可得某合计与其带条件的合计,二者之差可能只涉及一个主体",
        ),
        "shares": (
            "over a federation noise is whole while {} participants, the owner one, work with nobody else",
            "联合查询的噪声按份额分担:至少 {} 个参与方(含所有者)各自不与他方合谋时噪声才完整",
        ),
        "weights": (
            "the asker's values weight these: one large weight among small ones shows nearly one row",
            "提问方的数值可作权重:众小权重中的一个大权重几乎等于显示一行",
        ),
        "product": (
            "products inside sums: where a column is a flag or a code, a product selects rows by it",
            "求和内可用乘积:若某列为标志或代码,乘积即按其选行",
        ),
        "extremes": ("min and max show one row's value", "min 与 max 显示某一行的值"),
        "any keys": (
            "whoever brings every key that there may be learns which of them this dataset has",
            "提问方若带来所有可能的键,即可得知本数据集拥有其中哪些",
        ),
        "new budgets": (
            "every new agreement begins with a new privacy budget",
            "每个新协议重新起算隐私预算",
        ),
        "for ever": ("the permission never ends", "许可无期限"),
        "basis": ("legal basis of the transfer: {}", "数据出境的法律依据:{}"),
        "filing": ("filing number: {}", "备案号:{}"),
        "application": ("only in the application: {}", "仅用于应用:{}"),
        "event": ("only on the occasion: {}", "仅限事由:{}"),
        "state": ("only in this state of affairs: {}", "仅限此状态:{}"),
        "notify": ("the owner is told of each use", "每次使用均告知数据所有方"),
        "delete": ("the result is deleted after {}", "结果在 {} 后删除"),
        "pass_on": ("the result is not passed on", "结果不得转交他人"),
        "payment": ("what is paid: {}", "付费:{}"),
    }
)
"""Of `policy describe`: English and Chinese, with places for what the policy says."""
