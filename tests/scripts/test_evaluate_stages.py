"""Each stage on a small file, with models that answer by rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import Config
from core.errors import ConfigError
from core.question_filter import QuestionFilter
from scripts.evaluation.forms import read_file
from scripts.evaluation.results import Result
from scripts.evaluation.run import jobs_of, run_job
from tests.scripts.evaluation_files import CHANNEL, GATE, MERGE, QUESTIONS, REWRITE, RuleModels, RuleResolver, write


async def results(path: Path, models: RuleModels | None) -> tuple[list[Result], int]:
    steps: list[int] = []
    jobs = jobs_of(read_file(path))
    found = [await run_job(job, models, Config(), steps.append) for job in jobs]
    assert sum(steps) == sum(job.steps for job in jobs), "the progress bar must end full"
    return found, sum(steps)


async def test_gate_leaves_out_what_is_no_question_and_stands_beside_its_baselines(tmp_path: Path) -> None:
    models = RuleModels()
    (result,), _ = await results(write(tmp_path / "gate.jsonl", *GATE), models)
    assert (result.task, result.n) == ("gate", 4)
    assert result.metrics["precision"] == result.metrics["recall"] == result.metrics["f1"] == result.metrics["auc"] == 1.0
    assert result.metrics["threshold"] == 0.5
    assert result.baselines["always yes"]["f1"] == pytest.approx(2 / 3)
    assert result.baselines["pronoun regex"]["precision"] == pytest.approx(2 / 3)
    assert "1 items labelled not_question are left out" in result.notes
    assert models.gate is not None
    assert models.gate.batches == [4]


async def test_rewriting_scores_the_candidate_before_acceptance(tmp_path: Path) -> None:
    path = write(tmp_path / "rewrite.jsonl", *REWRITE)
    (sure,), _ = await results(path, RuleModels(resolver=RuleResolver("mmpose")))
    assert sure.metrics["em"] == 0.5
    assert sure.metrics["rejected"] == 1, "mmpose stands nowhere in the second conversation"
    assert sure.metrics["invented"] == 0
    (unsure,), _ = await results(path, RuleModels(resolver=RuleResolver("mmpose", confidence=0.1)))
    assert unsure.metrics["em"] == 0.5
    assert unsure.metrics["rejected"] == 2
    assert 0.0 < float(unsure.metrics["bleu4"] or 0) < 1.0


async def test_question_filter_is_measured_with_the_rules_that_erred(tmp_path: Path) -> None:
    (result,), _ = await results(write(tmp_path / "questions.jsonl", *QUESTIONS), None)
    examined = [QuestionFilter().examine(str(record["text"])).is_question for record in QUESTIONS]
    assert result.metrics["recall"] == 1.0
    assert result.baselines["question mark"]["recall"] == 0.5
    assert sum(result.details["wrong_by_rule"].values()) == sum(a != b["is_question"] for a, b in zip(examined, QUESTIONS, strict=True))


async def test_merging_reports_channels_with_seconds_apart(tmp_path: Path) -> None:
    (result,), _ = await results(write(tmp_path / "merge.jsonl", *MERGE), None)
    assert result.metrics["f1"] == 1.0
    assert result.baselines["fixed 60 s"]["precision"] == 0.5
    apart = result.breakdown["channels with seconds"]
    assert apart["adaptive"]["n"] == 2
    assert apart["fixed 18 s"]["mean_wait"] == 18
    assert float(apart["adaptive"]["mean_wait"] or 0) < 75


async def test_context_counts_linked_messages_and_never_system_lines(tmp_path: Path) -> None:
    (result,), _ = await results(write(tmp_path / "threads.jsonl", CHANNEL), None)
    assert result.n == 2
    assert result.metrics["recall_at_1"] == 1.0, "both replies name whom they answer"
    assert result.baselines["last k messages"]["recall_at_1"] == 0.5
    assert result.metrics["recall_at_5"] == result.metrics["recall_at_11"] == 1.0


async def test_a_switched_off_model_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[gate\] backend"):
        await results(write(tmp_path / "gate.jsonl", *GATE), RuleModels(gate=None))
    with pytest.raises(ConfigError, match=r"\[resolver\] backend"):
        await results(write(tmp_path / "rewrite.jsonl", *REWRITE), RuleModels(resolver=None))
