"""A backend that posts over HTTP: each change under an Idempotency-Key, again and again until it is answered."""

import json
from typing import TYPE_CHECKING, Any, Final

import h11
import trio

from syncd.engine.grants import Grant, Role
from syncd.env.ports import TransportClosed
from syncd.net.auth import sign_token
from tests.net.harness import KEY, SPACE, Clock, send_all

if TYPE_CHECKING:
    from tests.failures.stage import Stage

POSTS: Final = 3
NUMBER: Final = 99  # of its address
ANSWER_S: Final = 5.0
PAUSE_S: Final = 0.4


class Backend:
    def __init__(self, stage: "Stage") -> None:
        self._stage = stage
        self.seqs: list[int] = []

    @property
    def is_done(self) -> bool:
        return len(self.seqs) == POSTS

    async def run(self) -> None:
        while not self._stage.is_over and not self.is_done:
            answer: tuple[int, Any] | None = None
            with trio.move_on_after(ANSWER_S):
                answer = await self._post(len(self.seqs))
            if answer is not None and answer[0] == 200:
                self.seqs.append(answer[1]["seq"])
            elif answer is not None and answer[0] < 500:
                self._stage.problems.append(f"a post was answered by {answer}")
            await trio.sleep(PAUSE_S)

    async def _post(self, number: int) -> tuple[int, Any] | None:
        """Status and body; None if no answer came."""
        token = sign_token(KEY, "u", [Grant("**", Role.OWNER)], 3600, Clock().now_ms())
        operations = [["create", "tally", "all"], ["counter.inc", "tally", "all", "count", 1]]
        body = json.dumps({"operations": operations}).encode()
        headers = [
            ("Host", "server.invalid"), ("Content-Length", str(len(body))), ("Content-Type", "application/json"),
            ("Authorization", f"Bearer {token}"), ("Idempotency-Key", f'"post-{number}"'),
        ]  # fmt: skip
        target = f"/v1/spaces/{SPACE.replace('/', '%2F')}/changes"
        connection = h11.Connection(h11.CLIENT)
        data = connection.send(h11.Request(method="POST", target=target, headers=headers)) or b""
        data += connection.send(h11.Data(data=body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        status, pieces = 0, list[bytes]()
        transport = None
        try:
            transport = self._stage.connect(NUMBER)
            await send_all(transport, data)
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await transport.receive(4096))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return status, json.loads(b"".join(pieces))
                else:
                    return None
        except (TransportClosed, h11.RemoteProtocolError):
            return None
        finally:
            if transport is not None:
                transport.abort()
