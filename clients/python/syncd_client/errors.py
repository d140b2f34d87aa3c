"""The errors of the client: whose fault each one is, and nothing else.

`InvalidInput` is the caller's, `PeerError` the server's, `StoreError` the disk's or another program's. A refused
change is none of these: it is an outcome.
"""

from __future__ import annotations


class SyncdError(Exception):
    """Base of all errors that this package raises on purpose."""


class InvalidInput(SyncdError):
    """The caller gave something that the protocol cannot carry. Nothing was stored. The text says what and where."""


class UnreadableText(SyncdError):
    """Somebody wrote an update of a text that is none of a Yjs document, or breaks the library that reads it. No editor
    can show the text; `TextField.updates` has what was written. The message says which update."""


class NotCovered(SyncdError):
    """The leases of this device do not cover what was to be taken or given: nothing was stored."""


class DocumentExists(SyncdError):
    """`create` of a document that the view already shows."""


class OutcomeForgotten(SyncdError):
    """The outcome of the change was stored here once; only the last 1,000 of each space are kept."""


class StoreError(SyncdError):
    """The store cannot be opened or used: made by a newer version, damaged, or not a store."""


class PeerError(SyncdError):
    """The server sent something that the protocol does not allow. The text names the message and the field."""


class Unreachable(SyncdError):
    """No connection could be made, or the server did not answer in time. `after_s`: it asked not to be tried sooner."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Absent(Unreachable):
    """Nobody listens there, or no way leads there: no byte was exchanged."""


class Blocked(Unreachable):
    """Something answered, but lets no WebSocket through: polls may get where it does not."""


class TransportClosed(SyncdError):
    """The connection ended. `code` is the WebSocket close code; 1006 if there was none. `after_s` as of Unreachable."""

    def __init__(self, code: int, reason: str = "", after_s: float = 0.0) -> None:
        super().__init__(f"connection closed with {code}{': ' if reason else ''}{reason}")
        self.code = code
        self.reason = reason
        self.after_s = after_s


class Refused(TransportClosed):
    """No connection has come about: the request that was to open it, with what the client says first, was refused."""
