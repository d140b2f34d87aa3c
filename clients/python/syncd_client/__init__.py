"""The Python client of syncd: a durable, offline-first replica. See README.md for a tour.

Start with `open_device`. Reading order of the source: values, operations, replay, tables, replica (what a message does
to a replica), policy and session (what to say when), store (what is on disk), shell and device (trio), cli.
"""

from .device import Device, Status, open_device, system_ports
from .errors import (
    DocumentExists,
    InvalidInput,
    OutcomeForgotten,
    PeerError,
    StoreError,
    SyncdError,
    TransportClosed,
    Unreachable,
)
from .operations import Operation, operation
from .policy import State
from .replica import Position
from .session import Notice
from .shell import Ports, Transport
from .space import Change, Document, Space
from .tables import OutcomeRow, RefusedRow, SpaceRow
from .watching import Changed

__all__ = [
    "Change",
    "Changed",
    "Device",
    "Document",
    "DocumentExists",
    "InvalidInput",
    "Notice",
    "Operation",
    "OutcomeForgotten",
    "OutcomeRow",
    "PeerError",
    "Ports",
    "Position",
    "RefusedRow",
    "Space",
    "SpaceRow",
    "State",
    "Status",
    "StoreError",
    "SyncdError",
    "Transport",
    "TransportClosed",
    "Unreachable",
    "open_device",
    "operation",
    "system_ports",
]
