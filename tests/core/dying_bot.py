"""A bot that is killed (SIGKILL) while its platform takes a reply: python -m tests.core.dying_bot DATABASE SENT idempotent|plain."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from core.ports import OutgoingReply
from tests.core.house import RecordingAdapter, open_house


class KilledAdapter(RecordingAdapter):
    """The group sees the reply (a line in a file); the next moment the process is gone."""

    def __init__(self, sent: Path, *, idempotent: bool) -> None:
        super().__init__(idempotent=idempotent)
        self._file = sent

    async def send(self, reply: OutgoingReply) -> str:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(reply.idempotency_key + "\n")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""


async def main(database: Path, sent: Path, idempotent: bool) -> None:
    async with open_house(database, adapter=KilledAdapter(sent, idempotent=idempotent)) as house:
        await house.ingest.message(house.message(1, "已经确认收到"))
        await house.delivery.enqueue(OutgoingReply(house.message(1).conversation, "答案", "reply:feishu:g1:m1", "m1"))
        await house.delivery.start()
        await asyncio.sleep(30)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "idempotent"))
