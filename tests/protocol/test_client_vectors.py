"""The reference client runs the vectors of protocol/vectors: codec, values, sums, names, timing and sessions.

Sessions are played to its sans-I/O core over a store in a temporary directory: no socket, no clock, no sleep.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from protocol.conformance.cddl import parsed
from syncd_client import codec, replica
from syncd_client import messages as cm
from syncd_client.errors import InvalidInput, PeerError
from syncd_client.keepalive import Does, KeepAlive
from syncd_client.operations import operation_from
from syncd_client.policy import Disposition, Retry, State, disposition, goaway_delay_ms
from syncd_client.session import Notice, Session
from syncd_client.store import Store
from syncd_client.sums import document_sum, hashed, sum_bytes
from syncd_client.values import checked, checked_name, checked_space, encoded
from tests.protocol.make_permission_sessions import files as permission_files
from tests.protocol.make_restore_sessions import files as restore_files
from tests.protocol.make_sessions import files as session_files
from tests.protocol.make_vectors import VECTORS, text_of

SCHEMA = parsed((VECTORS.parent / "syncd.cddl").read_text())


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


CODEC, VALUES, SUMS, NAMES, TIMING = map(vectors, ("codec", "values", "sums", "names", "timing"))
SESSIONS = {path.stem: json.loads(path.read_text()) for path in sorted((VECTORS / "sessions").glob("*.json"))}


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


# -- codec, values, sums, names, timing -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CODEC["accepted"], ids=named)
def test_a_message_is_the_same_in_both_bindings_and_after_writing_it(case: dict[str, Any]) -> None:
    (message,) = codec.decoded(bytes.fromhex(case["msgpack"]), codec.MSGPACK)
    assert codec.decoded(json.dumps([case["json"]]), codec.JSON) == [message]
    for binding in (codec.MSGPACK, codec.JSON):
        assert codec.decoded(codec.encoded([message], binding), binding) == [message]


@pytest.mark.parametrize("case", CODEC["ignored"], ids=named)
def test_an_unknown_type_from_128_on_is_ignored(case: dict[str, Any]) -> None:
    assert codec.decoded(bytes.fromhex(case["msgpack"]), codec.MSGPACK) == []


# What only a server has to refuse: limits that protect it, and what no server sends.
SERVERS_ONLY = {
    "a client does not send a delta",
    "too many changes",
    "too many events",
    "an array that claims 4,097 items",
    "upper-case hexadecimal",
    "n counts from 1",
    "a void ends where it begins, or later",
    "a repeated key in JSON",
    "caps holds text",
    "a key is repeated",
    "a message has two items",
    "an extension type",
    "a timestamp",
}


@pytest.mark.parametrize("case", [case for case in CODEC["rejected"] if case["name"] not in SERVERS_ONLY], ids=named)
def test_a_broken_frame_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        if "json_text" in case:
            codec.decoded(case["json_text"], codec.JSON)
        else:
            codec.decoded(bytes.fromhex(case["msgpack"]), codec.MSGPACK)


@pytest.mark.parametrize("case", VALUES["values"], ids=lambda case: case["canonical"][:24])
def test_a_value_has_one_canonical_encoding(case: dict[str, Any]) -> None:
    value = codec.value_from_json(case["json"])
    assert encoded(checked(value)).hex() == case["canonical"]
    assert codec.json_value(checked(value)) == case["json"]


def test_sums() -> None:
    total = 0
    for case in SUMS["documents"]:
        fields = {name: (kind, codec.value_from_json(value)) for name, (kind, value) in case["fields"].items()}
        part = document_sum(case["collection"], case["id"], case["rev"], fields)
        assert sum_bytes(part).hex() == case["sum"]
        assert hashed(["k", case["collection"], case["id"]]).to_bytes(8).hex() == case["key_hash"]
        total += part
    assert sum_bytes(total).hex() == SUMS["sum"]
    assert sum_bytes(0).hex() == SUMS["sum_of_nothing"]


def test_names() -> None:
    for name in NAMES["spaces"]["valid"]:
        assert checked_space(name) == name
    for name in NAMES["names"]["valid"]:
        assert checked_name(name, "field") == name
    for name in NAMES["spaces"]["invalid"]:
        with pytest.raises(InvalidInput):
            checked_space(name)
    for name in NAMES["names"]["invalid"]:
        with pytest.raises(InvalidInput):
            checked_name(name, "field")


def test_waiting_before_a_reconnect() -> None:
    parameters = cm.Reconnect(**TIMING["reconnect"]["parameters"])
    for case in TIMING["reconnect"]["delays"]:
        assert Retry(case["attempt"]).delay_ms(parameters, case["random"]) == pytest.approx(case["delay_ms"])
    for case in TIMING["goaway"]:
        told = goaway_delay_ms(case["retry_after_ms"], case["spread_ms"], case["random"])
        assert told == case["delay_ms"]


ACTIONS = {
    Disposition.BACK_OFF: "backoff",
    Disposition.BISECT: "bisect",
    Disposition.RESUME_NOW: "resume",
    Disposition.SLOW_DOWN: "backoff",
    Disposition.REAUTHENTICATE: "reauth",
    Disposition.RESYNC: "resync",
    Disposition.MOVE: "move",
    Disposition.STOP: "stop",
}


def test_a_close_code_is_obeyed_by_its_range() -> None:
    for case in TIMING["close_codes"]:
        assert ACTIONS[disposition(case["code"])] == case["action"], case


def test_keep_alive() -> None:
    times = TIMING["keep_alive"]["client"]
    life = KeepAlive(0.0)
    life.welcomed(times["ping_ms"])
    probe_s = times["probe_after_ms"] / 1000
    assert life.tick(probe_s - 0.001) is Does.NOTHING
    assert life.tick(probe_s) is Does.PROBE
    drop_s = probe_s + times["drop_after_probe_ms"] / 1000
    assert life.tick(drop_s - 0.001) is Does.NOTHING
    assert life.tick(drop_s) is Does.DROP


# -- sessions ---------------------------------------------------------------------------------------------------------


class Player:
    """Plays one script to the client's core. `nonces`: n -> nonce of the client's own changes."""

    def __init__(self, directory: Path) -> None:
        self.count = 0
        self.store = Store(directory, entropy=self.entropy, durability="off")
        self.session: Session | None = None
        self.nonces: dict[int, str] = {}
        self.devices: list[str] = []
        self.sent: list[list[Any]] = []
        self.notices: list[str] = []
        self.now_s = 0.0

    def entropy(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size)

    def play(self, steps: list[dict[str, Any]]) -> None:
        for index, step in enumerate(steps):
            ((what, argument),) = ((key, item) for key, item in step.items() if key != "then")
            try:
                getattr(self, f"do_{what}")(argument)
                if what == "close" and "then" in step:
                    assert ACTIONS[disposition(argument)] == step["then"]
            except AssertionError as error:
                raise AssertionError(f"step {index}, {what}: {error}; sent: {self.sent}") from error

    def do_subscribe(self, space: str) -> None:
        with self.store.transaction() as tx:
            replica.join(tx, space)

    def do_connect(self, _: bool) -> None:
        self.session = Session(lambda: self.entropy(8))
        if self.store.device.hex() not in self.devices:
            self.devices.append(self.store.device.hex())
        self.sent = [[1, {"device": self.store.device.hex(), "installation": self.store.installation.hex(), "time": 5}]]

    def do_close(self, code: int) -> None:
        self.session, self.sent = None, []

    def do_commit(self, change: dict[str, Any]) -> None:
        operations = [operation_from(codec.value_from_json(item)) for item in change["operations"]]
        with self.store.transaction() as tx:
            entry = replica.commit(
                tx, change["space"], operations, nonce=self.entropy(8), now_ms=1_000, limits=cm.Limits()
            )
        self.nonces[entry.n] = entry.nonce.hex()
        if self.session is not None:
            self.session.look_at(change["space"])
        self.collect()

    def do_server(self, messages: list[Any]) -> None:
        frame = json.dumps(self.filled(messages))
        for message in codec.decoded(frame, codec.JSON):
            assert self.session is not None
            with self.store.transaction() as tx:
                effects = self.session.received(tx, message, 1_000, self.now_s)
            self.notices += [effect.what for effect in effects if isinstance(effect, Notice)]
            self.collect()

    def collect(self) -> None:
        if self.session is None or self.session.state is State.HELLO:
            return
        self.now_s += 1.0
        with self.store.transaction() as tx:
            messages = self.session.outgoing(tx, self.now_s)
        written = json.loads(codec.encoded(messages, codec.JSON))
        for message in messages:
            assert SCHEMA.matches("client-message", as_raw(message))
        self.sent += [message for message in written if message[0] != 5]

    def filled(self, item: Any) -> Any:
        """The script with `$nonce(n)` and `$device(n)` replaced."""
        if isinstance(item, list):
            return [self.filled(entry) for entry in item]
        if isinstance(item, dict):
            return {key: self.filled(entry) for key, entry in item.items()}
        if isinstance(item, str) and item.startswith("$nonce("):
            return self.nonces[int(item[7:-1])]
        if isinstance(item, str) and item.startswith("$device("):
            return self.devices[int(item[8:-1]) - 1]
        return item

    def do_client(self, patterns: list[Any]) -> None:
        self.collect()
        for pattern in patterns:
            assert self.sent, f"nothing sent, expected {pattern}"
            message = self.sent.pop(0)
            assert fits(self.filled(pattern), message), f"{message} is not {pattern}"
            self.learn(message)  # only now: what is sent again has to have the nonce that it had

    def do_client_any(self, patterns: list[Any]) -> None:
        self.collect()
        message = self.sent.pop(0) if self.sent else None
        assert any(fits(self.filled(pattern), message) for pattern in patterns), f"{message} is none of {patterns}"
        if message is not None:
            self.learn(message)

    def learn(self, message: list[Any]) -> None:
        for change in message[1].get("changes", ()):
            n, nonce = (change[1], change[3]) if change[0] == "void" else (change[0], change[1])
            self.nonces[n] = nonce

    def do_silent(self, _: bool) -> None:
        self.collect()
        assert self.sent == []

    def do_notice(self, what: str) -> None:
        assert what in self.notices

    def do_expect(self, facts: dict[str, Any]) -> None:
        space = facts["space"]
        with self.store.reading() as tx:
            row = replica.space_row(tx, space)
            keys = {document.key for document in tx.documents(space)} | set(tx.touched_keys(space))
            views = {key: replica.view(tx, space, key)[1] for key in sorted(keys)}
            outbox = [entry.n for entry in tx.outbox(space)]
        told = {
            "view": {
                "/".join(key): {name: [kind, codec.json_value(value)] for name, (kind, value) in state.items()}
                for key, state in views.items()
                if state is not None
            },
            "complete": row.complete,
            "resume": row.resume,
            "settled": row.settled,
            "outbox": outbox,
        }
        for fact in facts.keys() - {"space"}:
            # By text: in Python 1 == True, and 1 == 1.0.
            assert json.dumps(told[fact], sort_keys=True) == json.dumps(facts[fact], sort_keys=True), fact


def fits(pattern: Any, item: Any) -> bool:
    """Whether a message is what a script asks for: `*` is anything, keys that the pattern does not name are free."""
    if pattern == "*":
        return True
    if isinstance(pattern, dict):
        return isinstance(item, dict) and all(fits(value, item.get(key)) for key, value in pattern.items())
    if isinstance(pattern, list):
        return isinstance(item, list) and len(pattern) == len(item) and all(map(fits, pattern, item))
    return type(pattern) is type(item) and bool(pattern == item)


def as_raw(message: cm.Message) -> Any:
    return msgpack.unpackb(codec.encoded([message], codec.MSGPACK), raw=False)


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    player = Player(tmp_path)
    yield player
    player.store.close()


@pytest.mark.parametrize("name", sorted(SESSIONS))
def test_the_client_survives_the_conversation(name: str, player: Player) -> None:
    player.play(SESSIONS[name]["steps"])


def test_the_session_files_are_up_to_date() -> None:
    assert {
        name: text_of(content) for name, content in {**session_files(), **permission_files(), **restore_files()}.items()
    } == {path.stem: path.read_text() for path in (VECTORS / "sessions").glob("*.json")}


@pytest.mark.parametrize("name", sorted(SESSIONS))
def test_what_a_script_lets_the_server_send_matches_the_schema(name: str) -> None:
    for step in SESSIONS[name]["steps"]:
        for message in step.get("server", ()):
            if message[0] >= 128:
                continue
            text = re.sub(r"\$nonce\(\d\)", "00" * 8, json.dumps([message]))
            (read,) = codec.decoded(text, codec.JSON)
            assert SCHEMA.matches("server-message", as_raw(read)), message
