"""What the console says, in English and Chinese. An untranslated word is a defect that a test finds."""

from collections.abc import Mapping

from witness.evidence_words import CHINESE

LANGUAGES = ("en", "zh")

_WORDS: Mapping[str, tuple[str, str]] = {
    "console": ("Witness console", "见证控制台"),
    "overview": ("Overview", "概览"),
    "records": ("Records", "记录"),
    "record": ("Record", "记录"),
    "exchanges": ("Exchanges", "交换"),
    "exchange": ("Exchange", "交换"),
    "contracts": ("Contracts", "合约"),
    "contract": ("Contract", "合约"),
    "parties": ("Participants", "参与方"),
    "party": ("Participant", "参与方"),
    "log": ("Log health", "日志状态"),
    "alarms": ("Alarms", "告警"),
    "alarm": ("Alarm", "告警"),
    "no_alarms": ("Nothing needs attention.", "目前无需处理。"),
    "all_well": ("All well", "运行正常"),
    "attention": ("needs attention", "项需要处理"),
    "search": ("Search", "搜索"),
    "search_hint": ("entry, exchange, agreement, participant, digest", "条目、交换、合约、参与方、摘要"),
    "find": ("Find", "查找"),
    "reset": ("Clear", "清除"),
    "any": ("any", "不限"),
    "event": ("Event", "事件"),
    "status": ("Outcome", "结果"),
    "reason": ("Reason", "原因"),
    "since": ("From", "起"),
    "until": ("To", "止"),
    "one_sided": ("one-sided", "单方签名"),
    "one_sided_records": ("One-sided", "单方签名"),
    "one_sided_only": ("one-sided only", "仅单方签名"),
    "both_signed": ("all signed", "各方已签"),
    "entry": ("Entry", "条目"),
    "received": ("Received", "接收时间"),
    "step": ("Step", "步骤"),
    "steps": ("Steps", "步骤"),
    "author": ("Author", "作者"),
    "role": ("Role", "角色"),
    "signed": ("Signed", "已签名"),
    "not_signed": ("did not sign", "未签名"),
    "agreement": ("Agreement", "合约摘要"),
    "policy": ("Policy", "策略摘要"),
    "version": ("Version", "版本"),
    "protocol": ("Protocol", "协议"),
    "first_seen": ("First", "首次"),
    "last_seen": ("Last", "最近"),
    "refused": ("Refused", "已拒绝"),
    "failed": ("Failed", "失败"),
    "done": ("Done", "完成"),
    "erased": ("erased", "已删除"),
    "erased_note": (
        "The content of this record has been erased. Its entry and every proof stay.",
        "该记录的内容已被删除;条目与全部证明仍然有效。",
    ),
    "unreadable": ("unreadable", "无法读取"),
    "unreadable_note": (
        "The content of this record is kept and cannot be read here: it is damaged, or of a later version.",
        "该记录的内容仍在保存,但此处无法读取:已损坏,或版本较新。",
    ),
    "contents": ("Contents kept", "保存的内容"),
    "commitments": ("Commitments", "承诺"),
    "digests": ("Digests", "摘要"),
    "datasets": ("Datasets", "数据集"),
    "reveals": ("Who learned what", "各方获知的内容"),
    "learned": ("learned", "获知"),
    "sealed_claims": ("Sealed claims", "密封声明"),
    "sealed_note": (
        "Purpose, legal basis, sizes, budget: {n} salted digests, decoys among them. Parties can open them.",
        "用途、法律依据、规模与预算:{n} 个加盐摘要(含诱饵);见证方无法打开。",
    ),
    "previous": ("Follows", "前一条"),
    "digest": ("Envelope digest", "信封摘要"),
    "payload_digest": ("Record digest", "记录摘要"),
    "tag": ("Public tag", "公开标签"),
    "members_list": ("Member list", "成员名单"),
    "build": ("Build", "构建"),
    "clock": ("Clock", "时钟"),
    "key_list": ("Keys", "密钥"),
    "inclusion": ("Inclusion in the log", "日志包含证明"),
    "inclusion_note": (
        "From this entry's leaf to the signed root: each step hashes what is below with one sibling.",
        "从该条目的叶子到日志签署的根:每一步与一个兄弟节点合并哈希。",
    ),
    "inclusion_holds": ("The path leads to the signed root.", "路径通向已签署的根。"),
    "inclusion_fails": (
        "The path does not lead to the signed root. Stop trusting this log and run fsck.",
        "路径未通向已签署的根。请停止信任该日志并运行 fsck。",
    ),
    "not_witnessed": (
        "Recorded; it is proved as soon as enough witnesses have cosigned.",
        "已记录;见证方联署足够后即可出具证明。",
    ),
    "proof_file": ("tlog-proof", "tlog-proof 证明"),
    "envelope_file": ("envelope", "信封"),
    "tree_of": ("tree of {n} entries", "共 {n} 个条目的树"),
    "root": ("Root", "根"),
    "size": ("Size", "大小"),
    "origin": ("Origin", "来源"),
    "published": ("Published", "已发布"),
    "witnessed": ("Witnessed", "已见证"),
    "witnessed_note": (
        "The newest checkpoint that counts: proofs are made under it.",
        "当前有效的最新检查点,证明均以其为准。",
    ),
    "same_as_published": (
        "No quorum is demanded: what is published counts.",
        "未要求法定联署:发布即有效。",
    ),
    "waiting": ("waiting for cosignatures", "等待联署"),
    "signatures": ("Signatures", "签名"),
    "signed_note": ("the signed note", "签名原文"),
    "holds": ("holds", "成立"),
    "does_not_hold": ("DOES NOT HOLD", "不成立"),
    "unknown_key": ("key unknown here", "未知密钥"),
    "by_log": ("log", "日志"),
    "by_witness": ("witness", "见证方"),
    "by_unknown": ("unknown", "未知"),
    "algorithm": ("Algorithm", "算法"),
    "cosigners": ("Cosigning witnesses", "联署见证方"),
    "quorum": ("Quorum", "法定联署"),
    "no_quorum": ("none: the log is trusted alone", "无:仅信任日志本身"),
    "state": ("State", "状态"),
    "ok": ("up to date", "正常"),
    "late": ("late", "滞后"),
    "missing": ("has not cosigned", "未联署"),
    "cosigned_at": ("Cosigned", "联署时间"),
    "other_logs": ("Logs that this witness cosigns", "本见证方联署的日志"),
    "none": ("none", "无"),
    "member_lists": ("Member lists", "成员名单"),
    "member_lists_note": (
        "Signed by the space's operator. Each list names the one before it by its digest.",
        "由数据空间运营方签署;每份名单以摘要指明前一份。",
    ),
    "issued": ("Issued", "签发时间"),
    "operator_signs": ("Operator's signatures", "运营方签名"),
    "digest_of_list": ("Digest", "摘要"),
    "on_record": ("On record", "日志条目"),
    "not_on_record": ("no entry of its own", "无单独条目"),
    "forks": ("Contradictions kept", "保存的矛盾证据"),
    "fork_proved": ("signed two trees of one size", "为同一大小签署了两棵不同的树"),
    "fork_unproved": ("did not show that its tree only grew", "未证明其树只增不改"),
    "seen_at": ("Seen", "发现时间"),
    "figures": ("Figures", "指标"),
    "last_day": ("Last 24 hours", "最近 24 小时"),
    "per_hour": ("records per hour", "每小时记录数"),
    "latest": ("Latest records", "最新记录"),
    "all": ("all", "全部"),
    "page": ("Page", "第"),
    "newer": ("Newer", "较新"),
    "older": ("Older", "较旧"),
    "of": ("of", "/"),
    "matches": ("{n} found", "共 {n} 条"),
    "nothing": ("Nothing found.", "没有找到。"),
    "reading": ("reading: {n} of {size} entries so far", "正在读取:{n} / {size}"),
    "read_only": ("read-only", "只读"),
    "language": ("中文", "English"),
    "address": ("Address", "地址"),
    "jurisdiction": ("Jurisdiction", "辖区"),
    "valid_from": ("valid from", "生效"),
    "valid_until": ("until", "失效"),
    "not_a_member": ("not in the newest member list", "不在最新成员名单中"),
    "copy_json": ("JSON", "JSON"),
    "copy_csv": ("CSV", "CSV"),
    "now": ("as of {at} UTC", "截至 {at} UTC"),
    "ago_s": ("{n} s ago", "{n} 秒前"),
    "ago_m": ("{n} min ago", "{n} 分钟前"),
    "ago_h": ("{n} h ago", "{n} 小时前"),
    "ago_d": ("{n} d ago", "{n} 天前"),
    "leaf": ("leaf", "叶子"),
    "sibling": ("sibling", "兄弟节点"),
    "node": ("node", "节点"),
    "not_found": ("There is no such page or record here.", "没有这一页面或记录。"),
    "wrong_request": ("The request is not of a form that this console knows.", "请求格式不正确。"),
    "unavailable": (
        "The witness's database or files cannot be read now.",
        "目前无法读取见证方的数据库或文件。",
    ),
    "alarm_checkpoint.unreadable": (
        "The published checkpoint is missing or malformed.",
        "已发布的检查点缺失或格式错误。",
    ),
    "alarm_checkpoint.signature": (
        "A signature on the published checkpoint does not hold.",
        "已发布检查点上的签名不成立。",
    ),
    "alarm_log.rollback": (
        "Published beyond the locked tree head: the database was rolled back. Stop the witness and run fsck.",
        "发布的检查点超出已锁定的树头:数据库被回滚。请停止见证服务并运行 fsck。",
    ),
    "alarm_log.fork": (
        "Two roots for one tree size: stop the witness and keep every file.",
        "同一大小出现两个根:请停止见证服务并保留全部文件。",
    ),
    "alarm_quorum.unreadable": ("The quorum's policy cannot be read.", "无法读取法定联署策略。"),
    "alarm_quorum.late": (
        "Entries have waited for over a minute to be cosigned.",
        "有条目等待联署超过一分钟。",
    ),
    "alarm_cosigner.forgot": (
        "This witness has lost what it cosigned of other logs: it cosigns nothing until it has new keys.",
        "本见证方丢失了对其他日志的联署记忆:更换密钥之前不再联署。",
    ),
    "alarm_fork.proved": (
        "signed two trees of one size; both checkpoints are kept as proof.",
        "为同一大小签署了两棵不同的树;两个检查点均已保存为证据。",
    ),
    "alarm_fork.unproved": (
        "did not show that its tree only grew; both checkpoints are kept.",
        "未证明其树只增不改;两个检查点均已保存。",
    ),
}


def words(language: str) -> dict[str, str]:
    """Every word in one language; in Chinese also what the codes of records mean, as `said_<code>`."""
    at = LANGUAGES.index(language)
    found = {name: both[at] for name, both in _WORDS.items()}
    said = CHINESE if language == "zh" else {}
    return {**found, **{f"said_{code}": meaning for code, meaning in said.items()}}


def preferred(accept_language: str) -> str:
    """The first language of an Accept-Language header that the console speaks; English otherwise."""
    wishes = []
    for position, part in enumerate(accept_language.split(",")[:20]):
        tag, _, quality = part.strip().partition(";q=")
        try:
            wishes.append((-float(quality or 1), position, tag.partition("-")[0].strip().lower()))
        except ValueError:
            continue
    return next((tag for _, _, tag in sorted(wishes) if tag in LANGUAGES), LANGUAGES[0])
