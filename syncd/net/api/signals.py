"""POST /v1/spaces/{space}/signals: values of a backend for the devices that listen now.

Owns how signals stand in a request and who may send them. What becomes of them is `net.live`'s business: nothing is
stored, and no transaction is opened but to know who calls.
"""

from typing import Any

from syncd.core.ids import BadName, check_name
from syncd.core.values import ValueRefused, normalized
from syncd.engine.grants import Role, role_on
from syncd.net.api.calls import Call, author_of, check_role, forbidden, json_object, pointer
from syncd.net.auth import SIGNALS_WRITE, KeyPrincipal
from syncd.net.exchange import Response, json_content
from syncd.net.live import SignalLimited
from syncd.net.problems import raised
from syncd.net.signals import SignalRefused
from syncd.wire.codec import from_json_value
from syncd.wire.messages import Signal

SIGNALS_MAX = 100  # in one request: a page of prices
BODY_BYTES_MAX = 2 * 1024 * 1024  # 100 of the greatest values fit, whose JSON is twice as long
_KEYS = frozenset({"key", "value", "ttl_ms"})


async def post_signals(call: Call) -> Response:
    space, caller = call.space(), call.known_caller()
    if isinstance(caller, KeyPrincipal):
        # An API key is no member, so what its scopes say is all: nothing is looked up.
        if role_on(caller.grants, space) < Role.WRITER and not caller.may_signal(space):
            scope = f"{SIGNALS_WRITE}:{space}"
            raise forbidden(f"this needs the scope {scope}, or the role writer on the space", scope)
    else:
        with call.services.store.read() as tx:
            check_role(call, tx, space, Role.WRITER)
    body = json_object(call, BODY_BYTES_MAX, frozenset({"signals"}))
    told = body.get("signals")
    if not isinstance(told, list) or not 1 <= len(told) <= SIGNALS_MAX:
        raise raised("invalid-request", f"'signals' is an array of 1-{SIGNALS_MAX} signals", pointer="/signals")
    signals = [_signal(space, each, index) for index, each in enumerate(told)]
    author = author_of(caller)
    user = None if isinstance(caller, KeyPrincipal) else caller.user
    try:
        listeners = call.services.live.posted(space, author.device, user, signals)
    except SignalRefused as refused:
        raise raised("invalid-request", str(refused), pointer="/signals") from None
    except SignalLimited as limited:
        after = (("Retry-After", str(int(limited.wait_s) + 1)),)
        raise raised("rate-limited", str(limited), after) from None
    return json_content(202, {"listeners": listeners}, (("Cache-Control", "no-store"),))


def _signal(space: str, told: Any, index: int) -> Signal:
    if not isinstance(told, dict) or not {"key"} <= set(told) <= _KEYS:
        expected = "a signal is an object with 'key', 'value' and, if its time is not 10 s, 'ttl_ms'"
        raise raised("invalid-request", expected, pointer=pointer("signals", index))
    ttl_ms = told.get("ttl_ms")
    if ttl_ms is not None and type(ttl_ms) is not int:
        raise raised("invalid-request", "'ttl_ms' is an integer", pointer=pointer("signals", index, "ttl_ms"))
    try:
        key = check_name(told["key"], "the key of a signal")
        value = normalized(from_json_value(told.get("value")))
    except (BadName, ValueRefused) as wrong:
        raise raised("invalid-request", str(wrong), pointer=pointer("signals", index)) from None
    return Signal(space, key, value, ttl_ms)
