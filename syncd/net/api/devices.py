"""A user's devices over HTTP: which there are, and retiring one of them.

Owns these routes. A person does it for themselves by their token (a phone that was lost), an API key with the scope
`admin` for anybody. One who asks for another's device is told that there is none.
"""

import re

from syncd.core.ids import ID_BYTES
from syncd.engine import devices
from syncd.engine.commands import Refused, RetireDevice
from syncd.net.api.calls import Call, executed, forbidden
from syncd.net.api.preferences import user_of
from syncd.net.auth import ADMIN, KeyPrincipal
from syncd.net.exchange import Response, json_content
from syncd.net.problems import raised

LIMIT_DEFAULT, LIMIT_MAX = 100, 1_000
NO_STORE = ("Cache-Control", "no-store")


async def get_devices(call: Call) -> Response:
    user, limit = _judged(call), _limit(call.query.get("limit"))
    after = _device_id(call.query["after"], "after") if "after" in call.query else b""
    with call.services.store.read() as tx:
        page = devices.of_user(tx, user, after, limit)
    shown = [
        {"device": device.hex(), "bound_ms": row.bound_ms, "retired_ms": row.retired_ms} for device, row in page.devices
    ]
    answer = {"devices": shown} | ({} if page.after is None else {"next": page.after.hex()})
    return json_content(200, answer, (NO_STORE,))


async def delete_device(call: Call) -> Response:
    """Again is as once."""
    user, device = _judged(call), _device_id(call.parameters["device"], "device")
    result = await executed(call, RetireDevice(device, user))
    if isinstance(result, Refused):
        raise raised("not-found", f"{user} has no device {device.hex()}")
    return Response(204, ())


def _judged(call: Call) -> str:
    """The user whose devices these are, if the caller may see and end them."""
    caller, user = call.known_caller(), user_of(call)
    is_own = not isinstance(caller, KeyPrincipal) and caller.user == user
    if not is_own and not (isinstance(caller, KeyPrincipal) and caller.has_scope(ADMIN)):
        raise forbidden(f"this needs an API key with the scope {ADMIN}, or the person's own token", ADMIN)
    return user


def _device_id(text: str, parameter: str) -> bytes:
    if len(text) != 2 * ID_BYTES or not re.fullmatch(r"[0-9a-f]+", text, re.ASCII):
        expected = f"{parameter!r} is the id of a device: {2 * ID_BYTES} lower-case hexadecimal digits"
        raise raised("malformed-request", expected, parameter=parameter)
    return bytes.fromhex(text)


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise raised("malformed-request", f"'limit' is an integer from 1 to {LIMIT_MAX}", parameter="limit")
