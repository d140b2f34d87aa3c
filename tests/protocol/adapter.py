"""The reference client behind the lines of protocol/conformance/client.py: what any client needs to be checked."""

import json
import os
from typing import Any

import trio

from syncd_client import open_device, replica
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


async def main() -> None:
    url, token = os.environ["SYNCD_URL"], os.environ["SYNCD_TOKEN"]
    async with open_device("replica", url=url, token=token, binding="json") as device:
        unread = b""
        stdin = trio.lowlevel.FdStream(os.dup(0))
        while data := await stdin.receive_some():
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                print(json.dumps(answer(device, json.loads(line))), flush=True)


if __name__ == "__main__":
    trio.run(main)
