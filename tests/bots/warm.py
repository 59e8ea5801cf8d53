"""Processes that start in a moment: one program imports everything once and forks a process for each request. They are processes like any other and can be killed.

``python -m tests.bots.warm`` reads requests, one JSON object a line, on its standard input: ``{"id", "call": "MODULE:FUNCTION", "arguments", "environment", "out", "err"}``, and
writes ``{"id", "pid"}`` when the process runs and ``{"id", "code"}`` when it has ended (the number of the signal, negative, where one ended it).
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import typer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Real seconds for what takes a few on an idle machine: others may hold the processors."""


@dataclass
class Forked:
    """A process of its own."""

    pid: int
    code: Future[int]
    kills: int = field(default=0)

    @property
    def alive(self) -> bool:
        return not self.code.done()

    def send(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, now."""
        self.send(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return self.code.result(PATIENCE)

    async def ended(self) -> int:
        """As :meth:`wait`, while the event loop goes on."""
        return await asyncio.wait_for(asyncio.wrap_future(self.code), PATIENCE)


class Warm:
    """The other end of the program: use as a context manager. May be used from several threads."""

    def __enter__(self) -> Self:
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._started: dict[int, Future[int]] = {}
        self._ended: dict[int, Future[int]] = {}
        self._files = TemporaryDirectory()
        self._program = subprocess.Popen([sys.executable, "-m", "tests.bots.warm"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, name="warm", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._program.stdin is not None
        self._program.stdin.close()
        self._program.wait(PATIENCE)
        self._files.cleanup()

    def start(self, call: str, *arguments: object, environment: Mapping[str, str] | None = None, out: Path | None = None, err: Path | None = None) -> Forked:
        """Run ``call`` ("MODULE:FUNCTION") in a process of its own."""
        with self._lock:
            number = next(self._numbers)
            self._started[number], self._ended[number] = Future(), Future()
            request = {"id": number, "call": call, "arguments": arguments, "environment": dict(environment or {}), "out": str(out or ""), "err": str(err or "")}
            assert self._program.stdin is not None
            self._program.stdin.write(json.dumps(request) + "\n")
            self._program.stdin.flush()
        return Forked(self._started[number].result(PATIENCE), self._ended[number])

    def command(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Forked:
        """``python -m MODULE ARGUMENTS``; what it writes goes nowhere."""
        return self.start("tests.bots.warm:run_command", module, *arguments, environment=environment, out=Path(os.devnull), err=Path(os.devnull))

    def run(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """``python -m MODULE ARGUMENTS`` to its end, with what it wrote."""
        with TemporaryDirectory(dir=self._files.name) as directory:
            out, err = Path(directory, "out"), Path(directory, "err")
            code = self.start("tests.bots.warm:run_command", module, *arguments, environment=environment, out=out, err=err).wait()
            return subprocess.CompletedProcess([module, *arguments], code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            told = json.loads(line)
            if "pid" in told:
                self._started[told["id"]].set_result(told["pid"])
            else:
                self._ended[told["id"]].set_result(told["code"])


def run_command(module: str, *arguments: str) -> None:
    """What ``python -m`` does with a command of ours."""
    sys.argv = [module, *arguments]
    typer.run(importlib.import_module(module).main)


def serve() -> None:
    """Fork a process for each request until the input ends."""
    running: dict[int, int] = {}

    def reap(*_: object) -> None:
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _tell({"id": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        request = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        if (pid := os.fork()) == 0:
            _run(request)
        running[pid] = request["id"]
        _tell({"id": request["id"], "pid": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _tell(what: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _run(request: Mapping[str, Any]) -> None:
    """A process from start to end. Never returns: what stands behind the fork is the parent's."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        _redirect(0, os.devnull)
        _redirect(1, request["out"] or os.devnull)
        if request["err"]:
            _redirect(2, request["err"])
        os.environ.update(request["environment"])
        module, _, function = request["call"].partition(":")
        code = getattr(importlib.import_module(module), function)(*request["arguments"]) or 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(number: int, path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.dup2(descriptor, number)
    os.close(descriptor)


def import_everything(modules: Sequence[str]) -> None:
    """What a bot would import, and the clients that it would import late."""
    for module in modules:
        importlib.import_module(module)
    from adapters.feishu import sdk
    from adapters.wechat.wechaty_compat import import_wechaty

    sdk.load()
    import_wechaty()


if __name__ == "__main__":
    import_everything(["bots.replay", "bots.run", "adapters.feishu.adapter", "adapters.feishu.long_connection", "adapters.feishu.webhook", "tests.bots.live_bot"])
    serve()
