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
from core.antecedent_judge import CANDIDATES, NO, YES, branch, judge_prompt, shortlist
from core.errors import InputError
from scripts.training.data import data_hash
from scripts.training.ranker_data import Case


def judged(
    gguf: Path, adapter: Path, found: Sequence[Case], chosen: Sequence[int], line_scores: Sequence[Array], scores: Sequence[Array], threads: int = 0
) -> dict[str, list[float]]:
    """Margins of the shortlists of the ``chosen`` cases, by id, as the resolver will see them: by llama.cpp on the quantised model."""
    from core.gates.llama_engine import LlamaEngine

    engine = LlamaEngine(gguf, adapter, threads=threads)
    try:
        yes, no = engine.tokenize(YES)[0], engine.tokenize(NO)[0]
        answers: dict[str, list[float]] = {}
        for number, index in enumerate(chosen, 1):
            case = found[index]
            prompt = engine.tokenize(judge_prompt(case.scene, line_scores[index]), start=True)
            branches = [engine.tokenize(branch(case.terms[t])) for t in shortlist(scores[index])]
            answers[case.id] = [round(a - b, 4) for a, b in engine.branch_logprobs(prompt, branches, [yes, no])]
            if number % 50 == 0:
                typer.echo(f"judged {number}/{len(chosen)}", err=True)
        return answers
    finally:
        engine.close()


def judge_of(folder: Path, files: Sequence[Path], seed: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """(figures, margins by id) that scripts.training.judge left in ``folder``. Raises InputError when it is not there, or of other shortlists."""
    try:
        about: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        margins: dict[str, list[float]] = json.loads((folder / "margins.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(folder), f"no folder of a trained judge ({error})", "Make it: python -m scripts.training.judge") from None
    if (about.get("seed"), about.get("data_hash")) != (seed, data_hash(files)):
        raise InputError(str(folder), "its margins are of other shortlists", "Give the files and the seed that it was measured with.")
    return about, margins


def held_out(found: Sequence[Case], held: int, seed: int, most: int) -> list[int]:
    """At most ``most`` cases of the held fold: those that have an antecedent, and a third of the others (they count less, and cost as much)."""
    rng = random.Random(seed)
    chosen = [i for i, case in enumerate(found) if case.fold == held and (case.resolvable or rng.random() < 1 / 3)]
    return sorted(rng.sample(chosen, min(most, len(chosen))))


def first_right(found: Sequence[Case], chosen: Sequence[int], scores: Sequence[Array], answers: dict[str, list[float]]) -> dict[str, float]:
    """Share of resolvable questions whose first candidate is right: by the ranker, by the judge among the shortlist, and the shortlist's upper bound."""
    some = [i for i in chosen if found[i].resolvable]
    lists = [shortlist(scores[i]) for i in some]
    return {
        "questions": len(some),
        "ranker": float(np.mean([found[i].grades[order[0]] >= 1 for i, order in zip(some, lists, strict=True)])),
        "judge": float(np.mean([found[i].grades[order[int(np.argmax(answers[found[i].id]))]] >= 1 for i, order in zip(some, lists, strict=True)])),
        f"among_{CANDIDATES}": float(np.mean([(found[i].grades[list(order)] >= 1).any() for i, order in zip(some, lists, strict=True)])),
    }
