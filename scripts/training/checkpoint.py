"""The state of a training on disk, from which it goes on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Checkpoint:
    """The newest state of a run in ``folder/checkpoint``: written beside and renamed, so that a kill leaves the old or the new one, never half."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoint"

    def save(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Trainable weights, optimizer, random state and ``state`` (JSON)."""
        import torch
        from safetensors.torch import save_file

        fresh, old = self.path.with_suffix(".new"), self.path.with_suffix(".old")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(trained_weights(model), fresh / "weights.safetensors")
        torch.save({"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, fresh / "optimizer.pt")
        (fresh / "state.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():
            self.path.replace(old)
        fresh.replace(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def load(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put the newest state into model and optimizer and return its ``state``; None when there is none."""
        import torch
        from safetensors.torch import load_file

        old = self.path.with_suffix(".old")
        if not self.path.exists() and old.exists():  # killed between the two renames
            old.replace(self.path)
        if not self.path.exists():
            return None
        load_weights(model, load_file(self.path / "weights.safetensors"))
        saved = torch.load(self.path / "optimizer.pt", weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        state: dict[str, Any] = json.loads((self.path / "state.json").read_text(encoding="utf-8"))
        return state


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the weights that are trained, by name."""
    return {name: p.detach().cpu().clone().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Inverse of :func:`trained_weights`."""
    import torch

    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
