from collections.abc import AsyncIterator

import pytest
import trio

from tests.http.harness import Server


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[Server]:
    server = Server()
    await nursery.start(server.committer.run)
    yield server
    server.committer.close()
