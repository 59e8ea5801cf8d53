"""Which earlier messages a question brings along."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.context import FEATURES, HORIZON, LINE_CHARS, WEIGHTS, ConversationMemory, features, rank, select, terms
from core.messages import ConversationKey, Message, Question, Recall, Utterance
from core.ports import Unmerged
from tests.core.chat import said


def asked(text: str, seconds: float = 1000, *, sender: str = "asker", reply_to: str | None = None) -> Utterance:
    return Utterance((said(sender, text, seconds, reply_to=reply_to),))


class StoredChat:
    """The inbox's side of the memory: what was stored, in order of arrival."""

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self.messages = list(messages)
        self.asked = 0

    async def add(self, messages: Sequence[Message]) -> list[Message]:
        self.messages += messages
        return list(messages)

    async def history(self, message: Message, limit: int) -> list[Message]:
        self.asked += 1
        own = [m for m in self.messages if m.conversation == message.conversation]
        ids = [m.message_id for m in own]
        return own[: ids.index(message.message_id)][-limit:]

    async def recent(self, conversation: ConversationKey, limit: int) -> list[Message]:
        return [m for m in self.messages if m.conversation == conversation][-limit:]

    async def find(self, conversation: ConversationKey, message_id: str) -> Message | None:
        return next((m for m in self.messages if m.conversation == conversation and m.message_id == message_id), None)

    async def copies(self, message: Message) -> list[Message]:
        return [m for m in self.messages if m.repeats(message)]

    async def unmerged(self) -> Unmerged:
        return Unmerged((), frozenset())

    async def recall(self, recall: Recall) -> bool:
        return False


async def remembered(chat: Sequence[Message], *, context_lines: int = 16, conversations: int = 512) -> tuple[ConversationMemory, StoredChat]:
    inbox = StoredChat()
    memory = ConversationMemory(inbox, context_lines, conversations=conversations)
    for message in chat:
        await inbox.add([message])
        await memory.add(message)
    return memory, inbox


async def question_of(memory: ConversationMemory, *messages: Message) -> Question:
    question = await memory.question(Utterance(messages), "question_mark", ("ncnn",))
    assert question is not None
    return question


# --- terms and features


def test_terms_are_latin_words_and_chinese_bigrams() -> None:
    assert terms("The RK3588 跑检测头") == {"rk3588", "跑检", "检测", "测头"}
    assert terms("yolov8s.onnx a1 it") == {"yolov8s.onnx"}
    assert terms("") == frozenset()


def test_features_have_one_row_for_each_message_and_one_column_for_each_weight() -> None:
    assert len(FEATURES) == len(WEIGHTS)
    rows = features(asked("它支持 int8 吗"), [said("b", "x"), said("c", "y")])
    assert [len(row) for row in rows] == [len(FEATURES)] * 2
    assert features(asked("它支持 int8 吗"), []) == []


def feature(name: str, question: Utterance, message: Message) -> float:
    return features(question, [message])[0][FEATURES.index(name)]


@pytest.mark.parametrize(
    ("name", "question", "message"),
    [
        ("reply_target", asked("这个呢", reply_to="q1"), said("b", "x", id="q1")),
        ("same_sender", asked("这个呢"), said("asker", "x")),
        ("addressed", asked("@Bob 这个呢"), said("bob", "x")),
        ("addresses_asker", asked("这个呢"), said("b", "@asker 试试 ncnn")),
        ("shared_terms", asked("sglang 呢"), said("b", "SGLang 更快")),
        ("asks", asked("这个呢"), said("b", "怎么用")),
    ],
)
def test_a_feature_tells_what_its_name_says(name: str, question: Utterance, message: Message) -> None:
    assert feature(name, question, message) == 1.0
    assert feature(name, asked("换一个话题"), said("c", "好的")) == 0.0


# --- ranking and selection


def test_the_quoted_message_comes_first_however_far_back() -> None:
    chat = [said("b", "试试 mnn", 0, id="old"), *(said("asker", f"sglang {n}", 900 + n) for n in range(50))]
    assert rank(asked("sglang 支持它吗", reply_to="old"), chat)[0] == 0
    chat = [said("b", "试试 mnn", 0, id="old"), *(said("asker", f"@asker @bob 怎么装 sglang mnn {n}？", 90 * 86400) for n in range(HORIZON))]
    question = asked("@bob sglang mnn 支持它吗", 90 * 86400, reply_to="old")
    assert rank(question, chat)[0] == 0
    assert select(question, chat, 16)[0] == chat[0]


def test_the_addressed_member_beats_the_nearest() -> None:
    chat = [said("麦子", "我换 lmdeploy 了", 900), said("老槐", "板子到了", 990)]
    assert rank(asked("@麦子 为什么换"), chat)[0] == 0


def test_of_equal_messages_the_latest_comes_first() -> None:
    assert rank(asked("这个呢"), [said("b", "好", 0), said("b", "好", 0), said("b", "好", 0)]) == [2, 1, 0]


