"""One real turn of the loop on the packaged model (``make train-smoke``, some minutes): from labelled questions to a version that a bot's gate can serve, and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.config import load_config
from core.gates.factory import open_models
from core.gates.reload import ReloadingGate
from core.registry import Registry
from scripts.training.data import load_samples
from tests.core.gates.test_reload import question

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]


def write_labels(folder: Path) -> tuple[Path, Path]:
    """200 labelled questions of the example windows to learn from, and 100 others as the test set, half of them in need of resolution."""
    samples = load_samples([ROOT / "examples" / "windows" / "base.jsonl"])
    seen: set[str] = set()
    by_label: dict[str, list[dict[str, Any]]] = {"yes": [], "no": []}
    for sample in samples:
        if sample.label in by_label and sample.question not in seen:
            seen.add(sample.question)
            lines = [{"sender": line.sender, "text": line.text} for line in sample.context]
            by_label[sample.label].append({"id": sample.id, "sender": sample.sender, "question": sample.question, "context": lines, "label": sample.label})
    mixed = [record for pair in zip(by_label["yes"], by_label["no"], strict=False) for record in pair]
    for name, part in (("labels", mixed[:200]), ("test", mixed[200:300])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part), encoding="utf-8")
    return folder / "labels.jsonl", folder / "test.jsonl"


def cycle(config: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.cycle", "--config", str(config), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)


async def test_a_turn_on_the_packaged_model(tmp_path: Path) -> None:
    labels, test = write_labels(tmp_path)
    config = tmp_path / "config.ini"
    config.write_text(f"[resolver]\nbackend = none\n[relabel]\nregistry = {tmp_path}/models\ntest_set = {test}\n", encoding="utf-8")
    # Ten steps are no match for the shipped adapter: the turn must say so, and leave it in place.
    done = cycle(config, "run", "--snapshot", labels, "--preset", "smoke", "--max-steps", "10")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["version"] == 1
    assert report["trial"]["items"] == 100
    assert report["serving"] == (1 if report["decision"] == "promoted" else 0)
    forced = cycle(config, "promote", "1", "--force")
    assert forced.returncode == 0 or report["serving"] == 1, forced.stderr
    models = await open_models(load_config(config))
    gate = models.gate
    assert isinstance(gate, ReloadingGate)
    assert gate.number == 1, models.notes
    (verdict,) = await gate.judge([question()])
    assert "0001" in verdict.adapter + verdict.model
    Registry(tmp_path / "models").rollback()
    assert await gate.refresh()
    assert gate.number == 0
    await models.close()
