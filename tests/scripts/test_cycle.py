"""One turn of the loop on a tiny real model: train, calibrate, compare, promote, and a gate that runs all the while and takes over; then everything that must be refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

for module in ("torch", "transformers", "peft", "gguf", "sklearn"):
    pytest.importorskip(module, reason=f"{module} is not installed")

from core.config import Config, load_config  # noqa: E402 - after the skips
from core.encoder import file_version  # noqa: E402
from core.errors import InputError  # noqa: E402
from core.gates.factory import SHIPPED, open_models  # noqa: E402
from core.gates.reload import LOOK_EVERY_SECONDS, ReloadingGate  # noqa: E402
from core.head import HeadWeights  # noqa: E402
from core.messages import Message, Question, Utterance, Verdict  # noqa: E402
from core.registry import ENCODER, HEAD, Registry  # noqa: E402
from scripts.cycle import app  # noqa: E402
from scripts.retraining.calibrate import calibrate  # noqa: E402
from scripts.retraining.cycle import CycleReport, CycleSettings, Decision, run_cycle  # noqa: E402
from scripts.retraining.frozen import question_key, without_test_questions  # noqa: E402
from scripts.retraining.trial import TRIALS, trials_of  # noqa: E402
from scripts.training.settings import override, preset  # noqa: E402
from storage.engine import open_database  # noqa: E402
from storage.inbox import SqlInbox  # noqa: E402
from storage.labels import LabelValue, SqlLabels  # noqa: E402
from storage.questions import SqlQuestionLog  # noqa: E402
from tests.adapters.manual_clock import ManualClock, eventually  # noqa: E402
from tests.core.gates.test_reload import question  # noqa: E402
from tests.scripts.evaluation_files import write  # noqa: E402
from tests.scripts.tiny_model import write_tiny_gguf  # noqa: E402

TRAIN = override(preset("smoke"), {"epochs": 3, "max_steps": 0, "learning_rate": 2e-2, "validation": 0.25, "threads": 1, "eval_every": 1000})
THINGS = ("mmpose", "ncnn", "量化", "显存", "精度")


def labelled(first: int, count: int) -> list[dict[str, Any]]:
    """Questions as an export holds them: the even ones need resolution, and begin with a pronoun."""
    found = []
    for n in range(first, first + count):
        needs = n % 2 == 0
        text = f"它的{THINGS[n % 5]}{n}" if needs else f"{THINGS[n % 5]}的第{n}层"
        found.append(
            {"id": f"q{n}", "sender": "A", "question": text, "context": [], "asked_at": "2026-03-02T09:00:00+00:00", "probability": 0.5, "label": "yes" if needs else "no"}
        )
    return found


@dataclass(frozen=True, slots=True)
class Turn:
    """A first turn: its report, and what a gate that ran all the while said before and after."""

    folder: Path
    config: Config
    settings: CycleSettings
    report: CycleReport
    before: Verdict
    after: Verdict
    versions_seen: tuple[int, int]


def config_of(folder: Path, *, encoder: bool = False) -> Config:
    return load_config(
        None,
        {},
        gate={"backend": "llama_cpp", "model": str(folder / "tiny.gguf"), "context_tokens": 128, "encoder": encoder},
        resolver={"backend": "none"},
        storage={"url": f"sqlite+aiosqlite:///{folder}/log.db"},
        relabel={"registry": str(folder / "models"), "test_set": str(folder / "test.jsonl")},
    )


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turn]:
    folder = tmp_path_factory.mktemp("turn")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    write_tiny_gguf(folder / "tiny.gguf")
    write(folder / "test.jsonl", *labelled(1000, 60))
    config, settings = config_of(folder, encoder=True), CycleSettings(TRAIN, least_test_items=50, resamples=500)
    asyncio.run(_log_labels(config.storage.url, [*labelled(0, 120), *labelled(1000, 3)]))
    yield asyncio.run(_first_turn(folder, config, settings))
    patch.undo()


async def _log_labels(url: str, records: list[dict[str, Any]]) -> None:
    """A log in which a person has labelled these questions."""
    database = await open_database(url)
    entries = []
    for record in records:
        message = Message("test", "c", record["id"], "s", record["question"], datetime(2026, 3, 2, tzinfo=UTC))
        entries.append((Utterance((message,)), Question(record["id"], message.conversation, "A", message.text, message.sent_at, (), (record["id"],))))
    await SqlInbox(database).add([utterance.messages[0] for utterance, _ in entries])
    await SqlQuestionLog(database).record_many(entries)
    await asyncio.gather(*(SqlLabels(database).add(record["id"], "ann", LabelValue(record["label"])) for record in records))
    await database.close()


async def _first_turn(folder: Path, config: Config, settings: CycleSettings) -> Turn:
    clock = ManualClock()
    models = await open_models(config, clock=clock)
    gate = models.gate
    assert isinstance(gate, ReloadingGate)
    (before,) = await gate.judge([question()])
    first = gate.number
    report = await run_cycle(config, settings)
    await eventually(lambda: gate.number == report.serving, tick=lambda: clock.advance(LOOK_EVERY_SECONDS))
    (after,) = await gate.judge([question()])
    await models.close()
    return Turn(folder, config, settings, report, before, after, (first, gate.number))


@pytest.fixture
def copy(turn: Turn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Turn:
    """The registry after the first turn, to be changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(turn.folder / "cache"))
    shutil.copytree(turn.folder, tmp_path / "own", ignore=shutil.ignore_patterns("cache"))
    return replace(turn, folder=tmp_path / "own", config=config_of(tmp_path / "own"))


