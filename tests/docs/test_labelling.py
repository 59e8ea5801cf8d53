"""The chapter on labelling tells what is so."""

from __future__ import annotations

import re
from pathlib import Path

import adapters.web

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = (ROOT / "docs" / "labelling.md").read_text(encoding="utf-8")


def test_its_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", CHAPTER)
    assert len(pictures) == 4
    for picture in pictures:
        assert (ROOT / "docs" / picture).stat().st_size < 120_000, picture


def test_it_names_the_keys_of_the_page() -> None:
    page = (Path(adapters.web.__path__[0]) / "templates" / "work.html").read_text(encoding="utf-8")
    keys = {key.upper() for key in re.findall(r'(?:answer\("\w+", |deed\()"(.)"', page)}
    assert keys == {"J", "K", "I", "E", "S", "U", "?"}
    assert keys == set(re.findall(r"^\| `(.)` \|", CHAPTER, flags=re.MULTILINE))
