"""The reference client behind the lines of protocol/conformance/client.py: what any client needs to be checked.

Its argument is the shell: `trio` (as without one) or `asyncio`.
"""

import asyncio
import json
import os
import sys
from typing import Any

import trio

from syncd_client import aio, open_device, replica
from syncd_client.codec import json_value, value_from_json
from syncd_client.device import Device


def state(device: Device, name: str) -> dict[str, Any]:
    tx = device.store
    row = replica.space_row(tx, name)
    keys = sorted({document.key for document in tx.documents(name)} | set(tx.touched_keys(name)))
    views = {"/".join(key): replica.view(tx, name, key)[1] for key in keys}
    return {
        "view": {
            key: {field: [kind, json_value(value)] for field, (kind, value) in fields.items()}
            for key, fields in views.items()
            if fields is not None
        },
        "complete": row.complete,
        "resume": row.resume,
        "settled": row.settled,
        "outbox": [entry.n for entry in tx.outbox(name)],
    }


def answer(device: Device, command: dict[str, Any]) -> dict[str, Any]:
    if "subscribe" in command:
        device.space(command["subscribe"]).subscribe()
    elif "commit" in command:
        change = command["commit"]
        device.space(change["space"]).commit(value_from_json(change["operations"]))
    else:
        return state(device, command["state"])
    return {}


class Lines:
    """What was read of the input, answered line by line."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.unread = b""

    def take(self, data: bytes) -> None:
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            print(json.dumps(answer(self.device, json.loads(line))), flush=True)


def options() -> dict[str, Any]:
    told = os.environ
    transport = told.get("SYNCD_TRANSPORT", "websocket")
    return {"url": told["SYNCD_URL"], "token": told["SYNCD_TOKEN"], "binding": "json", "transport": transport}


async def trio_main() -> None:
    async with open_device("replica", **options()) as device:
        lines, stdin = Lines(device), trio.lowlevel.FdStream(os.dup(0))
        while data := await stdin.receive_some():
            lines.take(data)


async def asyncio_main() -> None:
    async with aio.open_device("replica", **options()) as device:
        lines, reader = Lines(device), asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while data := await reader.read(65_536):
            lines.take(data)


if __name__ == "__main__":
    if sys.argv[1:] == ["asyncio"]:
        aio.run(asyncio_main)
    else:
        trio.run(trio_main)
