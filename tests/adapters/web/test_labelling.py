"""The labelling page as labellers meet it, also when things go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import sqlalchemy as sa

from adapters.web.labelling import STANDING_SECONDS
from adapters.web.sittings import CLAIM_SECONDS
from core.messages import Recall
from storage.inbox import SqlInbox
from storage.labelling import REPEAT_EVERY
from storage.models import review_queue
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from tests.adapters.web.site import TOKEN, Site, open_site


async def test_a_name_is_asked_for_once_and_kept(site: Site) -> None:
    question = await site.ask()
    async with site.browser() as browser:
        assert "Who labels?" in (await browser.get("/label")).text
        assert "Who labels?" in (await browser.get("/adjudicate")).text
        for bad in ("", "   ", "x" * 41, "a\x07b\u202e"):
            assert "1 to 40 characters" in (await browser.post("/label/name", name=bad)).text
        assert (await browser.post("/label/name", name=" 安娜 <b>")).headers["HX-Redirect"] == "/label"
        page = await browser.get("/label")
        assert page.question == question
        assert "安娜 &lt;b&gt;" in page.body
        await browser.answer("no")
    assert await site.labels(question) == [("安娜 <b>", "no", None)]


async def test_without_a_name_nothing_can_be_answered(site: Site) -> None:
    question = await site.ask()
    async with site.browser() as browser:
        page = await browser.post("/label/answer", question_id=question, source="fresh", seen="0", label="yes")
    assert (page.status, page.headers["HX-Redirect"]) == (409, "/label")
    assert await site.labels(question) == []


async def test_a_name_from_the_command_line_stands_where_the_browser_has_chosen_none(tmp_path: Path) -> None:
    async with open_site(tmp_path / "d.db", labeller="desk") as site, site.browser() as browser:
        question = await site.ask()
        await browser.get("/label")
        await browser.answer("yes")
        await browser.post("/label/name", name="ben")
        await browser.get("/label")
        await browser.answer("yes")
        assert [labeller for labeller, _, _ in await site.labels(question)] == ["desk", "ben"]


async def test_the_question_stands_in_its_conversation(site: Site) -> None:
    await site.ask("怎么把它部署到 TX2？", context=("mmpose 支持移动端么", "支持的"), reply=True)
    async with site.browser("anna") as browser:
        text = browser.page.text
    assert "技术群" in text
    assert "名字u0 mmpose 支持移动端么 2 min before 名字u1 支持的 the question replies to this 1 min before 名字u2 asks 怎么把它部署到 TX2？" in text


async def test_what_members_wrote_is_text_and_never_markup(site: Site) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }}"
    await site.ask(evil, context=(evil,), chat="<i>", probability=0.9, rewrite=evil)
    await site.ask("next?")
    async with site.browser("anna") as browser:
        pages = [await browser.skip(), await browser.answer("yes", evil + "?"), await browser.get("/dashboard")]
    assert all(evil.split('"')[0] not in page.body and "<img" not in page.body.replace('<img src="/static', "") for page in pages)
    assert all("alert(1)" in page.body and "{{ 7*7 }}" in page.body for page in pages[:1])


async def test_the_guess_of_the_model_is_hidden_until_the_answer_and_shown_beside_the_next_question(site: Site) -> None:
    await site.ask("第一？")
    question = await site.ask("怎么把它部署到 TX2？", probability=0.93, rewrite="怎么把 mmpose 部署到 TX2？")
    await SqlReviewQueue(site.database).put([QueueItem(question, QueueReason.NEAR_THRESHOLD, 1.0, "margin 0.01")])
    async with site.browser("anna") as browser:
        assert browser.page.question == question
        skipped = await browser.skip()
        assert skipped.text.endswith("怎么把它部署到 TX2？ Skipped")
        before = [browser.page.body, skipped.body, (await browser.undo()).body, (await browser.get("/label/progress")).body]
        assert not any(telling in body for body in before for telling in ("93%", "mmpose", "near the threshold", "margin"))
        after = await browser.answer("no")
    assert after.text.endswith("怎么把它部署到 TX2？ You stands alone Model needs context 93% 怎么把 mmpose 部署到 TX2？ was in the review queue: near the threshold · margin 0.01")
    assert "第一？" in after.text


async def test_a_rewrite_is_kept_with_the_label_it_belongs_to(site: Site) -> None:
    questions = [await site.ask(f"怎么部署 {number}？") for number in range(4)]
    async with site.browser("anna") as browser:
        await browser.answer("yes", "  mmpose 怎么\n部署？ ")
        await browser.answer("yes", "怎么部署 2？")  # no more than the question says
        await browser.answer("no", "不该留下")
        page = await browser.answer("yes", "x" * 2001)
        assert (page.status, "at most 2000" in page.body) == (400, True)
    assert [await site.labels(question) for question in reversed(questions)] == [
        [("anna", "yes", "mmpose 怎么 部署？")],
        [("anna", "yes", None)],
        [("anna", "no", None)],
        [],
    ]


async def test_undo_goes_back_step_by_step_over_answers_and_skips(site: Site) -> None:
    first, second, third = await site.ask(), await site.ask(), await site.ask()
    await SqlReviewQueue(site.database).put([QueueItem(third, QueueReason.REFUSED, 2.0, "why")])
    async with site.browser("anna") as browser:
        await browser.answer("yes")
        await browser.skip()
        await browser.answer("no")
        assert "All is labelled" in browser.page.text
        assert [(await browser.undo()).question for _ in range(3)] == [first, second, third]
        assert "nothing to take back" in (await browser.undo()).text
        assert browser.page.question == third
    assert [await site.labels(question) for question in (first, second, third)] == [[], [], []]
    assert [(item.question_id, item.reason, item.priority, item.detail) for item in await SqlReviewQueue(site.database).top(5)] == [(third, QueueReason.REFUSED, 2.0, "why")]


async def test_undo_does_not_reach_the_label_that_got_the_number_of_an_erased_one(site: Site) -> None:
    older, newer = await site.ask(), await site.ask()
    async with site.browser("anna") as anna, site.browser("ben") as ben:
        assert (anna.page.question, ben.page.question) == (newer, older)
        await anna.answer("yes")
        platform, chat, message_id = newer.split(":")
        await SqlInbox(site.database).recall(Recall(platform, chat, message_id, site.clock.now()))
        await ben.answer("no")
        assert "erased meanwhile" in (await anna.undo()).text
        assert await site.labels(older) == [("ben", "no", None)]
        await anna.answer("yes")
        await anna.undo()
        assert anna.page.question == older
    assert await site.labels(older) == [("ben", "no", None)]


async def test_undo_goes_on_behind_an_answer_whose_question_was_erased(site: Site) -> None:
    first, second, third = await site.ask(), await site.ask(), await site.ask()
    async with site.browser("anna") as browser:
        await browser.answer("yes")
        await browser.answer("no")
        platform, chat, message_id = second.split(":")
        await SqlInbox(site.database).recall(Recall(platform, chat, message_id, site.clock.now()))
        assert "erased meanwhile" in (await browser.undo()).text
        assert browser.page.question == first
        assert (await browser.undo()).question == third
    assert await site.labels(third) == []


async def test_what_is_sent_again_because_its_response_was_lost_is_done_once(site: Site) -> None:
    first, second, third = await site.ask(), await site.ask(), await site.ask()
    async with site.browser("anna") as browser:
        await browser.answer("yes")
        await browser.answer("no")
        shown = browser.page.fields
        assert [(await browser.post("/label/undo", **shown)).question for _ in range(2)] == [second, second]
        assert (await site.labels(third), await site.labels(second)) == ([("anna", "yes", None)], [])
        await browser.get("/label")
        shown = browser.page.fields
        assert [(await browser.post("/label/skip", **shown)).question for _ in range(2)] == [first, first]
        await browser.get("/label")
        assert (await browser.undo()).question == second
        assert (await browser.undo()).question == third


async def test_an_undo_that_waits_for_the_database_takes_back_one_answer_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    async with open_site(path) as site, site.browser("anna") as browser:
        first, second = await site.ask(), await site.ask()
        await browser.get("/label")
        await browser.answer("yes")
        await browser.answer("no")
    async with open_site(path, patience=0.03, clock=site.clock) as site, site.browser("anna") as browser:
        async with locked(path):
            assert (await browser.post("/label/undo")).status == 503
        while (page := await browser.post("/label/undo")).status == 503 or await site.labels(first):
            pass
        assert page.question == first
        assert await site.labels(second) == [("anna", "yes", None)]


@pytest.mark.parametrize(("rewrite", "kept"), [("mmpose 怎么部署？", None), ("看文档里怎么部署？", "看文档里怎么部署？")])
async def test_words_of_a_line_that_was_taken_back_meanwhile_are_not_stored(site: Site, rewrite: str, kept: str | None) -> None:
    question = await site.ask("怎么部署？", context=("mmpose 支持么", "先看文档里的"))
    async with site.browser("anna") as browser:
        await browser.get("/label")
        logged = await SqlQuestionLog(site.database).get(question)
        assert logged is not None
        await SqlInbox(site.database).recall(Recall("feishu", "g1", logged.question.context[0].message_id, site.clock.now()))
        page = await browser.answer("yes", rewrite)
        assert ("was taken back meanwhile" in page.text) is (kept is None)
        assert "mmpose" not in page.text
    assert await site.labels(question) == [("anna", "yes", kept)]


async def test_a_closed_browser_and_a_restarted_server_lose_nothing(site: Site, tmp_path: Path) -> None:
    first, second = await site.ask(), await site.ask()
    async with site.browser("anna") as browser:
        await browser.answer("yes", "完整？")
        assert browser.page.question == first
    async with open_site(tmp_path / "pages.db", clock=site.clock) as restarted, restarted.browser("anna") as browser:
        assert browser.page.question == first
        assert (await browser.undo()).question == second
        await browser.answer("no")
    await site.clock.advance(3601)
    async with open_site(tmp_path / "pages.db", clock=site.clock) as restarted, restarted.browser("anna") as browser:
        assert "nothing to take back" in (await browser.undo()).text  # another day's work is not undone by a slip of a finger
    assert await site.labels(second) == [("anna", "no", None)]


async def test_skipped_questions_come_again_when_asked_for(site: Site) -> None:
    question = await site.ask()
    async with site.browser("anna") as browser:
        assert "Show the 1 skipped ones again" in (await browser.skip()).text
        assert (await browser.post("/label/again")).question == question
        async with site.browser("ben") as other:
            assert other.page.question == question


async def test_two_labellers_get_different_questions_while_there_are_any(site: Site) -> None:
    older, newer = await site.ask(), await site.ask()
    async with site.browser("anna") as anna, site.browser("ben") as ben:
        assert (anna.page.question, ben.page.question) == (newer, older)
        await site.clock.advance(CLAIM_SECONDS + 1)
        assert (await ben.get("/label")).question == newer  # anna went for lunch


async def test_two_labellers_on_one_question_at_once_are_both_heard(site: Site) -> None:
    question = await site.ask()
    async with site.browser("anna") as anna, site.browser("ben") as ben:
        assert anna.page.question == ben.page.question == question
        pages = await asyncio.gather(anna.answer("yes"), ben.answer("no"))
        assert [page.status for page in pages] == [200, 200]
        assert "ben 1 0% 0.00" in (await anna.get("/label/progress")).text
    assert sorted(await site.labels(question)) == [("anna", "yes", None), ("ben", "no", None)]


async def test_an_answer_that_is_sent_twice_is_stored_once_and_another_one_beside_it(site: Site) -> None:
    question, _ = await site.ask(chat="g2"), await site.ask()
    async with site.browser("anna") as browser:
        await browser.skip()
        shown = browser.page
        assert [(await browser.answer("yes", of=shown)).status for _ in range(2)] == [200, 200]
        assert await site.labels(question) == [("anna", "yes", None)]
        await browser.answer("no", of=shown)  # from another tab, which still showed it
        assert await site.labels(question) == [("anna", "yes", None), ("anna", "no", None)]
        await browser.undo()
        assert await site.labels(question) == [("anna", "yes", None)]


async def test_an_erased_question_is_told_of_and_the_next_one_comes(site: Site) -> None:
    first, second = await site.ask(), await site.ask()
    async with site.browser("anna") as browser:
        for action in (browser.answer("yes"), browser.skip()):
            shown = browser.page.question
            assert shown in (first, second)
            platform, chat, message_id = shown.split(":")
            await SqlInbox(site.database).recall(Recall(platform, chat, message_id, site.clock.now()))
            page = await action
            assert "erased meanwhile" in page.text
            assert page.question != shown


@pytest.mark.parametrize(
    "fields",
    [{"label": "maybe"}, {"label": ""}, {"source": "elsewhere"}, {"seen": "-1"}, {"seen": "²"}, {"seen": "9" * 30}, {"lines": "many"}],
)
async def test_a_form_that_no_page_of_ours_sends_is_refused(site: Site, fields: dict[str, str]) -> None:
    question = await site.ask()
    async with site.browser("anna") as browser:
        page = await browser.post("/label/answer", **{**browser.page.fields, "label": "yes", **fields})
    assert page.status == 400
    assert await site.labels(question) == []


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process holds the database."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def test_a_locked_database_is_one_clear_line_and_the_answer_arrives_once(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    async with open_site(path, patience=0.03) as site, site.browser("anna") as browser:
        question = await site.ask(probability=0.9)
        await browser.get("/label")
        shown = browser.page
        async with locked(path):
            page = await browser.answer("yes", "完整？")
            assert (page.status, page.headers["Retry-After"], page.headers["Content-Type"]) == (503, "2", "text/plain; charset=utf-8")
            assert page.body == "The database is busy: another process is writing to it. Nothing is lost; this is tried again by itself."
            assert (await browser.get("/label")).question == question  # reading goes on
            assert (await browser.answer("yes", "完整？", of=shown)).status == 503
        while (page := await browser.answer("yes", "完整？", of=shown)).status == 503:
            pass
        assert "All is labelled" in page.text
        assert await site.labels(question) == [("anna", "yes", "完整？")]
        async with locked(path):
            assert (await browser.post("/label/undo")).status == 503
        while (page := await browser.undo()).status == 503:
            pass
        assert page.question == question
        assert await site.labels(question) == []


async def test_a_broken_database_says_what_and_where_and_comes_back_by_itself(site: Site, tmp_path: Path) -> None:
    await site.ask()
    async with site.browser("anna", "zh") as browser:
        async with site.database.read() as connection:
            await connection.exec_driver_sql("PRAGMA query_only = OFF")
            await connection.exec_driver_sql("ALTER TABLE review_queue RENAME TO away")
            page = await browser.get("/label")
            assert page.status == 503
            assert "数据库不可用" in page.text
            assert '<meta http-equiv="refresh" content="2">' in page.body
            await connection.exec_driver_sql("ALTER TABLE away RENAME TO review_queue")
        assert (await browser.get("/label")).question
    async with site.database.read() as connection:
        assert (await connection.execute(sa.select(review_queue))).all() == []


async def test_an_empty_log_says_how_to_fill_it(site: Site) -> None:
    async with site.browser("anna") as browser:
        page = await browser.get("/label")
    assert "python -m bots.replay" in page.text


async def test_progress_pace_and_agreement(site: Site) -> None:
    questions = [await site.ask() for _ in range(4)]
    await SqlReviewQueue(site.database).put([QueueItem(questions[0], QueueReason.COMPLAINT, 1.0)])
    async with site.browser("anna") as anna:
        assert "0 of 4 labelled 0 by you 1 in the review queue Agreement Nothing to compare yet" in (await anna.get("/label/progress")).text
        for label in ("yes", "no", "yes"):
            await site.clock.advance(6)
            assert (await anna.answer(label)).headers["HX-Trigger"] == "answered"
        assert "3 of 4 labelled 3 by you 10 a minute" in (await anna.get("/label/progress")).text


async def test_a_second_look_is_told_afterwards_and_counts_for_agreement_with_oneself(site: Site) -> None:
    for _ in range(REPEAT_EVERY):
        await site.ask()
    async with site.browser("anna") as anna:
        for _ in range(REPEAT_EVERY - 1):
            assert "second look" not in (await anna.answer("yes")).text
        assert "second look" not in anna.page.text
        assert anna.page.fields["source"] == "repeat"
        assert (await anna.answer("no")).text.endswith("a second look: you saw it before")
        await site.clock.advance(STANDING_SECONDS)
        assert "Agreement 0% with items equal Cohen's kappa yourself 1 0% 0.00" in (await anna.get("/label/progress")).text


async def test_the_language_is_the_readers(site: Site) -> None:
    await site.ask()
    async with site.browser("anna", "fr, zh-CN;q=0.8, en;q=0.5") as browser:
        assert '<html lang="zh-CN"' in (await browser.get("/label")).body
        assert "Needs context" in (await browser.get("/label?lang=en")).text
        assert "Needs context" in (await browser.get("/label")).text  # it is remembered
        assert "Needs context" in (await browser.get("/label?lang=xx")).text


async def test_static_files_are_kept_by_the_browser_and_nothing_else_can_be_read(site: Site) -> None:
    async with site.browser("anna") as browser:
        script = await browser.get("/static/page.js?v=1")
        assert (script.headers["Content-Type"], script.headers["Cache-Control"]) == ("text/javascript; charset=utf-8", "private, max-age=31536000, immutable")
        for name in ("..%2Fpages.py", "nothing.css", "%2Fetc%2Fpasswd"):
            assert (await browser.get(f"/static/{name}")).status == 404
        assert (await browser.get("/static/htmx.LICENSE.txt")).text.startswith("htmx.org 2.0.")


async def test_a_form_that_is_too_large_is_refused(site: Site) -> None:
    async with site.browser("anna") as browser:
        page = await browser.post("/label/name", name="x" * (2 << 20))
    assert page.status == 413


async def test_the_server_stops_while_a_browser_is_open(site: Site) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(f"{site.address}/?token={TOKEN}") as response:
            assert response.status == 200
        await asyncio.wait_for(site.server.stop(), 10)
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(site.address)


async def test_an_answer_belongs_to_whom_its_page_names_also_where_another_tab_has_changed_the_name(site: Site) -> None:
    first, second = [await site.ask() for _ in range(2)]
    async with site.browser("anna") as browser:
        page = browser.page
        await browser.post("/label/name", name="ben")
        assert "anna" not in (await browser.get("/label")).text
        page = await browser.answer("yes", of=page)
        await browser.post("/label/undo", **page.fields)
        await browser.answer("no", of=page)
    assert await site.labels(second) == []
    assert [labeller for labeller, _, _ in await site.labels(first)] == ["anna"]