def test_a_small_chat_is_kept_whole() -> None:
    chat = [said("b", str(n), n) for n in range(5)]
    assert select(asked("这个呢"), chat, 5) == chat
    assert select(asked("这个呢"), [], 5) == []


def test_selection_keeps_the_latest_and_the_likeliest_in_order_of_time() -> None:
    chat = [said("b", "rknn 掉了 6 个点", 0, id="far"), *(said("c", "哈哈", 10 + n) for n in range(30))]
    kept = select(asked("rknn 为什么掉点", reply_to="far"), chat, 6)
    assert kept[0].message_id == "far"
    assert kept[-3:] == chat[-3:]
    assert kept == sorted(kept, key=chat.index)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=12)), max_size=40), st.integers(0, 20))
def test_selection_never_exceeds_its_limit(lines: list[tuple[str, str]], limit: int) -> None:
    chat = [said(sender, text, number) for number, (sender, text) in enumerate(lines)]
    kept = select(asked("那个呢"), chat, limit)
    assert len(kept) == min(limit, len(chat))
    assert [chat.index(message) for message in kept] == sorted(chat.index(message) for message in kept)


# --- the memory


async def test_a_question_has_what_was_said_before_it_and_nothing_after() -> None:
    first, question, after = said("b", "mmpose 支持移动端么？", 0), said("a", "怎么部署它", 30, id="q"), said("c", "都行", 40)
    memory, _ = await remembered([first, question, after])
    found = await question_of(memory, question)
    assert [(line.sender, line.text, line.seconds_before) for line in found.context] == [("b", "mmpose 支持移动端么？", 30.0)]
    assert (found.id, found.text, found.sender, found.message_ids, found.rule, found.glossary) == (question.key, "怎么部署它", "a", ("q",), "question_mark", ("ncnn",))


async def test_a_question_that_arrives_late_has_what_was_said_before_it_and_nothing_that_was_said_after() -> None:
    before, question, after = said("b", "试试 mmpose", 0), said("a", "怎么部署它", 30), [said("c", f"ncnn 第 {n} 句", 31 + n) for n in range(HORIZON + 9)]
    memory, inbox = await remembered([before, *after, question])
    for known in (memory, ConversationMemory(inbox, 16)):
        assert [line.text for line in (await question_of(known, question)).context] == ["试试 mmpose"]


async def test_the_order_of_arrival_changes_nothing() -> None:
    chat = [said("b", "试试 mmpose", 0), said("c", "好", 10), said("b", "或者 rtmpose", 20), question := said("a", "怎么部署它", 30)]
    in_order, _ = await remembered(chat)
    expected = (await question_of(in_order, question)).context
    assert len(expected) == 3
    for arrived in itertools.permutations(chat):
        memory, _ = await remembered(arrived)
        assert (await question_of(memory, question)).context == expected


async def test_of_one_second_what_arrived_before_the_question_was_said_before_it() -> None:
    first, question, then = said("b", "试试 mmpose", 5), said("a", "怎么部署它", 5), said("c", "或者 ncnn", 5)
    memory, _ = await remembered([first, question, then])
    assert [line.text for line in (await question_of(memory, question)).context] == ["试试 mmpose"]


async def test_half_sentences_are_not_their_own_context_but_what_others_said_between_is() -> None:
    chat = [said("a", "怎么把", 0), said("b", "嗯？", 2), said("a", "它导出来", 4)]
    memory, _ = await remembered(chat)
    assert [line.text for line in (await question_of(memory, chat[0], chat[2])).context] == ["嗯？"]


async def test_the_quoted_line_is_marked() -> None:
    chat = [said("b", "x", 0, id="quoted"), said("b", "y", 1), said("a", "为什么", 2, reply_to="quoted")]
    memory, _ = await remembered(chat)
    assert [line.is_reply_target for line in (await question_of(memory, chat[2])).context] == [True, False]


async def test_of_a_pasted_log_head_and_tail_are_shown() -> None:
    log, short = said("b", "mmpose 报错：" + "x" * 8000 + " CUDA 内存不足", 0), said("c", "y" * LINE_CHARS, 1)
    question = said("a", "怎么解决它", 30)
    memory, _ = await remembered([log, short, question])
    shown = [line.text for line in (await question_of(memory, question)).context]
    assert [len(text) for text in shown] == [LINE_CHARS, LINE_CHARS]
    assert shown[0].startswith("mmpose 报错：xxx")
    assert shown[0].endswith("xxx CUDA 内存不足")
    assert shown[1] == short.text


async def test_recalled_messages_are_forgotten() -> None:
    chat = [said("b", "密码是 1234", 0, id="oops"), said("b", "当我没说", 1), said("a", "为什么", 2)]
    memory, _ = await remembered(chat)
    memory.remove(chat[0].conversation, "oops")
    memory.remove(ConversationKey("console", "unknown"), "oops")
    assert [line.text for line in (await question_of(memory, chat[2])).context] == ["当我没说"]


async def test_groups_do_not_see_each_other() -> None:
    chat = [said("b", "别的群", 0, chat="g2"), said("a", "为什么", 1)]
    memory, _ = await remembered(chat)
    assert (await question_of(memory, chat[1])).context == ()


