"""Counts and times for Prometheus. Labels are of fixed sets: routes, status codes, the names of the models."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("vitrail_requests", "Requests answered", ["route", "status"], registry=registry)
        self.images = Counter("vitrail_images", "Images answered", ["model"], registry=registry)
        self.gone = Counter("vitrail_gone", "Requests whose client went away", registry=registry)
        self.seconds = Histogram(
            "vitrail_seconds", "Seconds of an image", ["stage"], buckets=SECONDS, registry=registry
        )  # fmt: skip

    def watch(self, name: str, help_: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when it is read."""
        Gauge(f"vitrail_{name}", help_, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
