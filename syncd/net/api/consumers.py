"""Named consumers: a backend's place in a space's feed, kept by the server.

Owns their routes. A consumer belongs to the API key or the user that made it, and others neither see nor move it. It
is moved by acknowledgement alone: what was delivered and not acknowledged is delivered again, after a crash of either
side. Two workers on one consumer are given the same changes, whoever acknowledges first moves it for both, and nothing
is lost; workers that shall each have all changes take a consumer each.
"""

from contextlib import suppress
from typing import Any

from syncd.core.ids import Place
from syncd.engine import feeding
from syncd.engine.commands import (
    AckConsumer,
    Consumer,
    Done,
    DropConsumer,
    Expired,
    PutConsumer,
    Refused,
    Result,
    UseConsumer,
)
from syncd.engine.grants import Role
from syncd.net.api.calls import (
    Call,
    author_of,
    check_role,
    executed,
    forbidden_on,
    json_object,
    owner_of,
)
from syncd.net.api.feed import limit_of, place_problem, polled, read_news, start_of, wait_of
from syncd.net.exchange import Later, Response, json_content
from syncd.net.problems import ProblemRaised, raised
from syncd.store.api import Reader
from syncd.store.tables import SpaceRow

BODY_BYTES_MAX = 1024  # a place has 70 characters
NO_STORE = ("Cache-Control", "no-store")


async def put_consumer(call: Call) -> Response:
    space, name = call.space(), _name(call)
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
    body = json_object(call, BODY_BYTES_MAX, frozenset({"start"}))
    start = start_of(body.get("start"), {"pointer": "/start"})
    made = _consumer(call, await executed(call, PutConsumer(*_whose(call), space, name, start)))
    return json_content(201 if made.is_new else 200, consumer_json(made), (NO_STORE,))


async def get_consumer(call: Call) -> Response:
    space, name = call.space(), _name(call)
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
        found = feeding.consumer(tx, space, owner_of(call.known_caller()), name)
    if found is None:
        raise _unknown(space, name)
    return json_content(200, consumer_json(found), (NO_STORE,))


async def get_consumers(call: Call) -> Response:
    space = call.space()
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
        found = [consumer_json(each) for each in feeding.consumers(tx, space, owner_of(call.known_caller()))]
    return json_content(200, {"consumers": found}, (NO_STORE,))


async def delete_consumer(call: Call) -> Response:
    space = call.space()
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
    result = await executed(call, DropConsumer(*_whose(call), space, _name(call)))
    if not isinstance(result, Done):
        raise _problem(call, result)
    return Response(204, (NO_STORE,))


async def get_consumer_changes(call: Call) -> Response | Later:
    space, name, limit, wait_s = call.space(), _name(call), limit_of(call), wait_of(call)
    owner = owner_of(call.known_caller())
    used_ms = call.services.clock.now_ms()

    def standing(tx: Reader, row: SpaceRow) -> Place:
        """Read anew each time: another worker may have moved it."""
        nonlocal used_ms
        found = feeding.consumer(tx, space, owner, name)
        if found is None:
            raise _unknown(space, name)
        used_ms = found.used_ms
        return found.place

    first = read_news(call, space, standing, limit)
    if call.services.clock.now_ms() - used_ms >= feeding.USED_MS:
        with suppress(ProblemRaised):  # a server that takes no writes at the moment is no reason to withhold changes
            await executed(call, UseConsumer(owner, space, name))
    return polled(call, space, standing, limit, wait_s, first)


async def post_ack(call: Call) -> Response:
    space, name = call.space(), _name(call)
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
    body = json_object(call, BODY_BYTES_MAX, frozenset({"position"}))
    place = start_of(body.get("position"), {"pointer": "/position"})
    if not isinstance(place, Place):
        raise raised("invalid-request", "an acknowledgement names the place that 'to' gave", pointer="/position")
    result = await executed(call, AckConsumer(*_whose(call), space, name, place))
    return json_content(200, consumer_json(_consumer(call, result)), (NO_STORE,))


def consumer_json(found: Consumer) -> dict[str, Any]:
    """`lag`: seqs between the consumer and the head; null if its position has expired."""
    is_expired = found.place.epoch != found.head.epoch
    return {
        "name": found.name,
        "position": str(found.place),
        "head": str(found.head),
        "lag": None if is_expired else found.head.seq - found.place.resume,
        "made_ms": found.made_ms,
        "used_ms": found.used_ms,
    }


def _name(call: Call) -> str:
    return call.name("name", "the name of a consumer")


def _whose(call: Call) -> tuple[Any, str]:
    caller = call.known_caller()
    return author_of(caller), owner_of(caller)


def _unknown(space: str, name: str) -> Exception:
    return raised("not-found", f"you have no consumer {name} in {space}")


def _consumer(call: Call, result: Result) -> Consumer:
    if not isinstance(result, Consumer):
        raise _problem(call, result)
    return result


def _problem(call: Call, result: Result) -> Exception:
    space = call.space()
    assert isinstance(result, Expired | Refused), "a command on a consumer is answered by one of these"
    if isinstance(result, Refused):
        if result.reason == "forbidden":
            return forbidden_on(space, Role.READER)
        if result.reason == "unknown_space":
            return raised("not-found", f"there is no space {space}")
        if result.reason == "unknown":
            return _unknown(space, _name(call))
        if result.reason == "too_many":
            return raised("too-many-consumers", result.detail)
    return place_problem(result)
