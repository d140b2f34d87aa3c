"""Messages as Hypothesis strategies: raw bodies of what clients send, dataclasses of what servers send."""

import base64
from typing import Any

from hypothesis import strategies as st

from syncd.wire import messages as m
from tests.core.strategies import names, texts, values

SEQ_MAX = 2**53 - 1
seqs = st.integers(0, SEQ_MAX)
counts = st.integers(1, SEQ_MAX)
ids = st.binary(min_size=16, max_size=16)
hashes = st.binary(min_size=8, max_size=8)
spaces = st.lists(st.text("abcXYZ019._~-", min_size=1, max_size=8), min_size=1, max_size=4).map("/".join)
good_spaces = spaces.filter(lambda name: all(part not in (".", "..") for part in name.split("/")))
numbers = st.integers(-SEQ_MAX, SEQ_MAX) | st.floats(allow_nan=False, allow_infinity=False)
increments = st.integers(-SEQ_MAX, SEQ_MAX).filter(bool)

elements = st.binary(min_size=8, max_size=8).filter(lambda name: name[-1])
positions = st.builds(bytes.__add__, st.binary(min_size=1, max_size=9), elements)
_ARGUMENTS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "create": (),
    "delete": (),
    "expect": (names,),
    "unique": (names, names),
    "reg.set": (names, values),
    "reg.unset": (names,),
    "mv.set": (names, values),
    "counter.inc": (names, increments),
    "max.put": (names, numbers),
    "min.put": (names, numbers),
    "set.add": (names, values),
    "set.remove": (names, values),
    "flag.enable": (names,),
    "flag.disable": (names,),
    "map.put": (names, names, values),
    "map.drop": (names, names),
    "bounded.restock": (names, increments),
    "bounded.lease": (names, ids, counts, st.none() | st.integers(1_000, 2_592_000_000)),
    "bounded.take": (names, counts, st.none() | ids),
    "bounded.give": (names, ids, counts),
    "bounded.refund": (names, counts),
    "bounded.end": (names, ids),
    "list.insert": (names, positions, values),
    "list.move": (names, positions),
    "list.remove": (names, elements),
    "text.update": (names, st.binary(min_size=1, max_size=20)),
}
seen: st.SearchStrategy[list[dict[str, int]]] = st.just([]) | counts.map(lambda seq: [{"seen": seq}])


def _operation(verb: str) -> st.SearchStrategy[list[Any]]:
    head = st.tuples(st.just(verb), names, names, *_ARGUMENTS[verb])
    return st.tuples(head, seen).map(lambda parts: [*parts[0], *parts[1]])


operations = st.sampled_from(sorted(_ARGUMENTS)).flatmap(_operation)
changes = st.tuples(counts, hashes, seqs, seqs, st.lists(operations, min_size=1, max_size=4)).map(list)
voids = st.tuples(st.just("void"), counts, st.integers(0, 9), hashes, texts).map(
    lambda v: [v[0], v[1], min(v[1] + v[2], SEQ_MAX), v[3], v[4]]
)


events = st.tuples(ids, texts, seqs).map(list) | st.tuples(
    ids, texts, seqs, st.none() | st.dictionaries(texts, values, max_size=3)
).map(list)


