"""Makes the pictures of docs/labelling.md: ``python -m tests.docs.screenshots`` (needs Chromium and a Chinese font)."""

from __future__ import annotations

import asyncio
import io
import tempfile
from datetime import timedelta
from pathlib import Path

from PIL import Image
from playwright.async_api import Page

from core.messages import RefusalReason, Resolution
from storage.labels import LabelValue, SqlLabels
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from storage.verdicts import SqlVerdicts
from tests.adapters.manual_clock import ManualClock
from tests.adapters.web.chromium import open_chromium, open_page, press
from tests.adapters.web.site import Site, open_site
from tests.storage.samples import START, verdict

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
COLOURS = 96
TALK = (
    "树莓派 5 上跑 yolo 有人试过吗",
    "我用 ncnn 跑的 yolov8n，int8 大概 30 帧",
    "量化掉点多吗",
    "掉了 0.8 个点，能接受",
    "校准集用了多少张",
    "五百张就够了，多了也没变化",
    "明白，我先拿 coco 的子集试试",
)


async def fill(site: Site) -> None:
    await site.ask("有没有好用的视频标注工具推荐？", context=TALK[:2], probability=0.08)
    await site.ask("那 rknn 上呢，也能这么量化吗？", context=TALK[:4], probability=0.94, rewrite="那 rknn 上呢，yolov8n 也能这么 int8 量化吗？")
    flipped = await site.ask("这个在 jetson 上也一样？", context=TALK[:6], probability=0.41)
    unsure = await site.ask("校准的脚本放哪了？", context=TALK[:5], probability=0.88)
    await SqlQuestionLog(site.database).resolved(unsure, Resolution("x", None, 0.3, "tiny", "v1", RefusalReason.UNSURE))
    newest = await site.ask("它的校准脚本能分享一下吗？", context=TALK, probability=0.97, rewrite="ncnn int8 量化的校准脚本能分享一下吗？", reply=True)
    await SqlVerdicts(site.database).append([(flipped, verdict(0.83, model="newer"))])
    labels = SqlLabels(site.database)
    await labels.add(unsure, "李雷", LabelValue.YES, "ncnn 量化校准的脚本放哪了？")
    await labels.add(unsure, "韩梅", LabelValue.NO)
    await SqlReviewQueue(site.database).put([QueueItem(newest, QueueReason.COMPLAINT, 2.0), QueueItem(flipped, QueueReason.NEAR_THRESHOLD, 1.0)])


async def save(page: Page, name: str) -> None:
    """As a small PNG: these pages have few colours."""
    picture = Image.open(io.BytesIO(await page.screenshot(animations="disabled"))).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


async def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="doujie-pictures-") as folder:
        clock = ManualClock(START + timedelta(minutes=40))
        async with open_chromium() as chromium, open_site(Path(folder) / "d.db", clock=clock, labeller="安娜") as site:
            site.names = {"u0": "苏打水", "u1": "小鹿同学", "u2": "阿橙"}
            await fill(site)
            async with open_page(chromium, site, phone=True) as (page, _):
                await page.wait_for_selector("#progress progress")
                await save(page, "phone.png")
            async with open_page(chromium, site) as (page, _):
                await press(page, "j")
                await page.wait_for_selector("#progress progress")
                await save(page, "labelling.png")
                await page.goto(f"{site.address}/adjudicate")
                await save(page, "adjudication.png")
            async with open_page(chromium, site, "/dashboard", color_scheme="dark", language="en") as (page, _):
                await page.wait_for_selector(".live.on")
                await save(page, "dashboard.png")


if __name__ == "__main__":
    asyncio.run(main())
