"""A policy in sentences, for those who answer for data: what it allows, keeps back, opens, leaves to people.

What columns may be used for comes from the matrix, which asks the rules that decide; who learns what, from
the protocols' vocabulary. Figures and names are the policy's own; nothing here is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from policy_enforcer.decide import least_level
from policy_enforcer.describe import declared, matrix
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.explain import Language, sentence
from policy_enforcer.model import ANY, Analysis, Policy, plain
from policy_enforcer.obligations import obligations

Paragraph = tuple[str, list[str]]
"""A heading and its sentences."""

Say = Callable[..., str]


def described(
    policy: Policy, grades: Mapping[str, int | None], lang: Language = "en"
) -> tuple[Paragraph, ...]:
    """The policy in paragraphs. `grades`: by column of the dataset; one that is not known refuses nothing."""

    def say(key: str, *values: object) -> str:
        return _SAYS[key][lang == "zh"].format(*values)

    found = (
        ("who", [*_who(policy, say)]),
        ("columns", [*_columns(policy, grades, say)]),
        ("kept back", [*_kept_back(policy, say)]),
        ("learns", [*_learns(policy, lang), *_unmatched(policy, say)]),
        ("federation", [*_federation(policy.analysis, lang, say)]),
        ("beware", [*_beware(policy, say)]),
        ("people", [say("declared", place, text) for place, text in declared(policy).items()]),
    )
    return tuple((say(heading), sentences) for heading, sentences in found if sentences)


def _who(policy: Policy, say: Say) -> Iterator[str]:
    where, when, uses, conditions = policy.where, policy.when, policy.uses, policy.conditions
    anybody, anything = policy.assignee == ANY, policy.purpose == ANY
    yield say("anybody") if anybody else say("assignee", ", ".join(policy.assignee))
    yield say("anything") if anything else say("purpose", ", ".join(policy.purpose))
    for word in ("processing", "recipients"):
        places = getattr(where, word, None)
        yield say(word, ", ".join(places)) if places else say(f"any {word}")
    for word in ("start", "until", "elapsed"):
        if when is not None and getattr(when, word):
            yield say(word, getattr(when, word))
    for word in ("count", "rows", "bytes"):
        if uses is not None and getattr(uses, word):
            yield say(word, getattr(uses, word), uses.per)
    if uses is not None and uses.max_concurrent:
        yield say("max_concurrent", uses.max_concurrent)
    if conditions is not None and conditions.security_level:
        yield say("security_level", conditions.security_level)
    if conditions is not None and conditions.connectors:
        yield say("connectors", ", ".join(f"{named[:-56]}…" for named in conditions.connectors))


def _columns(policy: Policy, grades: Mapping[str, int | None], say: Say) -> Iterator[str]:
    transfer = policy.transfer
    most = None if transfer is None else transfer.grade_at_most
    # what lists of the law take away depends on the dataset's categories: the paragraph after this names them
    for row in matrix(policy.model_copy(update={"transfer": None}), grades):
        if most is not None and (row.grade or 0) > most:
            yield say("too high", row.column, row.grade)
            continue
        column = say("rows of the data") if row.column == "*" else row.column
        uses = [say(word) for word in ("joined", "grouped", "listed", "weighted") if getattr(row, word)]
        uses += [say("filtered", ", ".join(row.filtered))] if row.filtered else []
        uses += [say("measured", ", ".join(row.measured))] if row.measured else []
        uses += [say("mask", row.mask)] if uses and row.mask else []
        yield say("column", column, ", ".join(row.parties), "; ".join(uses) or say("unused"))


def _kept_back(policy: Policy, say: Say) -> Iterator[str]:
    yield from _gates(policy.analysis, say)
    yield from _entering(policy.analysis, say)
    yield from _bounds(policy, say)
    witnesses = obligations(policy).witnesses
    yield say("witnesses", witnesses) if witnesses else say("no witness")


def _gates(analysis: Analysis, say: Say) -> Iterator[str]:
    federation = analysis.federation
    if analysis.minimum_identities:
        yield say("minimum_identities", analysis.minimum_identities, analysis.identity)
        if federation is not None:
            yield say(f"minimum of {federation.scope}", federation.name, analysis.identity)
    if federation is not None:
        yield say("minimum_participants", federation.name, federation.minimum_participants)
    if analysis.dominance:
        yield say("dominance", analysis.identity, plain(analysis.dominance.share_at_most))
    if analysis.suppressions and analysis.suppressions.complementary:
        yield say("complementary")
    if analysis.suppressions and analysis.suppressions.count == "hidden":
        yield say("count hidden")
    if analysis.differencing:
        yield say("differencing", analysis.differencing.minimum_difference)
        if analysis.differencing.window:
            yield say("window", analysis.differencing.window)
    yield from _noise(analysis, say)


def _noise(analysis: Analysis, say: Say) -> Iterator[str]:
    if analysis.noise:
        yield say("noise", analysis.identity, plain(analysis.noise.rho_per_query))
        yield say("budget", plain(analysis.noise.budget.rho), analysis.noise.budget.per)
        if analysis.noise.dataset_budget:
            yield say("dataset_budget", plain(analysis.noise.dataset_budget.rho))


def _entering(analysis: Analysis, say: Say) -> Iterator[str]:
    """What enters a computation at all."""
    for word in ("max_rows_per_identity", "max_cells_per_identity"):
        if getattr(analysis, word):
            yield say(word, getattr(analysis, word), analysis.identity)
    for column, (low, high) in analysis.bounds.items():
        yield say("bounds", column, plain(low), plain(high))
    if analysis.domains:
        yield say("domains", ", ".join(sorted(analysis.domains)))
    if analysis.scalar_functions:
        yield say("scalar_functions", ", ".join(analysis.scalar_functions))
    if analysis.conditional:
        yield say("selecting")
    if analysis.maximum_peer_keys:
        yield say("maximum_peer_keys", analysis.maximum_peer_keys)
    if analysis.join and analysis.join.operators:
        yield say("operators", ", ".join(analysis.join.operators))


def _bounds(policy: Policy, say: Say) -> Iterator[str]:
    analysis, transfer = policy.analysis, policy.transfer
    if analysis.templates:
        yield say("templates", ", ".join(name.partition("@")[0] for name in analysis.templates))
    if analysis.join and analysis.join.required:
        yield say("required")
    if transfer is not None and transfer.grade_at_most is not None:
        yield say("grade_at_most", transfer.grade_at_most)
    for word in ("whitelist", "negative_list", "low_risk", "consent"):
        named = getattr(transfer, word, None)
        if named is not None:
            yield say(word, named.partition("@")[0])


def _learns(policy: Policy, lang: Language) -> Iterator[str]:
    """What protocols may reveal to the asker's connector at the tolerated level, over a join."""
    join = policy.analysis.join
    tolerated = Level.parse(join.disclosure) if join else Level.HIDDEN
    if set(ANY) & obligations(policy).matches_hidden_from:
        tolerated = min(tolerated, Level.CARDINALITY)
    names = {Party.RECEIVER: _ASKER[lang == "zh"], Party.SENDER: policy.owner}
    for fact in Fact if join is not None else ():
        level = least_level(fact)
        if Level.HIDDEN < level <= tolerated and fact is not Fact.WEIGHT_FIGURES:  # those are the owner's
            yield sentence(Disclosure(Party.RECEIVER, fact, gated=fact is Fact.MATCHED_ROWS), names, lang)


