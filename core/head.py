"""The encoder head of the gate: a linear model on a sentence embedding, hashed character n-grams and a few surface features, and the calibration that joins it with the language
model.

The encoder is that of :mod:`core.encoder`, plain or fine-tuned. All weights are plain arrays in one ``.npz`` (no pickle), the calibration is JSON; both carry a
version and the hash of the data that made them. Fitting is done by ``python -m scripts.train --head``.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.arrays import read_arrays
from core.encoder import Embed, Floats, load_encoder
from core.errors import InputError
from core.messages import Question

HEAD_FORMAT = 1
NGRAM_SIZES = (1, 2, 3)
_EDGE = "\u0002", "\u0003"

_SURFACE: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("third_person", r"[它他她]|\b(it|its|they|them|their|he|she|him|her)\b"),
        ("near_demonstrative", r"这(?!么|样|边|里)|\b(this|these)\b"),
        ("far_demonstrative", r"(?<!剩)那(?!么|就|么|边)|\b(that|those)\b"),
        ("manner_demonstrative", r"这么|那么|这样|那样|such"),
        ("definite_pointer", r"上面|前面|刚才|楼上|你说的|前者|后者|另一个|\b(former|latter|the (other|same|first|second) one|above)\b"),
        ("opens_with_pointer", r"^(@\S+ )?(那|这|它|所以|然后|还有|但是|不过|and|but|so|then|what about|how about)"),
        ("closes_with_particle", r"(呢|吗|么|吧|不|没)[?？]?$"),
        ("bare_particle", r"呢[?？]?$"),
        ("question_mark", r"[?？]"),
        ("question_word", r"什么|怎么|咋|为啥|为什么|哪|谁|多少|几|如何|\b(what|how|why|which|who|where|when)\b"),
        ("open_to_room", r"有(没有)?人|谁|大佬|请问|求助|推荐|有没有|\b(anyone|anybody|recommend)\b"),
        ("mention", r"@\S+"),
        ("image", r"\[图片\]|如图|截图|\[image\]"),
        ("quote", r"「.*」"),
        ("first_person", r"我|\b(i|my|we)\b"),
        ("conditional", r"如果|要是|的话|\bif\b"),
        ("digit", r"\d"),
    )
)
_LATIN_TERM = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]+")


def normalised(text: str) -> str:
    """NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def surface_features(text: str) -> Floats:
    """Length, counts of Latin terms and clauses, and one flag for each pattern above. Shape (4 + patterns,)."""
    shown = normalised(text)
    terms = len(_LATIN_TERM.findall(shown))
    clauses = len([part for part in re.split(r"[,，。.!！;；?？\s]+", shown) if part])
    values = [math.log1p(len(shown)), min(terms, 6), float(terms > 0), min(clauses, 8)]
    return np.array([*values, *(float(bool(pattern.search(shown))) for _, pattern in _SURFACE)], dtype=np.float32)


