"""The page of disagreements."""

from __future__ import annotations

from core.messages import Recall
from storage.disagreements import SqlDisagreements
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.questions import SqlQuestionLog
from tests.adapters.web.site import Browser, Page, Site


async def disagree(site: Site, text: str = "", *context: str) -> str:
    question = await site.ask(text, context=context, probability=0.97)
    labels = SqlLabels(site.database)
    await labels.add(question, "anna", LabelValue.YES, "mmpose 怎么部署？")
    await labels.add(question, "ben", LabelValue.NO)
    return question


async def decide(browser: Browser, page: Page, label: str, **fields: str) -> Page:
    return await browser.post("/adjudicate/decide", **page.fields, label=label, **fields)


async def settled(site: Site, question: str) -> list[tuple[str, str, str | None]]:
    async with site.database.read() as connection:
        rows = await connection.exec_driver_sql("SELECT adjudicator, label, rewrite FROM adjudications WHERE question_id = ?", (question,))
        return [tuple(row) for row in rows]


async def test_both_labels_are_shown_and_the_third_decision_is_recorded(site: Site) -> None:
    question = await disagree(site, "怎么部署？")
    async with site.browser("carl") as browser:
        page = await browser.get("/adjudicate")
        assert page.question == question
        assert "1 open" in page.text
        assert "anna needs context mmpose 怎么部署？ ben stands alone" in page.text
        assert "97%" not in page.body
        after = await decide(browser, page, "yes", rewrite="mmpose 怎么部署？")
        assert "No disagreement is open" in after.text
        assert after.text.endswith("怎么部署？ You decided needs context mmpose 怎么部署？")
    assert await settled(site, question) == [("carl", "yes", "mmpose 怎么部署？")]
    assert [label for _, label, _ in await site.labels(question)] == ["yes", "no"]


async def test_decisions_and_skips_can_be_taken_back(site: Site) -> None:
    older, newer = await disagree(site), await disagree(site)
    async with site.browser("carl") as browser:
        page = await browser.get("/adjudicate")
        assert page.question == newer
        page = await browser.post("/adjudicate/skip", **page.fields)
        assert page.question == older
        page = await decide(browser, page, "not_question")
        assert "Show the 1 skipped ones again" in page.text
        for _ in range(2):  # the first response is lost
            undone = await browser.post("/adjudicate/undo", **page.fields)
            assert undone.question == older
        assert await settled(site, older) == []
        page = await browser.post("/adjudicate/undo", **undone.fields)
        assert page.question == newer
        assert "nothing to take back" in (await browser.post("/adjudicate/undo", **page.fields)).text
        await browser.post("/adjudicate/skip", question_id=newer)
        assert (await browser.post("/adjudicate/again")).question == newer


async def test_two_adjudicators_at_once_leave_one_decision(site: Site) -> None:
    question = await disagree(site)
    async with site.browser("carl") as carl, site.browser("dora") as dora:
        pages = [await browser.get("/adjudicate") for browser in (carl, dora)]
        assert [(await decide(browser, page, label)).status for browser, page, label in zip((carl, dora), pages, ("yes", "no"), strict=True)] == [200, 200]
        assert await settled(site, question) == [("dora", "no", None)]
        await carl.post("/adjudicate/undo")
    assert await settled(site, question) == [("dora", "no", None)]


async def test_taking_back_goes_on_behind_what_another_has_decided_anew(site: Site) -> None:
    oldest, older, newer = [await disagree(site) for _ in range(3)]
    async with site.browser("carl") as carl:
        page = await carl.get("/adjudicate")
        for label in ("yes", "no"):
            page = await decide(carl, page, label)
        assert page.question == oldest
        await SqlDisagreements(site.database).settle(older, LabelValue.YES, None, "dora")
        page = await carl.post("/adjudicate/undo", **page.fields)
        assert page.question == oldest, "what is settled by another is not shown"
        assert (await carl.post("/adjudicate/undo", **page.fields)).question == newer
    assert await settled(site, older) == [("dora", "yes", None)]
    assert await settled(site, newer) == []


async def test_words_of_a_line_that_was_taken_back_meanwhile_are_not_stored(site: Site) -> None:
    question = await disagree(site, "怎么部署？", "mmpose 支持么")
    async with site.browser("carl") as browser:
        page = await browser.get("/adjudicate")
        logged = await SqlQuestionLog(site.database).get(question)
        assert logged is not None
        await SqlInbox(site.database).recall(Recall("feishu", "g1", logged.question.context[0].message_id, site.clock.now()))
        assert "was taken back meanwhile" in (await decide(browser, page, "yes", rewrite="mmpose 怎么部署？")).text
    assert await settled(site, question) == [("carl", "yes", None)]


async def test_an_unknown_question_and_a_missing_name_are_told(site: Site) -> None:
    await disagree(site)
    async with site.browser("carl") as browser:
        assert "erased meanwhile" in (await browser.post("/adjudicate/decide", question_id="gone", label="yes")).text
        assert (await browser.post("/adjudicate/decide", question_id="gone", label="perhaps")).status == 400
    async with site.browser() as browser:
        assert (await browser.post("/adjudicate/decide", question_id="gone", label="yes")).headers["HX-Redirect"] == "/adjudicate"
    assert len(await SqlDisagreements(site.database).open()) == 1


async def test_a_decision_belongs_to_whom_its_page_names_also_where_another_tab_has_changed_the_name(site: Site) -> None:
    question = await disagree(site)
    async with site.browser("carl") as browser:
        page = await browser.get("/adjudicate")
        await browser.post("/label/name", name="dora")
        await decide(browser, page, "yes")
    assert await settled(site, question) == [("carl", "yes", None)]
