"""Train the antecedent ranker that the resolver ships with.

    python -m scripts.training.ranker examples/windows/*.jsonl --out core/shipped/resolver

Everything is cross-validated across authors: line scores that the term model sees, term scores that the confidence sees, and the confidence from
which the threshold is chosen come from models that
never saw the author. The shipped models are then trained on all. Needs scikit-learn and lightgbm; deterministic in its seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from core.antecedent_features import LINE_FEATURES, TERM_FEATURES, Array, term_features
from core.combining import POINTERS, Logistic
from core.errors import InputError
from core.ranker import CONFIDENCE_FEATURES, RANKER_FORMAT, confidence_features, rarity_table
from scripts.arguments import one_line_errors
from scripts.training.held_out import measured_by
from scripts.training.lineage import version_of
from scripts.training.ranker_data import REPLIES, Case, cases, read_windows, rewritten_right, wilson_upper, word_frequency

LINE_SETTINGS = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 20, "feature_fraction": 0.5}
TERM_SETTINGS = {
    "objective": "lambdarank", "lambdarank_truncation_level": 4, "label_gain": [0, 3, 4, 5], "learning_rate": 0.08, "num_leaves": 7,
    "min_data_in_leaf": 50, "feature_fraction": 0.4,
}  # fmt: skip
COMMON_SETTINGS = {"bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 8.0, "verbose": -1, "num_threads": 1, "deterministic": True}
ROUNDS = 150
#: Weight of a question that needs no resolution: the gate lets about one in seven of them through.
STANDS_ALONE_WEIGHT = 0.15
MOST_WRONG = 0.15
CONFIDENCE_PENALTY = 0.05
#: Windows, or cases, that one process takes at a time.
TOGETHER = 200


@dataclass(slots=True)
class Scored:
    """Out-of-fold results, one entry a case: line probabilities, term features, term scores, features of the confidence and the confidence itself."""

    line_scores: list[Array]
    rows: list[Array]
    scores: list[Array]
    confidence_rows: Array
    confidence: Array


@dataclass(frozen=True, slots=True)
class Table:
    """What one model learns from: rows (n, features) and labels (n,) of all cases one below the other, the number of rows of each case and its fold (m,)."""

    rows: Array
    labels: Array
    sizes: NDArray[np.int64]
    folds: NDArray[np.int64]

    @classmethod
    def of_lines(cls, found: Sequence[Case], folds: NDArray[np.int64]) -> Table:
        known = [index for index, case in enumerate(found) if case.antecedent.any()]
        return cls._of([found[i].lines for i in known], [found[i].antecedent for i in known], folds[known])

    @classmethod
    def of_terms(cls, found: Sequence[Case], rows: Sequence[Array], folds: NDArray[np.int64]) -> Table:
        known = [index for index, case in enumerate(found) if case.resolvable and case.grades.any()]
        return cls._of([rows[i] for i in known], [found[i].grades for i in known], folds[known])

    @classmethod
    def _of(cls, rows: Sequence[Array], labels: Sequence[NDArray[Any]], folds: NDArray[np.int64]) -> Table:
        return cls(np.vstack(rows), np.concatenate(labels).astype(float), np.array([len(part) for part in rows]), folds)


def fit(settings: dict[str, Any], names: Sequence[str], seed: int, table: Table, without: int | None = None) -> Any:
    """A model of all cases but those of the fold ``without``."""
    import lightgbm

    taken = np.ones(len(table.sizes), dtype=bool) if without is None else table.folds != without
    chosen = np.repeat(taken, table.sizes)
    grouped = table.sizes[taken] if settings["objective"] == "lambdarank" else None
    data = lightgbm.Dataset(table.rows[chosen], table.labels[chosen], group=grouped, feature_name=list(names))
    return lightgbm.train({**settings, **COMMON_SETTINGS, "seed": seed}, data, ROUNDS)


def _side_by_side(calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Results of (function, argument ...), one process a core: each fit uses one thread, so that it is deterministic."""
    from joblib import Parallel, delayed

    results: list[Any] = Parallel(n_jobs=min(len(calls), os.cpu_count() or 1))(delayed(function)(*arguments) for function, *arguments in calls)
    return results


