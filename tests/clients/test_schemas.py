"""What an application knows of schemas goes with each operation, from when it was made until it is taken or refused."""

from pathlib import Path

import pytest
from trio.testing import MockClock

from syncd_client import InvalidInput, operation
from syncd_client.operations import operation_from, operation_read

from .peer import SPACE, Peer
from .test_device import device_at


async def test_a_version_stays_with_what_was_made_under_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with device_at(tmp_path, Peer(), url=None, token=None) as device:
        space = device.space(SPACE)
        space.create("product", "before", {"name": "x"})
        device.schemas["product"] = 2
        space.commit([operation("create", "product", "p"), operation("create", "other", "o")])
        space.set("product", "p", "title", "t")
        device.schemas["product"] = 3
        kept = [entry.operations for entry in device.store.outbox(SPACE)]
    assert [[each.schema for each in operations] for operations in kept] == [[None, None], [2, None], [2]]


@pytest.mark.parametrize("options", [{"schema": 2}, {"schema": 2, "seen": 7}, {"seen": 7}])
def test_options_survive_the_store(options: dict[str, int]) -> None:
    made = operation_from(["reg.set", "c", "d", "f", 1, options])
    assert operation_read(made.wire()) == made and made.wire()[-1] == options


@pytest.mark.parametrize("options", [{}, {"schema": 0}, {"schema": True}, {"scheme": 1}, {"schema": 1, "x": 1}])
def test_an_option_that_means_nothing_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        operation_from(["reg.set", "c", "d", "f", 1, options])
