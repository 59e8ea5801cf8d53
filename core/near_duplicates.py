"""Texts that say the same but for a word or a sign, found by the Jaccard similarity of their character shingles.

Exact: chat questions are short, where the estimates of MinHash are coarse. Two sets with similarity t or more share one of the first ``n - ceil(t n) + 1`` of their n
elements in any common order, so that only these are indexed (prefix filtering; Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search"): in the order of their
rarity, few texts share one.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

#: "怎么把它部署到 TX2？" and "请问怎么把它部署到tx2呢" just reach it; "这个支持 cuda 12 么" and "这个支持 cuda 11 么" do not.
SAME = 0.75
_SIZE = 2


def shingles(text: str) -> frozenset[str]:
    """Character pairs of ``text`` after NFKC and case folding, without white space, punctuation and symbols; a text too short for a pair is one shingle."""
    letters = [character for character in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(character)[0] in "LN"]
    shown = "".join(letters) or text.strip()  # a text of signs alone ("？？") is compared as it stands
    return frozenset(shown[start : start + _SIZE] for start in range(max(1, len(shown) - _SIZE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union of two sets that are not both empty."""
    return len(one & other) / len(one | other)


def frequencies(texts: Iterable[str]) -> Counter[str]:
    """In how many of the texts each shingle stands."""
    return Counter(element for text in texts for element in shingles(text))


class NearDuplicates:
    """An index of texts by key. ``same``: similarity in 0..1 from which two texts count as one; ``common``: frequencies of shingles, which make it fast and change no result."""

    def __init__(self, same: float = SAME, common: Mapping[str, int] | None = None) -> None:
        if not 0.0 < same <= 1.0:
            raise ValueError("a similarity is above 0 and at most 1")
        self._same, self._common = same, common or {}
        self._texts: dict[str, frozenset[str]] = {}
        self._holders: defaultdict[str, list[str]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, key: str, text: str) -> None:
        """Take ``text`` in, whether or not it is like another."""
        elements = shingles(text)
        self._texts[key] = elements
        for element in self._prefix(elements):
            self._holders[element].append(key)

    def find(self, text: str) -> str | None:
        """The key of the text that is most like ``text``; None where none is alike."""
        elements = shingles(text)
        seen = dict.fromkeys(key for element in self._prefix(elements) for key in self._holders.get(element, ()))
        best, found = self._same, None
        for key in seen:
            other = self._texts[key]
            if min(len(other), len(elements)) < best * max(len(other), len(elements)):
                continue  # sets of such different sizes cannot be alike
            likeness = jaccard(elements, other)
            if likeness > best or (found is None and likeness == best):
                best, found = likeness, key
        return found

    def _prefix(self, elements: frozenset[str]) -> list[str]:
        ordered = sorted(elements, key=lambda element: (self._common.get(element, 0), element))
        return ordered[: len(ordered) - math.ceil(self._same * len(ordered)) + 1]
