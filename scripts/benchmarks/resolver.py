"""What each part of the shipped resolver costs: the same questions by the trees alone, with the pointers, with the reader, and with all, in turn for each question. Times in
milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import copy
from typing import Any

from core.gates.factory import SHIPPED, open_reader
from core.gates.worker import ModelWorker
from core.ranker import AntecedentRanker
from core.resolver import EditResolver
from scripts.benchmarks.examples import Sample
from scripts.evaluation.windows import Outcome

TREES, POINTERS, READER, ALL = "trees", "trees and pointers", "trees and reader", "trees, pointers and reader"


async def resolver_parts(sample: Sample, threads: int = 0, advance: Callable[[], None] = lambda: None) -> dict[str, dict[str, Any]]:
    """By part and for all that need resolution: time of a question, its ratio to the trees alone, and what is right and wrong of what is given (the shipped thresholds).

    Without the packaged encoder there are no pointers, and their rows are left out. The first question warms up.
    """
    ranker = AntecedentRanker.load(SHIPPED / "resolver")
    reader = open_reader(threads)
    worker = ModelWorker()
    alone = copy(ranker)
    alone.pointers = {}
    ways = {TREES: EditResolver(alone, worker), READER: EditResolver(alone, worker, reader=reader)}
    if ranker.pointers:
        ways |= {POINTERS: EditResolver(ranker, worker), ALL: EditResolver(ranker, worker, reader=reader)}
    asked = [example for example in sample.examples if example.needs]
    times: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, list[Outcome | None]] = {name: [] for name in ways}
    try:
        for index, example in enumerate([asked[0], *asked]):
            for name, way in ways.items():
                started = time.perf_counter()
                resolution = await way.resolve(example.question)
                if index:
                    times[name].append((time.perf_counter() - started) * 1000.0)
                    given[name].append(example.outcome(resolution.rewrite))
            advance()
    finally:
        await worker.run(reader.close)
        worker.close()
    mean = {name: statistics.mean(values) for name, values in times.items()}
    return {
        name: {
            "questions": len(asked),
            "mean_ms": mean[name],
            "median_ms": statistics.median(times[name]),
            "over_trees": mean[name] / mean[TREES],
            "right": given[name].count(Outcome.RIGHT),
            "wrong": given[name].count(Outcome.WRONG),
        }
        for name in ways
    }
