"""Every word of the pages, in English and Chinese. Place-holders are filled by the templates, which escape."""

from __future__ import annotations

from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

TEXTS: dict[str, tuple[str, str]] = {
    # --- all pages
    "name": ("doujie", "豆解"),
    "nav.label": ("Label", "标注"),
    "nav.adjudicate": ("Disagreements", "分歧"),
    "nav.dashboard": ("Dashboard", "总览"),
    "other_language": ("中文", "English"),
    "theme": ("Light or dark", "浅色或深色"),
    "problem.title": ("Not now", "暂时不可用"),
    "problem.busy": (
        "The database is busy: another process is writing to it. Nothing is lost; this is tried again by itself.",
        "数据库正忙（另一进程正在写入）。没有丢失任何内容，稍后自动重试。",
    ),
    "problem.storage": ("The database cannot be used: {problem}. {remedy}", "数据库不可用：{problem}。{remedy}"),
    "problem.offline": (
        "The server does not answer. Your answer is kept on this page and sent again by itself.",
        "服务器没有响应。你的回答保留在本页，会自动重新发送。",
    ),
    "problem.saving": ("Still saving …", "正在保存……"),
    "problem.refused": (
        "The server refused this; reload the page. If that does not help, open the address that it printed when it started.",
        "服务器拒绝了请求，请刷新页面；若仍不行，请打开启动时打印的地址。",
    ),
    # --- labels
    "label.yes": ("needs context", "需要上文"),
    "label.no": ("stands alone", "意思完整"),
    "label.not_question": ("not a question", "不是提问"),
    "label.yes.button": ("Needs context", "需要上文"),
    "label.no.button": ("Stands alone", "意思完整"),
    "label.not_question.button": ("Not a question", "不是提问"),
    # --- labelling
    "label.title": ("Label", "标注"),
    "label.ask": ("Could somebody who sees only this message know what is asked?", "只看这一条消息，能知道问的是什么吗？"),
    "label.asks": ("asks", "提问"),
    "label.replies_to_this": ("the question replies to this", "提问回复的是这一条"),
    "label.no_context": ("Nothing was said before it.", "之前没有消息。"),
    "label.edit": ("Write the rewrite", "写出改写"),
    "label.skip": ("Skip", "跳过"),
    "label.undo": ("Undo", "撤销"),
    "label.guide": ("Guide", "标注说明"),
    "label.rewrite": ("As it would stand alone", "改写成脱离上文也能看懂的提问"),
    "label.rewrite.hint": ("Enter saves it as “needs context”, Esc closes", "回车保存为「需要上文」，Esc 关闭"),
    "label.save": ("Save", "保存"),
    "label.cancel": ("Cancel", "取消"),
    "label.close": ("Close", "关闭"),
    "label.you": ("You", "你"),
    "label.model": ("Model", "模型"),
    "label.unjudged": ("has not judged it", "尚未判断"),
    "label.model_kept": ("no rewrite ({reason})", "未改写（{reason}）"),
    "label.was_queued": ("was in the review queue: {reason}", "来自复核队列：{reason}"),
    "label.second_look": ("a second look: you saw it before", "这是复看，你之前标过"),
    "label.skipped": ("Skipped", "已跳过"),
    "label.gone": ("That question was erased meanwhile, on a member's wish. Here is the next.", "该提问刚刚按成员要求被删除，请看下一条。"),
    "label.line_gone": (
        "A line of that conversation was taken back meanwhile. Your answer is stored, but not the rewrite, which may hold its words.",
        "那段对话中有消息刚被撤回或删除。回答已保存；改写可能含有它的内容，没有保存。",
    ),
    "label.nothing_to_undo": ("There is nothing to take back.", "没有可以撤销的操作。"),
    "label.done": ("All is labelled.", "全部标完了。"),
    "label.done.more": ("New questions appear here as members ask them.", "有新提问时会出现在这里。"),
    "label.show_skipped": ("Show the {n} skipped ones again", "重新显示跳过的 {n} 条"),
    "label.empty": (
        "No question is logged yet. Start a bot, or replay a chat: python -m bots.replay CHAT.jsonl",
        "还没有记录任何提问。请启动机器人，或回放聊天记录：python -m bots.replay CHAT.jsonl",
    ),
    "label.who": ("Who labels?", "谁来标注？"),
    "label.who.hint": ("Your name stands beside your labels, so that labellers can be compared.", "名字会与标注一起保存，用于比较标注者之间的一致性。"),
    "label.who.go": ("Begin", "开始"),
    "label.who.bad": ("A name has 1 to 40 characters.", "名字为 1 到 40 个字符。"),
    "label.who.change": ("Change the name", "更换名字"),
    "progress.labelled": ("{done} of {all} labelled", "已标 {done} / {all}"),
    "progress.mine": ("{n} by you", "你标了 {n}"),
    "progress.queue": ("{n} in the review queue", "复核队列 {n}"),
    "progress.pace": ("{n} a minute", "每分钟 {n} 条"),
    "progress.agreement": ("Agreement", "一致性"),
    "progress.with": ("with", "对象"),
    "progress.items": ("items", "条数"),
    "progress.equal": ("equal", "相同"),
    "progress.kappa": ("Cohen's kappa", "Cohen's kappa"),
    "progress.myself": ("yourself", "自己"),
    "progress.everybody": ("all others", "其他所有人"),
    "progress.none": ("Nothing to compare yet: it needs second looks, or a second labeller.", "暂无可比较的数据：需要复看或第二位标注者。"),
    # --- adjudication
    "adjudicate.title": ("Disagreements", "分歧"),
    "adjudicate.ask": ("The labellers disagree. What holds?", "标注者意见不一，以哪个为准？"),
    "adjudicate.open": ("{n} open", "待裁定 {n}"),
    "adjudicate.none": ("No disagreement is open.", "没有待裁定的分歧。"),
    "adjudicate.none.more": ("Where two labellers differ, their question appears here.", "两位标注者不一致的提问会出现在这里。"),
    "adjudicate.settled": ("You decided", "你裁定为"),
    # --- dashboard
    "dash.title": ("Dashboard", "总览"),
    "dash.today": ("Today", "今天"),
    "dash.messages": ("messages", "消息"),
    "dash.utterances": ("utterances", "话语"),
    "dash.questions": ("questions", "提问"),
    "dash.needs": ("need context", "需要上文"),
    "dash.resolved": ("resolved", "已消解"),
    "dash.answered": ("answered", "已回复"),
    "dash.latest": ("Latest questions", "最近的提问"),
    "dash.latest.none": ("No question is logged yet.", "还没有提问。"),
    "dash.kept": ("left as it is: {reason}", "保持原样：{reason}"),
    "dash.unjudged": ("not judged yet", "尚未判断"),
    "dash.context": ("context", "上文"),
    "dash.groups": ("Groups", "群"),
    "dash.groups.none": ("No group is collected yet.", "还没有收集任何群。"),
    "dash.off": ("off", "已关闭"),
    "dash.flips": ("Changed decisions", "判断变化"),
    "dash.flips.none": ("No decision changed.", "没有变化。"),
    "dash.labels": ("Labels", "标注"),
    "dash.queue": ("review queue", "复核队列"),
    "dash.disagreements": ("open disagreements", "待裁定分歧"),
    "dash.models": ("Models", "模型版本"),
    "dash.models.none": ("Nothing is judged yet.", "还没有判断记录。"),
    "dash.verdicts": ("verdicts", "判断"),
    "dash.last_seen": ("last", "最近"),
    "dash.health": ("Health", "运行状况"),
    "dash.database": ("database", "数据库"),
    "dash.fine": ("fine", "正常"),
    "dash.connected": ("connected", "已连接"),
    "dash.disconnected": ("not connected", "未连接"),
    "dash.last_message": ("last message", "最近消息"),
    "dash.unfinished": ("questions in work", "处理中的提问"),
    "dash.pending": ("replies to send", "待发送回复"),
    "dash.never": ("never", "从未"),
    "dash.running": ("running", "运行中"),
    "dash.live": ("live", "实时"),
    "dash.lost": ("connection lost, trying again", "连接中断，正在重连"),
    "dash.refused": ("the server asks for its token again: open the address that it printed", "服务器要求重新验证：请打开其打印的地址"),
    # --- why
    "reason.no_context": ("no context", "没有上文"),
    "reason.no_candidate": ("no candidate", "没有候选"),
    "reason.unchanged": ("nothing to add", "无需补充"),
    "reason.invented": ("would invent words", "含上文没有的词"),
    "reason.lost_words": ("would lose words", "丢失原文"),
    "reason.unsure": ("not sure enough", "把握不足"),
    "reason.backend_failed": ("the model failed", "模型出错"),
    "reason.switched_off": ("switched off", "已关闭"),
    "queue.complaint": ("a member complained", "成员反馈有误"),
    "queue.disagreement": ("models disagree", "模型意见不一"),
    "queue.near_threshold": ("near the threshold", "接近阈值"),
    "queue.refused": ("the resolver refused", "未能改写"),
    "queue.new_words": ("new words", "出现新词"),
    "queue.suspect_label": ("the label is suspect", "标注存疑"),
    # --- times
    "gap.seconds": ("{n} s before", "{n} 秒前"),
    "gap.minutes": ("{n} min before", "{n} 分钟前"),
    "gap.hours": ("{n} h before", "{n} 小时前"),
    "gap.days": ("{n} d before", "{n} 天前"),
}


def translate(language: Language, key: str, **values: object) -> str:
    """The text of ``key``; an unknown key is a defect and raises KeyError."""
    return TEXTS[key][LANGUAGES.index(language)].format(**values)


def chosen_language(wanted: str, remembered: str, accepted: str, default: Language) -> Language:
    """From ``?lang=``, the cookie, the Accept-Language header, the default: the first that names a language we have."""
    for name in (wanted, remembered):
        if (known := _known(name)) is not None:
            return known
    weighted = []
    for position, part in enumerate(accepted.split(",")):
        name, _, quality = part.partition(";")
        weighted.append((-_quality(quality), position, name.strip()))
    for weight, _, name in sorted(weighted):
        if weight < 0 and (known := _known(name)) is not None:
            return known
    return default


def _known(name: str) -> Language | None:
    return next((language for language in LANGUAGES if name.lower().partition("-")[0] == language), None)


def _quality(text: str) -> float:
    try:
        return float(text.strip().removeprefix("q=")) if text.strip() else 1.0
    except ValueError:
        return 0.0
