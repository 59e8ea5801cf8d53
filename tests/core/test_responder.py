from __future__ import annotations

import asyncio
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from core.config import BotSection
from core.events import MessageRecalled, QuestionResolved
from core.groups import ReplyMode
from core.messages import Recall
from core.responder import PAUSES, ReplyRules, Responder, Result
from tests.adapters.manual_clock import ManualClock, eventually
from tests.core.answer_server import AnswerServer
from tests.core.house import GROUP, open_house, resolution, verdict
from tests.core.reply_scene import RESOLVED, Scene, open_scene, resolved_in_an_earlier_run


async def test_rewrite_quotes_the_question_with_its_resolved_form(scene: Scene) -> None:
    queued = await scene.replied(await scene.ask())
    assert queued is not None
    assert queued.reply.text == f"「怎么把它部署到 TX2？」\n→ {RESOLVED}"
    assert (queued.reply.conversation, queued.reply.reply_to, queued.reply.mention) == (GROUP, "m1", "u1")
    assert scene.server.requests == []


async def test_rewrite_says_nothing_of_what_it_did_not_resolve(scene: Scene) -> None:
    refused = await scene.ask(rewrite=None)
    alone = await scene.ask("mmpose 怎么安装？", needs=False)
    assert await scene.replied(refused) is None
    assert await scene.replied(alone) is None
    assert scene.responder.counts[Result.NOTHING_TO_SAY] == 2


async def test_off_says_nothing_and_a_switched_off_group_neither(scene: Scene) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.OFF)
    assert await scene.replied(await scene.ask()) is None
    await scene.house.groups.set_reply(GROUP, ReplyMode.REWRITE)
    await scene.house.groups.switch(GROUP, False)
    assert await scene.replied(await scene.ask()) is None
    assert scene.responder.counts == {Result.SWITCHED_OFF: 2}


async def test_answer_asks_with_the_resolved_or_the_self_contained_question_only(scene: Scene) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    resolved, alone, unresolved = await scene.ask(), await scene.ask("mmpose 怎么安装？", needs=False), await scene.ask("它呢？", rewrite=None)
    assert [request[2]["messages"][1]["content"] for request in scene.server.requests] == [RESOLVED, "mmpose 怎么安装？"]
    queued = await scene.replied(resolved)
    assert queued is not None
    assert (queued.reply.text, queued.reply.reply_to) == ("用 mmdeploy。", "m1")
    assert await scene.replied(alone) is not None
    assert await scene.replied(unresolved) is None


async def test_a_question_is_answered_once_also_after_a_restart(tmp_path: Path, server: AnswerServer) -> None:
    clock = ManualClock()
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server)
        question = await scene.ask()
        await scene.publish(question)
        await scene.responder.stop()
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server)
        await scene.publish(question)
        assert scene.responder.counts == {Result.ALREADY_REPLIED: 1}
        await scene.responder.stop()
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "body"), [(500, b"<html>quokka</html>"), (200, b"<html>quokka</html>"), (200, {"quokka": 1})])
async def test_failures_of_the_service_never_reach_the_group_nor_texts_the_log(scene: Scene, status: int, body: object) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.status, scene.server.body = status, body
    with capture_logs() as logs:
        question = await scene.ask("quokka 怎么装？", rewrite="quokka 2 怎么装？", wait=False)
        await scene.settle()
    assert await scene.replied(question) is None
    assert scene.responder.counts == {Result.FAILED: 1}
    assert [(entry["log_level"], entry["again_in"]) for entry in logs if entry["event"] == "answer_failed"] == [("warning", pause) for pause in (*PAUSES, None)]
    assert "quokka" not in str([entry for entry in logs if entry["log_level"] != "debug"])


@pytest.mark.parametrize(("switch", "result"), [("off", Result.SWITCHED_OFF), ("mode", Result.SWITCHED_OFF), ("night", Result.QUIET_HOURS)])
async def test_an_answer_that_comes_when_the_group_wants_none_any_more_is_not_posted(tmp_path: Path, server: AnswerServer, switch: str, result: Result) -> None:
    clock = ManualClock(datetime(2026, 3, 2, 22, 59, 30, tzinfo=UTC))
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server, quiet_hours=(time(23), time(8)))
        server.gate.clear()
        question = await scene.ask(wait=False)
        await eventually(lambda: server.requests)
        if switch == "off":
            await house.groups.switch(GROUP, False)
        elif switch == "mode":
            await house.groups.set_reply(GROUP, ReplyMode.REWRITE)
        else:
            await clock.advance(31)
        server.gate.set()
        await scene.responder.drain()
        assert await scene.replied(question) is None
        assert scene.responder.counts == {result: 1}
        await scene.responder.stop()


