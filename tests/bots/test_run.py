"""``python -m bots.run``: several platforms in one command."""

from __future__ import annotations

from pathlib import Path

import pytest

from bots.run import live_in
from core.errors import InputError
from tests.adapters.feishu.loopback import LoopbackFeishu
from tests.bots.live_wires import write_config


async def test_a_platform_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(InputError, match=r"telegram: no such platform. Known: wechat, feishu") as caught:
        await live_in(["feishu", "telegram"], None, check=False, groups=False)
    assert caught.value.exit_code == 2


async def test_groups_of_each_platform_are_listed_and_where_they_cannot_be_the_way_to_find_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with LoopbackFeishu() as feishu:
        config = write_config(tmp_path, feishu=feishu, extra={"wechat": {"provider": "android", "secret": "a-long-secret"}})
        assert await live_in(["feishu", "wechat", "feishu"], config, check=False, groups=True) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["group feishu: collected     chat-1  一群", "group feishu: not collected chat-2  二群"]
    assert [line for line in told[2:] if line.startswith("note  wechat:")] == told[2:]
    assert "the log names each group" in told[2]
