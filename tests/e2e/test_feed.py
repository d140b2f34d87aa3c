"""A backend that follows a space of the real daemon: waits, crashes of either side, streams that end in order."""

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import STOP_S, Daemon, run, running

SPACE = "/v1/spaces/user%2F42"
MAILER = f"{SPACE}/consumers/mailer"


def asked(daemon: Daemon, secret: str, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """(status, JSON)"""
    connection = http.client.HTTPConnection(daemon.http, timeout=STOP_S)
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    connection.request(method, target, None if body is None else json.dumps(body), headers)
    with connection.getresponse() as response:
        content = response.read()
    connection.close()
    return response.status, json.loads(content) if content else None


def write(daemon: Daemon, *operations: list[Any]) -> str:
    status, answer = asked(daemon, daemon.token("42"), "POST", f"{SPACE}/changes", {"operations": list(operations)})
    assert (status, answer["outcome"]) == (200, "applied")
    return str(answer["position"])


def put(daemon: Daemon, title: str) -> str:
    return write(daemon, ["reg.set", "task", "1", "title", title])


def titles(delta: dict[str, Any]) -> list[Any]:
    return [document["fields"].get("title") for document in delta["documents"]]


def test_a_consumer_outlives_crashes_of_both_sides_between_delivery_and_acknowledgement(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        secret = daemon.run("apikey", "create", "mailer", "--scope", "documents:read:user/*")
        write(daemon, ["create", "task", "1"], ["reg.set", "task", "1", "title", "milk"])
        status, made = asked(daemon, secret, "PUT", MAILER, {"start": "head"})
        assert (status, made["lag"]) == (201, 0)
        answers: list[Any] = []
        waiting = threading.Thread(
            target=lambda: answers.append(asked(daemon, secret, "GET", f"{MAILER}/changes?wait=50"))
        )
        waiting.start()
        put(daemon, "bread")
        waiting.join(STOP_S)
        ((status, delivered),) = answers
        assert (status, titles(delivered)) == (200, ["bread"])
        daemon.kill()
    with running(tmp_path) as daemon:
        status, again = asked(daemon, secret, "GET", f"{MAILER}/changes")
        assert (status, again) == (200, delivered), "delivered and not acknowledged: it comes again"
        acked = asked(daemon, secret, "POST", f"{MAILER}/ack", {"position": delivered["to"]})
        assert (acked[0], acked[1]["position"]) == (200, delivered["to"])
        daemon.kill()
    with running(tmp_path) as daemon:
        status, nothing = asked(daemon, secret, "GET", f"{MAILER}/changes")
        assert (status, nothing["documents"], nothing["to"]) == (200, [], delivered["to"])
        put(daemon, "eggs")
        (shown,) = json.loads(daemon.run("consumers", "user/42", "--json"))
        assert (shown["owner"], shown["name"], shown["lag"]) == ("key:mailer", "mailer", 1)
        assert " mailer " in daemon.run("consumers", "user/42")
        assert daemon.stop() == 0
        offline = run(tmp_path, "consumers", "user/42", "--json")
        assert json.loads(offline.stdout) == [shown], "the store tells the same without a daemon"
        assert run(tmp_path, "fsck").stdout == "The store is sound.\n"


@contextmanager
def opened(daemon: Daemon, after: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(daemon.http, timeout=STOP_S)
    headers = {"Authorization": f"Bearer {daemon.token('42')}", "Accept": "text/event-stream"}
    connection.request("GET", f"{SPACE}/changes", headers=headers | {"Last-Event-ID": after})
    with closing(connection), connection.getresponse() as response:
        assert response.status == 200
        yield response


def event(stream: http.client.HTTPResponse) -> dict[str, Any]:
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream has ended"
    delta: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return delta


def test_a_stream_goes_on_after_the_last_id_and_ends_in_order_when_the_daemon_stops(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        place = write(daemon, ["create", "task", "1"], ["reg.set", "task", "1", "title", "milk"])
        with opened(daemon, place) as stream:
            for title in ("bread", "eggs"):
                put(daemon, title)
                delta = event(stream)
                assert (titles(delta), delta["after"]) == ([title], place)
                place = delta["to"]
            daemon.signal(signal.SIGTERM)
            rest = stream.read()  # raises `IncompleteRead` unless the last chunk came
            assert b"data:" not in rest
        assert daemon.wait() == 0
    with running(tmp_path) as daemon:
        put(daemon, "salt")
        put(daemon, "pepper")
        with opened(daemon, place) as stream:
            delta = event(stream)
        assert (titles(delta), delta["after"]) == (["pepper"], place)


def test_a_stream_of_a_daemon_that_is_killed_has_no_end_in_order(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        place = write(daemon, ["create", "task", "1"])
        with opened(daemon, place) as stream:
            put(daemon, "bread")
            event(stream)
            daemon.kill()
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                stream.read()
