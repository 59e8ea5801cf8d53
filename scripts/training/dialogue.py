"""Calibrate the writer of short dialogues: what it writes on questions that its training kept aside, and how sure one can be of it.

    python -m scripts.train rewrite_zh_train.jsonl --task rewrite --rewrite-prompt dialogue-1 --out runs/dialogue
    python -m scripts.training.dialogue rewrite_zh_train.jsonl --run runs/dialogue --out core/shipped/dialogue

Measured as it serves: by llama.cpp on the quantised model.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from core.antecedent_features import Array
from core.dialogue import MOST_TOKENS, is_dialogue
from core.errors import InputError
from core.gates.packaged import packaged_model
from core.gates.worker import ModelWorker
from core.grounding import is_free, refusal, tokens
from core.messages import Question
from core.ports import LanguageModel
from core.resolver_prompts import DIALOGUE_PROMPTS, rewrite_prompt
from scripts.arguments import make_folder, need, one_line_errors
from scripts.evaluation.metrics import is_chinese, same_text
from scripts.training.data import Sample, data_hash, load_samples
from scripts.training.ranker import choose_threshold
from scripts.training.rewrite_task import question_of
from scripts.training.splits import split_samples

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Written:
    """A rewrite of a question that training did not see. ``mean`` and ``least``: natural-log probabilities of its tokens; ``passes``: it meets the acceptance rule,
    its confidence apart."""

    mean: float
    least: float
    exact: bool
    right: bool
    passes: bool


def says_the_same(gold: str, written: str) -> bool:
    """Whether two rewrites hold the same words in the same order, apart from those that name nothing."""
    return [token for token in tokens(gold) if not is_free(token)] == [token for token in tokens(written) if not is_free(token)]


def kept_aside(samples: Sequence[Sample], validation: float, most: int, seed: int) -> list[tuple[Question, str]]:
    """At most ``most`` (question of a short dialogue, gold) that a training with this share of validation did not see."""
    found = {}
    for sample in split_samples(samples, validation)[1]:
        question = question_of(sample)
        if sample.rewrite and is_dialogue(question):
            found[sample.id] = question, sample.rewrite  # a file that training was given twice counts once
    return random.Random(seed).sample(list(found.values()), min(most, len(found)))


async def write_all(model: LanguageModel, chosen: Sequence[tuple[Question, str]], prompt: str) -> list[Written]:
    """What ``model`` writes for each question. Raises BackendError."""
    found = []
    for number, (question, gold) in enumerate(chosen, 1):
        generation = await model.generate(rewrite_prompt(prompt, question, question.context), MOST_TOKENS)
        text, logprobs = generation.text.strip(), generation.logprobs or (-99.0,)
        reason, _ = refusal(question, text, 1.0, 0.0)
        found.append(Written(sum(logprobs) / len(logprobs), min(logprobs), same_text(text, gold, is_chinese(gold, "zh")), says_the_same(gold, text), reason is None))
        if number % 100 == 0:
            typer.echo(f"written {number}/{len(chosen)}", err=True)
    return found


def calibrate(written: Sequence[Written], seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """(bias, weights and threshold of :class:`core.dialogue.DialogueCalibration`, figures). The threshold comes from confidences across folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows = np.array([[one.mean, one.least] for one in written])
    right = np.array([one.right for one in written])
    if min(right.sum(), (~right).sum()) < _FOLDS:
        raise InputError("the written rewrites", f"{int(right.sum())} of {len(right)} are right: nothing to calibrate with", "Train longer, or give more questions (--most).")
    model = LogisticRegression(C=1.0)
    apart: Array = cross_val_predict(model, rows, right, cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=seed), method="predict_proba")[:, 1]
    passing = np.array([one.passes for one in written])
    threshold = choose_threshold(apart[passing], right[passing], np.ones(int(passing.sum())))
    accepted = passing & (apart >= threshold)
    model.fit(rows, right)
    weights = {"bias": float(model.intercept_[0]), "mean_weight": float(model.coef_[0, 0]), "least_weight": float(model.coef_[0, 1]), "threshold": threshold}
    figures = {
        "questions": len(written),
        "exact": float(np.mean([one.exact for one in written])),
        "right": float(right.mean()),
        "confidence_auc": float(roc_auc_score(right, apart)),
        "accepted": float(accepted.mean()),
        "wrong_of_accepted": float((~right)[accepted].mean()) if accepted.any() else None,
    }
    return weights, figures


def main(
    data: Annotated[list[Path], typer.Argument(help="the files that the adapter was trained on")],
    run: Annotated[Path, typer.Option(help="folder of scripts.train --task rewrite --rewrite-prompt dialogue-1")],
    out: Annotated[Path, typer.Option(help="folder for adapter.gguf, its card, calibration.json and metrics.json")],
    most: Annotated[int, typer.Option(help="questions to write", min=1)] = 600,
    seed: Annotated[int, typer.Option(help="of the questions chosen and the folds")] = 1,
    version: Annotated[str, typer.Option(help="version stored in the files")] = "1",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all but one")] = 0,
) -> None:
    """Write, calibrate, and put adapter and calibration into a folder that serves."""
    need("sklearn", "llama_cpp")
    try:
        settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))["settings"]
        trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        validation, prompt = float(settings["validation"]), str(settings["rewrite_prompt"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(str(run), f"no finished training ({error})", "Make it: python -m scripts.train --task rewrite --rewrite-prompt dialogue-1") from None
    if prompt not in DIALOGUE_PROMPTS or not (run / "adapter.gguf").is_file():
        raise InputError(str(run), f"is no adapter for llama.cpp of a writer of dialogues (trained with {prompt})", f"Train with --rewrite-prompt {' or '.join(DIALOGUE_PROMPTS)}.")
    if out.resolve() == run.resolve():
        raise InputError("--out", "is the folder of the run, whose figures would be lost", "Give another folder.")
    samples = load_samples(data)
    if trained.get("data_hash") != data_hash(data):
        raise InputError(str(run), "was trained on other files", "Give the same files: what it kept aside is told by them.")
    chosen = kept_aside(samples, validation, most, seed)
    if not chosen:
        raise InputError(str(run), "its training kept no question of a short dialogue aside", "Train with more of them, and with --validation above 0.")
    make_folder(out)
    written = asyncio.run(_written(run / "adapter.gguf", chosen, prompt, threads))
    weights, figures = calibrate(written, seed)
    calibration = {"version": version, "prompt": prompt, "data_hash": data_hash(data), **weights}
    (out / "calibration.json").write_text(json.dumps(calibration, indent=1) + "\n", encoding="utf-8")
    metrics = {"kept_aside": figures, "training": {key: trained.get(key) for key in ("steps", "seconds", "training_loss", "validation_loss", "data", "base", "settings")}}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    for name in ("adapter.gguf", "README.md"):
        shutil.copyfile(run / name, out / name)
    typer.echo(json.dumps(figures | {"threshold": weights["threshold"]}, indent=1))


async def _written(adapter: Path, chosen: Sequence[tuple[Question, str]], prompt: str, threads: int) -> list[Written]:
    from core.gates.llama_cpp import LlamaCppModel

    worker = ModelWorker()
    try:
        model = await LlamaCppModel.open(packaged_model("resolver"), adapter, worker, threads=threads)
        try:
            return await write_all(model, chosen, prompt)
        finally:
            await model.close()
    finally:
        worker.close()


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