def _in_parts(function: Callable[..., list[Any]], items: Sequence[Any], *arguments: Any) -> list[Any]:
    """Results of ``function`` for all ``items``, of which it takes a part at a time."""
    parts = [items[i : i + TOGETHER] for i in range(0, len(items), TOGETHER)]
    return [one for part in _side_by_side([(function, part, *arguments) for part in parts]) for one in part]


def fit_logistic(rows: Array, right: NDArray[np.bool_], weights: Array, names: Sequence[str], penalty: float) -> dict[str, Any]:
    """Logistic regression as plain numbers, the form of :class:`core.combining.Logistic`. ``penalty`` is scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression

    clean = np.nan_to_num(rows, nan=0.0)
    mean, scale = clean.mean(axis=0), clean.std(axis=0) + 1e-9
    model = LogisticRegression(C=penalty, max_iter=1000).fit((clean - mean) / scale, right, sample_weight=weights)
    return {"features": list(names), "mean": mean.tolist(), "scale": scale.tolist(), "weights": model.coef_[0].tolist(), "bias": float(model.intercept_[0])}


def out_of_fold(found: Sequence[Case], folds: NDArray[np.int64], rarity: Callable[[str], float], seed: int, shuffle_labels: bool = False) -> Scored:
    """Score every case by models that never saw its fold. ``shuffle_labels`` permutes the grades within each training question: the baseline that a leak would beat."""
    rng = np.random.default_rng(seed)
    line_scores: list[Array] = [np.zeros(0)] * len(found)
    scores: list[Array] = [np.zeros(0)] * len(found)
    parts = sorted(set(folds.tolist()))
    table = Table.of_lines(found, folds)
    models = _side_by_side([(fit, LINE_SETTINGS, LINE_FEATURES, seed, table, part) for part in parts])
    for part, model in zip(parts, models, strict=True):
        for index in np.flatnonzero(folds == part).tolist():
            line_scores[index] = np.asarray(model.predict(found[index].lines))
    rows = _in_parts(_features_of, list(zip(found, line_scores, strict=True)), rarity)
    kept = [case.grades for case in found]
    if shuffle_labels:
        for case in found:
            case.grades = rng.permutation(case.grades)
    table = Table.of_terms(found, rows, folds)
    models = _side_by_side([(fit, TERM_SETTINGS, TERM_FEATURES, seed, table, part) for part in parts])
    for part, model in zip(parts, models, strict=True):
        for index in np.flatnonzero(folds == part).tolist():
            scores[index] = np.asarray(model.predict(rows[index]))
    for case, grades in zip(found, kept, strict=True):
        case.grades = grades
    confidence_rows = np.array([confidence_features(c.terms, s, line, part) for c, s, line, part in zip(found, scores, line_scores, rows, strict=True)])
    right, weights = first_is_right(found, scores), case_weights(found)
    confidence = np.zeros(len(found))
    for part in parts:
        train = folds != part
        logistic = Logistic.of(fit_logistic(confidence_rows[train], right[train], weights[train], CONFIDENCE_FEATURES, CONFIDENCE_PENALTY))
        for index in np.flatnonzero(~train).tolist():
            confidence[index] = logistic(confidence_rows[index])
    return Scored(line_scores, rows, scores, confidence_rows, confidence)


def _features_of(some: Sequence[tuple[Case, Array]], rarity: Callable[[str], float]) -> list[Array]:
    return [term_features(case.scene, case.terms, case.lines, line, rarity) for case, line in some]


def crossed(windows: Sequence[dict[str, Any]], seed: int) -> tuple[list[Case], Scored]:
    """The questions of ``windows``, some shown as replies too, scored by models that never saw their author."""
    found = _in_parts(cases, windows, REPLIES, seed)
    learnt = {"antecedent_indices": [case.antecedent.any() for case in found], "gold that a term of the conversation tells": [case.grades.any() for case in found]}
    for what, there in learnt.items():
        if len({case.fold for case, known in zip(found, there, strict=True) if known}) < 2:
            raise InputError("the windows", f"hold too few questions with {what}: the authors of one fold of five have them all", "Label more, by several authors.")
    return found, out_of_fold(found, np.array([case.fold for case in found]), rarity_table(word_frequency(windows), len(windows)), seed)


def first_is_right(found: Sequence[Case], scores: Sequence[Array], among: int = 1) -> NDArray[np.bool_]:
    return np.array([bool((case.grades[np.argsort(-score, kind="stable")[:among]] >= 1).any()) for case, score in zip(found, scores, strict=True)])


def case_weights(found: Sequence[Case]) -> Array:
    return np.array([1.0 if case.label == "yes" else STANDS_ALONE_WEIGHT for case in found])


def choose_threshold(confidence: Array, right: NDArray[np.bool_], weights: Array, errors: float = 1.0) -> float:
    """The lowest confidence from which on at most MOST_WRONG of what is accepted is wrong by the upper bound of so many standard ``errors``; above 1 when there is none."""
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(np.where(right, 0.0, weights)[order])
    accepted = np.cumsum(np.where(right, 1.0, weights)[order])
    last = np.append(np.diff(confidence[order]) < 0, True)  # equals are accepted together
    safe = [rank for rank in np.flatnonzero(last[: len(order)]).tolist() if wilson_upper(wrong[rank], accepted[rank], errors) <= MOST_WRONG]
    return float(confidence[order[safe[-1]]]) if safe else 1.01


def curve(found: Sequence[Case], confidence: Array, right: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Shares of right ones (of those that need one) and of wrong ones (of those accepted) as the threshold falls."""
    needs = np.array([case.label == "yes" for case in found])
    weights = case_weights(found)
    points = []
    for threshold in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.0):
        taken = confidence >= threshold
        good, bad = float((taken & right & needs).sum()), float(weights[taken & ~right].sum())
        points.append(
            {
                "threshold": threshold,
                "accepted": float((taken & needs).sum() / needs.sum()),
                "right": good / float(needs.sum()),
                "wrong_of_accepted": bad / (good + bad) if good + bad else 0.0,
            }
        )
    return points


