"""The benchmarks measure what they say: small sizes, real parts."""

from __future__ import annotations

from pathlib import Path

from core.gates.packaged import model_path
from scripts.benchmarks.gate import gate_latency
from scripts.benchmarks.load import chat_load
from scripts.benchmarks.spine import bus_dispatch, durable_ingest, spine


async def test_every_message_of_the_load_is_merged_and_questions_are_found(tmp_path: Path) -> None:
    load = chat_load(600)
    assert load == chat_load(600)
    figures = await spine(load, tmp_path)
    assert figures["messages"] == 600
    assert 300 < figures["utterances"] <= 600
    assert 50 < figures["questions"] < 300


async def test_ingest_and_dispatch_handle_all(tmp_path: Path) -> None:
    load = chat_load(200)
    assert (await durable_ingest(load, tmp_path, writers=8))["messages"] == 200
    assert (await bus_dispatch(load))["events"] == 200


def test_reuse_reads_fewer_tokens_than_whole_prompts() -> None:
    figures = gate_latency(model_path("", "gate"), None, chat_load(40, chats=1), 4)
    assert figures["whole_over_reused"] > 0
    assert 0 < figures["new_tokens_per_question"] < 120
