from __future__ import annotations

import pytest

from core.text import clean_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("怎么装？", "怎么装？"),
        ("", ""),
        ("a\0\0b", "a\N{SYMBOL FOR NULL}\N{SYMBOL FOR NULL}b"),
        ("\udc00x\ud800", "\N{REPLACEMENT CHARACTER}x\N{REPLACEMENT CHARACTER}"),
        ("\ud83d\ude00\ud83d", "😀\N{REPLACEMENT CHARACTER}"),
        ("\ud800\0", "\N{REPLACEMENT CHARACTER}\N{SYMBOL FOR NULL}"),
        ("\u202eabc\u200d😀\r\n\t", "\u202eabc\u200d😀\r\n\t"),
    ],
)
def test_what_cannot_be_stored_is_replaced_and_all_else_is_kept(text: str, clean: str) -> None:
    assert clean_text(text) == clean
    clean_text(text).encode("utf-8")


def test_a_text_that_is_clean_is_not_copied() -> None:
    text = "问" * 100_000
    assert clean_text(text) is text
