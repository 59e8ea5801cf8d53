"""Makes ``.venv`` and installs the project into it, with a progress bar: python3 scripts/bootstrap.py [--extras dev,train].

Standard library only, for it runs before anything is installed. The slow part is llama.cpp, which is compiled here (some minutes, once). A second call with an unchanged
pyproject.toml does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LLAMA = re.compile(r'"(llama-cpp-python==[^"]+)"')
NINJA_STEP = re.compile(r"\[(\d+)/(\d+)\]")
BAR = 30


def fail(problem: str, remedy: str) -> None:
    sys.exit(f"error: {problem}. {remedy}")


def check_machine() -> None:
    """Say what is missing before minutes are spent."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs under whatever python3 the machine has
        fail(f"Python {sys.version.split()[0]} is too old", "Install Python 3.11 or newer and call make with PYTHON=python3.11")
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not any(name and shutil.which(name.split()[0]) for name in compilers):
        fail("no C++ compiler found, and llama.cpp is compiled here", "Debian/Ubuntu: apt-get install g++; macOS: xcode-select --install; or set CXX")


class Bar:
    """One line that is drawn over; plain lines where the output is no terminal."""

    def __init__(self, label: str) -> None:
        self._label, self._began, self._drawn = label, time.monotonic(), 0.0
        if not sys.stdout.isatty():
            print(f"{label} ...", flush=True)

    def draw(self, share: float | None, detail: str = "") -> None:
        now = time.monotonic()
        if sys.stdout.isatty() and now - self._drawn > 0.1:
            self._drawn = now
            filled = int(BAR * share) if share is not None else 0
            shown = "#" * filled + "-" * (BAR - filled) if share is not None else "working".center(BAR)
            print(f"\r{self._label:<28} [{shown}] {now - self._began:4.0f} s {detail[:40]:<40}", end="", flush=True)

    def done(self) -> None:
        took = time.monotonic() - self._began
        print(f"\r{self._label:<28} done in {took:.0f} s{'':<60}" if sys.stdout.isatty() else f"{self._label}: done in {took:.0f} s", flush=True)


def pip(label: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run pip under a bar. On failure the end of its output is shown."""
    bar = Bar(label)
    tail: list[str] = []
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env={**os.environ, **(environment or {})}) as process:
        assert process.stdout is not None
        share: float | None = None
        for line in process.stdout:
            tail = [*tail[-39:], line.rstrip()]
            step = NINJA_STEP.search(line)
            if step and int(step[2]) > 20:
                share = int(step[1]) / int(step[2])
            bar.draw(share, line.strip())
    if process.returncode != 0:
        print("\n".join(tail))
        fail(f"pip failed while installing {label}", "Its last lines stand above; is the network there, and enough disk?")
    bar.done()


def install(extras: str) -> None:
    """Create the environment and install the project, editable, with ``extras``."""
    check_machine()
    stamp = VENV / f".installed-{extras or 'base'}"
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest and PYTHON.exists():
        return
    if not PYTHON.exists():
        print("creating .venv", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip("pip and build tools", "--upgrade", "pip", "setuptools", "wheel")
    llama = LLAMA.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if llama is not None:
        cmake = os.environ.get("CMAKE_ARGS", "-DLLAVA_BUILD=OFF")
        pip("llama.cpp (compiled once)", "--verbose", llama[1], environment={"CMAKE_ARGS": cmake})
    pip("doujie and its libraries", "--editable", f".[{extras}]" if extras else ".")
    stamp.write_text(digest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make .venv and install doujie into it.")
    parser.add_argument("--extras", default="", help="comma-separated extras of pyproject.toml")
    install(parser.parse_args().extras)
