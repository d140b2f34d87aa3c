"""Metrics: what `net.counters` counted and what is true now, as Prometheus text and for `syncd status`.

Owns names, help texts and labels of the metrics, which dashboards and alarms depend on. Must not decide or count
anything: the numbers are read when someone asks, so between two scrapes metrics cost what the counters cost.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from syncd.net.counters import Counters, Histogram


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true at the moment. `polled`: connections without a WebSocket. `waiting`: requests that wait for
    something to happen. `behind`: devices for whom something waits, of the socket or of the store."""

    connections: int
    polled: int
    waiting: int
    devices: int
    behind: int
    rooms: int
    queue_commands: int
    queue_bytes: int
    commands_failed: int
    store_used_bytes: int
    store_bytes_max: int
    is_ready: bool


class Metrics(Collector):
    """The collector of a registry of its own: two daemons in one process do not share numbers."""

    def __init__(self, counters: Counters, facts: Callable[[], Facts]) -> None:
        self._counters, self._facts = counters, facts
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> tuple[str, bytes]:
        """(media type, body)"""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges(self._facts())
        yield from self._counts()
        counters = self._counters
        yield _histogram(
            "syncd_commit_seconds", "Write transactions, from their begin to the fsync.", counters.commit_s
        )
        yield _histogram("syncd_commit_commands", "Commands that were committed together.", counters.batch_commands)

    def _gauges(self, facts: Facts) -> Iterator[Metric]:
        yield GaugeMetricFamily("syncd_connections", "Open connections, HTTP and WebSocket.", facts.connections)
        yield GaugeMetricFamily("syncd_polled_connections", "Devices that poll for want of a WebSocket.", facts.polled)
        yield GaugeMetricFamily("syncd_waiting_requests", "Requests that wait for a change of a space.", facts.waiting)
        yield GaugeMetricFamily("syncd_devices", "Devices that are connected.", facts.devices)
        yield GaugeMetricFamily("syncd_devices_behind", "Of these, with data waiting for them.", facts.behind)
        yield GaugeMetricFamily("syncd_listened_spaces", "Spaces that someone subscribes to.", facts.rooms)
        yield GaugeMetricFamily("syncd_queue_commands", "Commands that wait to be written.", facts.queue_commands)
        yield GaugeMetricFamily("syncd_queue_bytes", "Memory that these take, about.", facts.queue_bytes)
        yield GaugeMetricFamily("syncd_store_used_bytes", "Room that the store uses.", facts.store_used_bytes)
        yield GaugeMetricFamily("syncd_store_bytes_max", "store.map_bytes_max.", facts.store_bytes_max)
        yield GaugeMetricFamily("syncd_ready", "1: writes are taken.", int(facts.is_ready))
        yield CounterMetricFamily("syncd_commands_failed", "Commands answered with `failed`.", facts.commands_failed)

    def _counts(self) -> Iterator[Metric]:
        c = self._counters
        for name, help_text, label, counts in (
            ("connections_accepted", "Connections by what became of them.", "result", c.connections),
            ("upgrades", "Requests for a WebSocket: accepted, or the problem.", "result", c.upgrades),
            ("http_responses", "HTTP answers by status.", "status", c.responses),
            ("http_refusals", "Requests that were not handled, by problem.", "problem", c.refusals),
            ("closes", "Ends of WebSockets by our close code, or `peer`, `lost`.", "code", c.closes),
            ("cut_off", "Connections ended for what they held unread or unfinished.", "why", c.cut_off),
            ("errors", "Messages `error` that were sent, by name.", "name", c.errors),
            ("rate_limited", "Refusals and pauses by kind of rate.", "kind", c.rate_limited),
            ("authentication_failures", "Credentials that were refused, by reason.", "reason", c.unauthenticated),
            ("changes", "Outcomes decided, by name.", "outcome", c.changes),
            ("signals", "Signals: what became of them, once for each listener.", "result", c.signals),
        ):
            yield _labelled(f"syncd_{name}", help_text, label, counts)
        yield CounterMetricFamily("syncd_messages_received", "Messages of devices.", c.messages_received)
        yield CounterMetricFamily("syncd_deltas_sent", "Deltas handed to live subscribers.", c.deltas_sent)
        yield CounterMetricFamily("syncd_sent_bytes", "Bytes of frames handed to sockets.", c.bytes_sent)
        yield CounterMetricFamily("syncd_catchup_pages", "Deltas read from the store for devices behind.", c.pages)
        yield CounterMetricFamily(
            "syncd_foreign_positions",
            "Positions of this epoch that are not of its history: the store or a device was set back.",
            c.foreign_positions,
        )
        yield CounterMetricFamily("syncd_fell_behind", "Live subscriptions that a full socket stopped.", c.fell_behind)
        yield CounterMetricFamily("syncd_late_changes", "Changes made before what all active devices have.", c.late)
        yield CounterMetricFamily("syncd_lapsed_devices", "Devices that were away beyond the retention.", c.lapsed)
        yield CounterMetricFamily("syncd_leases_ended", "Leases that ended by time.", c.leases_ended)
        yield GaugeMetricFamily(
            "syncd_lease_clock_lag_seconds", "Time shown by the wall clock that is not confirmed to have passed.",
            c.lease_clock_lag_ms / 1000,
        )  # fmt: skip
        yield CounterMetricFamily("syncd_reconciliations", "Comparisons that devices began.", c.reconciled)
        yield CounterMetricFamily("syncd_repaired_documents", "Documents that these found to differ.", c.repaired)
        yield CounterMetricFamily(
            "syncd_old_documents_deleted", "Documents that nobody had changed for as long as their schema keeps them.",
            c.deleted_old,
        )  # fmt: skip
        yield CounterMetricFamily("syncd_collected_rows", "Rows that nobody needs any more, dropped.", c.collected)


def _labelled(name: str, help_text: str, label: str, counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((str(value),), count)
    return family


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    buckets, running = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        running += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), running))
    family = HistogramMetricFamily(name, help_text)
    family.add_metric((), buckets, histogram.total)
    return family


def summary(counters: Counters) -> dict[str, Any]:
    """What an operator wants to see of the edge at a glance, for `syncd status`."""
    return {
        "upgrades": dict(counters.upgrades),
        "closes": {str(code): count for code, count in counters.closes.items()},
        "cut_off": dict(counters.cut_off),
        "refusals": dict(counters.refusals),
        "rate_limited": dict(counters.rate_limited),
        "authentication_failures": dict(counters.unauthenticated),
        "changes": dict(counters.changes),
        "deltas_sent": counters.deltas_sent,
        "signals": dict(counters.signals),
        "sent_bytes": counters.bytes_sent,
    }


class CutOffs:
    """What is logged of connections that were cut off: what is new since the last time, so that a thousand phones that
    leave a train make one line."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._told: dict[str, int] = {}

    def news(self) -> dict[str, int]:
        """Why, and how many, since the last call. Empty if there were none."""
        now = dict(self._counters.cut_off)
        new = {why: count - self._told.get(why, 0) for why, count in now.items() if count > self._told.get(why, 0)}
        self._told = now
        return new
