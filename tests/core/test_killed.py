"""Real processes that die by ``kill -9`` between send and mark."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from core.delivery import LEASE, Outcome
from storage.outbox import ReplyState
from tests.adapters.manual_clock import ManualClock, eventually
from tests.core.house import RecordingAdapter, open_house

KEY = "reply:feishu:g1:m1"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("idempotent", [True, False])
async def test_after_kill_9_the_message_is_there_and_the_reply_goes_out_once_more(tmp_path: Path, idempotent: bool) -> None:
    database, sent = tmp_path / "d.db", tmp_path / "sent"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.core.dying_bot", str(database), str(sent), "idempotent" if idempotent else "plain", cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    assert sent.read_text(encoding="utf-8") == f"{KEY}\n"
    clock, adapter = ManualClock(), RecordingAdapter(idempotent=idempotent)
    async with open_house(database, clock, adapter=adapter) as house:
        assert await house.texts() == ["已经确认收到"]
        assert [message.message_id for message in (await house.inbox.unmerged()).messages] == ["m1"]
        await house.ingest.message(house.message(1, "已经确认收到"))
        assert house.ingest.counts["feishu"].duplicates == 1
        await house.delivery.start()
        await asyncio.sleep(0.05)
        assert adapter.sent == []  # another process might still hold the claim
        at_rest = clock.asleep
        await eventually(lambda: house.delivery.counts["feishu"], tick=lambda: clock.advance(1) if clock.asleep >= at_rest else None)
        assert house.delivery.counts["feishu"] == {Outcome.SENT: 1}
        assert clock.monotonic() <= LEASE.total_seconds() + 20
        assert [reply.idempotency_key for reply in adapter.sent] == [KEY]
        queued = await house.outbox.get(KEY)
        assert queued is not None
        assert queued.state is ReplyState.SENT
