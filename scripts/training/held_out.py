"""Questions by authors that a training never saw, and what the model that it made says of them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from core.antecedent_features import Array
from core.errors import InputError
from scripts.training.data import data_hash
from scripts.training.ranker_data import Case


def held_out(found: Sequence[Case], held: int, seed: int, most: int) -> list[int]:
    """At most ``most`` cases of the held fold: those that have an antecedent, and a third of the others (they count less, and cost as much)."""
    rng = random.Random(seed)
    chosen = [i for i, case in enumerate(found) if case.fold == held and (case.resolvable or rng.random() < 1 / 3)]
    return sorted(rng.sample(chosen, min(most, len(chosen))))


def measured_in_parts(say: Callable[..., list[tuple[str, Array]]], arguments: Sequence[Any], cases: Sequence[tuple[Case, Array]], size: int) -> dict[str, Array]:
    """What ``say(*arguments, part)`` tells of each ``size`` of the cases (with their line scores), by the id of the case; one process a core."""
    from joblib import Parallel, delayed

    parts = [cases[i : i + size] for i in range(0, len(cases), size)]
    said: dict[str, Array] = {}
    for answers in Parallel(n_jobs=os.cpu_count() or 1, return_as="generator")(delayed(say)(*arguments, part) for part in parts):
        said |= dict(answers)
        typer.echo(f"read {len(said)} of {len(cases)}", err=True)
    return said


def write_said(folder: Path, said: Mapping[str, Array]) -> None:
    """Numbers of all terms by the id of the case, for :func:`measured_by`."""
    numbers = {name: dict(enumerate(scores.round(4).tolist())) for name, scores in said.items()}
    (folder / "said.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")


def measured_by(folder: Path, files: Sequence[Path], seed: int) -> tuple[dict[str, Any], dict[str, dict[int, float]]]:
    """(figures, numbers by id and index of the term) that scripts.training.pointer or scripts.training.reader left in ``folder``. Raises InputError when they are not there, or of
    other questions."""
    try:
        about: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        numbers = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(folder), f"no folder of a trained pointer or reader ({error})", "Make it: python -m scripts.training.pointer, or scripts.training.reader") from None
    if (about.get("seed"), about.get("data_hash")) != (seed, data_hash(files)):
        raise InputError(str(folder), "its figures are of other questions", "Give the files and the seed that it was measured with.")
    return about, {name: {int(term): float(number) for term, number in said.items()} for name, said in numbers.items()}


def points_by_case(said: Mapping[str, Mapping[int, float]]) -> dict[str, Array]:
    """Numbers of all terms (n,) by the id of the case."""
    return {name: np.array([numbers[term] for term in range(len(numbers))]) for name, numbers in said.items()}
