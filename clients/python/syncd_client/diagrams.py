"""clients/python/states.md, drawn from the tables of `policy` and `keepalive` (`python -m syncd_client.diagrams`).

Owns the drawing. Must not decide anything: what is drawn is what the tables say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from .keepalive import HELLO_S, KEEPALIVE, PROBE_ANSWER_S, SILENCE_GRACE_S, WAKE_ANSWER_S, Does, Life
from .policy import TRANSITIONS, State

Arrow: TypeAlias = tuple[str, str, str]  # from, to, label

HEAD = """# State diagrams of the Python client

Generated from the tables in `policy.py` and `keepalive.py` by `python -m syncd_client.diagrams`; a test compares.

## Connection

As `device.status` shows it.
"""
KEEPALIVE_HEAD = f"""
## Keep-alive

Timer *hello* fires {HELLO_S:.0f} s after the socket opened, *quiet* `ping_ms` + {SILENCE_GRACE_S:.0f} s after the last
byte received, *probe* {PROBE_ANSWER_S:.0f} s and *wake* {WAKE_ANSWER_S:.0f} s after the probe was sent.
"""


def connection_arrows() -> Iterator[Arrow]:
    for (state, event), after in TRANSITIONS.items():
        yield state.value, after.value, event.value


def keepalive_arrows() -> Iterator[Arrow]:
    for (life, beat), (after, does) in KEEPALIVE.items():
        if not (life is after is Life.GONE):
            yield life.value, after.value, beat.value + ("" if does is Does.NOTHING else f" / {does.value}")


def drawn(start: str, arrows: Iterable[Arrow]) -> str:
    """A mermaid diagram; arrows between the same two states become one, with all their labels."""
    labels: dict[tuple[str, str], list[str]] = {}
    for source, target, label in arrows:
        labels.setdefault((source, target), []).append(label)
    lines = ["", "```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    lines += [f"    {source} --> {target}: {', '.join(told)}" for (source, target), told in labels.items()]
    return "\n".join([*lines, "```", ""])


def document() -> str:
    connection = drawn(State.CLOSED.value, connection_arrows())
    return HEAD + connection + KEEPALIVE_HEAD + drawn(Life.WAITING.value, keepalive_arrows())


if __name__ == "__main__":
    print(document(), end="")
