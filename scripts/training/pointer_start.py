"""Where a training of the pointer begins: the weights that a run left, those of a finished ``pointer.npz``, or the mean of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.antecedent_pointer import AntecedentPointer
from core.arrays import read_arrays
from core.encoder import EncoderFile
from core.errors import InputError
from core.span_head import HEAD
from scripts.training.e5 import with_differences

if TYPE_CHECKING:
    import torch

_REMEDY = "Give the folder of a run of scripts.training.pointer, or a pointer.npz (what ships: core/shipped/resolver/pointer.npz)."


def weights_file(start: Path) -> Path:
    """The file that holds the weights of ``start``. Raises InputError where there is none."""
    path = start / "checkpoint" / "weights.safetensors" if start.suffix != ".npz" else start
    if not path.is_file():
        raise InputError(str(path), "no such file", _REMEDY)
    return path


def weights_of(start: Path, file: EncoderFile) -> dict[str, torch.Tensor]:
    """Weights by their names in the model. A ``pointer.npz`` tells the head that chooses among lines not: it is not served."""
    import torch
    from safetensors.torch import load_file

    path = weights_file(start)
    if path.suffix != ".npz":
        found: dict[str, torch.Tensor] = load_file(path)
        return found
    arrays = read_arrays(path, "a pointer", _REMEDY)
    AntecedentPointer(file, arrays, str(path))  # says what does not fit
    state = {f"encoder.{name}": values for name, values in with_differences(file, {key: values for key, values in arrays.items() if not key.startswith("head.")}).items()}
    ends = {"w": "weight", "b": "bias"}
    return state | {f"head.{name}.{ends[end]}": torch.from_numpy(arrays[f"head.{name}.{end}"]).float() for name in HEAD for end in ends}


def mean_weights(starts: Sequence[Path], file: EncoderFile) -> dict[str, torch.Tensor]:
    """The mean of what all ``starts`` have (Wortsman et al. 2022, arXiv 2203.05482): good where they were trained from one start."""
    every = [weights_of(start, file) for start in starts]
    return {name: sum((one[name] for one in every[1:]), every[0][name]) / len(every) for name in every[0] if all(name in one for one in every)}
