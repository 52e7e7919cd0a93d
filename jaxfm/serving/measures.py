"""What a server counts, in the text form of Prometheus."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
# Seconds: from a short text on an accelerator to a long document on a busy CPU.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """Counters and histograms of one server; the share of useful tokens is the quotient of two of them."""

    def __init__(self) -> None:
        """Makes a registry of its own: several servers in a process count apart."""
        self._registry = CollectorRegistry()

        registry, model = self._registry, ("model",)
        request = ("model", "endpoint")
        self._requests = Counter(
            "jaxfm_requests", "Requests that were answered.", (*request, "status"), registry=registry
        )
        self._seconds = Histogram(
            "jaxfm_request_seconds", "From request to answer.", request, registry=registry, buckets=_SECONDS
        )
        self._queue = Gauge("jaxfm_queue_inputs", "Inputs that wait for the model.", model, registry=registry)
        self._inputs = Counter("jaxfm_inputs", "Inputs that were computed.", model, registry=registry)
        self._together = Histogram(
            "jaxfm_portion_inputs", "Inputs that were computed together.", model, registry=registry, buckets=_INPUTS
        )
        self._busy = Counter("jaxfm_model_seconds", "Time in which the model computed.", model, registry=registry)
        self._computed = Counter(
            "jaxfm_computed_tokens", "Tokens that were computed, padding included.", model, registry=registry
        )
        self._useful = Counter(
            "jaxfm_useful_tokens", "Tokens that were computed and are no padding.", model, registry=registry
        )

    def answered(self, model: str, endpoint: str, status: int, seconds: float) -> None:
        """Counts a request that has its answer."""
        self._requests.labels(model, endpoint, str(status)).inc()
        self._seconds.labels(model, endpoint).observe(seconds)

    def queue(self, model: str, inputs: int) -> None:
        """Notes how many inputs wait."""
        self._queue.labels(model).set(inputs)

    def portion(self, model: str, inputs: int, seconds: float, computed: int, useful: int) -> None:
        """Counts inputs that were computed together, and the tokens (or patches) of their rows."""
        self._inputs.labels(model).inc(inputs)
        self._together.labels(model).observe(inputs)
        self._busy.labels(model).inc(seconds)
        self._computed.labels(model).inc(computed)
        self._useful.labels(model).inc(useful)

    def text(self) -> bytes:
        """Returns all of it as a scraper reads it."""
        return prometheus_client.generate_latest(self._registry)
