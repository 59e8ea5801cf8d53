"""Which samples a training keeps aside: the same for the adapter, for the head, and for every calibration, which all have to agree on what was never learnt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from scripts.training.data import Sample, fold_of

_QUESTION_OF_WINDOW = re.compile(r"-q\d+$")


def held_out(samples: Sequence[Sample], validation: float) -> list[bool]:
    """Which samples form the validation split: about the share ``validation``, authors and equal questions together."""
    if validation <= 0:
        return [False] * len(samples)
    numbers = folds_of(samples, max(2, round(1 / validation)))
    held = min(numbers, default=0)  # the first fold that is not empty: few authors may leave some empty
    return [number == held for number in numbers]


def folds_of(samples: Sequence[Sample], folds: int) -> list[int]:
    """Fold of each sample, by author or question. Where that puts all into one, as for the windows of one author, by window; by question for the questions of one window."""
    rules: tuple[Callable[[Sample], int], ...] = (lambda s: fold_of(s, folds), lambda s: _fold(_window(s), folds), lambda s: _fold(_text(s), folds))
    numbers: list[int] = []
    for rule in rules:
        numbers = [rule(sample) for sample in samples]
        if len(set(numbers)) > 1:
            break
    return numbers


def split_samples(samples: Sequence[Sample], validation: float) -> tuple[list[Sample], list[Sample]]:
    """(what is taught, what is held out). A question without an author that is held out in one file is not taught from another one."""
    out = held_out(samples, validation)
    held = [sample for sample, kept in zip(samples, out, strict=True) if kept]
    texts = {_text(sample) for sample in held}
    taught = [s for s, kept in zip(samples, out, strict=True) if not kept and not (s.group == s.source and _text(s) in texts)]
    return taught, held


def _fold(key: str, folds: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:4], "big") % folds


def _window(sample: Sample) -> str:
    """The window of a sample, or its question where it is of none."""
    return _QUESTION_OF_WINDOW.sub("", sample.id) if sample.group != sample.source and _QUESTION_OF_WINDOW.search(sample.id) else _text(sample)


def _text(sample: Sample) -> str:
    """What is asked, white space apart; of an alpaca record the whole prompt."""
    return " ".join((sample.question or sample.prompt).split())
