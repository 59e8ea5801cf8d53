"""The judge measured as it serves: margins of whole shortlists by llama.cpp on the quantised model, for authors that it never saw."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from core.antecedent_features import Array
from core.antecedent_judge import NO, YES, branch, judge_prompt, shortlist
from core.errors import InputError
from scripts.training.data import data_hash
from scripts.training.ranker_data import Case


def judged(
    gguf: Path, adapter: Path, found: Sequence[Case], chosen: Sequence[int], line_scores: Sequence[Array], asked: Sequence[Sequence[int]], threads: int = 0
) -> dict[str, dict[int, float]]:
    """Margins of the ``chosen`` cases by id and index of the term, as the resolver will see them: by llama.cpp on the quantised model. ``asked``: the terms of each chosen case."""
    from core.gates.llama_engine import LlamaEngine

    engine = LlamaEngine(gguf, adapter, threads=threads)
    try:
        yes, no = engine.tokenize(YES)[0], engine.tokenize(NO)[0]
        answers: dict[str, dict[int, float]] = {}
        for number, (index, terms) in enumerate(zip(chosen, asked, strict=True), 1):
            case = found[index]
            prompt = engine.tokenize(judge_prompt(case.scene, line_scores[index]), start=True)
            margins = engine.branch_logprobs(prompt, [engine.tokenize(branch(case.terms[t])) for t in terms], [yes, no])
            answers[case.id] = {term: round(a - b, 4) for term, (a, b) in zip(terms, margins, strict=True)}
            if number % 50 == 0:
                typer.echo(f"judged {number}/{len(chosen)}", err=True)
        return answers
    finally:
        engine.close()


def terms_asked(scores: Array, points: Array | None, point_weight: float) -> list[int]:
    """The terms of a question that are judged: the shortlist of the trees alone, and that of trees and pointer together."""
    both = shortlist(scores) if points is None else [*shortlist(scores), *shortlist(scores + point_weight * points)]
    return list(dict.fromkeys(both))


def measured_by(folder: Path, files: Sequence[Path], seed: int) -> tuple[dict[str, Any], dict[str, dict[int, float]]]:
    """(figures, numbers by id and index of the term) that scripts.training.judge or scripts.training.pointer left in ``folder``. Raises InputError when they are not there, or of
    other questions."""
    try:
        about: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        numbers = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(folder), f"no folder of a trained judge or pointer ({error})", "Make it: python -m scripts.training.judge, or scripts.training.pointer") from None
    if (about.get("seed"), about.get("data_hash")) != (seed, data_hash(files)):
        raise InputError(str(folder), "its figures are of other shortlists", "Give the files and the seed that it was measured with.")
    return about, {name: {int(term): float(number) for term, number in said.items()} for name, said in numbers.items()}


def held_out(found: Sequence[Case], held: int, seed: int, most: int) -> list[int]:
    """At most ``most`` cases of the held fold: those that have an antecedent, and a third of the others (they count less, and cost as much)."""
    rng = random.Random(seed)
    chosen = [i for i, case in enumerate(found) if case.fold == held and (case.resolvable or rng.random() < 1 / 3)]
    return sorted(rng.sample(chosen, min(most, len(chosen))))


def first_right(found: Sequence[Case], chosen: Sequence[int], scores: Sequence[Array], answers: dict[str, dict[int, float]]) -> dict[str, float]:
    """Share of resolvable questions whose first candidate is right: by the ranker, by the judge among the terms that it was asked about, and the upper bound of those."""
    some = [i for i in chosen if found[i].resolvable]
    asked = [answers[found[i].id] for i in some]
    return {
        "questions": len(some),
        "ranker": float(np.mean([found[i].grades[shortlist(scores[i], 1)[0]] >= 1 for i in some])),
        "judge": float(np.mean([found[i].grades[max(said, key=said.__getitem__)] >= 1 for i, said in zip(some, asked, strict=True)])),
        "among_asked": float(np.mean([(found[i].grades[list(said)] >= 1).any() for i, said in zip(some, asked, strict=True)])),
    }