async def test_a_slow_answer_holds_up_neither_the_group_nor_later_questions(scene: Scene) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.gate.clear()
    slow = await scene.ask(wait=False)
    await eventually(lambda: scene.server.requests)
    assert scene.house.bus.idle
    assert scene.responder.waiting == 1
    scene.server.gate.set()
    await scene.responder.drain()
    assert await scene.replied(slow) is not None


async def test_an_answer_that_comes_too_late_is_not_posted(scene: Scene) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.gate.clear()
    question = await scene.ask(wait=False)
    await eventually(lambda: scene.server.requests)
    await scene.house.clock.advance(301)
    scene.server.gate.set()
    await scene.responder.drain()
    assert await scene.replied(question) is None
    assert scene.responder.counts == {Result.TOO_OLD: 1}


async def test_questions_that_are_not_live_get_no_reply(scene: Scene) -> None:
    old = scene.house.question(scene.house.message(1, "怎么把它部署到 TX2？"))
    await scene.house.clock.advance(301)
    await scene.publish(old)
    assert await scene.replied(old) is None
    assert scene.responder.counts == {Result.TOO_OLD: 1}


@pytest.mark.parametrize("recalled", ["m1", "m900"])
async def test_a_recalled_question_or_context_is_not_replied_to(scene: Scene, recalled: str) -> None:
    await scene.house.ingest.recall(Recall("feishu", "g1", recalled, scene.house.clock.now()))
    question = await scene.ask()
    assert await scene.replied(question) is None
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.gate.clear()
    answering = await scene.ask(wait=False)
    await scene.house.ingest.recall(Recall("feishu", "g1", "m2", scene.house.clock.now()))
    await scene.house.bus.drain()
    await scene.responder.drain()
    assert await scene.replied(answering) is None
    assert set(scene.responder.counts) == {Result.WITHDRAWN}


@pytest.mark.parametrize("recalled", ["m1", "m900"])
async def test_an_answer_that_is_queued_while_its_question_or_a_line_of_it_is_erased_is_not_posted(scene: Scene, recalled: str) -> None:
    """The database has erased it already, and the event that tells so is still on its way (or never comes: the words are of an earlier run)."""
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.gate.clear()
    question = await scene.ask(wait=False)
    await eventually(lambda: scene.server.requests)
    await scene.house.inbox.recall(Recall("feishu", "g1", recalled, scene.house.clock.now()))
    scene.server.gate.set()
    await scene.responder.drain()
    assert await scene.replied(question) is None
    assert scene.responder.counts == {Result.WITHDRAWN: 1}


async def test_the_answer_to_a_member_who_leaves_while_it_is_under_way_after_a_restart_is_not_posted(tmp_path: Path, server: AnswerServer) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.ANSWER) as house:
        question = await resolved_in_an_earlier_run(house, 1)
        scene = await open_scene(house, server)
        server.gate.clear()
        await scene.responder.take_up(house.log, ["feishu"])
        await eventually(lambda: server.requests)
        await house.say(2, "/dj opt out", sender="u1")
        server.gate.set()
        await scene.responder.drain()
        assert await scene.replied(question) is None
        await scene.responder.stop()


async def test_a_recall_right_behind_its_question_leaves_nothing_under_way(tmp_path: Path, server: AnswerServer) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.REWRITE) as house:
        scene = await open_scene(house, server, group_per_hour=1)
        asked = house.message(1, "怎么把它部署到 TX2？")
        await house.bus.publish(QuestionResolved(house.question(asked), verdict(0.9), resolution(RESOLVED)))
        await house.bus.publish(MessageRecalled(Recall("feishu", "g1", "m1", house.clock.now())))
        await house.bus.drain()
        await eventually(lambda: scene.responder.counts)
        assert (scene.responder.waiting, scene.responder.counts) == (0, {Result.WITHDRAWN: 1})
        scene.number = 1
        assert await scene.replied(await scene.ask()) is not None, "what was not said does not count against the limit"


