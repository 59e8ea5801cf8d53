"""A handful of real windows for small trainings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def few_windows(path: Path, each: int = 3) -> Path:
    """``each`` windows of each author of the first file, written to ``path``."""
    seen: Counter[str] = Counter()
    lines = []
    for line in (ROOT / "examples" / "windows" / "base.jsonl").read_text(encoding="utf-8").splitlines():
        author = json.loads(line)["id"].split("-")[0]
        seen[author] += 1
        if seen[author] <= each:
            lines.append(line)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
