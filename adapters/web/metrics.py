"""Prometheus metrics on a registry of their own: read from the objects that count, at the moment of the scrape; stage times are observed as they happen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from core.bus import EventBus
from core.delivery import Delivery
from core.events import QuestionJudged, QuestionResolved
from core.ingest import Ingest
from core.pipeline import Pipeline
from core.ports import Adapter
from core.responder import Responder

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Sources:
    """What is measured; each may be absent. ``failovers``: times that one model back end handed over to the next, by stage; ``outbox``: replies by state, asked at each scrape."""

    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    bus: EventBus | None = None
    ingest: Ingest | None = None
    pipeline: Pipeline | None = None
    responder: Responder | None = None
    delivery: Delivery | None = None
    failovers: Callable[[], Mapping[str, int]] | None = None
    outbox: Callable[[], Awaitable[Mapping[Any, int]]] | None = None


class Metrics:
    """One registry over one set of sources."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stages = Histogram("doujie_stage_seconds", "Time of one run of a stage", ["stage"], registry=self.registry, buckets=STAGE_BUCKETS)
        self._source: _SourceCollector | None = None

    def observe(self, stage: str, seconds: float) -> None:
        """Implements :class:`core.timings.Observe`."""
        self._stages.labels(stage).observe(seconds)

    def watch(self, sources: Sources) -> None:
        """Measure ``sources`` from now on. To be called once; the objects themselves may want :meth:`observe` before they exist here."""
        self._source = _SourceCollector(sources)
        self.registry.register(self._source)
        if sources.bus is not None:
            sources.bus.subscribe(QuestionJudged, self._on_judged)
            sources.bus.subscribe(QuestionResolved, self._on_resolved)

    async def render(self) -> bytes:
        """The text format of Prometheus. Raises StorageError when the outbox cannot be read."""
        if self._source is not None:
            await self._source.refresh()
        return generate_latest(self.registry)

    async def _on_judged(self, event: QuestionJudged) -> None:
        self.observe("gate", event.verdict.latency_ms / 1000)

    async def _on_resolved(self, event: QuestionResolved) -> None:
        if event.resolution is not None:
            self.observe("resolver", event.resolution.latency_ms / 1000)


class _SourceCollector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._outbox: Mapping[Any, int] = {}

    async def refresh(self) -> None:
        if self._sources.outbox is not None:
            self._outbox = await self._sources.outbox()

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not read the sources

    def collect(self) -> Iterable[Metric]:
        yield from self._adapters()
        yield from self._ingest()
        yield from self._pipeline()
        yield from self._replies()

    def _adapters(self) -> Iterable[Metric]:
        connected = GaugeMetricFamily("doujie_adapter_connected", "1 while the adapter is connected", labels=["platform"])
        age = GaugeMetricFamily("doujie_adapter_last_event_age_seconds", "Time since the last event of the platform", labels=["platform"])
        waiting = GaugeMetricFamily("doujie_adapter_waiting", "Messages that arrived and are not handed on yet", labels=["platform"])
        dropped = CounterMetricFamily("doujie_adapter_dropped", "Messages that the adapter gave up", labels=["platform", "reason"])
        for platform, adapter in self._sources.adapters.items():
            health = adapter.health()
            waiting.add_metric([platform], health.waiting)
            for reason, number in health.dropped.items():
                dropped.add_metric([platform, reason], number)
            connected.add_metric([platform], float(health.connected))
            if health.last_event_age is not None:
                age.add_metric([platform], health.last_event_age)
        yield from (connected, age, waiting, dropped)

    def _ingest(self) -> Iterable[Metric]:
        if self._sources.ingest is None:
            return
        counts = self._sources.ingest.counts
        for name, help_text in _INGEST.items():
            yield _counter(f"doujie_messages_{name}", help_text, ["platform"], {(platform,): getattr(of, name) for platform, of in counts.items()})
        dropped = {(platform, str(reason)): number for platform, of in counts.items() for reason, number in of.dropped.items()}
        yield _counter("doujie_messages_dropped", "Messages that were refused", ["platform", "reason"], dropped)

    def _pipeline(self) -> Iterable[Metric]:
        bus, pipeline = self._sources.bus, self._sources.pipeline
        if bus is not None:
            yield CounterMetricFamily("doujie_bus_events", "Events that were handled", value=bus.handled)
            yield CounterMetricFamily("doujie_bus_handler_failures", "Handlers that raised", value=bus.failures)
        if pipeline is not None:
            waiting = GaugeMetricFamily("doujie_queue_length", "What waits for a stage", labels=["stage"])
            for stage, length in self._waiting(pipeline).items():
                waiting.add_metric([stage], length)
            yield waiting
            for name, help_text in _PIPELINE.items():
                yield CounterMetricFamily(f"doujie_{name}", help_text, value=getattr(pipeline.counts, name))
        if self._sources.failovers is not None:
            yield _counter(
                "doujie_model_failovers", "Times that a model back end handed over to the next", ["stage"], {(stage,): n for stage, n in self._sources.failovers().items()}
            )

    def _waiting(self, pipeline: Pipeline) -> dict[str, int]:
        responder = self._sources.responder
        return {**pipeline.waiting, **({"answer": responder.waiting} if responder is not None else {})}

    def _replies(self) -> Iterable[Metric]:
        if self._sources.responder is not None:
            decided = {(str(result),): number for result, number in self._sources.responder.counts.items()}
            yield _counter("doujie_reply_decisions", "What became of questions that could be replied to", ["result"], decided)
        if self._sources.delivery is not None:
            sent = {(platform, str(outcome)): number for platform, of in self._sources.delivery.counts.items() for outcome, number in of.items()}
            yield _counter("doujie_deliveries", "Attempts to send a reply", ["platform", "outcome"], sent)
        if self._sources.outbox is not None:
            outbox = GaugeMetricFamily("doujie_outbox_replies", "Replies in the outbox", labels=["state"])
            for state, number in self._outbox.items():
                outbox.add_metric([str(state)], number)
            yield outbox


_INGEST = {
    "received": "Messages that the platform delivered",
    "stored": "Messages that were new and stored",
    "duplicates": "Messages that were stored before",
    "failed": "Messages that could not be stored",
    "recalled": "Stored messages that members took back",
}
_PIPELINE = {
    "utterances": "Utterances that were closed",
    "questions": "Utterances that ask something",
    "judged": "Questions that the gate judged",
    "needs_resolution": "Questions that need resolution",
    "resolved": "Questions with an accepted rewrite",
    "backend_failures": "Failures of model back ends and of the log",
}


def _counter(name: str, help_text: str, labels: list[str], values: Mapping[tuple[str], int] | Mapping[tuple[str, str], int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family
