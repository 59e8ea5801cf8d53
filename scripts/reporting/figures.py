"""Pictures for reports: matplotlib without a display, fonts that know Chinese where the machine has one, PNG as text for HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Fonts that hold Chinese characters, as Linux, macOS and Windows name them.
_CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Noto Serif CJK SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Droid Sans Fallback",
)
BEFORE, AFTER = "#2e9e44", "#2563c9"  # the article's colours: green before training, blue after
_DPI = 110


def new_figure(columns: int = 1, rows: int = 1, width: float = 5.4, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row; ``width`` and ``height`` of one of them in inches. Raises InputError where matplotlib is not installed."""
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("report", "matplotlib is not installed", 'pip install "doujie[loop]"') from None
    rcParams["font.family"] = fonts()
    figure = Figure(figsize=(columns * width, rows * height), dpi=_DPI, layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, [axes for row in grid for axes in row]


@lru_cache(maxsize=1)
def fonts() -> list[str]:
    """matplotlib's own font, and behind it the first one here that knows Chinese."""
    from matplotlib.font_manager import fontManager

    here = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _CHINESE_FONTS if name in here][:1]]


def drawable(names: Sequence[str]) -> list[str]:
    """The names as a picture can show them: where no font here knows their characters, their numbers in the list (#1, #2 ...)."""
    if len(fonts()) > 1:
        return list(names)
    return [name if name.isascii() else f"#{number}" for number, name in enumerate(names, 1)]


def as_data_url(figure: Figure) -> str:
    """The picture as the text of an ``src``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
