"""The import of wechaty leaves the process as it was. In processes of their own: an import happens once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[3]


def run(script: str, cwd: Path, **environment: str) -> str:
    env = os.environ | {"PYTHONPATH": str(PROJECT)} | environment
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_package_and_all_providers_are_made_without_importing_wechaty(tmp_path: Path) -> None:
    run(
        "import sys; from adapters.wechat import make_adapter; from core.clock import SystemClock; from core.config import WechatSection\n"
        "assert 'adapters.wechat.puppet' not in sys.modules\n"
        "for provider in ('wechaty', 'android', 'wkteam'):\n"
        "    adapter = make_adapter(WechatSection(provider=provider), SystemClock())\n"
        "    assert adapter.platform == 'wechat' and not adapter.health().connected\n"
        "assert 'wechaty' not in sys.modules and 'wechaty_puppet' not in sys.modules",
        tmp_path,
    )


def test_import_leaves_directory_environment_and_logging_alone(tmp_path: Path) -> None:
    run(
        "import logging, os\n"
        "handler = logging.StreamHandler(); logging.getLogger('Message').addHandler(handler); logging.getLogger().addHandler(handler)\n"
        "logging.getLogger('Message').setLevel(logging.DEBUG)\n"
        "before = dict(os.environ)\n"
        "from adapters.wechat.wechaty_compat import import_wechaty\n"
        "modules = import_wechaty()\n"
        "assert import_wechaty() is modules and modules.wechaty.__module__ == 'wechaty.wechaty'\n"
        "assert dict(os.environ) == before\n"
        "assert logging.getLogger('Message').handlers == [handler] and logging.getLogger('Message').level == logging.DEBUG and logging.getLogger('Message').propagate\n"
        "assert logging.getLogger().handlers == [handler]\n"
        "for name in ('Wechaty', 'PuppetService', 'Room'): assert logging.getLogger(name).handlers == [] and logging.getLogger(name).level == logging.ERROR",
        tmp_path,
        WECHATY_LOG="nonsense",
        WECHATY_LOG_FILE="wechaty.log",
        CACHE_DIR="cache",
    )
    assert list(tmp_path.iterdir()) == []


def test_connection_takes_token_and_endpoint_from_the_config_alone_and_logs_neither(tmp_path: Path) -> None:
    output = run(
        "import asyncio, logging\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "from adapters.wechat.wechaty_adapter import WechatyAdapter\n"
        "from core.config import WechatSection\n"
        "from tests.adapters.recording_sink import RecordingSink\n"
        "from tests.adapters.wechat.loopback_puppet import LoopbackPuppet\n"
        "async def main():\n"
        "    async with LoopbackPuppet() as server:\n"
        "        adapter = WechatyAdapter(WechatSection(endpoint=server.endpoint, token='the-token'))\n"
        "        await adapter.start(RecordingSink())\n"
        "        assert adapter.health().connected, adapter.health()\n"
        "        await adapter.stop()\n"
        "        assert set(server.authorities) == {'the-token'}, server.authorities\n"
        "asyncio.run(main())",
        tmp_path,
        TOKEN="another-token",
        ENDPOINT="127.0.0.1:1",
        WECHATY_PUPPET_SERVICE_TOKEN="a-third-token",
    )
    assert "-token" not in output
    assert list(tmp_path.iterdir()) == []