def test_a_better_adapter_is_promoted_and_the_running_gate_takes_it_over(turn: Turn) -> None:
    report = turn.report
    assert report.decision is Decision.PROMOTED, report.told()
    assert report.trial is not None
    assert report.trial.candidate.f1 > report.trial.serving.f1
    assert (report.version, report.serving, report.questions, report.left_out) == (1, 1, 120, 3), "questions of the test set are not learnt"
    assert turn.versions_seen == (0, 1)
    assert turn.before.adapter == ""
    assert turn.after.adapter == "0001/adapter.gguf" or turn.after.model.endswith("@0001"), "the head may have settled it"
    version = Registry(turn.folder / "models").open(1)
    assert version.base == "tiny"
    assert (version.folder / HEAD).exists()
    assert HeadWeights.load(version.folder / HEAD).encoder == file_version(version.folder / ENCODER), "a later doujie may ship another encoder"
    assert "work" not in {entry.name for entry in (turn.folder / "models").iterdir()}


def test_the_same_labels_again_are_nothing_new(copy: Turn) -> None:
    report = asyncio.run(run_cycle(copy.config, copy.settings))
    assert (report.decision, report.version, report.serving) == (Decision.NOTHING_NEW, 1, 1)
    assert not (copy.folder / "models" / "work").exists(), "a copy of members' words that nobody needs"


def test_a_run_that_was_killed_before_the_trial_goes_on_with_it(copy: Turn) -> None:
    registry = Registry(copy.folder / "models")
    registry.rollback()
    (registry.folder / TRIALS).write_text('{"version": 1, "at')
    report = asyncio.run(run_cycle(copy.config, copy.settings))
    assert (report.decision, report.version, registry.current().version) == (Decision.PROMOTED, 1, 1)
    assert registry.numbers() == [1], "it is not trained again"


def test_a_run_that_was_killed_after_the_promotion_has_nothing_left_to_do(copy: Turn) -> None:
    registry = Registry(copy.folder / "models")
    (registry.folder / TRIALS).unlink()
    report = asyncio.run(run_cycle(copy.config, copy.settings))
    assert (report.decision, report.version, report.serving) == (Decision.NOTHING_NEW, 1, 1), "it is not tried against itself"
    assert trials_of(registry) == {}


