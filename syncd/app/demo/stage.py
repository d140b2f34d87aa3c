"""The demo's stage: a real daemon and real devices, each a process of its own, and a backend that speaks HTTP.

Owns starting, asking, killing and reaping processes. Must not know the story. Processes are ended by id, and none
outlives the nursery that was given.

Invariants: G1 an acknowledgement is recorded when the device has said that it holds the outcome durably, never
earlier. G2 a device that is started again on its store repeats the outcomes that were not read before it died.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from syncd.app import client
from syncd.app.demo.verify import Acknowledged
from syncd.core.ids import Dot
from syncd.env.real import SystemEntropy

START_S = 20.0  # for a process to say that it is ready, on a machine that is busy with the others
ASK_S = 40.0
LINE_BYTES_MAX = 4 * 1024 * 1024


class StageError(Exception):
    """A process did not do what the demo needs; the text names it and says where its log is."""


class _Lines:
    """Lines of a process's standard output. Not an async generator: one that is left unfinished is ended by nobody."""

    def __init__(self, stream: trio.abc.ReceiveStream | None) -> None:
        assert stream is not None, "the process was started with a pipe"
        self._stream = stream
        self._buffer = b""
        self._lines: deque[bytes] = deque()

    async def next(self) -> bytes | None:
        """The next line; None when the process has ended."""
        while not self._lines:
            data = await self._stream.receive_some(65536)
            if not data:
                return None
            *lines, self._buffer = (self._buffer + bytes(data)).split(b"\n")
            self._lines.extend(lines)
            if len(self._buffer) > LINE_BYTES_MAX:
                raise StageError("a process printed a line without end")
        return self._lines.popleft()