def _unmatched(policy: Policy, say: Say) -> Iterator[str]:
    """Who learns less than that."""
    hidden = obligations(policy).matches_hidden_from - set(ANY)
    if policy.analysis.join is None:
        yield say("alone")
    elif hidden:
        yield say("unmatched", ", ".join(sorted(hidden)))


def _federation(analysis: Analysis, lang: Language, say: Say) -> Iterator[str]:
    """Beside whom the data is summed, and what their connectors learn."""
    federation = analysis.federation
    if federation is None:
        return
    named = ", ".join(federation.participants or ())
    yield say("beside", federation.name, named) if named else say("beside anybody", federation.name)
    names = dict.fromkeys(Party, _OTHERS[lang == "zh"])
    yield sentence(Disclosure(Party.SENDER, Fact.TOTAL_COUNTS), names, lang)
    if any("logistic" in measures for measures in analysis.measures.values()):
        yield sentence(Disclosure(Party.SENDER, Fact.STEP_TOTALS, gated=True), names, lang)


def _beware(policy: Policy, say: Say) -> Iterator[str]:
    analysis: Analysis = policy.analysis
    if analysis.minimum_identities is None and analysis.noise is None:
        yield say("no minimum")
    if analysis.conditional and analysis.noise is None:
        yield say("conditional")
    if analysis.federation is not None and analysis.federation.honest_participants is not None:
        yield say("shares", analysis.federation.honest_participants)
    if analysis.weighted:
        yield say("weights")
    if "product" in analysis.scalar_functions:
        yield say("product")
    measured = {measure for measures in analysis.measures.values() for measure in measures}
    if {"min", "max"} & measured and analysis.noise is None:
        yield say("extremes")
    if policy.when is None or (policy.when.until is None and policy.when.elapsed is None):
        yield say("for ever")


