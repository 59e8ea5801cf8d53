"""What the tests of replies share: an answer service, and a responder that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.groups import ReplyMode
from tests.core.answer_server import AnswerServer, answer_server, chat_answer
from tests.core.house import open_house
from tests.core.reply_scene import Scene, open_scene


@pytest.fixture
async def server() -> AsyncIterator[AnswerServer]:
    async with answer_server() as server:
        server.body = chat_answer("用 mmdeploy。")
        yield server


@pytest.fixture
async def scene(tmp_path: Path, server: AnswerServer) -> AsyncIterator[Scene]:
    async with open_house(tmp_path / "d.db", reply=ReplyMode.REWRITE) as house:
        scene = await open_scene(house, server)
        yield scene
        await scene.responder.stop()