class Daemon:
    """`syncd serve` as a process. `http` is the same before and after a restart. `settings`: more of its TOML."""

    def __init__(self, directory: Path, nursery: trio.Nursery, settings: str = "") -> None:
        self._directory = directory
        self._nursery = nursery
        self._process: trio.Process | None = None
        self.http = ""
        self.pid = 0
        secret = SystemEntropy().token(48).hex()
        (directory / "token.key").write_text(secret)
        (directory / "token.key").chmod(0o600)
        self.secret = secret.encode()
        self.config = directory / "syncd.toml"
        self.state = directory / "state"
        self.config.write_text(
            f'[store]\ndirectory = "{self.state}"\n\n[server]\nlisten = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"\n\n'
            f'[[auth.key]]\nkid = "demo"\nalgorithm = "HS256"\nfile = "token.key"\n{settings}'
        )

    @property
    def url(self) -> str:
        return f"ws://{self.http}/v1/sync"

    @property
    def store(self) -> Path:
        return self.state / "store"

    @property
    def log(self) -> Path:
        return self._directory / "daemon.log"

    def environment(self) -> dict[str, str]:
        """What a command line needs to talk to this daemon."""
        return {"SYNCD_CONFIG": str(self.config)}

    async def start(self) -> None:
        """Start it and wait for its ready line. Raises `StageError`."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SYNCD_")} | self.environment()
        if self.http:
            environment["SYNCD_LISTEN"] = self.http  # clients know the address: a restart keeps it
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "syncd.app.cli", "serve"]
            start = partial(
                trio.run_process, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, check=False,
                env=environment,
            )  # fmt: skip
            process: trio.Process = await self._nursery.start(start)
        self._process = process
        with trio.move_on_after(START_S):
            lines = _Lines(process.stdout)
            while (line := await lines.next()) is not None:
                ready = json.loads(line)
                if ready.get("event") == "ready":
                    self.http, self.pid = ready["http"], ready["pid"]
                    self._nursery.start_soon(self._drain, lines)
                    return
        raise StageError(f"the daemon did not become ready; its log is {self.log}:\n{_tail(self.log)}")

    async def _drain(self, lines: _Lines) -> None:
        while await lines.next() is not None:
            pass

    def memory_bytes(self) -> int | None:
        """What the daemon holds for itself: of its resident memory what is no page of a file, such as the store's. None
        where the system does not tell."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return None
        found = next((line.split() for line in lines if line.startswith("RssAnon:")), None)
        return None if found is None else 1024 * int(found[1])

    async def kill(self) -> None:
        """SIGKILL, at once: no farewell, no flush."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        process = self._process
        assert process is not None, "the daemon was started"
        self._process = None
        process.send_signal(number)
        return await process.wait()

    async def command(self, *arguments: str) -> str:
        """What a command of the command line prints, run as an operator would. Raises `StageError` if it failed."""
        command = [sys.executable, "-m", "syncd.app.cli", *arguments]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False,
                                      env={**os.environ, **self.environment()})  # fmt: skip
        if done.returncode:
            raise StageError(f"syncd {' '.join(arguments)} failed: {done.stderr.decode()}")
        return bytes(done.stdout).decode().strip()

    async def api_key(self, name: str, *scopes: str) -> str:
        """A new API key, as `syncd apikey create` asks for one."""
        make = partial(client.request, self.state / "admin.sock", "POST", ("admin", "apikeys"),
                       body={"name": name, "scopes": scopes})  # fmt: skip
        try:
            made = await trio.to_thread.run_sync(make)
        except (client.Unreachable, client.RequestRefused) as error:
            raise StageError(f"no API key {name}: {error}") from None
        return str(made["secret"])

    async def request(self, method: str, path: str, secret: str, body: Any = None, content_type: str = "") -> Any:
        """One HTTP request by a backend; returns the decoded answer. Raises `StageError` unless it succeeded."""
        return await trio.to_thread.run_sync(self._request, method, path, secret, body, content_type)

    def _request(self, method: str, path: str, secret: str, body: Any, content_type: str) -> Any:
        connection = http.client.HTTPConnection(self.http, timeout=ASK_S)
        try:
            headers = {"Authorization": f"Bearer {secret}"}
            data = None
            if body is not None:
                data = json.dumps(body).encode()
                headers["Content-Type"] = content_type or "application/json"
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise StageError(f"{method} {path}: {answer.status} {text[:500].decode(errors='replace')}")
        return json.loads(text)


@dataclass(slots=True)
class DeviceProcess:
    """`syncd-device script` as a process: one device, driven by JSON lines."""

    name: str
    user: str
    spaces: tuple[str, ...]
    store: Path
    token_file: Path
    nursery: trio.Nursery
    acknowledged: dict[tuple[str, int], Acknowledged] = field(default_factory=dict)
    outcomes: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    state: str = "closed"
    device: str = ""
    _process: trio.Process | None = None
    _answers: dict[int, Any] = field(default_factory=dict)
    _next: int = 0
    _at: int = 0
    _pulse: trio.Event = field(default_factory=trio.Event)

    async def start(self, url: str) -> None:
        """Start it (again, on the same store) and subscribe to its spaces. Raises `StageError`."""
        command = [
            sys.executable, "-m", "syncd_client.cli", "--store", str(self.store), "--url", url, "--token-file",
            str(self.token_file), "script", "--after", str(self._at),
        ]  # fmt: skip
        with self.log.open("ab") as log:
            start = partial(
                trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, check=False
            )
            self._process = await self.nursery.start(start)
        self.device = ""
        self.nursery.start_soon(self._read, self._process)
        with trio.move_on_after(START_S):
            while not self.device:
                await self._pulse.wait()
            for space in self.spaces:
                await self.ask("subscribe", space=space)
            return
        raise StageError(f"{self.name} did not start; its log is {self.log}:\n{_tail(self.log)}")

    @property
    def log(self) -> Path:
        return self.store.with_suffix(".log")

    @property
    def is_running(self) -> bool:
        return self._process is not None

    async def _read(self, process: trio.Process) -> None:
        lines = _Lines(process.stdout)
        while (line := await lines.next()) is not None:
            self._take(json.loads(line))
            pulse, self._pulse = self._pulse, trio.Event()
            pulse.set()

    def _take(self, line: dict[str, Any]) -> None:
        match line.get("event"):
            case "open":
                self.device = line["device"]
            case "state":
                self.state = line["state"]
            case "outcome":
                dot = Dot(bytes.fromhex(self.device), line["n"])
                key = (line["space"], line["n"])
                self.acknowledged[key] = Acknowledged(line["space"], dot, line["outcome"], line["seq"])
                self.outcomes[key] = line
                self._at = line["at"]
            case None:
                if "ref" in line:
                    self._answers[line["ref"]] = line

    async def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer. Raises `StageError` if it is refused or the process died."""
        process = self._process
        if process is None or process.stdin is None:
            raise StageError(f"{self.name} is not running")
        self._next += 1
        number = self._next
        try:
            await process.stdin.send_all(json.dumps({"op": op, "ref": number, **arguments}).encode() + b"\n")
        except trio.BrokenResourceError:
            raise StageError(f"{self.name} ended: its log is {self.log}:\n{_tail(self.log)}") from None
        with trio.move_on_after(ASK_S):
            while number not in self._answers:
                await self._pulse.wait()
            answer: dict[str, Any] = self._answers.pop(number)
            if not answer.get("ok"):
                raise StageError(f"{self.name}: {op}: {answer.get('error')}")
            return answer
        raise StageError(f"{self.name} did not answer {op!r} within {ASK_S:.0f} s; its log is {self.log}")

    async def commit(self, space: str, *operations: Sequence[Any]) -> int:
        """Commit one change locally; returns its n."""
        return int((await self.ask("commit", space=space, operations=[list(o) for o in operations]))["n"])

    async def wait_until(self, condition: Any, what: str) -> None:
        """Wait for something that a line of the device brings about."""
        with trio.move_on_after(ASK_S):
            while not condition():
                await self._pulse.wait()
            return
        raise StageError(f"{self.name}: {what} did not come about within {ASK_S:.0f} s; its log is {self.log}")

    async def outcome(self, space: str, n: int) -> dict[str, Any]:
        """The outcome of a change, once the device holds it durably."""
        await self.wait_until(lambda: (space, n) in self.outcomes, f"the outcome of change {n} in {space}")
        return self.outcomes[space, n]

    async def document(self, space: str, collection: str, document_id: str) -> dict[str, Any] | None:
        answer = await self.ask("get", space=space, collection=collection, id=document_id)
        found: dict[str, Any] | None = answer["document"]
        return found

    def freeze(self) -> None:
        """SIGSTOP: the process keeps its socket and reads nothing, as a phone that is suspended."""
        assert self._process is not None, "the device was started"
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None, "the device was started"
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, at once."""
        assert self._process is not None, "the device was started"
        process, self._process = self._process, None
        process.kill()
        await process.wait()
        self.state = "killed"

    async def quit(self) -> None:
        if self._process is not None:
            process = self._process
            await self.ask("quit")
            self._process = None
            await process.wait()


def _tail(path: Path, count: int = 15) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return "(no log)"
