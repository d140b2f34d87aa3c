"""The command line: offline edits, exit codes, the script, and a real socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import trio
import trio_websocket
from click.testing import CliRunner

from syncd_client import open_device
from syncd_client.cli import cli

SPACE = "shop/cart/9"


def run(store: Path, *arguments: str) -> tuple[int, list[Any], str]:
    result = CliRunner().invoke(cli, ["--store", str(store), *arguments])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_edits_made_offline_are_queued_and_shown(tmp_path: Path) -> None:
    assert run(tmp_path, "create", SPACE, "items", "a", 'name="x"', 'raw={"$b":"_w"}')[0] == 0
    for words in (["inc", "qty", "-3"], ["add", "tags", '"t"'], ["put", "by", "k", "[1,2]"], ["enable", "done"]):
        code, (line,), _ = run(tmp_path, words[0], SPACE, "items", "a", *words[1:])
        assert (code, line["outcome"]) == (0, None)
    code, (document,), _ = run(tmp_path, "get", SPACE, "items", "a")
    assert code == 0
    created = {"name": "x", "raw": {"$b": "_w"}}
    assert document["fields"] == {**created, "qty": -3, "tags": ["t"], "by": {"k": [1, 2]}, "done": True}
    code, (status,), _ = run(tmp_path, "status")
    assert (status["outbox"], status["spaces"][0]["next_n"]) == (5, 6)
    assert run(tmp_path, "delete", SPACE, "items", "a")[0] == 0
    assert run(tmp_path, "list", SPACE, "items") == (0, [], "")


def test_a_list_is_edited_by_places(tmp_path: Path) -> None:
    def edit(word: str, *rest: str) -> tuple[int, list[Any], str]:
        return run(tmp_path, word, SPACE, "todo", "t", "items", *rest)

    assert run(tmp_path, "create", SPACE, "todo", "t")[0] == 0
    for word, *rest in (["insert", '"b"', '"c"'], ["insert", '"a"', "--at", "0"], ["move", "2", "0"], ["remove", "1"]):
        assert edit(f"list-{word}", *rest)[0] == 0
    _, (document,), _ = run(tmp_path, "get", SPACE, "todo", "t")
    assert [value for _position, value in document["fields"]["items"]] == ["c", "b"]
    code, _, error = edit("list-remove", "2")
    assert (code, error) == (2, "error: list: no element 2; there are 2, counted from 0\n")


def test_a_stock_is_leased_and_taken_from_as_far_as_it_is_certain(tmp_path: Path) -> None:
    stock = (SPACE, "stock", "a", "left")
    assert run(tmp_path, "create", *stock[:3])[0] == 0
    for words in (("restock", *stock, "9"), ("lease", *stock, "2"), ("lease", *stock, "1", "--ttl", "60")):
        assert run(tmp_path, *words)[0] == 0
    assert run(tmp_path, "take", *stock, "--uncertain")[0] == 0
    amounts = {"available": 5, "leased": 3, "taken": 1, "total": 9}
    code, (document,), _ = run(tmp_path, "get", *stock[:3])
    assert (code, document["fields"]) == (0, {"left": amounts})
    assert run(tmp_path, "leases", SPACE) == (0, [], ""), "none is granted yet"
    code, _, error = run(tmp_path, "take", *stock, "2")
    assert code == 1 and "the leases of this device cover 0 of 2 units" in error
    assert run(tmp_path, "give", *stock)[0] == 1
    assert run(tmp_path, "take", *stock, "0")[0] == 2
    assert run(tmp_path, "refund", *stock, "1")[0] == 0


def test_exit_codes_say_who_has_to_act(tmp_path: Path) -> None:
    code, lines, error = run(tmp_path, "get", SPACE, "items", "a")
    assert (code, lines, error) == (1, [], f"error: there is no items/a in {SPACE}\n")
    code, _, error = run(tmp_path, "set", SPACE, "items", "a", "name", "x")
    assert code == 2
    assert "text needs quotes" in error
    code, _, error = run(tmp_path, "set", "a//b", "items", "a", "name", "1")
    assert code == 2
    assert error.startswith("error: space: segment ''")
    assert run(tmp_path, "sync")[0] == 2
    assert run(tmp_path, "--url", "http://x", "sync")[0] == 2
    code, lines, error = run(
        tmp_path, "--url", "ws://127.0.0.1:9", "--timeout", "0.2", "inc", SPACE, "items", "a", "n", "1"
    )
    assert (code, lines[0]["outbox"]) == (5, 1)
    assert "stays in the outbox" in error
    assert run(tmp_path, "create", SPACE, "items", "b")[0] == 0
    assert run(tmp_path, "create", SPACE, "items", "b")[0] == 1
    (tmp_path / "replica.db").write_text("damaged")
    code, _, error = run(tmp_path, "status")
    assert code == 1
    assert "cannot open the store" in error


@contextmanager
def script(store: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-m", "syncd_client.cli", "--store", str(store), "script"]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], **command: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    while "op" not in (line := json.loads(process.stdout.readline())):
        pass
    return line


def test_what_a_script_committed_survives_kill_9(tmp_path: Path) -> None:
    create = ["create", "items", "a"]
    with script(tmp_path) as process:
        answer = ask(process, op="commit", space=SPACE, operations=[create], ref="x")
        assert (answer["ok"], answer["n"], answer["ref"]) == (True, 1, "x")
        assert ask(process, op="commit", space=SPACE, operations=[["nonsense"]])["ok"] is False
        assert "unknown op 'dance'" in ask(process, op="dance")["error"]
        assert "'space' is missing" in ask(process, op="get")["error"]
        for _ in range(20):
            ask(process, op="commit", space=SPACE, operations=[["counter.inc", "items", "a", "n", 1]])
        process.send_signal(signal.SIGKILL)
    with script(tmp_path) as process:
        document = ask(process, op="get", space=SPACE, collection="items", id="a")["document"]
        assert (document["fields"], document["pending"]) == ({"n": 20}, 21)
        assert ask(process, op="status")["outbox"] == 21
        assert ask(process, op="quit")["ok"] is True
        assert process.wait(5) == 0


def answers(code: int, body: Any) -> Iterator[Any]:
    """What the smallest server says to a subscribe or a push: everything is a noop."""
    epoch = {"space": SPACE, "epoch": b"E" * 16}
    if code == 2:
        yield [33, {**epoch, "head": 0, "safe": 0, "role": "owner", "mode": "live"}]
    if code == 4:
        entries = [[change[0], change[1], "noop", change[0]] for change in body["changes"]]
        yield [35, {**epoch, "outcomes": entries}]
        positions = {"from": 0, "after": 0, "to": entries[-1][0], "complete": True, "t": 1, "chain": b"C" * 8}
        yield [34, {**epoch, **positions, "docs": []}]


async def test_a_device_talks_over_a_real_socket(tmp_path: Path) -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        assert request.path == "/v1/sync"
        socket = await request.accept(subprotocol=request.proposed_subprotocols[0])
        code, hello = msgpack.unpackb(await socket.get_message())
        assert (code, hello["token"]) == (1, "T")
        welcome = {"session": b"S" * 16, "time": 0, "user": "42", "resumed": False, "limits": {}, "reconnect": {}}
        await socket.send_message(msgpack.packb([32, {**welcome, "ping_ms": 30_000, "ack_ms": 10}]))
        while True:
            try:
                frame = await socket.get_message()
            except trio_websocket.ConnectionClosed:
                return
            unpacker = msgpack.Unpacker()
            unpacker.feed(frame)
            for code, body in unpacker:
                for message in answers(code, body):
                    await socket.send_message(msgpack.packb(message))

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        url = f"ws://127.0.0.1:{server.port}/v1/sync"
        with trio.fail_after(10):
            async with open_device(tmp_path, url=url, token="T") as device:
                space = device.space(SPACE)
                space.subscribe()
                change = space.create("items", "a")
                assert (await change.outcome()).outcome == "noop"
                await space.wait_settled()
                assert device.user == "42"
        # The command line, in a process of its own, on the same store and server.
        token = tmp_path / "token"
        token.write_text("T\n")
        arguments = ["--store", str(tmp_path), "--url", url, "--token-file", str(token), "--timeout", "5"]
        command = [sys.executable, "-m", "syncd_client.cli", *arguments]
        done = await trio.run_process(
            [*command, "delete", SPACE, "items", "a"], capture_stdout=True, env=dict(os.environ)
        )
        assert json.loads(done.stdout)["outcome"] == "noop"
        nursery.cancel_scope.cancel()
