"""``python -m scripts.context_weights TRAIN.jsonl [DEV.jsonl...]``: fit the weights of :mod:`core.context` on human reply links, and print them with their recall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from core import context
from core.errors import DoujieError, InputError
from scripts.evaluation.context import DEPTHS, ReplyItem, reply_items
from scripts.evaluation.forms import Form, read_file

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
#: A quoted message is always the antecedent; IRC has no quotes to fit this on.
REPLY_TARGET_WEIGHT = 100.0


@app.command()
def main(
    train: Annotated[Path, typer.Argument(help="Channels with reply links to fit on.")],
    dev: Annotated[list[Path] | None, typer.Argument(help="Other channels to measure on.")] = None,
    inverse_regularisation: Annotated[float, typer.Option(min=1e-6, help="C of the logistic regression.")] = 1.0,
) -> None:
    """Fit, measure, and print the line for core/context.py."""
    try:
        items = load_items(train)
        weights = fit(items, inverse_regularisation)
        table = Table("file", "n", *(f"recall@{depth}" for depth in DEPTHS), *(f"last {depth}" for depth in DEPTHS))
        for path in (train, *(dev or [])):
            measured = items if path == train else load_items(path)
            table.add_row(str(path), str(len(measured)), *(f"{value:.3f}" for value in (*recall(measured, weights), *latest_recall(measured))))
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    Console().print(table)
    typer.echo(f"FEATURES = {context.FEATURES}")
    typer.echo(f"WEIGHTS = {weights}")


def load_items(path: Path) -> list[ReplyItem]:
    """All annotated replies of a file. Raises InputError when it holds none."""
    data = read_file(path)
    if data.form is not Form.CONTEXT:
        raise InputError(str(path), f"is a {data.form} file", "Give a file of channels, with messages and links.")
    items = [item for channel in data.records for item in reply_items(channel)]
    if not any(any(item.is_antecedent) for item in items):
        raise InputError(str(path), "has no reply links to earlier messages", "Give an annotated file.")
    return items


def fit(items: Sequence[ReplyItem], inverse_regularisation: float = 1.0) -> tuple[float, ...]:
    """Weights for :data:`core.context.FEATURES`, rounded to two digits: a logistic regression over all (message, earlier message) pairs."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rows: list[tuple[float, ...]] = []
    targets: list[bool] = []
    for item in track(items, "features", console=Console(stderr=True), transient=True):
        rows += context.features(item.utterance, item.earlier)
        targets += item.is_antecedent
    model = LogisticRegression(C=inverse_regularisation, max_iter=500).fit(np.asarray(rows)[:, 1:], np.asarray(targets))
    return (REPLY_TARGET_WEIGHT, *(round(float(weight), 2) for weight in model.coef_[0]))


def recall(items: Sequence[ReplyItem], weights: Sequence[float]) -> list[float]:
    """Recall at each of :data:`DEPTHS` when earlier messages are ranked by ``weights``, as :func:`core.context.rank` ranks them."""
    hits = dict.fromkeys(DEPTHS, 0)
    for item in items:
        scores = [sum(w * x for w, x in zip(weights, row, strict=True)) for row in context.features(item.utterance, item.earlier)]
        order = [index for _, index in sorted(((score, index) for index, score in enumerate(scores)), reverse=True)]
        for depth in DEPTHS:
            hits[depth] += any(item.is_antecedent[index] for index in order[:depth])
    return [hits[depth] / len(items) for depth in DEPTHS]


def latest_recall(items: Sequence[ReplyItem]) -> list[float]:
    """Recall of the last k messages."""
    return [sum(any(item.is_antecedent[-depth:]) for item in items) / len(items) for depth in DEPTHS]


if __name__ == "__main__":
    app()
