"""Which messages become one utterance, and that none is lost or told twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.merger import Merger, MergeRules
from core.messages import Message, MessageKind, Utterance
from tests.core.chat import at, said


def texts(utterances: Sequence[Utterance]) -> list[list[str]]:
    return [[message.text for message in utterance.messages] for utterance in sorted(utterances, key=lambda u: (u.started_at, u.id))]


def replay(messages: Sequence[Message], rules: MergeRules | None = None) -> list[Utterance]:
    merger = Merger(rules)
    return [*(utterance for message in messages for utterance in merger.add(message)), *merger.flush()]


def live(messages: Sequence[Message], rules: MergeRules | None = None) -> list[Utterance]:
    """Delivery on time: before each message the timer rang whenever it was due."""
    merger, closed = Merger(rules), []
    for message in messages:
        while (deadline := merger.next_deadline()) is not None and deadline < message.sent_at:
            closed += merger.close_due(deadline + (message.sent_at - deadline) / 2)
        closed += merger.add(message)
    return closed + merger.flush()


# --- what belongs together


def test_half_sentences_become_one_utterance() -> None:
    assert texts(replay([said("a", "怎么把 coco 格式的", 0), said("a", "预标注导进去", 8)])) == [["怎么把 coco 格式的", "预标注导进去"]]


def test_others_in_between_do_not_split_a_half_sentence() -> None:
    chat = [said("a", "怎么把 coco 格式的", 0), said("b", "快啊", 3), said("a", "预标注导进去", 8)]
    assert texts(replay(chat)) == [["怎么把 coco 格式的", "预标注导进去"], ["快啊"]]


def test_a_finished_sentence_waits_less_than_an_open_one() -> None:
    assert len(replay([said("a", "显存直接占满", 0), said("a", "正常现象", 60)])) == 1
    assert len(replay([said("a", "显存占满正常吗？", 0), said("a", "正常现象", 60)])) == 2
    assert len(replay([said("a", "显存占满正常吗？", 0), said("a", "正常现象", 40)])) == 1


def test_the_more_others_speak_the_shorter_the_window() -> None:
    def chat(others: int) -> list[Message]:
        return [said("a", "转好了", 0), *(said("b", "好", 1 + n) for n in range(others)), said("a", "掉点很多", 20)]

    assert [any(len(u.messages) == 2 and u.sender_id == "a" for u in replay(chat(others))) for others in range(3)] == [True, True, False]


def test_one_sender_in_two_chats_is_two() -> None:
    assert texts(replay([said("a", "one", 0, chat="g1"), said("a", "two", 1, chat="g2")])) == [["one"], ["two"]]


def test_addressing_somebody_else_splits() -> None:
    assert len(replay([said("a", "我试试", 0), said("a", "@b 你的脚本呢", 3)])) == 2
    assert len(replay([said("a", "@b 你的脚本呢", 0), said("a", "@c 你的也发我", 3)])) == 2
    assert len(replay([said("a", "@b 你的脚本呢", 0), said("a", "@b 急用", 3)])) == 1
    assert len(replay([said("a", "@b 你的脚本呢", 0), said("a", "急用", 3)])) == 1
    assert len(replay([said("a", "thanks", 0), said("a", "tom: which branch", 3)])) == 2


@pytest.mark.parametrize("error", ["RuntimeError: CUDA out of memory", "Error: listen EADDRINUSE"])
def test_an_error_that_is_pasted_addresses_nobody(error: str) -> None:
    assert len(replay([said("a", "这个报错怎么解决", 0), said("a", error, 3)])) == 1


def test_quoting_another_message_splits() -> None:
    assert len(replay([said("a", "我试试", 0), said("a", "这个慢吗", 3, reply_to="x1")])) == 2
    assert len(replay([said("a", "这个慢吗", 0, reply_to="x1"), said("a", "多慢", 3, reply_to="x1")])) == 1
    assert len(replay([said("a", "这个慢吗", 0, reply_to="x1"), said("a", "还有功耗", 3)])) == 1
    assert len(replay([said("a", "脚本发了", 0, id="own"), said("a", "这个要 sudo", 3, reply_to="own")])) == 1


def test_a_quotation_that_came_as_text_splits_too() -> None:
    quoting = "「老周：用 ncnn 吧」\n- - - - - -\n它快吗"
    assert texts(replay([said("a", "我试试", 0), said("a", quoting, 3), said("a", "还有功耗", 6)])) == [["我试试"], [quoting, "还有功耗"]]


def test_the_same_words_under_another_id_at_the_same_moment_are_said_once() -> None:
    (utterance,) = replay([said("a", "怎么把它", 0, id="m1"), said("a", "怎么把它", 0.4, id="copy"), said("a", "部署到 TX2？", 5)])
    assert utterance.text == "怎么把它 部署到 TX2？"
    assert [message.message_id for message in utterance.messages][:2] == ["m1", "copy"]


@pytest.mark.parametrize("second", [said("a", "在吗", 11), said("a", "在么", 1), said("a", "在吗", 1, reply_to="m1")])
def test_what_is_said_again_later_or_otherwise_is_no_copy(second: Message) -> None:
    assert not second.repeats(said("a", "在吗", 0))
    assert not replace(said("a", "[图片]", 1), kind=MessageKind.IMAGE).repeats(replace(said("a", "[图片]", 0), kind=MessageKind.IMAGE))
    assert not said("b", "在吗", 1).repeats(said("a", "在吗", 0))
    assert Utterance((said("a", "在吗", 0), second)).text == f"在吗 {second.text}"


# --- bounds


def test_most_messages() -> None:
    sizes = [len(u.messages) for u in replay([said("a", "x", n) for n in range(7)], MergeRules(max_messages=3))]
    assert sizes == [3, 3, 1]


def test_most_characters() -> None:
    found = replay([said("a", "x" * 40, n) for n in range(5)] + [said("a", "y" * 500, 6)], MergeRules(max_chars=100))
    assert [len(u.messages) for u in found] == [2, 2, 1, 1]


def test_longest_wait() -> None:
    found = replay([said("a", "x", 10 * n) for n in range(10)], MergeRules(max_wait=35))
    assert [len(u.messages) for u in found] == [4, 4, 2]


def test_the_bounds_are_inclusive() -> None:
    assert len(replay([said("a", "x", 0), said("a", "y", 75)])) == 1
    assert len(replay([said("a", "x", 0), said("a", "y", 75.001)])) == 2


# --- time


def test_a_finished_question_closes_by_the_timer() -> None:
    merger = Merger()
    merger.add(said("a", "首 token 多久？", 0))
    assert merger.next_deadline() == at(40)
    assert merger.close_due(at(40)) == []
    assert texts(merger.close_due(at(40.01))) == [["首 token 多久？"]]
    assert merger.next_deadline() is None


def test_a_message_of_another_closes_what_is_over() -> None:
    merger = Merger()
    merger.add(said("a", "首 token 多久？", 0))
    assert texts(merger.add(said("b", "2.5s", 41))) == [["首 token 多久？"]]


def test_late_messages_stand_alone_and_disturb_nobody() -> None:
    merger = Merger()
    merger.add(said("a", "怎么把", 10_000))
    assert texts(merger.add(said("a", "旧消息", 100))) == [["旧消息"]]
    assert texts(merger.add(said("b", "旧消息 2", 90))) == [["旧消息 2"]]
    merger.add(said("a", "它导出来", 10_005))
    assert texts(merger.flush()) == [["怎么把", "它导出来"]]


def test_a_clock_that_goes_back_keeps_the_order_of_arrival() -> None:
    (utterance,) = replay([said("a", "one,", 10), said("a", "two,", 8), said("a", "three", 12)])
    assert utterance.text == "one, two, three"
    assert utterance.ended_at == at(12)


def test_what_an_add_closes_comes_oldest_first() -> None:
    merger = Merger()
    merger.add(said("b", "early", 0))
    merger.add(said("a", "later", 1))
    assert [u.sender_id for u in merger.add(said("a", "much later", 500))] == ["b", "a"]


# --- recall


def test_a_recalled_message_leaves_its_open_utterance() -> None:
    merger = Merger()
    for message in (said("a", "one", 0, id="m-1"), said("a", "two", 1, id="m-2"), said("b", "three", 2, id="m-3")):
        merger.add(message)
    conversation = said("a", "").conversation
    merger.remove(conversation, "m-1")
    merger.remove(conversation, "m-3")
    merger.remove(conversation, "m-99")
    merger.remove(said("a", "", chat="g2").conversation, "m-2")
    assert texts(merger.flush()) == [["two"]]
    assert merger.flush() == []


# --- for all chats

LINES = st.tuples(
    st.sampled_from("abcd"),
    st.sampled_from(["怎么把", "模型转好了", "支持吗？", "it works.", "@b 在吗", "@c 好", "b: yes", "and", "[图片]", "x" * 30, ""]),
    st.sampled_from([0.0, 1.0, 5.0, 12.5, 25.0, 40.0, 60.0, 75.0, 100.0, 241.0]),
    st.sampled_from([None, None, None, "q1", "q2"]),
    st.sampled_from(["g1", "g1", "g2"]),
)
RULES = st.sampled_from([MergeRules(), MergeRules(max_messages=2), MergeRules(max_chars=45), MergeRules(max_wait=50), MergeRules(window=10, finished_window=30)])


def chat_of(lines: Sequence[tuple[str, str, float, str | None, str]]) -> list[Message]:
    now, messages = 0.0, []
    for sender, text, gap, reply_to, chat in lines:
        now += gap
        messages.append(said(sender, text, now, reply_to=reply_to, chat=chat))
    return messages


@settings(deadline=None, max_examples=150)
@given(st.lists(LINES, max_size=25), RULES)
def test_timer_and_event_time_agree(lines: list[tuple[str, str, float, str | None, str]], rules: MergeRules) -> None:
    chat = chat_of(lines)
    assert {u.messages for u in live(chat, rules)} == {u.messages for u in replay(chat, rules)}


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(LINES, st.floats(-20_000, 20_000)), max_size=25), RULES)
def test_nothing_is_dropped_or_told_twice_at_any_times(lines: list[tuple[tuple[str, str, float, str | None, str], float]], rules: MergeRules) -> None:
    chat = [said(sender, text, when, reply_to=reply_to, chat=group) for (sender, text, _, reply_to, group), when in lines]
    found = replay(chat, rules)
    assert sorted(m.key for u in found for m in u.messages) == sorted(m.key for m in chat)
    arrival = {message.key: number for number, message in enumerate(chat)}
    for utterance in found:
        numbers = [arrival[message.key] for message in utterance.messages]
        assert numbers == sorted(numbers)
        assert len({(message.sender_id, message.chat_id) for message in utterance.messages}) == 1
        assert len(utterance.messages) <= rules.max_messages
        assert len(utterance.messages) == 1 or sum(len(message.text) for message in utterance.messages) <= rules.max_chars


@pytest.mark.parametrize("rules", [MergeRules(), MergeRules(window=18, finished_window=18)])
def test_an_empty_merger_has_nothing(rules: MergeRules) -> None:
    merger = Merger(rules)
    assert (merger.flush(), merger.close_due(at(1e6)), merger.next_deadline()) == ([], [], None)
