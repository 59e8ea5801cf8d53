"""Train the reader of antecedents: a LoRA of a small language model and a head over its states, which score every candidate term of a conversation in one pass.

    python -m scripts.training.reader examples/windows/*.jsonl --out runs/reader

The lines that it reads come from a line ranker that never saw the question's author; one fold of authors is kept out altogether, to measure it there as it serves (llama.cpp on the
quantised model), alone and together with the trees and, with ``--pointer``, the pointer; then ``scripts.training.ranker --reader``. Continues a killed run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from core.antecedent_features import Array
from core.errors import InputError
from scripts.arguments import need, one_line_errors
from scripts.training import base as bases
from scripts.training.base import Base
from scripts.training.data import data_hash
from scripts.training.held_out import held_out, measured_by, measured_in_parts, points_by_case, write_said
from scripts.training.init_adapter import with_init_adapter
from scripts.training.lineage import data_that_made_it
from scripts.training.machine import AUTOCAST_HELP, prepare_machine
from scripts.training.ranker_data import Case, read_windows
from scripts.training.reader_model import ADAPTER, HEAD_FILE, item, load_head, make_model, said_by, said_in_training, write
from scripts.training.same_run import same_run
from scripts.training.source_figures import first_right
from scripts.training.span_model import Item
from scripts.training.span_training import CONSTRUCTED_HELP, SpanSettings, constructed_first, plan, teach

RANK, ALPHA = 16, 32
#: Questions that a process measures at a time.
PART = 100


def measured_by_torch(model: Any, base: Base, cases: Sequence[tuple[Case, Array]]) -> dict[str, Array]:
    """As :func:`scripts.training.held_out.measured_in_parts`, by torch."""
    said: dict[str, Array] = {}
    for name, points in said_in_training(model, base, cases):
        said[name] = points
        if len(said) % (4 * PART) == 0:
            typer.echo(f"read {len(said)} of {len(cases)}", err=True)
    return said


def main(
    files: Annotated[list[Path], typer.Argument(help="Files of group windows (JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder for reader.gguf, reader.npz, said.json and metrics.json.")] = Path("reader-out"),
    held: Annotated[int, typer.Option(help="Fold of authors that is kept out of training; -1: none.")] = 2,
    epochs: Annotated[int, typer.Option(help="Passes over the questions; 0 only measures the run of --init.", min=0)] = 2,
    constructed: Annotated[int, typer.Option(help=CONSTRUCTED_HELP, min=0)] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate of the adapter; four times that for the head.")] = 3e-4,
    max_steps: Annotated[int, typer.Option(help="Stop after so many steps; 0: never.")] = 0,
    init: Annotated[Path | None, typer.Option(help="Go on from another run: its folder. What ships: core/shipped/resolver.")] = None,
    most: Annotated[int, typer.Option(help="Held questions that are measured at most; a second each on one core.")] = 1200,
    pointer: Annotated[Path | None, typer.Option(help="Folder that scripts.training.pointer wrote with the same files and seed: it is measured beside.")] = None,
    quick: Annotated[bool, typer.Option(help="Measure with torch instead of llama.cpp as it serves: several times as fast, a little less true.")] = False,
    autocast: Annotated[bool, typer.Option(help=AUTOCAST_HELP)] = False,
    threads: Annotated[int, typer.Option(help="CPU threads of the training; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
) -> None:
    """Train the reader and measure it on the authors that it never saw."""
    windows = read_windows(files)
    beside = {"pointer": points_by_case(measured_by(pointer, files, seed)[1])} if pointer is not None else {}
    need("torch", "transformers", "peft", "gguf", "lightgbm", "sklearn", "llama_cpp")
    gguf = bases.packaged_gguf()
    if not epochs and not constructed and init is None:
        raise InputError("--epochs", "0 passes and no run to measure", "Give --init RUN, --constructed N, or at least one pass.")
    settings = SpanSettings(epochs=epochs, constructed=constructed, learning_rate=lr, head_rate=4.0, weight_decay=0.0, dropout=0.0, seed=seed, autocast=autocast)
    starts = [init / ADAPTER, init / HEAD_FILE] if init is not None else []
    for path in starts:
        if not path.is_file():
            raise InputError(str(path), "no such file", "Give the folder of a run of scripts.training.reader; what ships: core/shipped/resolver.")
    same_run(out, {"settings": asdict(settings), "data": data_hash(files), "held_fold": held, "init": data_hash(starts) if starts else None})

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from scripts.training.ranker import crossed

    found, scored = crossed(windows, seed)
    prepare_machine(threads)
    torch.manual_seed(seed)
    loaded = bases.load_base("")
    config = bases.base_config(loaded)
    language_model: Any = AutoModelForCausalLM.from_pretrained(str(loaded.folder), dtype=torch.float32)
    if init is not None:
        language_model = with_init_adapter(language_model, init / ADAPTER, loaded, config, out / "initial")
    else:
        language_model = get_peft_model(language_model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"))
    model = make_model(language_model, int(config["hidden_size"]), autocast)
    if init is not None:
        load_head(model, init)

    material = constructed_first(found, scored.line_scores, windows, held, settings)

    def make(index: int, lines: int) -> Item:
        return item(material.cases[index], material.line_scores[index], loaded, lines)

    steps = [*material.steps, *plan(found, held, settings)][: max_steps or None]
    figures: dict[str, Any] = teach(model, steps, make, settings, out)
    write(model, loaded, data_that_made_it(starts[1:], files, len(steps)), out)
    chosen = held_out(found, held, seed, most)
    cases = [(found[i], scored.line_scores[i]) for i in chosen]
    in_training = measured_by_torch(model, loaded, cases) if quick else None
    del model, language_model
    answers = measured_in_parts(said_by, (out, gguf), cases, PART) if in_training is None else in_training
    write_said(out, answers)
    figures |= {"held_fold": held, "seed": seed, "data_hash": data_hash(files)}
    figures["held"] = first_right([found[i] for i in chosen], [scored.scores[i] for i in chosen], {**beside, "reader": answers}) if chosen else None
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