def test_what_is_no_better_does_not_serve(copy: Turn) -> None:
    settings = replace(copy.settings, train=override(TRAIN, {"seed": 2}))
    report = asyncio.run(run_cycle(copy.config, settings))
    assert report.decision is Decision.NOT_BETTER
    assert (report.version, report.serving) == (2, 1)
    assert trials_of(Registry(copy.folder / "models"))[2]["decision"] == "not better"


def test_where_fresh_labels_are_too_few_the_language_model_is_calibrated_alone(copy: Turn) -> None:
    few, enough = write(copy.folder / "few.jsonl", *labelled(0, 12)), write(copy.folder / "enough.jsonl", *labelled(0, 240))
    more = write(copy.folder / "more.jsonl", *labelled(2000, 160))
    served = copy.folder / "tiny.gguf", Registry(copy.folder / "models").open(1).adapter, SHIPPED / "gate" / HEAD
    with structlog.testing.capture_logs() as said:
        alone = calibrate(few, [more], *served, TRAIN, "hash")
        together = calibrate(enough, [more], *served, TRAIN, "hash")
    assert (alone.head, alone.encoder, alone.calibration.head_version) == (None, None, ""), "the head knows most of the other data"
    assert together.head is not None
    assert [line["event"] for line in said] == ["calibrated_without_head"]


def command(copy: Turn, *arguments: object) -> Any:
    config = copy.folder / "config.ini"
    lines = [f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()) for name, values in _sections(copy).items()]
    config.write_text("\n".join(lines), encoding="utf-8")
    return CliRunner().invoke(app, ["--config", str(config), *map(str, arguments)])


def snapshot_in(copy: Turn) -> Path:
    """The snapshot that the first turn took."""
    (folder,) = (copy.folder / "models" / "snapshots").iterdir()
    return folder


def _sections(copy: Turn) -> dict[str, dict[str, object]]:
    return {
        "gate": {"backend": "llama_cpp", "model": copy.config.gate.model, "context_tokens": 128, "encoder": "false"},
        "resolver": {"backend": "none"},
        "storage": {"url": copy.config.storage.url},
        "relabel": {"registry": copy.config.relabel.registry, "test_set": copy.config.relabel.test_set},
    }


def test_status_rollback_and_promote_by_command(copy: Turn) -> None:
    told = command(copy, "status")
    assert told.exit_code == 0, told.output
    assert "version 1 serves" in told.stdout
    assert "promoted" in told.stdout
    back = command(copy, "rollback")
    assert "what comes with doujie serves" in back.stdout
    assert Registry(copy.folder / "models").current().version == 0
    assert command(copy, "rollback").exit_code == 2
    again = command(copy, "promote", "--min-test", "50", "--json", copy.folder / "report.json")
    assert again.exit_code == 0, again.output
    assert json.loads((copy.folder / "report.json").read_text())["decision"] == "promoted"
    assert command(copy, "promote", "1").exit_code == 2, "it serves already"
    command(copy, "rollback")
    forced = command(copy, "promote", "1", "--force")
    assert "without a comparison" in forced.stdout
    assert Registry(copy.folder / "models").current().version == 1


