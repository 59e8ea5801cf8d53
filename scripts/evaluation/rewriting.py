"""The resolver alone, on questions that a human resolved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.grounding import check, sources
from core.messages import Question, Resolution
from core.ports import Resolver
from scripts.evaluation.forms import GateRecord
from scripts.evaluation.metrics import bleu4, is_chinese, rouge_l, same_text, tokens
from scripts.evaluation.results import Advance, Result


async def evaluate_rewriting(records: Sequence[GateRecord], resolver: Resolver, advance: Advance) -> Result:
    """EM, BLEU-4 and ROUGE-L of the best candidate before acceptance; how many were ``rejected``, and how many accepted ones hold ``invented`` words.

    Raises :class:`core.errors.BackendError`.
    """
    scored = [record for record in records if record.gold is not None]
    questions = [record.as_question(number) for number, record in enumerate(scored)]
    resolutions: list[Resolution] = []
    for question in questions:
        resolutions.append(await resolver.resolve(question))
        advance(1)
    gold = [record.gold or "" for record in scored]
    metrics: dict[str, float | int | None] = {
        **text_metrics(gold, [resolution.candidate or "" for resolution in resolutions], scored),
        "rejected": sum(resolution.rewrite is None for resolution in resolutions),
        "invented": sum(invents(question, resolution) for question, resolution in zip(questions, resolutions, strict=True)),
    }
    reasons = Counter(resolution.reason.value for resolution in resolutions if resolution.reason is not None)
    details = {"rejected_because": dict(reasons.most_common()), "models": sorted({f"{r.model} {r.adapter}".strip() for r in resolutions})}
    unchanged = {"question unchanged": text_metrics(gold, [record.question for record in scored], scored)}
    return Result("rewrite", len(scored), metrics, unchanged, details=details)


def text_metrics(gold: Sequence[str], candidates: Sequence[str], records: Sequence[GateRecord]) -> dict[str, float]:
    """EM and ROUGE-L are means over items; BLEU-4 is of the whole corpus. Each item is scored by the tokens of its language."""
    if not gold:
        return {"em": 0.0, "bleu4": 0.0, "rouge_l": 0.0}
    chinese = [is_chinese(reference, record.lang) for reference, record in zip(gold, records, strict=True)]
    gold_tokens = [tokens(text, zh) for text, zh in zip(gold, chinese, strict=True)]
    candidate_tokens = [tokens(text, zh) for text, zh in zip(candidates, chinese, strict=True)]
    exact = [same_text(*texts) for texts in zip(gold, candidates, chinese, strict=True)]
    overlap = [rouge_l(*pair) for pair in zip(candidate_tokens, gold_tokens, strict=True)]
    return {"em": sum(exact) / len(gold), "bleu4": bleu4(candidate_tokens, gold_tokens), "rouge_l": sum(overlap) / len(gold)}


def invents(question: Question, resolution: Resolution) -> bool:
    """Does an accepted rewrite hold a word that stands neither in the conversation nor in the glossary? It never should."""
    return resolution.rewrite is not None and bool(check(question.text, resolution.rewrite, sources(question)).invented)
