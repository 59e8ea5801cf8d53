"""The benchmarks of the gate: what is asked, what is counted, what is printed and drawn. Small inputs, the packaged model."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.errors import InputError
from core.gates.llama_engine import LlamaEngine
from core.head import GateCalibration, Logistic
from core.messages import ConversationKey, Question
from scripts.bench import app
from scripts.benchmarks.examples import Example, read_sample
from scripts.benchmarks.plots import draw
from scripts.benchmarks.prompt_parts import PARTS, prompt_parts
from scripts.benchmarks.quantisation import requantised
from scripts.benchmarks.side_by_side import cascade_curve
from scripts.evaluation.windows import Outcome
from tests.core.gates.tiny_model import tiny_model, write_gguf

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SAID = (("张三", "mmpose 支持移动端部署么？"), ("王五", "支持的，看文档"), ("李四", "搭车问一下"), ("李四", "怎么把它部署到 TX2？"), ("王五", "[图片]"), ("张三", "谢谢大佬？"))
QUESTIONS: list[dict[str, Any]] = [
    {"indices": [0], "label": "no"},
    {"indices": [2, 3], "label": "yes", "gold": "搭车问一下 怎么把 mmpose 部署到 TX2？"},
    {"indices": [5], "label": "not_question"},
]


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """Three windows of six messages with a question that stands alone, one that does not, and one that is none."""
    messages = [{"sender": sender, "text": text, "at": (START + timedelta(seconds=10 * number)).isoformat()} for number, (sender, text) in enumerate(SAID)]
    path = tmp_path / "windows.jsonl"
    path.write_text("".join(json.dumps({"id": f"w{number}", "messages": messages, "questions": QUESTIONS}, ensure_ascii=False) + "\n" for number in range(3)), encoding="utf-8")
    return path


def test_the_sample_holds_whole_windows_and_what_was_said_before_each_question(windows: Path) -> None:
    sample = read_sample([windows], 3)
    assert (len(sample.examples), sample.messages, sample.files, sample.shipped) == (4, 12, ("windows.jsonl",), False)
    asked = next(example for example in sample.examples if example.needs)
    assert asked.question.text == "搭车问一下 怎么把它部署到 TX2？"
    assert [(line.sender, line.seconds_before) for line in asked.question.context] == [("张三", 30.0), ("王五", 20.0)]
    assert read_sample([windows], 3) == sample


def test_shipped_windows_are_the_default_and_said_to_be_known_to_the_models() -> None:
    sample = read_sample([], 10)
    assert sample.shipped
    assert len(sample.examples) >= 10
    assert len({example.question.id for example in sample.examples}) == len(sample.examples)


def test_a_gate_file_has_no_messages_to_count(tmp_path: Path) -> None:
    path = tmp_path / "gate.jsonl"
    lines = [{"context": [{"sender": "A", "text": "ncnn"}], "question": "它快么", "label": "yes"}, {"context": [], "question": "ncnn 快么", "label": "no"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sample = read_sample([path], 10)
    assert sample.messages == 0
    assert next(example for example in sample.examples if example.needs).outcome("ncnn 快么") is None


@pytest.mark.parametrize(
    ("rewrite", "needing", "alone"),
    [
        ("搭车问一下 怎么把 mmpose 部署到 TX2？", Outcome.RIGHT, Outcome.WRONG),
        ("搭车问一下 怎么把 ncnn 部署到 TX2？", Outcome.WRONG, Outcome.WRONG),
        ("搭车问一下 怎么把它部署到 TX2？", Outcome.REFUSED, Outcome.LEFT_ALONE),
        (None, Outcome.REFUSED, Outcome.LEFT_ALONE),
    ],
)
def test_what_a_rewrite_means_to_the_group(windows: Path, rewrite: str | None, needing: Outcome, alone: Outcome) -> None:
    example = next(example for example in read_sample([windows], 6).examples if example.needs)
    assert example.outcome(rewrite) is needing
    assert example.labelled is not None
    assert Example(example.question, False, example.labelled.model_copy(update={"label": "no", "gold": None})).outcome(rewrite) is alone


def test_the_curve_goes_from_the_head_alone_to_the_language_model_on_everything() -> None:
    both, head_only = Logistic(0.0, head=0.5, lm=1.0), Logistic(0.0, head=1.0)
    calibration = GateCalibration(both, head_only, Logistic(0.0, lm=1.0), 0.5, 0.1, 0.9, "gate-1", "1", "-")
    question = Question("q", ConversationKey("test", "g"), "A", "它快么", START)
    examples = [Example(question, needs, None) for needs in (True, False, True, False)]
    # The head is sure and right twice, unsure and wrong twice; the language model is right.
    head = [(4.0, 10.0), (-4.0, 10.0), (-0.2, 10.0), (0.2, 10.0)]
    *points, shipped = cascade_curve(calibration, examples, head, [3.0, -3.0, 3.0, -3.0], [100.0] * 4)
    assert (points[0]["settled_by_head"], points[0]["ms"], points[0]["f1"]) == (1.0, 10.0, 0.5)
    assert (points[-1]["settled_by_head"], points[-1]["ms"], points[-1]["f1"]) == (0.0, 110.0, 1.0)
    assert [point["settled_by_head"] for point in points] == sorted((point["settled_by_head"] for point in points), reverse=True)
    assert (shipped["settled_by_head"], shipped["ms"], shipped["f1"], shipped["shipped"]) == (0.5, 60.0, 1.0, True)


@pytest.mark.model
def test_five_ways_side_by_side_and_their_plots(windows: Path, tmp_path: Path) -> None:
    out, figures_file = tmp_path / "plots", tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["gate", str(windows), "--limit", "2", "--questions", "5", "--out", str(out), "--json", str(figures_file)])
    assert result.exit_code == 0, result.output
    figures = json.loads(figures_file.read_text(encoding="utf-8"))
    found = figures["side_by_side"]
    ways = found["ways"]
    assert list(ways) == ["cascade", "language model, prefix kept", "language model, whole prompts", "published: two free answers", "unconditional rewrite"]
    assert found["sample"]["questions"] == 2
    assert sum(found["settled_by"].values()) == 2
    assert all(way["tokens_per_question"] > 0 and 0 <= way["f1"] <= 1 for name, way in ways.items() if name != "cascade")
    assert ways["language model, prefix kept"]["tokens_per_question"] < ways["language model, whole prompts"]["tokens_per_question"]
    assert ways["language model, whole prompts"]["tokens_per_question"] < ways["published: two free answers"]["tokens_per_question"]
    assert ways["unconditional rewrite"]["gate_ms"] is None
    assert ways["unconditional rewrite"]["rewrite_ms"] > 0
    assert len(found["curve"]) == 12
    assert found["ratios"]["published_gate_over_language_model_alone"] > 1
    assert (out / "bench-ms-f1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "bench-stages.svg").read_text(encoding="utf-8")
    assert "published" in result.output


def test_the_same_figures_give_the_same_plot(tmp_path: Path) -> None:
    way = {"gate_ms": 20.0, "ms_per_question": 30.0, "f1": 0.8}
    curve = [{"ms": 10.0, "f1": 0.7, "settled_by_head": 1.0, "shipped": False}, {"ms": 60.0, "f1": 0.8, "settled_by_head": 0.5, "shipped": True}]
    figures = {"model": "m", "sample": {"questions": 2}, "ways": {"cascade": way, "unconditional rewrite": {**way, "gate_ms": None}}, "curve": curve}
    first, second = draw(figures, tmp_path / "a"), draw(figures, tmp_path / "b")
    assert [file.name for file in first] == ["bench-ms-f1.png", "bench-ms-f1.svg", "bench-stages.png", "bench-stages.svg"]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert len(draw({key: value for key, value in figures.items() if key != "curve"}, tmp_path / "c")) == 2


def test_plots_that_cannot_be_written_are_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        draw({"model": "m", "sample": {"questions": 0}, "ways": {}}, tmp_path / "file")


@pytest.mark.parametrize("command", ["gate", "resolver", "quantisation"])
def test_a_file_that_is_not_there_is_one_line_and_exit_code_2(command: str) -> None:
    result = CliRunner().invoke(app, [command, "/no/such/file.jsonl"])
    assert result.exit_code == 2
    assert "no such file" in result.output


async def test_each_part_of_the_prompt_is_measured(windows: Path, tmp_path: Path) -> None:
    model = write_gguf(tiny_model(tmp_path / "tiny", trained_tokens=4096), tmp_path / "tiny.gguf")
    figures = await prompt_parts(model, {"without adapter": None}, read_sample([windows], 4), 1)
    rows = figures["without adapter"]
    assert list(rows) == list(PARTS)
    alone, mark, context = rows["question alone"], rows["+ answer mark (gate-1, shipped)"], rows["+ answer mark + 3 lines of context (gate-1-context)"]
    assert alone["new_tokens_per_question"] < mark["new_tokens_per_question"] < context["new_tokens_per_question"]
    assert all(row["f1"] <= row["f1_best"] for row in rows.values())


def test_another_number_format_is_made_once_and_judges_alike(tmp_path: Path) -> None:
    source = write_gguf(tiny_model(tmp_path / "tiny", trained_tokens=256), tmp_path / "tiny.gguf")
    half = requantised(source, "F16", tmp_path / "cache")
    assert half.stat().st_size < source.stat().st_size
    made = half.stat().st_mtime_ns
    assert requantised(source, "F16", tmp_path / "cache").stat().st_mtime_ns == made
    tokens = [10, 20, 30, 40]
    engines = [LlamaEngine(path, None, 64, 1) for path in (source, half)]
    one, other = (engine.next_logprobs(tokens) for engine in engines)
    assert other == pytest.approx(one, abs=0.05)
    for engine in engines:
        engine.close()


def test_what_is_no_model_cannot_be_requantised(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\x00" * 64)
    with pytest.raises(InputError, match="cannot write it as Q8_0"):
        requantised(broken, "Q8_0", tmp_path / "cache")
