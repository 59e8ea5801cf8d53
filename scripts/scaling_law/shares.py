"""Nested shares of training files: what a model saw at 1/8 it sees again at 1/4, so that only the amount differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from core.errors import InputError


def parse_share(value: str) -> Fraction:
    """A share such as ``1/8``, ``0.25`` or ``12.5%``. Raises InputError for what is none, or not above 0 and at most 1."""
    text = value.strip()
    try:
        share = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(value, "is no share", "Write 1/8, 0.25 or 12.5%.") from None
    if not 0 < share <= 1:
        raise InputError(value, "is not above 0 and at most 1", "Write 1/8, 0.25 or 12.5%.")
    return share


def share_name(share: Fraction) -> str:
    """The folder of a share: ``1-8``; ``all`` for the whole."""
    return "all" if share == 1 else f"{share.numerator}-{share.denominator}"


def write_shares(data: Sequence[Path], shares: Sequence[Fraction], out: Path, seed: int = 1) -> dict[str, int]:
    """Write each share of each file to ``out/SHARE/NAME.jsonl``. Returns the number of records by the name of the share.

    The order in which records are taken depends on their content and ``seed`` alone: shares are nested, and another run gives the same. Records are windows or questions,
    never halves of a window.

    :raises InputError: for a file that is no JSON or JSON Lines, two files of one name, or a folder that cannot be written.
    """
    twice = {path.stem for path in data if sum(path.stem == other.stem for other in data) > 1}
    if twice:
        raise InputError(", ".join(sorted(twice)), "two files have this name", "Rename one: shares are written under the names of their files.")
    counts = dict.fromkeys((share_name(share) for share in shares), 0)
    for path in data:
        lines = sorted(_lines(path), key=lambda line: hashlib.sha256(f"{seed} {line}".encode("utf-8", "surrogatepass")).digest())
        for share in shares:
            taken = lines[: max(1, round(len(lines) * share))]
            _write(out / share_name(share) / f"{path.stem}.jsonl", taken)
            counts[share_name(share)] += len(taken)
    return counts


def _lines(path: Path) -> list[str]:
    """Every record of the file as one line of JSON."""
    remedy = "Give a UTF-8 file of JSON or JSON Lines."
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"cannot be read ({error})", remedy) from None
    try:
        records: list[Any] = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise InputError(str(path), f"no JSON ({error})", remedy) from None
    if not records:
        raise InputError(str(path), "holds no record", remedy)
    return [json.dumps(record, ensure_ascii=False) for record in records]


def _write(path: Path, lines: Sequence[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}", "Give another --out.") from None
