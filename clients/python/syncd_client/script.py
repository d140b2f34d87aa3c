"""`syncd-device script`: a device driven by JSON lines, for demonstrations and tests in other processes.

Owns the commands of a script and the events printed between the answers; README.md describes them. A command is read,
carried out and answered in order; `wait` holds up the commands after it, never the events.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import orjson
import trio

from .codec import value_from_json
from .device import Device
from .errors import InvalidInput, SyncdError
from .lines import document_line, lease_line, outcome_line, put_line, refused_line, space_line, status_line
from .policy import State
from .space import Change, Space

# A line holds one change at most: 256 KiB of operations, six times as long in JSON.
LINE_BYTES_MAX = 2_097_152


class Script:
    def __init__(self, device: Device, after: int | None) -> None:
        self._device = device
        self._after = device.store.outcomes_at() if after is None else after
        self._commands: dict[str, Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
            "commit": self._commit,
            "discard": self._discard,
            "get": self._get,
            "give": self._give,
            "lease": self._lease,
            "leases": self._leases,
            "list": self._list,
            "offline": self._offline,
            "online": self._online,
            "refused": self._refused,
            "status": self._status,
            "subscribe": self._subscribe,
            "take": self._take,
            "unsubscribe": self._unsubscribe,
            "wait": self._wait,
        }

    async def run(self) -> None:
        """Answer commands until `quit` or the end of the input."""
        put_line({"event": "open", "device": self._device.id.hex(), "outcomes_at": self._after})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._print_outcomes)
            nursery.start_soon(self._print_statuses)
            nursery.start_soon(self._print_notices)
            async for line in stdin_lines():
                if not await self._answer(line):
                    break
            nursery.cancel_scope.cancel()

    async def _answer(self, line: bytes) -> bool:
        """Carry out one command and print its answer; false after `quit`."""
        op: Any = None
        answer: dict[str, Any] = {}
        try:
            command = orjson.loads(line)
            if not isinstance(command, dict):
                raise InvalidInput("expected a JSON object")
            op = command.get("op")
            if "ref" in command:
                answer["ref"] = command["ref"]
            if op != "quit":
                run = self._commands.get(op) if isinstance(op, str) else None
                if run is None:
                    raise InvalidInput(f"unknown op {op!r}; expected quit, {', '.join(self._commands)}")
                answer.update(await run(command))
            answer["ok"] = True
        except (SyncdError, orjson.JSONDecodeError) as error:
            answer.update(ok=False, error=str(error))
        except KeyError as error:
            answer.update(ok=False, error=f"the key {error} is missing")
        put_line({"op": op, **answer})
        is_last: bool = op == "quit"
        return not is_last

    def _space(self, command: Mapping[str, Any]) -> Space:
        return self._device.space(command["space"])

    async def _commit(self, command: Mapping[str, Any]) -> dict[str, Any]:
        operations = command["operations"]
        if not isinstance(operations, list):
            raise InvalidInput("operations: expected an array of operations")
        return _committed(self._space(command).commit(value_from_json(operations)))

    def _on_stock(self, command: Mapping[str, Any]) -> tuple[Space, tuple[str, str, str]]:
        return self._space(command), (command["collection"], command["id"], command["field"])

    async def _lease(self, command: Mapping[str, Any]) -> dict[str, Any]:
        space, where = self._on_stock(command)
        return _committed(space.lease(*where, command["units"], ttl_ms=command.get("ttl_ms")))

    async def _take(self, command: Mapping[str, Any]) -> dict[str, Any]:
        space, where = self._on_stock(command)
        return _committed(space.take(*where, command.get("units", 1), certain=command.get("certain", True)))

    async def _give(self, command: Mapping[str, Any]) -> dict[str, Any]:
        space, where = self._on_stock(command)
        return _committed(space.give(*where, command.get("units")))

    async def _leases(self, command: Mapping[str, Any]) -> dict[str, Any]:
        space = self._space(command)
        return {"leases": [lease_line(space.name, held) for held in space.leases()]}

    async def _discard(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._space(command).discard_refused(command["n"])
        return {}

    async def _get(self, command: Mapping[str, Any]) -> dict[str, Any]:
        space = self._space(command)
        document = space.view(command["collection"], command["id"])
        return {"document": None if document is None else document_line(space.name, document)}

    async def _list(self, command: Mapping[str, Any]) -> dict[str, Any]:
        space = self._space(command)
        return {"documents": [document_line(space.name, item) for item in space.documents(command["collection"])]}

    async def _offline(self, command: Mapping[str, Any]) -> dict[str, Any]:
        await self._device.go_offline()
        return {}

    async def _online(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._device.go_online()
        return {}

    async def _refused(self, command: Mapping[str, Any]) -> dict[str, Any]:
        return {"refused": [refused_line(row) for row in self._space(command).refused()]}

    async def _status(self, command: Mapping[str, Any]) -> dict[str, Any]:
        return status_line(self._device)

    async def _subscribe(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._space(command).subscribe()
        return {}

    async def _unsubscribe(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._space(command).unsubscribe(forget=bool(command.get("forget")))
        return {}

    async def _wait(self, command: Mapping[str, Any]) -> dict[str, Any]:
        names = [command["space"]] if "space" in command else [row.name for row in self._device.spaces()]
        spaces = [self._device.space(name) for name in names]
        condition = self._condition(command["for"], spaces)
        with trio.move_on_after(command.get("timeout_s", 30.0)) as scope:
            await self._device.wait_until(condition)
        if scope.cancelled_caught:
            raise InvalidInput(f"wait: {command['for']} did not come about in time")
        return {"spaces": [space_line(self._device, space) for space in spaces]}

    def _condition(self, goal: Any, spaces: list[Space]) -> Callable[[], bool]:
        if goal == "settled":
            return lambda: all(space.outbox_depth == 0 for space in spaces)
        if goal == "ready":
            return lambda: self._device.status.state is State.READY
        if goal == "complete":
            return lambda: all(space.is_complete for space in spaces if space.row.is_subscribed)
        if isinstance(goal, dict) and list(goal) == ["complete"] and isinstance(goal["complete"], int):
            return lambda: all(space.row.complete >= goal["complete"] for space in spaces)
        raise InvalidInput('wait: for is one of "settled", "ready", "complete", {"complete": seq}')

    async def _print_outcomes(self) -> None:
        async for row in self._device.outcomes(self._after):
            put_line({"event": "outcome", **outcome_line(row)})

    async def _print_statuses(self) -> None:
        async for status in self._device.statuses():
            put_line({"event": "state", "state": status.state.value, "reason": status.reason})

    async def _print_notices(self) -> None:
        async for notice in self._device.notices():
            put_line({"event": "notice", "what": notice.what, "space": notice.space, "detail": notice.detail})


def _committed(change: Change) -> dict[str, Any]:
    return {"space": change.space, "n": change.n, "nonce": change.nonce.hex()}


async def stdin_lines() -> AsyncIterator[bytes]:
    """Lines of the standard input, whatever it is: a pipe, a terminal or a file.

    `os.read` in a thread, and not `sys.stdin`: an abandoned thread then holds no lock that the interpreter needs.
    """
    buffer = b""
    while data := await trio.to_thread.run_sync(os.read, 0, 65_536, abandon_on_cancel=True):
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(buffer) > LINE_BYTES_MAX:
            put_line({"op": None, "ok": False, "error": f"a line is longer than {LINE_BYTES_MAX} bytes"})
            return
    if buffer.strip():
        yield buffer