def _body(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A body with any of the optional keys, each absent, null or present, and perhaps a key that nobody knows."""
    optional = {key: st.none() | strategy for key, strategy in optional.items()}
    return st.fixed_dictionaries(required, optional={**optional, "x-later": values})


_BODIES: dict[int, st.SearchStrategy[dict[str, Any]]] = {
    1: _body(
        {"device": ids, "installation": ids, "time": seqs},
        {
            "session": ids,
            "token": texts,
            "client": st.dictionaries(texts, texts, max_size=2),
            "caps": st.lists(texts, max_size=3),
            "frame_bytes_max": seqs,
            "keepalive_ms": seqs,
        },
    ),
    2: _body(
        {"space": good_spaces, "epoch": st.none() | ids, "complete": seqs, "resume": seqs, "settled": seqs},
        {"start": seqs, "chain": hashes},
    ),
    3: _body({"space": good_spaces}, {"forget": st.booleans()}),
    4: _body(
        {
            "space": good_spaces,
            "epoch": st.none() | ids,
            "changes": st.lists(changes | voids, min_size=1, max_size=3),
        },
        {},
    ),
    5: _body({"space": good_spaces, "epoch": ids, "applied": seqs, "oldest_base": seqs, "settled": seqs}, {}),
    6: _body({"space": good_spaces, "epoch": ids, "buckets": st.binary(min_size=8_192, max_size=8_192)}, {})
    | _body(
        {"space": good_spaces, "epoch": ids, "of": st.lists(st.integers(0, 1_023), max_size=3)},
        {
            "documents": st.integers(0, 3).flatmap(lambda n: st.binary(min_size=16 * n, max_size=16 * n)),
            "last": st.booleans(),
        },
    ),
    7: _body({"space": good_spaces, "key": names}, {"value": values, "ttl_ms": seqs})
    | _body({"space": good_spaces, "presence": st.booleans() | st.dictionaries(texts, values, max_size=3)}, {}),
    8: _body({"events": st.lists(events, min_size=1, max_size=3)}, {}),
    9: _body({"space": good_spaces}, {}),
    10: _body({"token": texts}, {}),
    11: _body({}, {"keepalive_ms": seqs}),
    12: _body({}, {}),
    13: _body({}, {"id": seqs}),
    14: _body({}, {"end": st.booleans()}),
    20: _body({}, {"id": seqs}),
    21: _body({}, {"id": seqs}),
}
CLIENT_CODES = sorted(_BODIES)
raw_client_messages = st.sampled_from(CLIENT_CODES).flatmap(
    lambda code: _BODIES[code].map(lambda body: [code, body])
)  # as MessagePack would bring them


def json_value(value: Any) -> Any:
    """The JSON form of a value, spelled out once more as SPEC 5.1 has it."""
    if isinstance(value, bytes):
        return {"$b": base64.urlsafe_b64encode(value).decode().rstrip("=")}
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {("$" + key if key[:1] == "$" else key): json_value(item) for key, item in value.items()}
    return value


def json_change(change: list[Any]) -> list[Any]:
    if change[0] == "void":
        return [*change[:3], change[3].hex(), change[4]]
    context = [[[device.hex(), n, seq] for device, n, seq in former] for former in change[5:]]
    return [change[0], change[1].hex(), *change[2:4], json_value(change[4]), *context]


def json_message(message: list[Any]) -> list[Any]:
    """A raw client message as the JSON binding writes it."""
    code, body = message
    result: dict[str, Any] = {}
    for key, item in body.items():
        if key in ("x-later", "value", "presence"):
            result[key] = json_value(item)
        elif key == "events":
            result[key] = [[event[0].hex(), *event[1:3], *map(json_value, event[3:])] for event in item]
        elif key == "changes":
            result[key] = [json_change(change) for change in item]
        else:
            result[key] = item.hex() if isinstance(item, bytes) else item
    return [code, result]


# -- server -----------------------------------------------------------------------------------------------------------

maybe_seq = st.none() | seqs
pairs = st.one_of(
    st.tuples(st.just("reg"), values),
    st.tuples(st.just("mv"), st.lists(values, min_size=1, max_size=3)),
    st.tuples(st.just("counter"), st.integers(-SEQ_MAX, SEQ_MAX)),
    st.tuples(st.sampled_from(("max", "min")), numbers),
    st.tuples(st.just("set"), st.lists(values, max_size=3)),
    st.tuples(st.just("flag"), st.booleans()),
    st.tuples(st.just("map"), st.dictionaries(names, values, max_size=3)),
    st.tuples(st.just("list"), st.lists(st.tuples(positions, values).map(list), max_size=3)),
    st.tuples(
        st.just("text"),
        st.tuples(seqs, st.lists(st.tuples(counts, st.binary(min_size=1)).map(list), min_size=1, max_size=3)).map(list),
    ),
).map(list)
entries = st.one_of(
    st.builds(
        m.DocumentEntry,
        names, names, seqs, st.just(m.PATCH), st.dictionaries(names, st.none() | pairs, max_size=3),
    ),
    st.builds(m.DocumentEntry, names, names, seqs, st.just(m.RESET), st.dictionaries(names, pairs, max_size=3)),
    st.builds(m.DocumentEntry, names, names, seqs, st.just(m.DELETED), st.just({})),
)  # fmt: skip
details = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "met": st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("won", "lost")), seqs).map(list), max_size=2),
        "op": st.integers(0, 9),
        "reason": texts,
    },
)
outcomes = st.builds(
    m.OutcomeEntry, counts, hashes, st.sampled_from(("applied", "merged", "noop")), counts, details
) | st.builds(m.OutcomeEntry, counts, hashes, st.sampled_from(("gone", "invalid", "void")), st.none(), details)
reconnects = st.fixed_dictionaries(
    dict.fromkeys(("first_jitter_ms", "backoff_ms", "backoff_max_ms", "stable_ms"), seqs)
)
text_tuples = st.lists(texts, max_size=3).map(tuple)
server_messages: st.SearchStrategy[m.ServerMessage] = st.one_of(
    st.builds(
        m.Welcome, ids, seqs, texts, st.booleans(), st.dictionaries(texts, seqs, max_size=3), seqs, seqs, reconnects,
        texts, text_tuples, maybe_seq,
    ),
    st.builds(
        m.Subscribed, good_spaces, ids, seqs, seqs, texts, st.sampled_from(("live", "catch-up", "reconcile")),
        st.none() | hashes,
    ),
    st.builds(
        m.Delta, good_spaces, ids, seqs, seqs, seqs, seqs, hashes, st.lists(entries, max_size=3).map(tuple),
        st.booleans(), maybe_seq, st.none() | hashes,
    ),
    st.builds(
        m.Outcomes, good_spaces, ids, st.lists(outcomes, max_size=3).map(tuple), st.none() | counts,
        st.none() | counts,
    ),
    st.builds(m.Revoked, good_spaces, texts, maybe_seq),
    st.builds(m.Differ, good_spaces, ids, seqs, seqs, hashes, st.lists(st.integers(0, 1_023), max_size=3).map(tuple)),
    st.builds(
        m.Repair, good_spaces, ids, seqs, seqs, hashes, st.lists(entries, max_size=3).map(tuple),
        st.lists(hashes, max_size=3).map(b"".join), st.booleans(), st.booleans(), st.none() | hashes,
    ),
    st.builds(m.Heard, good_spaces, hashes, names, values, counts, st.none() | texts),
    st.builds(
        m.Presence, good_spaces, seqs,
        st.lists(st.tuples(hashes, texts, st.dictionaries(texts, values, max_size=2)), max_size=3).map(tuple),
        st.none() | st.lists(hashes, max_size=3).map(b"".join), st.booleans(),
    ),
    st.builds(m.Expired, good_spaces, ids, seqs, seqs),
    st.builds(
        m.Error, seqs, texts, st.sampled_from(("now", "backoff", "never", "reauth", "resync")), maybe_seq,
        st.none() | texts, st.none() | texts,
    ),
    st.builds(m.Goaway, seqs, seqs, seqs, st.none() | texts),
    st.builds(m.Ping, maybe_seq),
    st.builds(m.Pong, maybe_seq),
)  # fmt: skip
