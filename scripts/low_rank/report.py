"""A low-rank check as pictures, tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.low_rank.changes import Change
from scripts.low_rank.spectrum import Spectrum
from scripts.low_rank.verdict import ENOUGH, Verdict, kept_by_all, ranks_shown
from scripts.reporting.figures import as_data_url, new_figure
from scripts.reporting.page import Picture, ReportPage, ReportSection, TableView

_MODULE_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
#: Singular values in one drawn curve: more cannot be told apart.
_POINTS = 256


def as_json(source: str, change: Change, verdict: Verdict) -> dict[str, Any]:
    """All figures: what rank.json holds. ``singular_values`` of each matrix, largest first."""
    ranks = ranks_shown(change)
    return {
        "source": source,
        "kind": change.kind,
        "rank": change.rank,
        "energy_kept": {str(rank): round(share, 6) for rank, share in verdict.kept.items()},
        "rank_needed": verdict.needed,
        "rank_suffices": verdict.suffices,
        "verdict": list(verdict.sentences),
        "skipped": list(change.skipped),
        "matrices": [_matrix_json(spectrum, ranks) for spectrum in change.spectra],
    }


def _matrix_json(spectrum: Spectrum, ranks: Sequence[int]) -> dict[str, Any]:
    return {
        "name": spectrum.name,
        "layer": spectrum.layer,
        "module": spectrum.module,
        "shape": [spectrum.rows, spectrum.columns],
        "effective_rank": round(spectrum.effective_rank, 4),
        "stable_rank": round(spectrum.stable_rank, 4),
        "rank_for_95": spectrum.rank_for(ENOUGH),
        "rank_above_noise": spectrum.rank_above_noise,
        "relative_change": spectrum.relative_change,
        "energy_kept": {str(rank): round(spectrum.kept(rank), 6) for rank in ranks if rank <= len(spectrum.values)},
        "singular_values": [float(f"{value:.6g}") for value in spectrum.values],
    }


def make_page(source: str, change: Change, verdict: Verdict) -> ReportPage:
    """The report. Pictures are drawn here."""
    count = f"{len(change.spectra)} matrices"
    subtitle = f"{source}: {change.kind}{f' of rank {change.rank}' if change.rank else ''}, {count}"
    skipped = [f"Without singular values, or in one model only: {len(change.skipped)} tensors."] if change.skipped else []
    explained = [
        "Effective rank: exp of the entropy of the singular values (Roy and Vetterli 2007). Energy: sum of squared singular values.",
        "Second picture: singular values relative to the largest of each matrix; light: early blocks, dark: late ones.",
    ]
    return ReportPage(
        "Low-rank check · 低秩检查",
        subtitle,
        [
            ReportSection("What it says · 结论", [*verdict.sentences, *skipped], good=verdict.suffices),
            ReportSection("By rank · 按秩", explained, [_plot_kept(change), _plot_spectra(change)], [_kept_table(change, verdict)]),
            ReportSection("By depth and module · 按层与模块", [], _depth_pictures(change), [_module_table(change)]),
            ReportSection("All matrices · 全部矩阵", [], [], [_matrix_table(change)]),
        ],
    )


def modules_of(change: Change) -> list[str]:
    """Names of the modules, in the order of a block, then the others."""
    found = {spectrum.module for spectrum in change.spectra}
    return [*(name for name in _MODULE_ORDER if name in found), *sorted(found - set(_MODULE_ORDER))]


def _plot_kept(change: Change) -> Picture:
    figure, (axes,) = new_figure(width=6.6)
    longest = max(len(spectrum.values) for spectrum in change.spectra)
    ranks = np.unique(np.geomspace(1, longest, 60).astype(int))
    for module in modules_of(change):
        own = [spectrum for spectrum in change.spectra if spectrum.module == module]
        axes.plot(ranks, [kept_by_all(own, int(rank)) for rank in ranks], label=module, linewidth=1.2)
    axes.plot(ranks, [kept_by_all(change.spectra, int(rank)) for rank in ranks], color="black", linewidth=2.2, label="all")
    axes.axhline(ENOUGH, color="grey", linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    *powers, largest = ranks_shown(change)
    ticks = [*(rank for rank in powers if 1.4 * rank < largest), largest]  # numbers that do not run into each other
    axes.set_xticks(ticks, [str(rank) for rank in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("rank")
    axes.set_ylabel("energy kept")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    return Picture(as_data_url(figure), "Share of the energy that each rank keeps, by module")


def _plot_spectra(change: Change) -> Picture:
    """Singular values relative to the largest, one curve a matrix, one panel a module; light blocks are early, dark ones late."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    modules = modules_of(change)
    columns = min(4, len(modules))
    figure, all_axes = new_figure(columns, -(-len(modules) // columns), width=3.0, height=2.5)
    last = max((spectrum.layer or 0 for spectrum in change.spectra), default=0) or 1
    for axes, module in zip(all_axes, modules, strict=False):
        for spectrum in change.spectra:
            if spectrum.module == module and spectrum.energy > 0:
                drawn = spectrum.values[:_POINTS] / spectrum.values[0]
                axes.plot(range(1, len(drawn) + 1), np.maximum(drawn, 1e-6), color=colormaps["viridis_r"]((spectrum.layer or 0) / last), linewidth=0.9)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_title(module, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in all_axes[len(modules) :]:
        axes.set_visible(False)
    return Picture(as_data_url(figure), "Singular values of the change, relative to the largest, by module; dark: late blocks")


def _depth_pictures(change: Change) -> list[Picture]:
    """Maps of effective rank and energy over depth and module; none where no matrix belongs to a block."""
    layers = sorted({spectrum.layer for spectrum in change.spectra if spectrum.layer is not None})
    if not layers:
        return []
    modules = [module for module in modules_of(change) if any(s.module == module and s.layer is not None for s in change.spectra)]
    figure, (first, second) = new_figure(columns=2, width=5.4, height=1.2 + 0.34 * len(modules))
    for axes, title, values in (
        (first, "effective rank", _grid(change, layers, modules, lambda s: s.effective_rank)),
        (second, "size of the change (Frobenius norm)", _grid(change, layers, modules, lambda s: s.energy**0.5)),
    ):
        shown = axes.imshow(values, aspect="auto", cmap="viridis")
        axes.set_yticks(range(len(modules)), modules, fontsize=8)
        axes.set_xticks(range(len(layers)), [str(layer) for layer in layers], fontsize=7)
        axes.set_xlabel("block", fontsize=8)
        axes.set_title(title, fontsize=9)
        figure.colorbar(shown, ax=axes, shrink=0.85)
    return [Picture(as_data_url(figure), "Effective rank and size of the change over blocks and modules")]


def _grid(change: Change, layers: Sequence[int], modules: Sequence[str], value: Any) -> Any:
    grid = np.full((len(modules), len(layers)), np.nan)
    for spectrum in change.spectra:
        if spectrum.layer is not None:
            grid[modules.index(spectrum.module), layers.index(spectrum.layer)] = value(spectrum)
    return grid


def _kept_table(change: Change, verdict: Verdict) -> TableView:
    modules = modules_of(change)
    rows = [
        [str(rank), f"{share:.1%}", *(f"{kept_by_all([s for s in change.spectra if s.module == module], rank):.1%}" for module in modules)] for rank, share in verdict.kept.items()
    ]
    marked = frozenset(number for number, rank in enumerate(verdict.kept) if rank >= verdict.needed and (number == 0 or list(verdict.kept)[number - 1] < verdict.needed))
    return TableView(["rank", "all", *modules], rows, "Energy kept when every matrix is approximated by this rank; marked: the first that keeps 95%", marked)


def _module_table(change: Change) -> TableView:
    rows = []
    for module in modules_of(change):
        own = [spectrum for spectrum in change.spectra if spectrum.module == module]
        share = sum(s.energy for s in own) / (sum(s.energy for s in change.spectra) or 1.0)
        effective, stable = [s.effective_rank for s in own], [s.stable_rank for s in own]
        needs = [s.rank_for(ENOUGH) for s in own]
        rows.append([module, str(len(own)), f"{share:.1%}", _spread(effective), _spread(stable), f"{min(needs)} to {max(needs)}"])
    return TableView(["module", "matrices", "share of the energy", "effective rank", "stable rank", "rank for 95%"], rows, "Median, and from the least to the greatest")


def _spread(values: Sequence[float]) -> str:
    return f"{float(np.median(values)):.1f} ({min(values):.1f} to {max(values):.1f})"


def _matrix_table(change: Change) -> TableView:
    rows = [
        [
            spectrum.name,
            f"{spectrum.rows} x {spectrum.columns}",
            f"{spectrum.effective_rank:.1f}",
            f"{spectrum.stable_rank:.1f}",
            str(spectrum.rank_for(ENOUGH)),
            "-" if spectrum.rank_above_noise is None else str(spectrum.rank_above_noise),
            "-" if spectrum.relative_change is None else f"{spectrum.relative_change:.2%}",
        ]
        for spectrum in change.spectra
    ]
    return TableView(["matrix", "shape", "effective rank", "stable rank", "rank for 95%", "above noise", "change relative to the base"], rows)
