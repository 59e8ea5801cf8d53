"""Questions asked again with the first thing put in: what do they still lack, if anything?

Where gold adds two things that no one term holds ("dense_vector 的索引"), either may come first and the other is what is looked for. Where one term says it all, nothing is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from core.antecedents import Term
from core.grounding import squeeze
from core.second_reading import asked_again, rest_of
from scripts.training.ranker_data import Case, grade, rewritten_right

#: Of the questions that lack nothing any more, so many are kept for each that still lacks something.
COMPLETE = 1.5


def second_cases(found: Sequence[Case], held: int, seed: int) -> list[tuple[int, Case]]:
    """(index of the question, the question asked again) of questions outside the fold ``held``: twice where two things are needed, once where one says all."""
    rng = random.Random(seed)
    lacking: list[tuple[int, Case]] = []
    complete: list[tuple[int, Case]] = []
    for index, case in enumerate(found):
        if case.fold == held or not case.resolvable:
            continue
        firsts = [i for i in np.flatnonzero(case.grades >= 1).tolist() if not holds_foreign(case, case.terms[i])]
        whole = [i for i in firsts if says_all(case, case.terms[i], int(case.grades[i]))]
        if whole:
            complete.append((index, after(case, rng.choice(whole), None)))
            continue
        made = [one for first in rng.sample(firsts, len(firsts)) if (wanted := missing(case, first)).any() for one in [after(case, first, wanted)]]
        lacking += [(index, one) for one in made[:2]]
    return [*lacking, *rng.sample(complete, min(len(complete), int(len(lacking) * COMPLETE)))]


def says_all(case: Case, term: Term, graded: int) -> bool:
    """Whether the question lacks nothing any more once ``term`` stands in it: by the author's list, or because gold adds nothing else."""
    return rewritten_right(case, term.text) if case.must_contain else graded == 3


def missing(case: Case, first: int) -> NDArray[np.bool_]:
    """Which of the terms beside the one with index ``first`` say what the question still lacks with it, of all terms (n,)."""
    wanted = np.zeros(len(case.terms), dtype=bool)
    put_in, gold = case.terms[first], case.gold or ""
    question = f"{put_in.text} {case.scene.question}"
    held = squeeze(question)
    lacks = [squeeze(word) for word in case.must_contain if squeeze(word) not in held]
    for index in rest_of(case.terms, put_in):
        term = case.terms[index]
        if holds_foreign(case, term) or not grade(question, gold, term):
            continue
        wanted[index] = any(word in term.key for word in lacks) if case.must_contain else case.grades[index] >= 1
    return wanted


def holds_foreign(case: Case, term: Term) -> bool:
    """Whether ``term`` says something that the author listed as wrong."""
    return any(squeeze(word) in term.key for word in case.must_not_contain)


def after(case: Case, first: int, wanted: NDArray[np.bool_] | None) -> Case:
    """``case`` asked again with the term of index ``first``; ``wanted`` (n,) of its terms are looked for, nothing when None."""
    kept = rest_of(case.terms, case.terms[first])
    targets = wanted[kept] if wanted is not None else np.zeros(len(kept), dtype=bool)
    terms = [case.terms[index] for index in kept]
    lines = {line for term, target in zip(terms, targets, strict=True) if target for line in term.lines}
    antecedent = case.antecedent & np.array([line in lines for line in range(len(case.antecedent))]) if lines else np.zeros(len(case.antecedent), dtype=bool)
    return replace(
        case, id=f"{case.id}+", gold=case.gold if targets.any() else None, scene=asked_again(case.scene, case.terms[first]), terms=terms,
        grades=np.where(targets, np.maximum(case.grades[kept], 1), 0), antecedent=antecedent,
    )  # fmt: skip