def figures(found: Sequence[Case], scored: Scored) -> dict[str, Any]:
    solvable = [i for i, case in enumerate(found) if case.resolvable]
    some, scores = [found[i] for i in solvable], [scored.scores[i] for i in solvable]
    lines = [i for i, case in enumerate(found) if case.antecedent.any()]
    recent = [np.array([max(term.mentions)[0] + 0.001 * index + (100.0 if "L" in term.tags else 0.0) for index, term in enumerate(case.terms)]) for case in some]
    return {
        "questions": len(found), "resolvable": len(some),
        "line_top1": float(np.mean([found[i].antecedent[np.argmax(scored.line_scores[i])] for i in lines])),
        "line_previous_message": float(np.mean([found[i].antecedent[-1] for i in lines])),
        **{f"term_top{k}": float(first_is_right(some, scores, k).mean()) for k in (1, 3, 5)},
        "term_all_words_top1": float(np.mean([case.grades[np.argmax(score)] == 3 for case, score in zip(some, scores, strict=True)])),
        "term_candidates_hold_it": float(np.mean([case.grades.any() for case in some])),
        "term_most_recent_latin": float(first_is_right(some, recent).mean()),
    }  # fmt: skip


def _subset(found: Sequence[Case], scored: Scored, chosen: Sequence[int]) -> tuple[list[Case], Scored]:
    lines, rows, scores = ([part[i] for i in chosen] for part in (scored.line_scores, scored.rows, scored.scores))
    return [found[i] for i in chosen], Scored(lines, rows, scores, scored.confidence_rows[list(chosen)], scored.confidence[list(chosen)])


