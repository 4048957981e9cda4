"""Prometheus metrics of one server, on a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from assay.server.result import Answer
    from assay.server.served import ServedModel

SECONDS: Final = tuple(
    x / 1e3 for x in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2500, 5000, 10000, 60000)
)
"""Buckets from a quarter of a millisecond to a minute."""
TOKENS: Final = (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576)
ITEMS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class _ModelMetrics:
    """The children of every metric for one model: looking labels up costs as much as counting."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        def child(metric: Any) -> Any:
            return metric.labels(model_name=name)

        self.items = child(metrics.items)
        self.prompt_tokens = child(metrics.prompt_tokens)
        self.success = child(metrics.success)
        self.truncated = child(metrics.truncated)
        self.request_tokens = child(metrics.request_tokens)
        self.request_items = child(metrics.request_items)
        self.latency = child(metrics.latency)
        self.tokenize = child(metrics.tokenize)
        self.queue = child(metrics.queue)
        self.compute = child(metrics.compute)
        self.serialize = child(metrics.serialize)


class Metrics:
    """What requests did; what the engines are doing is asked when someone reads the page.

    Names of vLLM are used where they mean the same.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.registry = CollectorRegistry()
        by_model = ("model_name",)

        def counter(name: str, text: str, labels: tuple[str, ...] = by_model) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(name, text, by_model, buckets=SECONDS, registry=self.registry)

        def sizes(name: str, text: str, buckets: tuple[int, ...]) -> Histogram:
            return Histogram(name, text, by_model, buckets=buckets, registry=self.registry)

        self.success = counter("vllm:request_success", "Requests answered with a result.")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens read.")
        self.items = counter("assay_items", "Texts and pairs answered.")
        self.truncated = counter("assay_truncated_items", "Texts and pairs that were cut.")
        self.rejected = counter("assay_rejected_requests", "Requests without a result.", ("model_name", "reason"))
        self.http = counter("assay_http_requests", "HTTP replies.", ("route", "method", "status"))
        self.cancelled = counter("assay_cancelled_requests", "Requests whose client went away.", ())
        self.request_tokens = sizes("vllm:request_prompt_tokens", "Tokens of one request.", TOKENS)
        self.request_items = sizes("assay_request_items", "Texts and pairs of one request.", ITEMS)
        self.latency = seconds("vllm:e2e_request_latency_seconds", "From the request's first byte to the reply.")
        self.queue = seconds("vllm:request_queue_time_seconds", "Waiting for a batch.")
        self.compute = seconds("vllm:request_inference_time_seconds", "In batches.")
        self.tokenize = seconds("assay_request_tokenize_time_seconds", "Turning text into tokens.")
        self.serialize = seconds("assay_request_serialize_time_seconds", "Writing the reply.")
        self.in_flight = Gauge("assay_requests_in_flight", "Requests being worked on.", registry=self.registry)
        self._models = {model: _ModelMetrics(self, model.name) for model in models}
        self.registry.register(_EngineCollector(tuple(self._models)))

    def answered(self, answer: Answer, total_s: float, serialize_s: float) -> None:
        """Count a request that got its result; those of adapters are their model's."""
        own, timing = self._models[answer.model.base], answer.timing
        own.success.inc()
        own.items.inc(len(answer.items))
        own.prompt_tokens.inc(answer.num_tokens)
        own.request_tokens.observe(answer.num_tokens)
        own.request_items.observe(len(answer.items))
        own.latency.observe(total_s)
        own.tokenize.observe(timing.tokenize_s)
        own.queue.observe(timing.queue_s)
        own.compute.observe(timing.compute_s)
        own.serialize.observe(serialize_s)
        if num_truncated := answer.num_truncated:
            own.truncated.inc(num_truncated)

    def refused(self, model: ServedModel | None, reason: str) -> None:
        """Count a request that got none."""
        self.rejected.labels(model_name="" if model is None else model.base.name, reason=reason).inc()

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """What every engine is doing now."""

    def __init__(self, models: tuple[ServedModel, ...]) -> None:
        self._models = models

    def describe(self) -> Iterator[Metric]:
        """No samples before the engines are asked."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per quantity, one sample per model."""
        stats = [(model.name, model.engine.stats()) for model in self._models]
        gauges = (
            ("vllm:num_requests_running", "Sequences in the batch being computed.", "running_items"),
            ("vllm:num_requests_waiting", "Sequences waiting for a batch.", "queued_items"),
            ("assay_queue_tokens", "Tokens waiting for a batch.", "queued_tokens"),
            ("assay_queue_oldest_age_seconds", "How long the oldest waiting sequence has waited.", "oldest_age_s"),
            ("assay_drain_tokens_per_second", "Tokens computed per second, lately.", "drain_tokens_per_s"),
            ("assay_batch_fill_ratio", "Share of the token budget the last batches used.", "batch_fill"),
            ("assay_engine_alive", "Whether the compute thread runs.", "is_alive"),
        )
        for name, text, attribute in gauges:
            family = GaugeMetricFamily(name, text, labels=("model_name",))
            for model, values in stats:
                family.add_metric((model,), float(getattr(values, attribute)))
            yield family
        batches = CounterMetricFamily("assay_batches", "Batches computed.", labels=("model_name",))
        for model, values in stats:
            batches.add_metric((model,), float(values.batches))
        yield batches