async def test_limits_by_group_and_by_member_hold_over_a_restart(tmp_path: Path, server: AnswerServer) -> None:
    clock = ManualClock()
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.REWRITE) as house:
        scene = await open_scene(house, server, group_per_hour=5, member_per_hour=2)
        said = [await scene.replied(await scene.ask(sender=sender)) is not None for sender in ("u1", "u1", "u1", "u2", "u3")]
        assert said == [True, True, False, True, True]
    await clock.advance(600)
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.REWRITE) as house:
        scene = await open_scene(house, server, group_per_hour=5, member_per_hour=2)
        scene.number = 10
        said = [await scene.replied(await scene.ask(sender=sender)) is not None for sender in ("u1", "u4", "u5")]
        assert said == [False, True, False]
        assert scene.responder.counts[Result.LIMITED] == 2
        await clock.advance(3001)
        assert await scene.replied(await scene.ask(sender="u1")) is not None


class RunningClock(ManualClock):
    """As the machine's, it is later at each look."""

    def now(self) -> datetime:
        self._elapsed += 1e-6
        return super().now()


@pytest.mark.parametrize("clock", [ManualClock(), RunningClock()], ids=["still", "running"])
async def test_a_failed_answer_does_not_count_against_the_limits(tmp_path: Path, server: AnswerServer, clock: ManualClock) -> None:
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server, group_per_hour=1)
        server.status = 500
        await scene.ask(wait=False)
        await scene.settle()
        server.status = 200
        assert await scene.replied(await scene.ask()) is not None
        assert await scene.replied(await scene.ask()) is None
        await scene.responder.stop()


async def test_questions_in_flight_count_so_that_the_limit_holds(tmp_path: Path, server: AnswerServer) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server, group_per_hour=2)
        server.gate.clear()
        questions = [await scene.ask(sender=f"u{number}", wait=False) for number in range(5)]
        server.gate.set()
        await scene.responder.drain()
        assert [await scene.replied(question) is not None for question in questions] == [True, True, False, False, False]
        await scene.responder.stop()


async def test_quiet_hours_of_the_config(tmp_path: Path, server: AnswerServer) -> None:
    clock = ManualClock(datetime(2026, 3, 2, 14, 59, 59, tzinfo=UTC))  # 22:59:59 in Shanghai
    rules = ReplyRules.of(BotSection.model_validate({"quiet_hours": "23:00-08:00"}))
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.REWRITE) as house:
        scene = Scene(house, server, Responder(house.bus, house.delivery, house.groups, house.store, rules, clock=clock))
        assert await scene.replied(await scene.ask()) is not None
        await clock.advance(1)
        assert await scene.replied(await scene.ask()) is None
        await clock.advance(9 * 3600)
        assert await scene.replied(await scene.ask()) is not None


@pytest.mark.parametrize(
    ("start", "end", "at", "quiet"),
    [
        (time(12), time(14), time(12), True),
        (time(12), time(14), time(14), False),
        (time(23), time(8), time(7, 59), True),
        (time(23), time(8), time(8), False),
        (time(9), time(9), time(3), True),
    ],
)
def test_quiet_hours_are_half_open_and_may_pass_midnight(start: time, end: time, at: time, quiet: bool) -> None:
    rules = ReplyRules(quiet_hours=(start, end), timezone=ZoneInfo("Asia/Shanghai"))
    assert rules.is_quiet(datetime.combine(datetime(2026, 3, 2).date(), at, ZoneInfo("Asia/Shanghai"))) is quiet


async def test_stop_gives_up_what_is_under_way(scene: Scene) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.gate.clear()
    question = await scene.ask(wait=False)
    await eventually(lambda: scene.server.requests)
    await scene.responder.stop(timeout=0)
    assert scene.responder.waiting == 0
    assert await scene.replied(question) is None
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "answer"]


def test_rules_of_the_config() -> None:
    rules = ReplyRules.of(BotSection(group_replies_per_hour=3, member_replies_per_hour=0, max_reply_age_seconds=60))
    assert (rules.group_per_hour, rules.member_per_hour, rules.max_age, rules.quiet_hours) == (3, 0, timedelta(seconds=60), None)
