"""Which evaluators a file needs, and running them with one set of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from core.config import Config
from core.errors import ConfigError, InputError
from core.merger import MergeRules
from core.question_filter import QuestionFilter
from scripts.evaluation.context import evaluate_context
from scripts.evaluation.forms import DataFile, Form, GateRecord
from scripts.evaluation.gate import evaluate_gate
from scripts.evaluation.merging import evaluate_merging
from scripts.evaluation.questions import evaluate_questions
from scripts.evaluation.results import Advance, Models, Result
from scripts.evaluation.rewriting import evaluate_rewriting
from scripts.evaluation.window_scores import evaluate_windows


@dataclass(frozen=True, slots=True)
class Job:
    """One task on one file. ``steps``: what its progress bar counts to."""

    data: DataFile
    task: str
    records: Sequence[Any]
    steps: int

    @property
    def needs_models(self) -> bool:
        return self.task in ("gate", "rewrite", "window")


def jobs_of(data: DataFile) -> list[Job]:
    """The tasks that a file measures: gate files with human rewrites measure both gate and rewriting.

    Raises InputError for a file whose questions nobody has labelled: its figures would be 0 of 0.

    Files whose questions are all of one label have no gate figures; constructed ones (``derived``) no rewriting figures, for their rewrites are those of another file.
    """
    if data.form is Form.WINDOW and not any(window.questions for window in data.records):
        raise _unlabelled(data)
    if data.form is not Form.GATE:
        return [Job(data, data.form.value, data.records, len(data.records))]
    records: Sequence[GateRecord] = data.records
    rewritten = [record for record in records if record.gold is not None and not record.derived]
    jobs = []
    truths = {record.truth for record in records} & {"yes", "no"}
    if not truths:
        raise _unlabelled(data)
    if len(truths) > 1 or not rewritten:
        jobs.append(Job(data, "gate", records, len(records)))
    if rewritten:
        jobs.append(Job(data, "rewrite", rewritten, len(rewritten)))
    return jobs


def _unlabelled(data: DataFile) -> InputError:
    return InputError(str(data.path), f"none of its {len(data.records)} records holds a question that is labelled yes or no", "Label some: docs/labelling.md.")


def require_models(jobs: Sequence[Job], models: Models | None) -> None:
    """Raise ConfigError when a job needs a model that is switched off."""
    tasks = {job.task for job in jobs}
    if tasks & {"gate", "window"} and (models is None or models.gate is None):
        raise ConfigError("gate", "backend", "none", "these files measure the gate", "Name a back end, for example --backend auto.")
    if "rewrite" in tasks and (models is None or models.resolver is None):
        raise ConfigError("resolver", "backend", "none", "these files measure rewriting", "Name a back end, for example --backend auto.")


async def run_job(job: Job, models: Models | None, config: Config, advance: Advance) -> Result:
    """Figures of one job. Raises :class:`core.errors.BackendError` when a model fails."""
    offline: dict[str, Callable[[], Result]] = {
        "question": lambda: evaluate_questions(job.records, QuestionFilter(config.filter.min_chars, config.filter.max_chars), advance),
        "merge": lambda: evaluate_merging(job.records, MergeRules(config.merge.window_seconds, config.merge.finished_window_seconds, config.merge.max_wait_seconds), advance),
        "context": lambda: evaluate_context(job.records, advance),
    }
    if job.task in offline:
        return offline[job.task]()
    require_models([job], models)
    assert models is not None
    if job.task == "window":
        return await evaluate_windows(job.records, models, config, advance)
    if job.task == "gate":
        assert models.gate is not None
        return await evaluate_gate(job.records, models.gate, advance)
    assert models.resolver is not None
    return await evaluate_rewriting(job.records, models.resolver, advance)
