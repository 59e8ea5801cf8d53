"""The judge measured as it serves: margins of whole shortlists by llama.cpp on the quantised model, for authors that it never saw."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import typer

from core.antecedent_features import Array
from core.antecedent_judge import CANDIDATES, NO, YES, branch, judge_prompt, shortlist
from core.antecedents import Term
from core.ranker import Candidates
from scripts.training.ranker_data import Case


class Margins(TypedDict):
    """Log-odds of yes of one question's shortlist, and of its best candidates two by two."""

    terms: list[float]
    pairs: list[float]


def judged(
    gguf: Path, adapter: Path, found: Sequence[Case], chosen: Sequence[int], line_scores: Sequence[Array], rows: Sequence[Array], scores: Sequence[Array], threads: int = 0
) -> dict[str, Margins]:
    """Margins of the ``chosen`` cases, by id, as the resolver will see them: by llama.cpp on the quantised model."""
    from core.gates.llama_engine import LlamaEngine

    engine = LlamaEngine(gguf, adapter, threads=threads)
    try:
        answers_to = [engine.tokenize(YES)[0], engine.tokenize(NO)[0]]
        answers: dict[str, Margins] = {}
        for number, index in enumerate(chosen, 1):
            case = found[index]
            seen = Candidates(case.scene, tuple(case.terms), rows[index], scores[index], line_scores[index])
            prompt = engine.tokenize(judge_prompt(case.scene, line_scores[index]), start=True)

            def ask(choices: Sequence[tuple[Term, ...]], prompt: list[int] = prompt) -> list[float]:
                branches = [engine.tokenize(branch(*terms)) for terms in choices]
                return [round(yes - no, 4) for yes, no in engine.branch_logprobs(prompt, branches, answers_to)] if choices else []

            short = [case.terms[t] for t in seen.shortlist]
            terms = ask([(term,) for term in short])
            answers[case.id] = {"terms": terms, "pairs": ask([(short[a], short[b]) for a, b in seen.pairs(np.array(terms))])}
            if number % 50 == 0:
                typer.echo(f"judged {number}/{len(chosen)}", err=True)
        return answers
    finally:
        engine.close()


def held_out(found: Sequence[Case], held: int, seed: int, most: int) -> list[int]:
    """At most ``most`` cases of the held fold: those that have an antecedent, and a third of the others (they count less, and cost as much)."""
    rng = random.Random(seed)
    chosen = [i for i, case in enumerate(found) if case.fold == held and (case.resolvable or rng.random() < 1 / 3)]
    return sorted(rng.sample(chosen, min(most, len(chosen))))


def first_right(found: Sequence[Case], chosen: Sequence[int], scores: Sequence[Array], answers: dict[str, Margins]) -> dict[str, float]:
    """Share of resolvable questions whose first candidate is right: by the ranker, by the judge among the shortlist, and the shortlist's upper bound."""
    some = [i for i in chosen if found[i].resolvable]
    lists = [shortlist(scores[i]) for i in some]
    return {
        "questions": len(some),
        "ranker": float(np.mean([found[i].grades[order[0]] >= 1 for i, order in zip(some, lists, strict=True)])),
        "judge": float(np.mean([found[i].grades[order[int(np.argmax(answers[found[i].id]["terms"]))]] >= 1 for i, order in zip(some, lists, strict=True)])),
        f"among_{CANDIDATES}": float(np.mean([(found[i].grades[list(order)] >= 1).any() for i, order in zip(some, lists, strict=True)])),
    }
