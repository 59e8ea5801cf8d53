"""``python -m scripts.train``: data forms, settings, tracking, and what a user sees when something is wrong."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.errors import InputError
from scripts.train import app
from scripts.training.data import contrast, data_hash, fold_of, is_all_positive, load_samples
from scripts.training.tracking import FolderTracker, Trackers

WINDOW = {
    "id": "t9-001",
    "lang": "zh",
    "messages": [
        {"sender": "甲", "text": "rtmpose 好快", "at": "2026-03-02T10:00:00+08:00"},
        {"sender": "乙", "text": "它支持", "at": "2026-03-02T10:01:00+08:00"},
        {"sender": "丙", "text": "哈哈", "at": "2026-03-02T10:01:02+08:00"},
        {"sender": "乙", "text": "移动端么", "at": "2026-03-02T10:01:05+08:00"},
    ],
    "questions": [{"indices": [1, 3], "label": "yes", "gold": "rtmpose支持移动端么", "kind": "split", "antecedent_indices": [0]}],
}
SINGLE = {"id": "s1", "context": [{"sender": "A", "text": "武汉"}], "sender": "B", "question": "冷吗", "needs_resolution": True, "rewrite": "武汉冷吗"}
EXPORTED = {"id": "x", "platform": "feishu", "sender": "A", "question": "这个呢", "context": [], "probability": 0.9, "needs_resolution": True, "rewrite": "猜的", "label": None}


def write(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return path


def test_a_window_gives_its_questions_with_the_lines_before(tmp_path: Path) -> None:
    (sample,) = load_samples([write(tmp_path / "w.jsonl", WINDOW)])
    assert sample.question == "它支持 移动端么"
    assert [line.text for line in sample.context] == ["rtmpose 好快", "哈哈"]
    assert sample.context[0].seconds_before == 65
    assert (sample.label, sample.rewrite, sample.group) == ("yes", "rtmpose支持移动端么", "t9")


def test_a_models_verdict_is_no_label(tmp_path: Path) -> None:
    judged, no, yes = EXPORTED, EXPORTED | {"label": "no"}, EXPORTED | {"label": "yes"}
    samples = load_samples([write(tmp_path / "e.jsonl", judged, no, yes)])
    assert [s.label for s in samples] == ["", "no", "yes"]
    assert all(s.rewrite is None for s in samples), "and its rewrite is no gold, whatever a person said of the question"


def test_a_labellers_rewrite_in_a_snapshot_is_gold(tmp_path: Path) -> None:
    snapshot = {name: value for name, value in EXPORTED.items() if name != "probability"} | {"label": "yes", "rewrite": "豆解这个呢"}
    (sample,) = load_samples([write(tmp_path / "labels.jsonl", snapshot)])
    assert (sample.label, sample.rewrite) == ("yes", "豆解这个呢")


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", SINGLE | {"question": "冷\u2028吗"}, SINGLE)
    assert "\u2028" in path.read_text(encoding="utf-8")
    assert [sample.question for sample in load_samples([path])] == ["冷\u2028吗", "冷吗"]


def test_half_a_surrogate_pair_is_read_as_it_is_served(tmp_path: Path) -> None:
    broken = "冷\ud83d吗"
    single = SINGLE | {"question": broken, "rewrite": broken, "context": [{"sender": "A", "text": broken}], "group": broken}
    window = WINDOW | {"messages": [message | {"text": broken} for message in WINDOW["messages"]], "questions": [{"indices": [3], "label": "yes", "gold": broken}]}  # type: ignore[operator, attr-defined]
    alpaca = {"instruction": broken, "input": "", "output": broken}
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in (single, window, alpaca)), encoding="utf-8")
    samples = load_samples([path])
    texts = {text for s in samples for text in (s.question, s.rewrite, s.prompt.strip(), s.answer, *(line.text for line in s.context)) if text}
    assert texts == {"冷\ufffd吗"}
    assert all(0 <= fold_of(sample, 7) < 7 for sample in samples)


def test_alpaca_is_learnt_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "判断", "input": "问题", "output": "B:需要提取"}]), encoding="utf-8")
    (sample,) = load_samples([path])
    assert (sample.prompt, sample.answer) == ("判断\n问题\n", "B:需要提取")


def test_contrast_balances_pairs_that_are_all_positive(tmp_path: Path) -> None:
    records = [SINGLE | {"id": f"s{i}", "question": f"冷吗{i}", "rewrite": f"武汉冷吗{i}"} for i in range(10)]
    samples = contrast(load_samples([write(tmp_path / "p.jsonl", *records)]), seed=1)
    assert sum(s.needs_resolution for s in samples) == len(samples) / 2 == 10


def test_a_corpus_of_rewriting_pairs_is_known_despite_a_few_unchanged_ones(tmp_path: Path) -> None:
    pairs = [SINGLE | {"id": f"s{i}"} for i in range(40)]
    unchanged = {"id": "u", "question": "他在哪", "context": [], "needs_resolution": False, "rewrite": "他在哪"}
    assert is_all_positive(load_samples([write(tmp_path / "p.jsonl", *pairs, unchanged)]))
    assert not is_all_positive(load_samples([write(tmp_path / "g.jsonl", *pairs, *[unchanged] * 5)]))


def test_folds_keep_authors_and_equal_questions_together(tmp_path: Path) -> None:
    windows = load_samples([write(tmp_path / "w.jsonl", *[WINDOW | {"id": f"t9-{i}"} for i in range(20)])])
    assert len({fold_of(s, 7) for s in windows}) == 1
    singles = load_samples([write(tmp_path / "s.jsonl", *[SINGLE | {"id": str(i)} for i in range(20)])])
    assert len({fold_of(s, 7) for s in singles}) == 1


def test_the_data_hash_depends_on_content_not_on_order(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", SINGLE), write(tmp_path / "b.jsonl", WINDOW)
    assert data_hash([a, b]) == data_hash([b, a]) != data_hash([a])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "bad.jsonl:1: no JSON"),
        ('{"colour": 1}', "bad.jsonl:1: unknown form"),
        ('{"question": "q", "label": "maybe"}', "bad.jsonl:1: label 'maybe'"),
        (json.dumps(WINDOW | {"questions": [{"indices": [9], "label": "yes"}]}), "bad.jsonl:1: "),
        (json.dumps(SINGLE) + "\nnonsense", "bad.jsonl:2: no JSON"),
        ('{"question": "q", "needs_resolution": "false"}', "bad.jsonl:1: needs_resolution 'false'"),
        ('{"question": 7, "needs_resolution": false}', "bad.jsonl:1: question '7' is no string"),
        (json.dumps(SINGLE | {"rewrite": ["a"]}), "bad.jsonl:1: rewrite"),
        (json.dumps(WINDOW | {"questions": [{"indices": [1], "label": "yes", "gold": 3}]}), "bad.jsonl:1: gold '3' is no string"),
        (json.dumps(WINDOW | {"questions": [{"indices": [-1], "label": "no"}]}), "bad.jsonl:1: "),
        (json.dumps(SINGLE | {"context": [{"sender": "A", "text": None}]}), "bad.jsonl:1: text 'None' is no string"),
        (json.dumps(WINDOW | {"messages": [message | {"text": 1} for message in WINDOW["messages"]]}), "bad.jsonl:1: text '1' is no string"),  # type: ignore[operator, attr-defined]
    ],
)
def test_bad_data_is_one_line_that_names_the_place(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_samples([tmp_path / "bad.jsonl"])
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--task", "sing"),
        ("--preset", "none"),
        ("--dropout", "2"),
        ("--method", "full", "--dora"),
        ("--method", "full", "--loraplus-ratio", "16"),
        ("--label-smoothing", "1"),
        ("--threads", "-1"),
        ("--max-steps", "-1"),
        ("--repeat", "0"),
        ("--patience", "-1"),
        ("--warmup", "-1"),
        ("--eval-every", "-1"),
        ("--save-every", "-1"),
        ("--schedule", "steps"),
        ("--rewrite-prompt", "dialogue-9"),
        ("--gate-prompt", "none"),
        ("--share", "x", "--head"),
        ("--share", "s=1"),
        ("--adapter-gguf", "a.gguf"),
        ("--encoder", "e.npz"),
        ("--init-adapter", "run/adapter", "--head"),
        ("--track", "wandb", "--head"),
        ("--init-adapter", "run/adapter", "--emit-axolotl", "a.yml"),
        ("--head", "--emit-axolotl", "a.yml"),
        ("--rank", "8", "--init-adapter", "run/adapter"),
        ("--targets", "attention", "--init-adapter", "run/adapter"),
        ("--alpha", "0"),
        ("--rewrite-lines", "-1"),
        ("--validation", "0.8"),
        ("--patience", "2", "--eval-every", "0"),
        ("--patience", "2", "--validation", "0"),
    ],
)
def test_a_bad_flag_ends_with_code_2_and_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(write(tmp_path / "s.jsonl", SINGLE), "--out", tmp_path / "o", *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert arguments[0] in result.stderr


@pytest.mark.parametrize("arguments", [("--method", "full", "--init-adapter", "run/adapter"), ("--device", "gpu"), ("--device", "cuda:99")])
def test_what_torch_has_to_be_asked_about_ends_likewise(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    test_a_bad_flag_ends_with_code_2_and_one_line(tmp_path, arguments)


def test_the_tracking_folder_holds_each_step_once_after_a_kill(tmp_path: Path) -> None:
    first = FolderTracker(tmp_path)
    for step in (1, 2, 3):
        first.log(step, {"loss": float(step)})
    with (tmp_path / "run.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    second = FolderTracker(tmp_path)
    for step in (3, 4):
        second.log(step, {"loss": -1.0})
    assert [json.loads(line)["step"] for line in (tmp_path / "run.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


class Service(types.ModuleType):
    """A tracking service as its package shows it."""

    def __init__(self, problem: Exception | None = None) -> None:
        super().__init__("wandb")
        self.problem, self.started, self.logged = problem, [], []  # type: ignore[var-annotated]

    def init(self, **settings: object) -> None:
        if self.problem:
            raise self.problem
        self.started.append(settings)

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.logged.append("end")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_training_continues_its_run_at_the_service_under_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    for step in (1, 2):
        trackers = Trackers(tmp_path / "gate-7" / "tracking", [name], {"task": "gate"})
        trackers.log(step, {"loss": 0.5})
        trackers.close()
    first, second = service.started
    assert first == second
    assert first["config"] == {"task": "gate"}
    assert first["resume"] == "allow"
    assert str(first["name"]).startswith("gate-7")
    assert service.logged == [(1, {"loss": 0.5}), "end", (2, {"loss": 0.5}), "end"]


def test_a_service_that_nobody_logged_in_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Service(RuntimeError("No API key configured.\nmore")))
    trackers = Trackers(tmp_path / "run" / "tracking", ["wandb"], {})
    with pytest.raises(InputError, match=r"wandb does not start \(No API key configured\.\)") as caught:
        trackers.log(1, {"loss": 0.5})
    assert "wandb login" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tracker_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tracker"):
        Trackers(tmp_path, ["mlflow"], {})


def test_a_training_that_does_not_begin_leaves_nothing_at_folder_or_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    Trackers(tmp_path / "run" / "tracking", ["wandb"], {}).close()
    assert service.started == []
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="wandb is not installed"):
        Trackers(tmp_path / "run" / "tracking", ["wandb"], {})


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    from scripts.training.base import base_folder

    with pytest.raises(InputError, match="no such file"):
        base_folder(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"config\.json"):
        base_folder(str(tmp_path))


def test_gate_examples_end_in_one_answer_token() -> None:
    from scripts.training.data import Sample
    from scripts.training.gate_task import GateTask

    def encode(text: str) -> tuple[int, ...]:
        return (1,) if text == "yes" else (2,) if text == "no" else tuple(ord(c) for c in text)

    samples: Sequence[Sample] = [Sample(str(i), f"它{i}呢", "", (), label, None, "g", "f", distractor=True) for i, label in enumerate(("yes", "no", "not_question"))]
    task = GateTask(samples, encode, (0,), "gate-1", 1, repeat=2)
    examples = task.epoch(0)
    assert [e.answer for e in examples] == [(1,), (1,), (2,), (2,), (2,), (2,)]
    assert all(e.choices == (1, 2) and e.prompt[0] == 0 for e in examples)
    assert task.epoch(0) == GateTask(samples, encode, (0,), "gate-1", 1, repeat=2).epoch(0), "the same in every process"


@pytest.mark.parametrize(("limit", "shown"), [(0, 10), (1, 1), (8, 4), (20, 10), (30, 10), (1400, 10)])
def test_an_epoch_shows_no_rewriting_pair_twice(limit: int, shown: int) -> None:
    from core.messages import ContextLine
    from scripts.training.data import Sample
    from scripts.training.gate_task import GateTask

    samples = [Sample(f"p{n}", f"它{n}呢", "B", (ContextLine("A", f"武汉{n}"),), "yes", f"武汉{n}呢", "f", "f") for n in range(10)]
    task = GateTask(samples, lambda text: tuple(map(ord, text)), (0,), "gate-1", 1, pair_limit=limit)
    for number in (0, 1, 2):
        positives = [e.prompt for e in task.epoch(number) if "".join(map(chr, e.answer)) == "yes"]
        assert len(set(positives)) == len(positives) == shown
