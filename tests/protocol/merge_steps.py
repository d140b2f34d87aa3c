"""The steps of which histories are made: changes with their outcomes, states, deltas; nearly all about one document."""

from typing import Any

from tests.wire.strategies import json_value

Json = dict[str, Any]
R: Any = "reg"
# name -> (why, changes, state at the end, deltas)
Histories = dict[str, tuple[str, list[Json], Json, list[Json]]]


def c(device: str, base: int, outcome: str, *operations: list[Any], stamp: int = 0, now: int = 0, **told: Any) -> Json:
    """One change and its outcome. Without a stamp it is made at the moment when the server receives it."""
    return {"device": device, "base": base, "stamp_ms": stamp, "now_ms": now, "operations": list(operations),
            "outcome": outcome, **told}  # fmt: skip


def on(verb: str, *items: Any) -> list[Any]:
    """An operation on the document that nearly all histories are about."""
    return [verb, "notes", "n1", *items]


def reg(value: Any) -> list[Any]:
    return on("reg.set", "f", value)


def doc(rev: int, **fields: Any) -> Json:
    return {"notes/n1": {"rev": rev, "fields": fields}}


def delta(from_: int, to: int, *docs: list[Any]) -> Json:
    return {"from": from_, "to": to, "docs": list(docs)}


def patch(rev: int, **fields: Any) -> list[Any]:
    return ["notes", "n1", rev, 0, fields]


def reset(rev: int, **fields: Any) -> list[Any]:
    return ["notes", "n1", rev, 1, fields]


def set_role(user: str, role: str) -> list[Any]:
    return ["reg.set", "_members", user, "role", role]


def member(user: str, role: str) -> list[list[Any]]:
    return [["create", "_members", user], set_role(user, role)]


def members(**roles: tuple[int, str]) -> Json:
    return {f"_members/{user}": {"rev": rev, "fields": {"role": [R, role]}} for user, (rev, role) in roles.items()}


def deleted(rev: int) -> list[Any]:
    return ["notes", "n1", rev, 2, {}]


def stock(action: str, *items: Any) -> list[Any]:
    return on(f"bounded.{action}", "q", *items)


def amounts(available: int, leased: int, taken: int, total: int) -> list[Any]:
    return ["bounded", {"available": available, "leased": leased, "taken": taken, "total": total}]


def element(name: str) -> Json:
    """The element `name`, seven letters and a digit, as JSON has bytes."""
    data: Json = json_value(name.encode())
    return data


def at(index: str, name: str) -> Json:
    """A position: the index, letters that sort as bytes do, and the element that stands there."""
    return element(index + name)


def nick(key: str) -> list[Any]:
    return on("unique", "nick", key)


CREATE, DELETE = on("create"), on("delete")
LEASE, OTHER = {"$b": "bGVhc2UgMSAgICAgICAgIA"}, {"$b": "bGVhc2UgMiAgICAgICAgIA"}  # 16 bytes each
STOCKED = c("A", 0, "applied", CREATE, stock("restock", 10))
MADE = c("A", 0, "applied", CREATE, reg("a"))
