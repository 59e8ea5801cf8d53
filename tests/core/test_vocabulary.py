from __future__ import annotations

from core.vocabulary import Vocabulary, words


def test_words_that_name_something() -> None:
    assert {"mmpose", "部署"} <= words("怎么把 MMPose 部署到它上面？")
    assert not {"怎么", "它", "？", "上面"} & words("怎么把 MMPose 部署到它上面？")
    assert words("它 3 呢？") == frozenset()


def test_a_word_is_new_once() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.new_in("ncnn 怎么量化？") == sorted({"ncnn", "量化"})
    assert vocabulary.new_in("NCNN 量化 onnx") == ["onnx"]
    assert vocabulary.new_in("onnx？") == []


def test_nothing_private_becomes_a_word() -> None:
    assert not any("13812345678" in word or "secret" in word for word in words("加我 13812345678，邮箱 secret.person@example.com"))