def test_a_version_cannot_be_promoted_on_questions_that_it_learnt(copy: Turn) -> None:
    command(copy, "rollback")
    learnt = write(copy.folder / "learnt.jsonl", *labelled(0, 60))
    result = command(copy, "promote", "1", "--test", learnt, "--min-test", "50")
    assert result.exit_code == 2
    assert "shares 60 questions" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--test", "{folder}/none.jsonl"], "no such file"),
        (["--min-test", "500"], "too small"),
        (["--test", "{folder}/onesided.jsonl", "--min-test", "20"], "says little"),
        (["--data", "{folder}/test.jsonl"], "shares 60 questions with the test set"),
        (["--data", "{folder}/alpaca.json"], "alpaca records hide"),
        (["--snapshot", "{folder}/broken.jsonl"], "broken.jsonl:1: is no labelled question"),
        (["--snapshot", "{folder}/few.jsonl"], "of each are needed"),
        (["--preset", "none"], "--preset"),
        (["--validation", "2"], "--validation"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2_and_changes_nothing(copy: Turn, arguments: list[str], said: str) -> None:
    write(copy.folder / "onesided.jsonl", *[record for record in labelled(1000, 60) if record["label"] == "yes"])
    write(copy.folder / "few.jsonl", *labelled(2000, 16))
    write(copy.folder / "broken.jsonl", {"text": "x"})
    (copy.folder / "alpaca.json").write_text(json.dumps([{"instruction": "判断", "input": "它呢", "output": "B"}]), encoding="utf-8")
    least = [] if "--min-test" in arguments else ["--min-test", "50"]
    snapshot = [] if "--snapshot" in arguments else ["--snapshot", snapshot_in(copy)]
    tiny = [] if "--preset" in arguments else ["--preset", "smoke", "--max-steps", "1"]
    result = command(copy, "run", *[argument.format(folder=copy.folder) for argument in arguments], *least, *snapshot, *tiny)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len([line for line in result.stderr.strip().splitlines() if said in line]) == 1
    assert Registry(copy.folder / "models").numbers() == [1]
    assert Registry(copy.folder / "models").current().version == 1


def test_turns_that_fail_night_after_night_leave_one_training_on_the_disk(copy: Turn) -> None:
    for night, count in enumerate((14, 16)):
        few = write(copy.folder / f"few{night}.jsonl", *labelled(2000, count))
        result = command(copy, "run", "--snapshot", few, "--min-test", "50", "--preset", "smoke", "--max-steps", "1")
        assert "of each are needed" in result.stderr
    assert len([entry for entry in (copy.folder / "models" / "work").iterdir() if entry.is_dir()]) == 1


def test_another_model_than_the_one_it_was_trained_on_does_not_take_the_adapter(copy: Turn) -> None:
    write_tiny_gguf(copy.folder / "other.gguf", seed=2)
    config = copy.config.model_copy(update={"gate": copy.config.gate.model_copy(update={"model": str(copy.folder / "other.gguf")})})

    async def opened() -> tuple[list[str], int]:
        models = await open_models(config)
        gate = models.gate
        assert isinstance(gate, ReloadingGate)
        await models.close()
        return models.notes, gate.number

    notes, number = asyncio.run(opened())
    assert number == 0
    assert any("was trained on tiny" in note for note in notes)


def test_a_gate_that_takes_no_adapters_is_told_so(copy: Turn) -> None:
    result = CliRunner().invoke(app, ["run"], env={"DOUJIE_GATE__BACKEND": "openai", "DOUJIE_RELABEL__REGISTRY": str(copy.folder / "models")})
    assert result.exit_code == 2
    assert "does not take adapters" in result.stderr


def test_a_question_is_known_again_in_another_writing(tmp_path: Path) -> None:
    assert question_key("它支持 TX2 么？") == question_key("它支持ＴＸ２么? ")
    assert question_key("它支持么") != question_key("它支持吗")
    labels = write(tmp_path / "l.jsonl", {"question": "它 支持么", "label": "yes"}, {"question": "那个呢", "label": "yes", "rewrite": "在么"}, {"question": "新的", "label": "no"})
    assert without_test_questions(labels, {question_key("它支持么"), question_key("在么")}, tmp_path / "out" / "x.jsonl") == (1, 2)
    assert json.loads((tmp_path / "out" / "x.jsonl").read_text())["question"] == "新的"
    with pytest.raises(InputError, match="cannot be read"):
        without_test_questions(tmp_path / "none.jsonl", set(), tmp_path / "y")
