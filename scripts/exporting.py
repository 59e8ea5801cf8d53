"""Exported questions in four forms: JSON lines, alpaca training records, label-studio tasks, rows of a Hugging Face dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Any

from core.records import Logged, question_record
from scripts.exchange.dataset_folder import dataset_row


class ExportFormat(StrEnum):
    """``JSONL``: one record a line; ``HF``: a folder for the Hugging Face libraries; the others are one JSON array."""

    JSONL = "jsonl"
    ALPACA = "alpaca"
    LABEL_STUDIO = "label-studio"
    HF = "hf"


#: The three options of HuixiangDou-CR (arXiv 2405.02817), which stand under shuffled letters.
OPTIONS: Mapping[str, str] = {"no": "不需要提取，信息完整", "yes": "需要提取", "unknown": "不知道"}
_LETTERS = "ABC"
_INSTRUCTION = """群聊场景中常用代词、省略语指代历史消息。下面是群聊历史和最后一条提问，请判断：不看历史，这条提问是否意思完整？如果不完整，就需要从历史中提取被指代的内容。
历史消息（JSON，按时间先后）：
{history}
提问（{sender}）：
{question}
选项：
{options}
只回答一个选项。"""


def export_entry(logged: Logged, form: ExportFormat) -> dict[str, Any] | None:
    """What stands in the file for one question; None for what the form cannot hold (alpaca: no label, or labelled as no question)."""
    record = question_record(logged)
    if form is ExportFormat.HF:
        return dataset_row(record, logged)
    if form is ExportFormat.JSONL:
        return record
    return alpaca_record(record) if form is ExportFormat.ALPACA else label_studio_task(record)


def alpaca_record(record: Mapping[str, Any]) -> dict[str, str] | None:
    """A training record of the gate, or None without a yes or no."""
    if record["label"] not in ("yes", "no"):
        return None
    instruction, letters = alpaca_instruction(record)
    return {"instruction": instruction, "input": "", "output": f"{letters[record['label']]}:{OPTIONS[record['label']]}"}


def alpaca_instruction(record: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The instruction, and the letter of each answer. The order of the options is drawn from the question's id: the same in every export."""
    answers = list(OPTIONS)
    Random(record["id"]).shuffle(answers)
    letters = dict(zip(answers, _LETTERS, strict=True))
    options = "\n".join(f"{letters[answer]}:{OPTIONS[answer]}" for answer in answers)
    history = json.dumps(record["context"], ensure_ascii=False)
    return _INSTRUCTION.format(history=history, sender=record["sender"], question=record["question"], options=options), letters


def label_studio_task(record: Mapping[str, Any]) -> dict[str, Any]:
    """A task with the model's verdict as prediction, and the label as annotation where there is one.

    Fits a labelling config with a ``Paragraphs`` named dialogue, a ``Text`` named question, and a ``Choices`` named label and a ``TextArea`` named rewrite, both to the question.
    """
    task: dict[str, Any] = {
        "data": {
            "id": record["id"],
            "question_id": record["id"],  # Label Studio's JSON-MIN puts the task's number under "id"
            "question": record["question"],
            "sender": record["sender"],
            "dialogue": [{"author": line["sender"], "text": line["text"]} for line in record["context"]],
            "asked_at": record["asked_at"],
        },
        "predictions": [],
    }
    if record["probability"] is not None:
        result = [_choice("yes" if record["needs_resolution"] else "no")]
        if record["rewrite"] is not None:
            result.append({"from_name": "rewrite", "to_name": "question", "type": "textarea", "value": {"text": [record["rewrite"]]}})
        task["predictions"] = [{"model_version": record["model"], "score": record["probability"], "result": result}]
    if record["label"] is not None:
        task["annotations"] = [{"result": [_choice(record["label"])]}]
    return task


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "question", "type": "choices", "value": {"choices": [label]}}
