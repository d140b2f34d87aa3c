"""The devices of a user: listed, and retired one by one.

Owns both. Must not know HTTP, nor what becomes of a conversation that goes on under a retired id (`batch.is_other`).
A device row is made at first use and stays for ever, so that its outcomes are told; the index by user says whose.
"""

from dataclasses import dataclass

from syncd.engine.batch import Batch
from syncd.engine.commands import Done, Refused, Result, RetireDevice
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DEVICES, USER_DEVICES, DeviceRow


@dataclass(frozen=True, slots=True)
class Page:
    """Devices by id. `after`: behind which one the next page goes on, None at the end."""

    devices: list[tuple[bytes, DeviceRow]]
    after: bytes | None


def of_user(tx: Reader, user: str, after: bytes, limit: int) -> Page:
    """Up to `limit` devices of a user, retired ones included, behind the id `after` (empty: from the first)."""
    owner = keys.owner(user)
    start, stop = keys.user_devices_range(owner)
    if after:
        start = keys.user_device(owner, after) + b"\0"
    found: list[tuple[bytes, DeviceRow]] = []
    for key, _ in USER_DEVICES.scan(tx, (start, stop)):
        if len(found) == limit:
            return Page(found, found[-1][0])
        device = keys.parse_user_device(key)[1]
        row = DEVICES.get(tx, keys.device(device))
        assert row is not None, "rows of devices stay"
        found.append((device, row))
    return Page(found, None)


def retired(batch: Batch, command: RetireDevice) -> Result:
    """From now on nothing new is taken from the id, and its place is free for another (`quotas.takes_device`). Its row
    stays, as do its outcomes; its low-water lapses like that of any device that is gone."""
    key = keys.device(command.device)
    row = DEVICES.get(batch.tx, key)
    if row is None or row.kind != "device" or command.user not in (None, row.user):
        return Refused("unknown", f"there is no device {command.device.hex()}")
    if row.retired_ms is None:
        DEVICES.put(batch.tx, key, row._replace(retired_ms=batch.now_ms))
        held = batch.holdings(row.user)
        batch.hold(held._replace(devices=held.devices - 1, retired=held.retired + 1))
    return Done()
