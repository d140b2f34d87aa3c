"""The load: frames are what RFC 6455 says, messages are what the server reads, and C counts what comes back."""

import shutil
from pathlib import Path

import pytest

from bench import workload
from bench.daemon import device
from bench.durable import CHANGES, DOCUMENTS, trace
from bench.fanout import SPACE, Limit, publisher
from bench.measure import cores
from bench.native import Devices, Failed, compiled
from syncd.core.changes import Change
from syncd.wire.codec import MSGPACK
from syncd.wire.messages import Hello, Push, Subscribe

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def unmasked(frame: bytes) -> bytes:
    assert frame[0] == 0x82 and frame[1] & 0x80
    size, start = frame[1] & 0x7F, 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size, start = int.from_bytes(frame[2 : 2 + width]), 2 + width
    mask, data = frame[start : start + 4], frame[start + 4 :]
    assert len(data) == size
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_client_frame_is_masked_and_says_its_length(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    assert unmasked(workload.client_frame(payload)) == payload


def test_the_server_reads_every_kind_of_message_that_is_sent() -> None:
    (hello,) = MSGPACK.decode(workload.hello_message(bytes(16), "token"))
    (subscribe,) = MSGPACK.decode(workload.subscribe_message("bench/a"))
    assert isinstance(hello, Hello) and hello.token == "token"
    assert isinstance(subscribe, Subscribe) and subscribe.space == "bench/a" and subscribe.epoch is None


def test_pushes_number_their_changes_without_gap_and_each_change_has_about_a_hundred_bytes() -> None:
    pushes = [MSGPACK.decode(data)[0] for data in workload.three_field_pushes("bench/a", 3, CHANGES, DOCUMENTS)]
    assert all(isinstance(push, Push) for push in pushes)
    changes = [change for push in pushes if isinstance(push, Push) for change in push.changes]
    assert [change.n for change in changes] == list(range(1, 3 * CHANGES + 1))
    assert all(isinstance(change, Change) for change in changes)
    last = changes[-1]
    assert isinstance(last, Change) and [operation.verb for operation in last.operations[-3:]] == ["reg.set"] * 3
    assert 70 <= sum(len(str(operation.args[0])) for operation in last.operations[-3:]) <= 130


def test_the_trace_holds_the_rows_of_every_change() -> None:
    batches = trace(1, 50)
    keys = {key for rows in batches for key, _ in rows}
    assert len(batches) == 2
    assert sum(key.startswith(b"G") for key in keys) == 100 * CHANGES  # one row in a device's log for each change


@needs_compiler
def test_the_generator_counts_each_change_once_at_each_subscriber(tmp_path: Path) -> None:
    server_core, load_core = cores()
    with Limit(compiled("limit", tmp_path), tmp_path, server_core) as limit:
        plans = [publisher(limit.port, "token", 300)]
        plans += [device(limit.port, f"subscriber {index}", "token", space=SPACE) for index in range(20)]
        with Devices(compiled("devices", tmp_path), limit.port, plans, tmp_path, load_core) as devices:
            assert devices.open()["connections"] == 21
            for window, count in ((1, 50), (16, 200)):
                counted = devices.go(window, count)
                assert (counted["outcomes"], counted["delivered"]) == (count, 20 * count)
            with pytest.raises(Failed, match="too few pushes"):
                devices.go(1, 100)
