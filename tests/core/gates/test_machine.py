"""The line of ``--check`` that says what the machine offers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.config import load_config
from core.errors import ConfigError
from core.gates import backends
from core.gates.machine import describe_machine
from core.gates.worker import ModelWorker


def test_cores_memory_and_libraries_are_named() -> None:
    line = describe_machine()
    assert line.startswith(f"{len(os.sched_getaffinity(0))} CPU cores, ")
    assert "GiB of memory" in line
    assert "llama-cpp-python 0." in line
    assert "\n" not in line


def cuda(available: bool) -> SimpleNamespace:
    """The part of torch's documented API that is asked, as on a machine with one card."""
    card = SimpleNamespace(name="RTX 4090", total_memory=24 << 30)
    there = SimpleNamespace(is_available=lambda: available, device_count=lambda: 1, get_device_properties=lambda number: card)
    return SimpleNamespace(__version__="2.13.0", cuda=there)


@pytest.mark.parametrize(
    ("torch", "expected"),
    [(cuda(True), "CUDA on RTX 4090 (24 GiB)"), (cuda(False), "an NVIDIA driver that torch 2.13.0 cannot use"), (None, "no torch to use it")],
    ids=["usable", "torch for the CPU", "no torch"],
)
def test_a_gpu_is_named_or_what_is_missing_to_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: object, expected: str) -> None:
    driver = tmp_path / "nvidiactl"
    driver.touch()
    monkeypatch.setattr(backends, "NVIDIA_DEVICES", (str(driver),))
    monkeypatch.setitem(sys.modules, "torch", torch)  # None: the import fails
    assert expected in describe_machine()


async def test_a_torch_that_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudnn.so.9: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(backends, "NVIDIA_DEVICES", (str(tmp_path),))
    assert "torch cannot be loaded (libcudnn.so.9" in describe_machine()
    assert not backends.cuda_is_there()
    section = load_config(None, {}, gate={"model": str(tmp_path)}).gate
    with pytest.raises(ConfigError, match=r"torch cannot be loaded \(libcudnn"):
        await backends.open_language_models(backends.ModelSource("gate", section, ModelWorker(), 1, "auto", None), "transformers", print)


def test_without_a_driver_torch_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "NVIDIA_DEVICES", ("/no/such/device",))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert "no NVIDIA driver" in describe_machine()
    assert "torch" not in sys.modules