async def test_after_a_restart_the_inbox_gives_what_was_said_before() -> None:
    earlier, question = [said("b", str(n), n) for n in range(3)], said("a", "为什么", 9)
    inbox = StoredChat([*earlier, question])
    memory = ConversationMemory(inbox, 16)
    await memory.add(question)
    assert [line.text for line in (await question_of(memory, question)).context] == ["0", "1", "2"]


async def test_a_conversation_that_was_dropped_from_memory_comes_back_from_the_inbox() -> None:
    chat = [said("b", "x", 0), said("b", "y", 1, chat="g2"), said("b", "z", 2, chat="g3"), said("a", "为什么", 3)]
    memory, _ = await remembered(chat, conversations=2)
    assert [line.text for line in (await question_of(memory, chat[3])).context] == ["x"]


async def test_a_question_that_stayed_open_through_a_flood_is_read_from_the_inbox() -> None:
    question = said("a", "为什么", 1)
    chat = [said("b", "先前", 0), question, *(said("c", str(n), 2 + n / 100) for n in range(5 * HORIZON))]
    memory, _ = await remembered(chat)
    assert [line.text for line in (await question_of(memory, question)).context] == ["先前"]


async def test_a_flowing_chat_needs_no_look_up_in_the_inbox() -> None:
    chat = [said("b", str(n), n) for n in range(200)]
    memory, inbox = await remembered(chat)
    began = inbox.asked
    found = await question_of(memory, chat[-1])
    assert len(found.context) == 16
    assert inbox.asked == began


async def test_the_same_words_under_another_id_are_one_line_and_a_quote_of_either_finds_it() -> None:
    chat = [said("a", "mmpose 出新版了", 0, id="m1"), said("b", "好", 1), said("a", "mmpose 出新版了", 0, id="copy"), said("a", "mmpose 出新版了", 60, id="again")]
    for quoted in ("m1", "copy"):
        question = said("c", "它怎么装？", 100, reply_to=quoted)
        memory, _ = await remembered([*chat, question])
        lines = (await question_of(memory, question)).context
        assert [line.text for line in lines] == ["mmpose 出新版了", "好", "mmpose 出新版了"]
        assert [(line.message_id, line.is_reply_target) for line in lines if line.text != "好"] == [(quoted, True), ("again", False)]


async def test_a_copy_that_comes_when_the_question_is_closed_is_no_question_also_after_a_restart() -> None:
    first, copy, again = said("a", "它怎么装？", 0, id="m1"), said("a", "它怎么装？", 0, id="copy"), said("a", "它怎么装？", 60, id="m2")
    hurried = said("a", "急", 2)
    memory, inbox = await remembered([first, said("b", "等等", 1), copy, hurried, again])
    for known in (memory, ConversationMemory(inbox, 16)):
        assert await known.question(Utterance((copy,)), "question_mark", ()) is None
        assert (await question_of(known, first)).id == first.key
        assert (await question_of(known, again)).id == again.key
        assert (await question_of(known, copy, hurried)).text == "它怎么装？ 急"


async def test_a_quoted_message_is_in_the_context_however_old_it_is() -> None:
    old = said("b", "mmpose 支持移动端部署么？", 0, id="old")
    chat = [old, *(said("c", f"第 {n} 句", 1 + n) for n in range(5 * HORIZON))]
    asking, going_on, unknown = said("a", "它怎么装？", 1000, reply_to="old"), said("a", "它呢？", 1001, reply_to="old"), said("a", "它呢？", 1030, reply_to="nowhere")
    memory, _ = await remembered([*chat, asking, going_on, unknown], context_lines=4)
    lines = (await question_of(memory, asking)).context
    assert (lines[0].message_id, lines[0].is_reply_target, lines[0].seconds_before) == ("old", True, 1000.0)
    assert (len(lines), lines[-1].text) == (4, f"第 {5 * HORIZON - 1} 句")
    assert (await question_of(memory, going_on)).context[0].message_id == "old"
    assert not any(line.is_reply_target for line in (await question_of(memory, unknown)).context)


async def test_a_quotation_of_what_is_not_stored_is_told_and_one_that_brings_its_words_or_names_the_own_message_is_none() -> None:
    """As of the bot's own rewrite, a recalled message, one of a member who opted out, or one from before the bot came."""
    chat = [said("b", "mmpose 出新版了", 0, id="there"), said("c", "好", 1)]
    own = said("a", "另外", 99, id="own")
    for asking, unseen in (
        ((said("a", "它怎么装？", 100, reply_to="nowhere"),), True),
        ((said("a", "它怎么装？", 100, reply_to="there"),), False),
        ((said("a", "它怎么装？", 100),), False),
        ((said("a", "「b：mmpose 出新版了」\n- - - - -\n它怎么装？", 100, reply_to="nowhere"),), False),
        ((own, said("a", "它怎么装？", 100, reply_to="own")), False),
    ):
        memory, _ = await remembered([*chat, *asking])
        assert (await question_of(memory, *asking)).quotes_unseen is unseen
