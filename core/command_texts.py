"""What the bot answers to commands, by language. Place-holders are filled with numbers, ids of groups and texts of this table alone."""

from __future__ import annotations

_MEMBERS_ZH = "/dj 忘记我 —— 删除我的全部消息\n/dj 退出 —— 删除，并且以后不再记录我\n/dj 加入 —— 允许记录我\n/dj 错了 —— 上一条回复（或所引用的回复）有误"
_MEMBERS_EN = (
    "/dj forget me: erase all my messages\n/dj opt out: erase them and record me no more\n/dj opt in: record me again\n/dj wrong: the last (or the quoted) reply was wrong"
)

TEXTS: dict[str, dict[str, str]] = {
    "zh": {
        "help": _MEMBERS_ZH,
        "help_admin": f"{_MEMBERS_ZH}\n管理员：\n/dj 状态\n/dj 开 | 关 —— 在本群工作或停止\n/dj 回复 关 | 改写 | 回答\n/dj 统计",
        "status": "豆解在本群{state}；回复方式：{mode}；群 id：{group}",
        "is_on": "已开启",
        "is_off": "已关闭",
        "on": "已开启：豆解在本群记录并理解提问。",
        "off": "已关闭：豆解在本群不再记录，也不再回复。",
        "reply": "回复方式：{mode}",
        "no_answers": "没有配置回答服务，请先设置配置 [answer] base_url。回复方式未改变。",
        "mode_off": "不回复",
        "mode_rewrite": "改写（补全提问）",
        "mode_answer": "回答",
        "stats": "消息 {messages}，提问 {questions}，已判断 {judged}，已补全 {resolved}，已回复 {replies}",
        "forgotten": "已删除你的 {count} 条消息。",
        "opted_out": "已删除你的 {count} 条消息，以后不再记录。发送「/dj 加入」可恢复。",
        "opted_in": "好的，从现在起会记录你的消息。",
        "wrong": "已记下，维护者会查看。谢谢！",
        "nothing_wrong": "没有找到豆解在本群的这条回复。",
        "unknown": "没看懂这条指令。发送「/dj 帮助」查看用法。",
        "admins_only": "这条指令只有群主、群管理员或配置 [bot] admins 中的管理员可以使用。",
        "not_allowed": "豆解没有记录本群。要启用，请把群 id 加入配置 [bot] groups：{group}",
    },
    "en": {
        "help": _MEMBERS_EN,
        "help_admin": f"{_MEMBERS_EN}\nFor admins:\n/dj status\n/dj on | off: work in this group, or stop\n/dj reply off | rewrite | answer\n/dj stats",
        "status": "doujie is {state} in this group; replies: {mode}; group id: {group}",
        "is_on": "on",
        "is_off": "off",
        "on": "On: doujie records this group and resolves its questions.",
        "off": "Off: doujie neither records this group nor replies.",
        "reply": "Replies: {mode}",
        "no_answers": "There is no answer service: set [answer] base_url of the config first. Replies stay as they were.",
        "mode_off": "none",
        "mode_rewrite": "rewrite (the resolved question)",
        "mode_answer": "answer",
        "stats": "messages {messages}, questions {questions}, judged {judged}, resolved {resolved}, replies {replies}",
        "forgotten": "Your {count} messages are erased.",
        "opted_out": 'Your {count} messages are erased, and you are recorded no more. Send "/dj opt in" to be recorded again.',
        "opted_in": "From now on your messages are recorded.",
        "wrong": "Noted, a maintainer will look at it. Thank you!",
        "nothing_wrong": "There is no such reply of doujie in this group.",
        "unknown": 'I did not understand this command. Send "/dj help" to see how it goes.',
        "admins_only": "Only the owner and managers of this group, and the admins of the config ([bot] admins), may do this.",
        "not_allowed": "doujie does not record this group. To enable it, add the group's id to [bot] groups: {group}",
    },
}
