"""What commands print of a database's address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from bots.replay import replay
from core.config import load_config


async def test_the_table_of_a_replay_names_the_database_without_its_password(postgres: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = tmp_path / "chat.jsonl"
    chat.write_text('{"chat_id": "g", "sender_id": "a", "text": "ncnn 支持 int8 吗", "sent_at": 1772400000}\n', encoding="utf-8")
    url = make_url(postgres()).set(password="hunter2").render_as_string(hide_password=False)
    await replay(load_config(None, {"DOUJIE_GATE__BACKEND": "none", "DOUJIE_STORAGE__URL": url}), [chat], None, None, 0.0, True)
    shown = capsys.readouterr().out
    assert "The database lies at postgresql://" in shown
    assert "hunter2" not in shown
