"""How a training uses this machine: threads, tiny numbers, and memory that is kept instead of returned."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

from core.errors import InputError

#: Parameters of glibc's mallopt(3): bytes of free memory at the top of the heap above which it is returned (-1: never), bytes that the heap grows by at least, most tensors in a
#: mapping of their own.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_GROWTH = 256 * 2**20
AUTOCAST_HELP: Final = "bfloat16 arithmetic over float32 weights: nearly twice as fast on a CPU with AVX-512 BF16, slower on one without."


def prepare_machine(threads: int = 0) -> None:
    """Call before the first tensor. ``threads`` 0: torch's choice."""
    import torch

    keep_memory()
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def bfloat16_products(enabled: bool) -> Any:
    """A context in which torch multiplies matrices in bfloat16 on the CPU, where ``enabled``; weights and sums stay float32."""
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def check_device(device: str) -> None:
    """Raise InputError for a device that torch cannot compute on here."""
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own errors: an unknown name, no driver, no such card
        why = str(error).splitlines()[0][:120]
        raise InputError("--device", f"{device!r} cannot be used ({why})", "Use cpu, or cuda on a machine with a GPU that torch sees.") from error


def keep_memory() -> bool:
    """Let malloc keep what tensors free: each large tensor else is a mapping of its own, whose pages the kernel clears again at every step.

    False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(name, value) == 1 for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWTH)))
