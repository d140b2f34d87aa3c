"""The Python client, under each event loop, survives vectors/polls, in virtual time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.conformance.client import fits, text
from syncd_client import Device
from syncd_client.codec import value_from_json
from tests.clients.peer import ACK, BYE, PING, PONG, PROBE, PUSH, Wire
from tests.clients.polled_peer import MISHAPS, refused
from tests.clients.shell_kit import SHELLS, Stage, play
from tests.protocol.adapter import state
from tests.protocol.make_poll_sessions import files
from tests.protocol.make_vectors import VECTORS, text_of

POLLS = {path.stem: json.loads(path.read_text()) for path in sorted((VECTORS / "polls").glob("*.json"))}
ANSWER_S = 600.0  # of virtual time
BARRIER_ID = 1_000_000


class Player:
    """One script over a stage, whose peer is a polled one."""

    def __init__(self, stage: Stage, device: Device) -> None:
        self.stage, self.device = stage, device
        self.wire: Wire | None = None
        self.nonces: dict[int, str] = {}
        self.barrier_id = BARRIER_ID
        self.pending: list[list[Any]] = []

    async def play(self, steps: list[dict[str, Any]]) -> None:
        for index, step in enumerate(steps):
            ((what, argument),) = ((key, item) for key, item in step.items() if key != "then")

            async def run(what: str = what, argument: Any = argument) -> None:
                await getattr(self, f"do_{what}")(argument)

            assert await self.stage.loop.within(self.stage.now_s() + ANSWER_S, run), f"step {index}, {what}"

    async def do_subscribe(self, space: str) -> None:
        self.device.space(space).subscribe()

    async def do_commit(self, change: dict[str, Any]) -> None:
        self.device.space(change["space"]).commit(value_from_json(change["operations"]))

    async def do_connect(self, _: bool) -> None:
        self.wire, self.pending = await self.stage.peer.next(), []

    async def do_client(self, patterns: list[Any]) -> None:
        for pattern in patterns:
            while not self.pending:
                await self.receive()
            message = self.pending.pop(0)
            assert fits(self.filled(pattern), message), f"{message} is not {pattern}"
            if message[0] == PUSH:
                self.nonces |= {change[0]: change[1] for change in message[1]["changes"]}

    async def receive(self) -> None:
        assert self.wire is not None
        message = await self.wire.next()
        if message[0] == PONG and message[1].get("id", 0) >= BARRIER_ID:
            self.barrier_id = message[1]["id"]
        elif message[0] not in (ACK, PROBE, BYE, PING):
            self.pending.append(message)

    async def do_server(self, messages: list[Any]) -> None:
        assert self.wire is not None
        wanted = self.barrier_id + 1
        for code, body in [*self.filled(messages), [PING, {"id": wanted}]]:
            await self.wire.say(code, **body)
        while self.barrier_id < wanted:
            await self.receive()

    async def do_silent(self, _: bool) -> None:
        assert not self.pending

    async def do_close(self, code: int) -> None:
        assert self.wire is not None
        self.wire.hang_up(code)

    async def do_befalls(self, kinds: dict[str, list[Any]]) -> None:
        for kind, events in kinds.items():
            for what in events:
                mishap = (
                    refused(what["status"], retry_after=str(what["retry_after"]))
                    if isinstance(what, dict)
                    else MISHAPS[what]
                )
                self.stage.polled.mishaps[kind].append(mishap)

    async def do_through(self, _: bool) -> None:
        assert not any(self.stage.polled.mishaps.values()), "something has befallen nobody"

    async def do_expect(self, facts: dict[str, Any]) -> None:
        wanted = {key: item for key, item in facts.items() if key != "space"}
        while True:
            told = state(self.device, facts["space"])
            if all(text(told[key]) == text(item) for key, item in wanted.items()):
                return
            await self.stage.sleep(0.1)

    def filled(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self.filled(entry) for entry in item]
        if isinstance(item, dict):
            return {key: self.filled(entry) for key, entry in item.items()}
        return self.nonces[int(item[7:-1])] if isinstance(item, str) and item.startswith("$nonce(") else item


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", sorted(POLLS))
def test_the_client_survives_what_befalls_its_requests(tmp_path: Path, shell: str, name: str) -> None:
    async def case(stage: Stage) -> None:
        async with stage.device(binding="json") as device:
            await Player(stage, device).play(POLLS[name]["steps"])

    play(case, SHELLS[shell], tmp_path, "polls")


def test_the_files_are_up_to_date() -> None:
    assert {name: text_of(content) for name, content in files().items()} == {
        path.stem: path.read_text() for path in (VECTORS / "polls").glob("*.json")
    }
