"""protocol/states.md, drawn from the tables of `session` (`python -m syncd.wire.diagrams` prints it).

Owns the drawing and the client's side of keep-alive, which no server code runs. Must not decide anything: what is drawn
is what the tables say.
"""

from collections import defaultdict
from collections.abc import Iterable

from syncd.wire.limits import HELLO_MS_MAX, IDLE_SLACK_MS
from syncd.wire.session import (
    CONVERSATION,
    KEEPALIVE,
    SUBSCRIPTION,
    Due,
    Life,
    State,
    Subscription,
    Verdict,
)

Arrow = tuple[str, str, str]  # from, to, label

# As the reference client's table has it; a test compares the two, for no server code runs by it (SPEC section 11).
CLIENT_KEEPALIVE: tuple[Arrow, ...] = (
    ("waiting", "greeting", "connected / send hello"),
    ("greeting", "greeting", "any byte received"),
    ("greeting", "greeting", "the device woke from sleep"),
    ("greeting", "alive", "welcome received"),
    ("greeting", "gone", "timer hello / drop the connection"),
    ("alive", "alive", "any byte received"),
    ("alive", "probing", "timer quiet / send probe"),
    ("alive", "testing", "the device woke from sleep / send probe"),
    ("probing", "alive", "any byte received"),
    ("probing", "gone", "timer probe / drop the connection"),
    ("probing", "testing", "the device woke from sleep / send probe"),
    ("testing", "alive", "any byte received"),
    ("testing", "gone", "timer wake / drop the connection"),
    ("testing", "testing", "the device woke from sleep"),
    ("gone", "waiting", "reconnect as section 11 says"),
)

HEAD = """# State diagrams

Generated from the tables in `syncd/wire/session.py` by `python -m syncd.wire.diagrams`; a test compares. *received* and
*sent* are seen from the server. A message that no arrow shows is `unexpected_message` (4900) when the client
sends it, and is never sent by a server; once the conversation is closed, whatever still arrives is dropped.

## Conversation
"""

SUBSCRIPTION_HEAD = """
## Subscription of one space

Each connection has one of these for every space that it names. Only *live* gets deltas as they commit; *behind* reads
pages from its own position, so that no queue per client can overflow.
"""

KEEPALIVE_HEAD = f"""
## Keep-alive, server

Timer *hello* fires {HELLO_MS_MAX:,} ms after the connection began, *quiet* `ping_ms` after the last byte received,
*idle* 2 x `ping_ms` + {IDLE_SLACK_MS:,} ms after it.
"""

CLIENT_HEAD = """
## Keep-alive, client

Timer *hello* fires 10 s after the socket opened, *quiet* `ping_ms` + 5 s after the last byte received, *probe* 10 s and
*wake* 5 s after the probe was sent. A `ping` is answered by `pong` in each state.
"""


def _id(name: str) -> str:
    return name.replace(" ", "_")


def _diagram(start: str, arrows: Iterable[Arrow]) -> str:
    """A mermaid diagram; arrows between the same two states become one, with all their labels."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for source, target, label in arrows:
        labels[source, target].append(label)
    names = dict.fromkeys(name for pair in labels for name in pair)
    lines = ["", "```mermaid", "stateDiagram-v2"]
    lines += [f"    {_id(name)}: {name}" for name in names if _id(name) != name]
    lines.append(f"    [*] --> {_id(start)}")
    for (source, target), told in labels.items():
        lines.append(f"    {_id(source)} --> {_id(target)}: {', '.join(told)}")
    return "\n".join([*lines, "```", ""])


def _conversation_arrows() -> Iterable[Arrow]:
    for state, row in CONVERSATION.items():
        for way in ("received", "sent"):
            by_target: dict[str, list[str]] = defaultdict(list)
            for (direction, name), after in row.items():
                if direction == way and not isinstance(after, Verdict):
                    by_target[after.value].append(name)
            for target, names in by_target.items():
                yield state.value, target, f"{way} {' or '.join(names)}"


def _subscription_arrows() -> Iterable[Arrow]:
    for state, row in SUBSCRIPTION.items():
        for step, after in row.items():
            if after is not None and not (state is after is Subscription.NONE):
                yield state.value, after.value, step.value.replace(":", ",")


def _keepalive_arrows() -> Iterable[Arrow]:
    for life, row in KEEPALIVE.items():
        for beat, after in row.items():
            if after is not None and life is not Life.DEAD:
                does = "" if after[1] is Due.NOTHING else f" / {after[1].value}"
                yield life.value, after[0].value, beat.value + does


def document() -> str:
    """The whole of protocol/states.md."""
    return "".join(
        [
            HEAD,
            _diagram(State.AWAIT_HELLO.value, _conversation_arrows()),
            SUBSCRIPTION_HEAD,
            _diagram(Subscription.NONE.value, _subscription_arrows()),
            KEEPALIVE_HEAD,
            _diagram(Life.NEW.value, _keepalive_arrows()),
            CLIENT_HEAD,
            _diagram("waiting", CLIENT_KEEPALIVE),
        ]
    )


if __name__ == "__main__":
    print(document(), end="")
