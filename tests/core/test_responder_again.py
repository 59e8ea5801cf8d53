"""Replies that did not come about at once: the service or the database failed, or the process died. Each is tried again, and said once."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.errors import StorageError
from core.groups import ReplyMode
from core.messages import Question
from core.ports import OutgoingReply
from core.responder import Result
from tests.adapters.manual_clock import ManualClock, eventually
from tests.core.answer_server import AnswerServer
from tests.core.house import GROUP, open_house
from tests.core.reply_scene import RESOLVED, Scene, open_scene, resolved_in_an_earlier_run


async def test_a_service_that_fails_for_a_while_is_asked_again_and_the_answer_is_posted_once(scene: Scene) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.status = 503
    question = await scene.ask(wait=False)
    await eventually(lambda: len(scene.server.requests) == 2, tick=lambda: scene.house.clock.advance(1))
    assert await scene.replied(question) is None
    scene.server.status = 200
    await scene.settle()
    queued = await scene.replied(question)
    assert queued is not None
    assert queued.reply.text == "用 mmdeploy。"
    assert scene.responder.counts == {Result.REPLIED: 1}
    await scene.house.clock.advance(300)
    assert len(scene.server.requests) == 3


async def test_a_service_that_names_a_time_is_asked_at_that_time_and_not_when_it_would_be_too_late(scene: Scene) -> None:
    await scene.house.groups.set_reply(GROUP, ReplyMode.ANSWER)
    scene.server.status, scene.server.headers = 429, {"Retry-After": "110"}
    await scene.ask(wait=False)
    await eventually(lambda: scene.server.requests)
    started = scene.house.clock.monotonic()
    await eventually(lambda: len(scene.server.requests) == 2, tick=lambda: scene.house.clock.advance(1))
    assert 110 <= scene.house.clock.monotonic() - started <= 115
    await scene.settle()
    assert len(scene.server.requests) == 3, "a fourth would be 330 s after the question"
    assert scene.responder.counts == {Result.FAILED: 1}


@pytest.mark.parametrize("mode", [ReplyMode.REWRITE, ReplyMode.ANSWER])
async def test_a_reply_that_could_not_be_queued_is_queued_when_the_database_is_back(scene: Scene, tmp_path: Path, mode: ReplyMode) -> None:
    await scene.house.groups.set_reply(GROUP, mode)
    question = await scene.house.ask(1, "怎么把它部署到 TX2？")
    other = sqlite3.connect(tmp_path / "d.db")
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON replies BEGIN SELECT RAISE(ABORT, 'no'); END"
    other.execute(refuse)
    other.commit()
    with capture_logs() as logs:
        await scene.publish(question, wait=False)
        await eventually(lambda: [entry for entry in logs if entry["event"] == "answer_not_queued"])
    other.execute("DROP TRIGGER refuse")
    other.commit()
    other.close()
    await scene.settle()
    assert await scene.replied(question) is not None
    assert scene.responder.counts == {Result.REPLIED: 1}


async def test_answers_that_were_under_way_when_the_process_died_are_asked_again_and_posted_once(tmp_path: Path, server: AnswerServer) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.ANSWER) as house:
        too_old = await resolved_in_an_earlier_run(house, 1)
        await house.clock.advance(301)
        needing, alone, answered, unjudged = (
            await resolved_in_an_earlier_run(house, 2),
            await resolved_in_an_earlier_run(house, 3, "mmpose 怎么安装？", needs=False),
            await resolved_in_an_earlier_run(house, 4),
            await house.ask(5, sender="u5"),
        )
        await house.delivery.enqueue(OutgoingReply(GROUP, "答案", f"reply:{answered.id}"))
        scene = await open_scene(house, server)
        for _ in range(2):
            await scene.responder.take_up(house.log, ["feishu"])
        await scene.publish(needing)  # its own run publishes it too
        assert sorted(request[2]["messages"][1]["content"] for request in server.requests) == ["mmpose 怎么安装？", RESOLVED]
        assert [await scene.replied(question) is not None for question in (needing, alone, too_old, unjudged)] == [True, True, False, False]
        await scene.responder.take_up(house.log, ["feishu"])
        await scene.house.bus.drain()
        assert len(server.requests) == 2
        await scene.responder.stop()


async def test_what_another_process_may_be_answering_is_left_to_it(tmp_path: Path, server: AnswerServer) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.ANSWER) as house:
        question = await resolved_in_an_earlier_run(house, 1)
        scene = await open_scene(house, server)
        await scene.responder.take_up(house.log, ["wechat"])
        await scene.house.bus.drain()
        assert await scene.replied(question) is None
        assert scene.responder.counts == {}


async def test_a_rewrite_that_was_not_queued_when_the_process_died_is_posted_by_the_next_run(tmp_path: Path, server: AnswerServer) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.REWRITE) as house:
        question = await resolved_in_an_earlier_run(house, 1)
        scene = await open_scene(house, server)
        await scene.responder.take_up(house.log, ["feishu"])
        await scene.house.bus.drain()
        await scene.responder.drain()
        queued = await scene.replied(question)
        assert queued is not None
        assert queued.reply.text.endswith(RESOLVED)


async def test_a_group_that_is_not_allowed_any_more_is_left_alone(tmp_path: Path, server: AnswerServer) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.REWRITE, allowed=("g2",)) as house:
        question = await resolved_in_an_earlier_run(house, 1)
        scene = await open_scene(house, server)
        await scene.responder.take_up(house.log, ["feishu"])
        await scene.house.bus.drain()
        await scene.responder.drain()
        assert await scene.replied(question) is None
        assert scene.responder.counts == {Result.SWITCHED_OFF: 1}


async def replied_by_the_next_run(path: Path, clock: ManualClock, server: AnswerServer, question: Question) -> bool:
    async with open_house(path, clock, reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server)
        await scene.responder.take_up(house.log, ["feishu"])
        await house.bus.drain()
        await scene.responder.drain()
        reply = await scene.replied(question)
        await scene.responder.stop()
    return reply is not None


async def test_stop_does_not_wait_for_another_attempt_which_the_next_run_makes(tmp_path: Path, server: AnswerServer) -> None:
    clock = ManualClock()
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server)
        question = await resolved_in_an_earlier_run(house, 1)
        server.status = 503
        with capture_logs() as logs:
            await scene.publish(question, wait=False)
            await eventually(lambda: [entry for entry in logs if entry["event"] == "answer_failed"])
        await asyncio.wait_for(scene.responder.stop(timeout=60), 5)
    server.status = 200
    assert await replied_by_the_next_run(tmp_path / "d.db", clock, server, question)
    assert len(server.requests) == 2


async def test_what_is_resolved_after_the_stop_is_answered_by_the_next_run_alone(tmp_path: Path, server: AnswerServer) -> None:
    clock = ManualClock()
    async with open_house(tmp_path / "d.db", clock, reply=ReplyMode.ANSWER) as house:
        scene = await open_scene(house, server)
        question = await resolved_in_an_earlier_run(house, 1)
        await scene.responder.stop()
        await scene.publish(question, wait=False)
        assert (scene.responder.waiting, server.requests) == (0, [])
    assert await replied_by_the_next_run(tmp_path / "d.db", clock, server, question)


async def test_a_database_that_cannot_be_read_for_a_moment_costs_no_reply(tmp_path: Path, server: AnswerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.REWRITE) as house:
        scene = await open_scene(house, server)
        reading = house.delivery.known

        async def busy(key: str) -> bool:
            monkeypatch.setattr(house.delivery, "known", reading)
            raise StorageError("doujie.db", "cannot be reached", "start the server")

        monkeypatch.setattr(house.delivery, "known", busy)
        assert await scene.replied(await scene.ask()) is not None
