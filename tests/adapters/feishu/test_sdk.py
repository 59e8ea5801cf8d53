"""The slim import of the SDK, in processes of their own."""

from __future__ import annotations

import subprocess
import sys


def output_of(program: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120).stdout.split()


def test_importing_the_adapter_imports_neither_sdk_nor_server() -> None:
    program = "import sys, adapters.feishu.adapter; print(*[name in sys.modules for name in ('lark_oapi', 'aiohttp', 'websockets', 'requests')])"
    assert output_of(program) == ["False"] * 4


def test_loading_the_sdk_leaves_its_thousands_of_models_out() -> None:
    program = "import sys; from adapters.feishu import sdk; sdk.load(); print(sum(name.startswith('lark_oapi') for name in sys.modules), 'lark_oapi' in sys.modules)"
    count, left_behind = output_of(program)
    assert int(count) < 200
    assert left_behind == "False"


def test_the_whole_sdk_can_be_imported_afterwards() -> None:
    after = "from adapters.feishu import sdk; lark = sdk.load(); import lark_oapi as whole; print(whole.ws.Client is lark.ws.Client, whole.EventDispatcherHandler.__name__)"
    assert output_of(after) == ["True", "EventDispatcherHandler"]
