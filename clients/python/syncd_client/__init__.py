"""The Python client of syncd: a durable, offline-first replica. See README.md for a tour.

Start with `open_device` (trio) or `syncd_client.aio.open_device` (asyncio). Reading order of the source: values,
positions, operations, replay, tables, replica (what a message does to a replica), policy and session (what to say
when), store (what is on disk), keepalive, conversation and reconnect (a connection without its waiting), live (signals
and presence), shell and device (the waiting), trio_shell and aio (two event loops), space and lists (what applications
use), cli.
"""

from typing import TYPE_CHECKING, Any

from .device import Device, Status
from .errors import (
    DocumentExists,
    InvalidInput,
    NotCovered,
    OutcomeForgotten,
    PeerError,
    StoreError,
    SyncdError,
    TransportClosed,
    Unreachable,
    UnreadableText,
)
from .lists import ListField
from .live import Present, Signal
from .operations import Operation, operation
from .policy import State
from .positions import Item
from .replica import Position
from .session import Notice
from .shell import Ports, Transport
from .space import Change, Document, Lease, Space
from .tables import OutcomeRow, RefusedRow, SpaceRow
from .watching import Changed, Hearing

if TYPE_CHECKING:
    from .trio_shell import open_device, system_ports

__all__ = [
    "Change",
    "Changed",
    "Device",
    "Document",
    "DocumentExists",
    "Hearing",
    "InvalidInput",
    "Item",
    "Lease",
    "ListField",
    "NotCovered",
    "Notice",
    "Operation",
    "OutcomeForgotten",
    "OutcomeRow",
    "PeerError",
    "Ports",
    "Position",
    "Present",
    "RefusedRow",
    "Signal",
    "Space",
    "SpaceRow",
    "State",
    "Status",
    "StoreError",
    "SyncdError",
    "Transport",
    "TransportClosed",
    "Unreachable",
    "UnreadableText",
    "open_device",
    "operation",
    "system_ports",
]


def __getattr__(name: str) -> Any:
    """What is trio's own is imported when it is asked for: an asyncio application needs no trio."""
    if name in ("open_device", "system_ports"):
        from . import trio_shell

        return getattr(trio_shell, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
