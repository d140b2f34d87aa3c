"""Metrics: what happened is counted once, under bounded labels, and Prometheus can read it."""

from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection

from syncd.app.metrics import CutOffs, Facts, Metrics, summary
from syncd.engine.commands import Decision, DeletedOld
from syncd.net.counters import Counters, Histogram
from tests.e2e.process import running
from tests.net.harness import world
from tests.net.test_http import said

FACTS = Facts(1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9, True)


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """(name, the value of the only label or "") -> value"""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def read(counters: Counters) -> dict[tuple[str, str], float]:
    media_type, body = Metrics(counters, lambda: FACTS).text()
    assert media_type.startswith("text/plain; version=")
    return samples(body)


def test_what_is_deleted_as_too_old_is_counted_by_document() -> None:
    counters = Counters()
    step = DeletedOld("home/1", (("chat", "a"), ("chat", "b")), is_more=False)
    counters.decided(Decision((step, DeletedOld("home/2", (), is_more=False)), (), ()))
    assert read(counters)["syncd_old_documents_deleted_total", ""] == 2


async def test_what_devices_do_is_counted(autojump_clock: MockClock) -> None:
    async with world() as w:
        writer, reader = await w.client(1), await w.client(2)
        await writer.subscribe()
        await reader.subscribe()
        await writer.push(writer.change(["create", "notes", "a"]), writer.change(["create", "notes", "b"]))
        await writer.expect("outcomes")
        await writer.expect("delta")
        await reader.expect("delta")
        late = await w.client(3)
        await late.subscribe()
        await late.expect("delta")
        await writer.send("unsubscribe", space="room/none")
        await writer.expect("error")
        await writer.send("bye")
        await writer.closing()
        await reader.send_event(CloseConnection(code=3456))
        await reader.closing()
        late.transport.abort()
        await said(w, b"GET / HTTP/1.1\r\n\r\n")
        await wait_all_tasks_blocked()
        found = read(w.hub.counters)
    assert found["syncd_upgrades_total", "accepted"] == 3
    assert found["syncd_connections_accepted_total", "served"] == 4
    # One hello each, three subscribes, a push, an unsubscribe, a bye.
    assert found["syncd_messages_received_total", ""] == 3 + 3 + 1 + 1 + 1
    assert found["syncd_deltas_sent_total", ""] == 2 and found["syncd_catchup_pages_total", ""] == 1
    assert found["syncd_sent_bytes_total", ""] > 300
    assert [found["syncd_closes_total", code] for code in ("1000", "peer", "lost")] == [1, 1, 1]
    assert ("syncd_closes_total", "3456") not in found, "a peer's code is no label"
    assert found["syncd_errors_total", "not_subscribed"] == 1
    assert found["syncd_http_refusals_total", "malformed-request"] == found["syncd_http_responses_total", "400"] == 1
    assert found["syncd_devices_behind", ""] == 3 and found["syncd_ready", ""] == 1


async def test_every_byte_that_is_handed_over_is_counted_once(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(1, buffer_bytes=500)
        await client.subscribe()
        writer = await w.client(2)
        for index in range(10):
            await writer.push(writer.change(["create", "c", str(index)], ["reg.set", "c", str(index), "f", "x" * 900]))
            await writer.expect("outcomes")
        complete = 0
        while complete < 10:
            message = await client.receive()
            complete = message["to"]
        assert w.hub.counters.fell_behind >= 1 and w.hub.counters.pages >= 1
        assert not any(member.delivery.is_behind for member in w.hub.members)


def test_a_histogram_counts_each_value_at_its_bound() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 4, 5):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1, 1] and histogram.count == 5 and histogram.total == 11.5


def test_commits_are_told_as_histograms() -> None:
    counters = Counters()
    for commands, seconds in ((1, 0.002), (3, 0.2), (64, 20.0)):
        counters.committed(commands, seconds)
    _, body = Metrics(counters, lambda: FACTS).text()
    found = {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["syncd_commit_seconds_bucket", "0.0025"] == 1 and found["syncd_commit_seconds_bucket", "+Inf"] == 3
    assert found["syncd_commit_seconds_count", ""] == 3 and found["syncd_commit_seconds_sum", ""] == pytest.approx(
        20.202
    )
    assert found["syncd_commit_commands_bucket", "4.0"] == 2 and found["syncd_commit_commands_sum", ""] == 68


def test_the_daemon_tells_metrics_on_its_admin_listener_and_a_summary_by_status(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        with urlopen(f"http://{daemon.admin}/metrics") as response:
            found = samples(response.read())
        assert found["syncd_ready", ""] == 1 and found["syncd_store_bytes_max", ""] == 64 << 30
        assert ("syncd_commit_seconds_count", "") in found
        assert "edge rate limited" in daemon.run("status")
        assert daemon.stop() == 0


def test_the_summary_is_plain_data() -> None:
    counters = Counters()
    counters.closes[4100] += 1
    assert summary(counters)["closes"] == {"4100": 1}


def test_what_was_cut_off_is_told_once_and_together() -> None:
    counters = Counters()
    cut_offs = CutOffs(counters)
    assert cut_offs.news() == {}
    counters.cut_off["no_progress"] += 3
    counters.cut_off["unfinished"] += 1
    assert cut_offs.news() == {"no_progress": 3, "unfinished": 1}
    assert cut_offs.news() == {}
    counters.cut_off["no_progress"] += 1
    assert cut_offs.news() == {"no_progress": 1}
