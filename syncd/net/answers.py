"""What a device is told of a request about a space that did not do what it was meant to. A pure table of results."""

from syncd.engine.commands import Expired, Failed, Refused, Result
from syncd.wire import messages as m
from syncd.wire.errors import DEVICE_BOUND, FORBIDDEN, INTERNAL, KIND_BY_NAME, ProtocolError, error


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
