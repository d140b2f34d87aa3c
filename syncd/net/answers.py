"""Messages of a device as commands, and what it is told of a request about a space that did not do what it should.

Pure tables. Must not know connections.
"""

from syncd.engine.commands import Attach, Author, Expired, Failed, Refused, Result
from syncd.wire import messages as m
from syncd.wire.errors import DEVICE_BOUND, FORBIDDEN, FRAME_LIMIT, INTERNAL, KIND_BY_NAME, ProtocolError, error


def check_frame_bytes(hello: m.Hello, delta_bytes_max: int) -> None:
    """Raises `ProtocolError` if the client can take less than the longest delta."""
    if hello.frame_bytes_max is not None and hello.frame_bytes_max < delta_bytes_max:
        raise ProtocolError(FRAME_LIMIT, f"a delta may have {delta_bytes_max} bytes; 'frame_bytes_max' is less")


def asked_for(author: Author, message: m.Subscribe) -> Attach:
    return Attach(
        author, message.space, message.epoch, message.complete, message.resume, message.start, message.settled,
        message.chain,
    )  # fmt: skip


def answer_to(space: str, result: Result, backoff_ms: int) -> m.Expired | m.Error:
    """Raises `ProtocolError` if the connection has to end with it."""
    match result:
        case Expired(_, epoch, fork, highest):
            return m.Expired(space, epoch, fork, highest)
        case Refused("device_bound", detail):
            raise ProtocolError(DEVICE_BOUND, detail)
        case Refused(reason, detail):
            return error(KIND_BY_NAME.get(reason, FORBIDDEN), detail, space=space)
        case Failed(reason, detail):
            return error(KIND_BY_NAME.get(reason, INTERNAL), detail, space=space, after_ms=backoff_ms)
        case _:
            raise AssertionError(f"not an answer to a request about a space: {result}")