def ngram_indices(text: str, buckets: int) -> dict[int, float]:
    """Hashed character n-grams of ``text`` (digits as one class) with their weights: sublinear counts, scaled to unit length."""
    shown = _EDGE[0] + re.sub(r"\d", "0", normalised(text)) + _EDGE[1]
    counts: dict[int, int] = {}
    for size in NGRAM_SIZES:
        for start in range(len(shown) - size + 1):
            bucket = zlib.crc32(shown[start : start + size].encode()) % buckets
            counts[bucket] = counts.get(bucket, 0) + 1
    weights = {bucket: 1 + math.log(count) for bucket, count in counts.items()}
    norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    return {bucket: weight / norm for bucket, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The linear model. ``embedding`` (encoder dimension), ``ngrams`` (buckets) and ``surface`` multiply the features after ``*_mean`` and ``*_scale``; their sum with ``bias``
    is a logit. ``encoder`` is the version of the encoder whose vectors it reads, "" for the packaged one."""

    embedding: Floats
    embedding_mean: Floats
    embedding_scale: Floats
    ngrams: Floats
    surface: Floats
    surface_mean: Floats
    surface_scale: Floats
    bias: float
    version: str
    data_hash: str
    encoder: str = ""

    def logit(self, text: str, embedding: Floats) -> float:
        """Log-odds that ``text`` needs resolution."""
        score = self.bias + float(self.embedding @ ((embedding - self.embedding_mean) / self.embedding_scale))
        score += float(self.surface @ ((surface_features(text) - self.surface_mean) / self.surface_scale))
        return score + sum(float(self.ngrams[bucket]) * weight for bucket, weight in ngram_indices(text, len(self.ngrams)).items())

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {name: getattr(self, name).astype(np.float16 if name == "ngrams" else np.float32) for name in _ARRAYS}
        arrays |= {name: np.array(getattr(self, name)) for name in ("bias", "version", "data_hash", "encoder")} | {"format": np.array(HEAD_FORMAT)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> HeadWeights:
        """Raises InputError when the file is missing or no head of this format."""
        remedy = "Train it again: python -m scripts.train --head"
        file = read_arrays(path, "an encoder head", remedy)
        try:
            if int(file["format"]) != HEAD_FORMAT:
                raise InputError(str(path), f"encoder head of format {int(file['format'])}, not {HEAD_FORMAT}", remedy)
            arrays: dict[str, Any] = {name: file[name].astype(np.float32) for name in _ARRAYS}
            encoder = str(file["encoder"]) if "encoder" in file else ""  # heads of the packaged encoder did not name it
            return cls(**arrays, bias=float(file["bias"]), version=str(file["version"]), data_hash=str(file["data_hash"]), encoder=encoder)
        except (KeyError, ValueError) as error:
            raise InputError(str(path), f"cannot be read as an encoder head ({error})", remedy) from error


_ARRAYS = ("embedding", "embedding_mean", "embedding_scale", "ngrams", "surface", "surface_mean", "surface_scale")


class EncoderHead:
    """Judges questions by encoder and head alone. Synchronous; the encoder is not re-entrant, so call it from one worker thread."""

    def __init__(self, weights: HeadWeights, embed: Embed) -> None:
        self.weights = weights
        self._embed = embed

    @classmethod
    def load(cls, path: Path, embed: Embed | None = None) -> EncoderHead:
        """Raises InputError for an unusable file and ImportError where the encoder has no wheel."""
        weights = HeadWeights.load(path)
        return cls(weights, embed or load_encoder(weights.encoder, [path.parent]).embed)

    @property
    def version(self) -> str:
        return self.weights.version

    def probability_logit(self, questions: Sequence[Question]) -> list[float]:
        """The log-odds of each question that it needs resolution, uncalibrated: :class:`GateCalibration` makes a probability of it."""
        return [self.text_logit(question.text) for question in questions]

    def text_logit(self, text: str) -> float:
        shown = " ".join(text.split())
        return self.weights.logit(shown, self._embed(shown))


@dataclass(frozen=True, slots=True)
class Logistic:
    """P = sigmoid(bias + head * head logit + lm * language-model logit + length * ln(1 + characters)). A weight of 0 leaves that input out."""

    bias: float
    head: float = 0.0
    lm: float = 0.0
    length: float = 0.0

    def probability(self, head_logit: float, lm_logit: float, characters: int) -> float:
        return sigmoid(self.bias + self.head * head_logit + self.lm * lm_logit + self.length * math.log1p(characters))


@dataclass(frozen=True, slots=True)
class GateCalibration:
    """How head and language model become one probability, fitted on questions that neither was trained on.

    ``both``, ``head_only`` and ``lm_only`` serve what is at hand. The head alone settles a question when its calibrated probability is at most ``sure_low`` or at least
    ``sure_high``; the rest goes to the
    language model. ``threshold`` is the probability from which a question needs resolution. ``prompt`` names the prompt version of the language model, ``head_version`` and
    ``adapter_hash`` the parts
    that were calibrated together.
    """

    both: Logistic
    head_only: Logistic
    lm_only: Logistic
    threshold: float
    sure_low: float
    sure_high: float
    prompt: str
    version: str
    data_hash: str
    head_version: str = ""
    adapter_hash: str = ""

    def combine(self, head_logit: float | None, lm_logit: float | None, characters: int = 0) -> float:
        """The calibrated probability from what is at hand; at least one of the two logits. ``characters`` is the length of the question's text."""
        if head_logit is None and lm_logit is None:
            raise ValueError("neither a head logit nor a language-model logit")
        if head_logit is None:
            return self.lm_only.probability(0.0, lm_logit or 0.0, characters)
        if lm_logit is None:
            return self.head_only.probability(head_logit, 0.0, characters)
        return self.both.probability(head_logit, lm_logit, characters)

    def is_sure(self, head_logit: float, characters: int = 0) -> bool:
        """Whether the head settles the question alone."""
        probability = self.combine(head_logit, None, characters)
        return probability <= self.sure_low or probability >= self.sure_high

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> GateCalibration:
        """Raises InputError when the file is missing or no calibration."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            parts: dict[str, Any] = {name: Logistic(**values.pop(name)) for name in ("both", "head_only", "lm_only")}
            return cls(**parts, **values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(str(path), f"cannot be read as a gate calibration ({error})", "Train it again: python -m scripts.train --head") from error


def sigmoid(value: float) -> float:
    """The logistic function, without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1 + grown)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Items whose probabilities lie in one of equally wide bins: how many, their mean probability, and the share of them that is positive."""

    count: int
    probability: float
    share: float


def reliability(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> list[ReliabilityBin]:
    """The bins that hold something, in order: a reliability diagram (Niculescu-Mizil and Caruana 2005) as numbers."""
    found = []
    for index in range(bins):
        inside = [(p, y) for p, y in zip(probabilities, labels, strict=True) if min(int(p * bins), bins - 1) == index]
        if inside:
            found.append(ReliabilityBin(len(inside), sum(p for p, _ in inside) / len(inside), sum(y for _, y in inside) / len(inside)))
    return found


def expected_calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float:
    """Mean over equal-width bins, weighted by their size, of |mean probability - share of positives| (Naeini et al. 2015)."""
    return sum(found.count * abs(found.probability - found.share) for found in reliability(probabilities, labels, bins)) / max(1, len(labels))
