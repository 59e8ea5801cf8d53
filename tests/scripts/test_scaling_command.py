"""The command from model names to report: sizes from files, judgements that survive a kill, suspects in the review queue, one clear line for an error."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.errors import InputError
from core.messages import ConversationKey, Message, Question, Utterance
from scripts.scaling import app
from scripts.scaling_law.items import read_items
from scripts.scaling_law.judging import CACHE, JudgementCache
from scripts.scaling_law.sizes import parameters_of, parse_size, shown_size
from scripts.scaling_law.specs import Axis, parse_models
from storage.engine import open_database
from storage.inbox import SqlInbox
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueReason, SqlReviewQueue
from tests.core.gates.model_server import Listed, ModelServer, likely, model_server, plainly
from tests.scripts.evaluation_files import write

WRONG = (6, 12, 18)
RECORDS = [
    {"id": f"q{n}", "lang": "zh", "context": [], "sender": "A", "question": f"它支持 {n} 么" if n % 2 == 0 else f"ncnn 的第 {n} 层怎么量化", "label": "yes" if n % 2 == 0 else "no"}
    for n in range(60)
]
LABELS = [{**record, "label": "no"} if n in WRONG else record for n, record in enumerate(RECORDS)]


def knows(share: float) -> Callable[[str], Listed]:
    """A model that is right on this share of the prompts, always on the mislabelled ones; what it errs on depends on the prompt alone."""

    def listed(prompt: str) -> Listed:
        right = any(f"它支持 {n} 么" in prompt for n in WRONG) or zlib.crc32(prompt.encode()) % 1000 < 1000 * share
        sure = 0.7 + 0.2 * (zlib.crc32(prompt[::-1].encode()) % 100) / 100
        says_yes = ("它支持" in prompt) is right
        return likely(sure, 1 - sure) if says_yes else likely(1 - sure, sure)

    return listed


@contextmanager
def served(listed: Callable[[str], Listed]) -> Iterator[ModelServer]:
    """A model server in a thread of its own, as the command has a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    context = model_server(listed=listed)
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(20)
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def family() -> Iterator[list[ModelServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(served(knows(share))) for share in (0.6, 0.8, 0.95)]


def named(family: list[ModelServer]) -> list[str]:
    return [
        f"{name}:{size}=openai:{server.url}#base" for name, size, server in zip(("大", "small", "middle"), ("14B", "0.5B", "4B"), (family[2], family[0], family[1]), strict=True)
    ]


def test_a_family_of_servers_in_any_order_becomes_a_report(tmp_path: Path, family: list[ModelServer]) -> None:
    labels, out = write(tmp_path / "labels.jsonl", *LABELS), tmp_path / "out"
    result = run(*named(family), "--data", labels, "--out", out, "--resamples", "300")
    assert result.exit_code == 0, result.output + result.stderr
    document = json.loads((out / "scaling.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in document["models"]] == ["small", "middle", "大"], "in order of size"
    assert document["series"][0]["trends"][0]["tau"] == pytest.approx(1.0)
    assert {model["threshold_from"] for model in document["models"]} == {"even odds"}
    suspects = [json.loads(line) for line in (out / "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {f"q{n}" for n in WRONG} <= {suspect["id"] for suspect in suspects}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page.replace(family[0].url, "")
    assert 'src="http' not in page, "self-contained"
    assert "它支持 6 么" in page


def test_what_was_judged_is_not_asked_again(tmp_path: Path, family: list[ModelServer]) -> None:
    labels, out = write(tmp_path / "labels.jsonl", *LABELS), tmp_path / "out"
    assert run(*named(family), "--data", labels, "--out", out, "--resamples", "100").exit_code == 0
    first = (out / "scaling.json").read_text(encoding="utf-8")
    lines = (out / CACHE).read_text(encoding="utf-8").splitlines()
    (out / CACHE).write_text("\n".join(lines[:100]) + "\n" + lines[100][:20], encoding="utf-8")  # killed in the middle of a line
    asked = sum(len(server.requests) for server in family)
    assert run(*named(family), "--data", labels, "--out", out, "--resamples", "100").exit_code == 0
    again = sum(path == "completions" for server in family for path, _ in server.requests[-200:])
    assert sum(len(server.requests) for server in family) - asked <= len(lines) - 100 + 3 * 4, "only the missing ones, and what opening takes"
    assert again
    assert (out / "scaling.json").read_text(encoding="utf-8") == first


def test_a_broken_judgement_is_judged_again(tmp_path: Path) -> None:
    (tmp_path / CACHE).write_text('{"model": "m", "prompt": "p", "margin": 1.5}\nnonsense\n{"model": "m"}\n{"model": "m", "pro', encoding="utf-8")
    cache = JudgementCache(tmp_path / CACHE)
    cache.add("m", [("r", 2.0)])
    again = JudgementCache(tmp_path / CACHE)
    assert (again.get("m", "p"), again.get("m", "r"), again.get("m", "q")) == (1.5, 2.0, None)


def test_suspects_of_the_log_are_queued_and_others_are_told(tmp_path: Path, family: list[ModelServer]) -> None:
    database = f"sqlite+aiosqlite:///{tmp_path}/log.db"
    asyncio.run(_log_question(database, "q6", "它支持 6 么"))
    config = tmp_path / "config.ini"
    config.write_text(f"[storage]\nurl = {database}\n", encoding="utf-8")
    labels = write(tmp_path / "labels.jsonl", *LABELS)
    result = run(*named(family), "--data", labels, "--out", tmp_path / "out", "--resamples", "100", "--queue", "--config", config)
    assert result.exit_code == 0, result.output + result.stderr
    assert "queued for labelling: 1" in result.stdout
    assert "not in this database" in result.stdout
    assert asyncio.run(_queued(database)) == [("q6", QueueReason.SUSPECT_LABEL)]


async def _log_question(url: str, identity: str, text: str) -> None:
    database = await open_database(url)
    message = Message("test", "c", identity, "s", text, datetime(2026, 3, 2, tzinfo=UTC))
    await SqlInbox(database).add([message])
    question = Question(identity, ConversationKey("test", "c"), "A", text, message.sent_at, (), (identity,))
    await SqlQuestionLog(database).record(Utterance((message,)), question)
    await database.close()


async def _queued(url: str) -> list[tuple[str, QueueReason]]:
    database = await open_database(url)
    items = await SqlReviewQueue(database).top(10)
    await database.close()
    return [(item.question_id, item.reason) for item in items]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "is no model"),
        (["m={folder}/none.gguf"], "does not exist"),
        (["m={folder}/labels.jsonl"], "is no GGUF file"),
        (["m:1B={folder}/m.gguf", "m:2B={folder}/m.gguf"], "two models have this name"),
        (["m:large={folder}/m.gguf"], "is no size"),
        (["m=openai:http://127.0.0.1:9/v1#x"], "size of a server's model is not known"),
        (["m:1B=openai:127.0.0.1"], "needs the address"),
        (["m:1B={folder}/m.gguf@{folder}/none"], "adapter"),
        (["m:1B={folder}/m.gguf", "--trained", "x"], "no model is named x"),
        (["m:1B={folder}/m.gguf", "--queue"], "--queue: needs --config"),
        (["m:1B={folder}/m.gguf", "--prompt", "gate-99"], "no prompt version"),
        (["m:1/8={folder}/m.gguf", "n:300={folder}/m.gguf", "--axis", "data"], "share of the data"),
        (["m:1B=openai:http://127.0.0.1:9/v1#x"], "cannot be reached"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    write(tmp_path / "labels.jsonl", *LABELS)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    result = run(*[argument.format(folder=tmp_path) for argument in arguments], "--data", tmp_path / "labels.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert said in result.stderr


def test_a_server_that_breaks_in_the_middle_keeps_what_it_said(tmp_path: Path) -> None:
    with served(knows(0.9)) as server:
        labels, out = write(tmp_path / "labels.jsonl", *LABELS), tmp_path / "out"
        model = f"m:1B=openai:{server.url}#base"
        assert run(model, "--data", labels, "--out", out, "--limit", "32", "--resamples", "100").exit_code == 0
        server.bad = plainly(503, b"")
        result = run(model, "--data", labels, "--out", out, "--resamples", "100")
        assert result.exit_code in (1, 2)
        assert len(result.stderr.strip().splitlines()) == 1
        assert len((out / CACHE).read_text().splitlines()) == 32


# --- sizes and labels ---


def gguf_header(path: Path, tensors: dict[str, tuple[int, ...]]) -> Path:
    """A GGUF file of a header alone, with metadata of every kind before the tensors."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("tokenizer.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("甲") + text("b"),
        text("scores") + struct.pack("<IIQ", 9, 6, 3) + struct.pack("<3f", 1, 2, 3),
        text("flag") + struct.pack("<I", 7) + b"\x01",
        text("big") + struct.pack("<IQ", 10, 1 << 40),
    ]
    infos = [text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, 0) for name, shape in tensors.items()]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs) + b"".join(infos))
    return path


def safetensors(folder: Path, **shapes: tuple[int, ...]) -> Path:
    header = json.dumps({"__metadata__": {"format": "pt"}, **{name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}}).encode()
    folder.mkdir(exist_ok=True)
    (folder / f"model-{len(shapes)}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def test_parameters_are_counted_from_headers(tmp_path: Path) -> None:
    assert parameters_of(gguf_header(tmp_path / "m.gguf", {"a": (64, 32), "b": (10,)})) == 2058
    folder = safetensors(tmp_path / "model", a=(4, 5), b=(3,))
    assert parameters_of(safetensors(folder, c=(2, 2, 2))) == 20 + 3 + 8, "over all parts"


def test_a_header_that_is_cut_is_refused(tmp_path: Path) -> None:
    whole = gguf_header(tmp_path / "m.gguf", {"a": (64, 32)}).read_bytes()
    for length in (6, 30, len(whole) - 20):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(InputError, match="header"):
            parameters_of(tmp_path / "cut.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no safetensors"):
        parameters_of(tmp_path / "empty")


def test_sizes_are_read_and_written_as_people_do() -> None:
    assert [parse_size(text) for text in ("270M", "1.5b", "135000000", "0", "x", "-1B")] == [270e6, 1.5e9, 135e6, None, None, None]
    assert [shown_size(value) for value in (134_515_008, 268_098_176, 1.5e9, 900)] == ["135M", "268M", "1.5B", "900"]


def test_the_data_axis_takes_shares_or_the_examples_of_metrics_json(tmp_path: Path) -> None:
    model = gguf_header(tmp_path / "m.gguf", {"a": (8, 8)})
    for name, examples in (("few", 100), ("all", 800)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter.gguf").write_bytes(b"GGUF")
        (tmp_path / name / "metrics.json").write_text(json.dumps({"examples": examples}))
    specs = parse_models([f"{name}={model}@{tmp_path}/{name}/adapter.gguf" for name in ("all", "few")] + [f"bare={model}"], Axis.DATA)
    assert [(spec.name, spec.size, spec.trained) for spec in specs] == [("bare", 0.0, False), ("few", 100.0, True), ("all", 800.0, True)]
    shares = parse_models([f"a:1={model}", f"b:1/8={model}", f"c:25%={model}"], Axis.DATA, trained=["a", "b", "c"])
    assert [spec.size for spec in shares] == [0.125, 0.25, 1.0]


def test_an_at_sign_may_be_part_of_a_path(tmp_path: Path) -> None:
    model = gguf_header(tmp_path / "me@home.gguf", {"a": (8, 8)})
    (spec,) = parse_models([f"m={model}"], Axis.SIZE)
    assert (spec.model, spec.adapter, spec.size, spec.backend) == (str(model), None, 64.0, "llama_cpp")


def test_labels_of_windows_keep_kind_and_context_and_leave_out_what_is_no_question(tmp_path: Path) -> None:
    window = {
        "id": "w1",
        "lang": "zh",
        "messages": [
            {"sender": sender, "text": text, "at": f"2026-03-02T10:0{n}:00+08:00"} for n, (sender, text) in enumerate((("甲", "mmpose 好快"), ("乙", "它支持"), ("乙", "手机么")))
        ],
        "questions": [{"indices": [1, 2], "label": "yes", "kind": "pronoun"}, {"indices": [0], "label": "not_question"}],
    }
    folder = tmp_path / "labels-2026-03-02"
    folder.mkdir()
    write(folder / "labels.jsonl", window)
    (item,) = read_items([folder])
    assert (item.id, item.question.text, item.needs_resolution) == ("w1-q0", "它支持 手机么", True)
    assert [line.text for line in item.question.context] == ["mmpose 好快"]
    assert item.patterns == {"label": "yes", "length": "1-10 characters", "pronoun": "pronoun", "name": "other name or none", "language": "zh", "kind": "pronoun"}


def test_labels_without_yes_or_no_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no question labelled"):
        read_items([write(tmp_path / "x.jsonl", {"context": [], "question": "在么", "label": "not_question"})])
