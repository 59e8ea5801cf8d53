"""The HTML of reports: sections of text, tables and pictures, escaped and self-contained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import InputError


@dataclass(frozen=True, slots=True)
class Picture:
    """``source``: a data URL; ``shows``: what a person who cannot see it should know."""

    source: str
    shows: str


@dataclass(frozen=True, slots=True)
class TableView:
    """``rows`` have the length of ``columns``. ``marked``: numbers of rows that matter most."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A heading with paragraphs, then pictures, then tables. ``good``: colours the first paragraph as good or bad news; None: neither."""

    title: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[TableView] = ()
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class ReportPage:
    title: str
    subtitle: str
    sections: Sequence[ReportSection] = field(default=())


def write_page(page: ReportPage, path: Path) -> None:
    """Raises InputError when the file cannot be written."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("scripts.reporting", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("report.html").render(page=page)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}", "Give another --out.") from None
