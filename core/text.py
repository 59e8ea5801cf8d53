"""Cleaning of texts as platforms deliver them."""

from __future__ import annotations

_NUL_SHOWN = "\N{SYMBOL FOR NULL}"


def clean_text(text: str) -> str:
    """``text`` as it can be stored and sent anywhere: valid Unicode without NUL.

    Surrogate pairs that a careless decoder left apart are joined; a lone surrogate becomes U+FFFD and NUL becomes U+2400, so that
    a reader sees that something stood there. All else is kept.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", _NUL_SHOWN) if "\0" in text else text
