"""The command line's side of the admin socket.

Owns one blocking request to a running daemon, and the errors of that. Must not know what is asked: that is `cli.py`.
"""

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

TIMEOUT_S = 35.0  # longer than the daemon takes to give up on a request by itself (net/limits.py: handle_s)


class Unreachable(Exception):
    """No daemon answers on the socket."""


class RequestRefused(Exception):
    """The daemon answered that it will not. The text is its reason."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def request(
    path_of_socket: Path,
    method: str,
    path: tuple[str, ...],
    *,
    query: Mapping[str, object] | None = None,
    body: object = None,
) -> Any:
    """One request; returns the JSON of the answer, or None if it has none. Raises `Unreachable`, `RequestRefused`."""
    target = "/" + "/".join(quote(segment, safe="") for segment in path)
    if query:
        target += "?" + urlencode({name: value for name, value in query.items() if value is not None})
    connection = _UnixConnection(path_of_socket)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, target, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        content = response.read()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        advice = "start one with `syncd serve`, or name the state directory of one that runs (--state-dir)"
        raise Unreachable(f"no daemon answers on {path_of_socket}: {error.strerror}; {advice}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no daemon answers on {path_of_socket}: {error}") from None
    finally:
        connection.close()
    value = json.loads(content) if content else None
    if response.status >= 400:
        detail = value.get("detail") if isinstance(value, dict) else None
        raise RequestRefused(str(detail or f"the daemon answered {response.status} {response.reason}"))
    return value
