from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.near_duplicates import NearDuplicates, frequencies, jaccard, shingles


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("怎么把它部署到 TX2？", "怎么把它部署到tx2", True),
        ("怎么把它部署到 TX2？", "请问怎么把它部署到 TX2 呢", True),
        ("How do I install it?", "how do i install  it ???", True),
        ("怎么装？", "怎么卸载？", False),
        ("这个支持 cuda 12 么", "这个支持 cuda 11 么", False),
        ("How do I install it?", "How can I remove it?", False),
        ("为啥", "为啥？？", True),
        ("？？", "？？", True),
        ("？？", "……", False),
        ("", "怎么装", False),
    ],
)
def test_what_counts_as_the_same(one: str, other: str, same: bool) -> None:
    index = NearDuplicates()
    index.add("one", one)
    assert (index.find(other) == "one") is same


def test_the_most_alike_is_found() -> None:
    index = NearDuplicates(0.5)
    for key, text in (("far", "怎么把 mmpose 部署到手机"), ("near", "怎么把 mmpose 部署到 TX2"), ("other", "谁有资料")):
        index.add(key, text)
    assert index.find("怎么把 mmpose 部署到 TX2 上") == "near"
    assert index.find("今天天气不错") is None
    assert len(index) == 3


TEXTS = st.text(alphabet="abc怎么装 ?", max_size=12)


@given(st.lists(TEXTS, max_size=12), TEXTS, st.sampled_from([0.3, 0.5, 0.75, 1.0]), st.lists(TEXTS, max_size=3))
def test_the_index_finds_exactly_what_comparing_with_everything_finds(texts: list[str], asked: str, same: float, others: list[str]) -> None:
    index = NearDuplicates(same, frequencies([*texts, *others]))
    for number, text in enumerate(texts):
        index.add(str(number), text)
    likeness = [jaccard(shingles(asked), shingles(text)) for text in texts]
    found = index.find(asked)
    if max(likeness, default=0.0) < same:
        assert found is None
    else:
        assert found is not None
        assert likeness[int(found)] == max(likeness)