_ASKER = ("the asker", "提问方")
_OTHERS = ("every other participant", "其他每个参与方")

_SAYS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "who": ("Who may ask, and when", "谁可以提问,何时"),
        "columns": ("What each column may be used for", "各列可作何用"),
        "kept back": ("What is kept back", "保留什么"),
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
        "until": ("not after {}", "不晚于 {}"),
        "elapsed": ("{} after the agreement at most", "签约后至多 {}"),
        "count": ("at most {} queries per {}", "至多 {} 次查询(周期:{})"),
        "rows": ("at most {} rows of answers per {}", "至多返回 {} 行(周期:{})"),
        "bytes": ("at most {} bytes of answers per {}", "至多返回 {} 字节(周期:{})"),
        "max_concurrent": ("at most {} at once", "同时至多 {} 个"),
        "security_level": (
            "only who is certified at security level {} or higher",
            "仅限安全等级认证不低于 {} 级的参与方",
        ),
        "connectors": ("only from these connectors: {}", "仅限这些连接器:{}"),
        "rows of the data": ("rows", "行"),
        "column": ("{0}, by {1}: {2}", "{0}({1}):{2}"),
        "joined": ("join key, never shown", "连接键,从不输出"),
        "grouped": ("groups, its values are shown as labels", "可分组,其取值作为标签显示"),
        "listed": ("listed for matching rows", "可列出匹配行的值"),
        "weighted": ("multiplied by the asker's values", "可与提问方的数值相乘"),
        "filtered": ("compared ({})", "可比较({})"),
        "measured": ("figures ({})", "可统计({})"),
        "mask": ("always masked ({})", "始终掩码({})"),
        "too high": ("{}: nothing, its grade is {}", "{}:不可使用,其分级为 {}"),
        "unused": ("nothing", "不可使用"),
        "minimum_identities": (
            "groups with fewer than {} distinct {} are not shown",
            "不同 {1} 少于 {0} 个的分组不予显示",
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
        "window": ("earlier answers are compared for {}", "与之前 {} 内的结果比较"),
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
        "dominance": (
            "groups in which one {} holds more than {} of a figure are not shown",
            "单个 {} 占某项数值超过 {} 的分组不予显示",
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
        "budget": ("privacy loss at most rho {} per {}", "隐私损失至多 rho {}(周期:{})"),
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
        "for ever": ("the permission never ends", "许可无期限"),
        "declared": ("{}: {}", "{}:{}"),
    }
)