def main(
    files: Annotated[list[Path], typer.Argument(help="Files of group windows (JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder for lines.txt, terms.txt, meta.json and metrics.json.")] = Path("core/shipped/resolver"),
    seed: Annotated[int, typer.Option(help="Seed of all models.")] = 1,
    pointer: Annotated[list[Path] | None, typer.Option(help="Folder that scripts.training.pointer wrote: it is shipped beside, what it says is calibrated. At most two.")] = None,
    reader: Annotated[Path | None, typer.Option(help="Folder that scripts.training.reader wrote: the same.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also measure shuffled labels and the transfer between groups of authors.")] = False,
) -> None:
    """Train, cross-validate across authors, choose the threshold, and write the models."""
    windows = read_windows(files)
    pointers = dict(zip(POINTERS, pointer or [], strict=False))
    if len(pointer or []) > len(POINTERS):
        raise InputError("--pointer", f"given {len(pointer or [])} times", f"Give at most {len(POINTERS)}.")
    folders = {**pointers, **({"reader": reader} if reader is not None else {})}
    measured = {name: measured_by(folder, files, seed) for name, folder in folders.items()}
    found, scored = crossed(windows, seed)
    frequency, folds = word_frequency(windows), np.array([case.fold for case in found])
    named, weights = first_is_right(found, scored.scores), case_weights(found)
    right = np.array([rewritten_right(case, case.terms[int(np.argmax(score))].text) for case, score in zip(found, scored.scores, strict=True)])
    metrics: dict[str, Any] = {"seed": seed, "cross_author": figures(found, scored), "curve": curve(found, scored.confidence, right)}
    if baselines:
        rarity = rarity_table(frequency, len(windows))
        metrics["shuffled_labels"] = figures(found, out_of_fold(found, folds, rarity, seed, shuffle_labels=True))
        first = np.array([int(case.id.startswith("t")) for case in found])
        transfer = out_of_fold(found, first, rarity, seed)
        for name, flag in (("u_to_t", 1), ("t_to_u", 0)):
            metrics[name] = figures(*_subset(found, transfer, np.flatnonzero(first == flag).tolist()))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files, key=lambda path: path.name))).hexdigest()
    meta = {
        "format": RANKER_FORMAT, "data_hash": digest, "seed": seed, "windows": len(windows),
        "threshold": choose_threshold(scored.confidence, right, weights),
        "confidence": fit_logistic(scored.confidence_rows, named, weights, CONFIDENCE_FEATURES, CONFIDENCE_PENALTY), "word_frequency": frequency,
        "combined": [], "point_weights": {},
    }  # fmt: skip
    metrics["threshold"] = meta["threshold"]
    out.mkdir(parents=True, exist_ok=True)
    if measured:
        from scripts.training.combined import fit_combinations, points_of
        from scripts.training.pointer import said_again

        said = {name: numbers for name, (_, numbers) in measured.items()}
        meta["point_weights"] = points_of(found, scored, said)[1]
        meta["combined"], metrics["combined"] = fit_combinations(found, scored, said, partial(said_again, pointers["pointer"] / "pointer.npz") if pointers else None)
        metrics |= {name: about for name, (about, _) in measured.items()}
    for name, folder in folders.items():
        for file in ("reader.gguf", "reader.npz") if name == "reader" else ("pointer.npz",):
            shutil.copyfile(folder / file, out / (file if name == "reader" else f"{name}.npz"))
    fit(LINE_SETTINGS, LINE_FEATURES, seed, Table.of_lines(found, folds)).save_model(str(out / "lines.txt"))
    fit(TERM_SETTINGS, TERM_FEATURES, seed, Table.of_terms(found, scored.rows, folds)).save_model(str(out / "terms.txt"))
    parts = [(out / name).read_bytes() for name in ("lines.txt", "terms.txt")]
    meta["version"] = version_of("antecedents", *parts, json.dumps(meta, sort_keys=True).encode())
    (out / "meta.json").write_text(json.dumps(meta, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps({key: value for key, value in metrics.items() if key != "curve"}, indent=1))


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
