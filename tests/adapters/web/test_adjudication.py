"""The page of disagreements."""

from __future__ import annotations

from storage.disagreements import SqlDisagreements
from storage.labels import LabelValue, SqlLabels
from tests.adapters.web.site import Browser, Page, Site


async def disagree(site: Site, text: str = "") -> str:
    question = await site.ask(text, probability=0.97)
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
        assert (await browser.post("/adjudicate/undo")).question == older
        assert await settled(site, older) == []
        assert (await browser.post("/adjudicate/undo")).question == newer
        assert "nothing to take back" in (await browser.post("/adjudicate/undo")).text
        await browser.post("/adjudicate/skip", question_id=newer)
        assert (await browser.post("/adjudicate/again")).question == newer


async def test_two_adjudicators_at_once_leave_one_decision(site: Site) -> None:
    question = await disagree(site)
    async with site.browser("carl") as carl, site.browser("dora") as dora:
        pages = [await browser.get("/adjudicate") for browser in (carl, dora)]
        assert [(await decide(browser, page, label)).status for browser, page, label in zip((carl, dora), pages, ("yes", "no"), strict=True)] == [200, 200]
    assert await settled(site, question) == [("dora", "no", None)]


async def test_an_unknown_question_and_a_missing_name_are_told(site: Site) -> None:
    await disagree(site)
    async with site.browser("carl") as browser:
        assert "erased meanwhile" in (await browser.post("/adjudicate/decide", question_id="gone", label="yes")).text
        assert (await browser.post("/adjudicate/decide", question_id="gone", label="perhaps")).status == 400
    async with site.browser() as browser:
        assert (await browser.post("/adjudicate/decide", question_id="gone", label="yes")).headers["HX-Redirect"] == "/adjudicate"
    assert len(await SqlDisagreements(site.database).open()) == 1
