"""Does rank r suffice, and what is worth trying: from all spectra of a training to sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.low_rank.changes import Change
from scripts.low_rank.spectrum import Spectrum

#: Share of the energy from which on a rank counts as enough.
ENOUGH = 0.95
#: A matrix stands out when it needs so many times the median rank.
_STANDS_OUT = 2.0
#: Half of an adapter's rank that keeps less than this: its spectrum is flat, and all of its directions are in use. (Random factors keep 0.60 at rank 16 and 0.69 at 64.)
_USED_UP = 0.75
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Verdict:
    """``kept``: rank -> share of the energy of all matrices that approximations of this rank keep together; ``needed``: the least rank that keeps ENOUGH; ``suffices``: None
    where the spectra alone cannot tell.
    """

    kept: dict[int, float]
    needed: int
    sentences: tuple[str, ...]
    suffices: bool | None


def ranks_shown(change: Change) -> list[int]:
    """1, 2, 4 ... up to the rank of the adapter, or the least dimension of any matrix."""
    largest = max(len(spectrum.values) for spectrum in change.spectra)
    ranks = [1 << power for power in range(largest.bit_length()) if 1 << power <= largest]
    return ranks if ranks[-1] == largest else [*ranks, largest]


def kept_by_all(spectra: Sequence[Spectrum], rank: int) -> float:
    """Share of the energy of all matrices together that rank ``rank`` in each of them keeps."""
    whole = sum(spectrum.energy for spectrum in spectra)
    return sum(float((spectrum.values[:rank] ** 2).sum()) for spectrum in spectra) / whole if whole else 1.0


def needed_rank(spectra: Sequence[Spectrum], share: float = ENOUGH) -> int:
    """The least rank that, given to every matrix, keeps ``share`` of the energy of all."""
    low, high = 0, max(len(spectrum.values) for spectrum in spectra)
    while low < high:
        middle = (low + high) // 2
        if kept_by_all(spectra, middle) >= share:
            high = middle
        else:
            low = middle + 1
    return low


def judge_rank(change: Change, asked: int | None = None) -> Verdict:
    """Sentences on whether a rank suffices. ``asked``: the rank in question for full fine-tuning (None: the nearest usual one); that of the adapter for LoRA."""
    spectra = [spectrum for spectrum in change.spectra if spectrum.energy > 0]
    kept = {rank: kept_by_all(spectra, rank) for rank in ranks_shown(change)}
    if not spectra:
        return Verdict(kept, 0, ("Nothing was changed: all singular values are 0.",), False)
    needed = needed_rank(spectra)
    sentences, suffices = _of_adapter(change, spectra, needed) if change.rank is not None else _of_full(spectra, needed, asked)
    return Verdict(kept, needed, (*sentences, *_outliers(spectra), *_depth(spectra)), suffices)


def _of_adapter(change: Change, spectra: Sequence[Spectrum], needed: int) -> tuple[list[str], bool]:
    rank = change.rank or 0
    used = float(np.median([spectrum.effective_rank / max(1, spectrum.bound or 1) for spectrum in spectra]))
    half = kept_by_all(spectra, max(1, rank // 2))
    head = f"Rank {needed} would keep {ENOUGH:.0%} of what this adapter of rank {rank} changes, half its rank {half:.0%}; the effective rank is {used:.0%} of r in the median."
    if rank > 1 and half < _USED_UP:
        advice = f"The spectrum is flat: rank {rank} is used up, or the training was too short to settle on directions. Try --rank {2 * rank}, and compare on the validation split."
        return [f"{head} {advice}"], False
    if needed <= rank // 2:
        return [f"{head} Rank {rank} suffices, and less would: try --rank {max(1, _power_above(needed))}; it trains faster and holds less of the noise."], True
    return [f"{head} Rank {rank} suffices."], True


def _of_full(spectra: Sequence[Spectrum], needed: int, asked: int | None) -> tuple[list[str], bool | None]:
    rank = asked or 64
    share = kept_by_all(spectra, rank)
    head = f"An approximation of rank {rank} keeps {share:.1%} of what full fine-tuning changed; {ENOUGH:.0%} need rank {needed}."
    noise = [spectrum.rank_above_noise for spectrum in spectra if spectrum.rank_above_noise is not None]
    above = f" Above the noise of the updates stand {int(np.median(noise))} directions in the median matrix, {max(noise)} in the largest." if noise else ""
    if share >= ENOUGH:
        return [
            f"{head}{above} The low-rank premise holds: LoRA of rank {_power_above(needed)} can express this change; where it does worse, look at its learning rate first."
        ], True
    if noise and np.median(noise) > 0 and max(noise) <= rank:
        advice = (
            "Those fit into this rank; the rest is spread over all directions, as noise is, and may not matter: only a LoRA of this rank beside it, on the same test set, can tell."
        )
        return [f"{head}{above} {advice}"], None
    advice = f"The low-rank premise does not hold at rank {rank}: try a higher rank with rank-stabilised scaling (--rslora), LoRA on the other modules too, or full fine-tuning."
    return [f"{head}{above} {advice}"], False


def _outliers(spectra: Sequence[Spectrum]) -> list[str]:
    needs = {spectrum.name: spectrum.rank_for(ENOUGH) for spectrum in spectra}
    usual = float(np.median(list(needs.values())))
    out = sorted((name for name, need in needs.items() if need > _STANDS_OUT * max(1.0, usual)), key=lambda name: -needs[name])
    if not out or len(out) > len(spectra) // 4:
        return []
    named = ", ".join(f"{name} ({needs[name]})" for name in out[:_NAMED])
    more = f" and {len(out) - _NAMED} more" if len(out) > _NAMED else ""
    return [f"Some matrices need far more than the median of {usual:.0f}: {named}{more}. A higher rank for these alone (peft: rank_pattern) is worth a trial."]


def _depth(spectra: Sequence[Spectrum]) -> list[str]:
    """Whether the need of rank changes with depth, by Spearman's rank correlation over the blocks."""
    from scipy.stats import spearmanr

    layers = sorted({spectrum.layer for spectrum in spectra if spectrum.layer is not None})
    means = [float(np.mean([s.effective_rank for s in spectra if s.layer == layer])) for layer in layers]
    if len(layers) < 4 or len(set(means)) == 1:
        return []
    rho, p = spearmanr(layers, means)
    if p >= 0.05:
        return [f"The effective rank does not change with depth in a regular way (Spearman {rho:+.2f}, p {p:.2f})."]
    return [
        f"The effective rank {'grows' if rho > 0 else 'falls'} with depth, from {means[0]:.1f} in the first block to {means[-1]:.1f} in the last (Spearman {rho:+.2f}, p {p:.3f})."
    ]


def _power_above(rank: int) -> int:
    return 1 << (max(1, rank) - 1).bit_length()
