"""The capabilities that bring work, rules and planted bugs of their own into the simulator, one line each.

The files that they stand in import nothing of this one.
"""

from tests.sim.collection import COLLECTION
from tests.sim.drift import DRIFT
from tests.sim.keeping import KEEPING
from tests.sim.leases import LEASES
from tests.sim.lists import LISTS
from tests.sim.lost_leases import LOST_LEASES
from tests.sim.members import MEMBERSHIP
from tests.sim.notices import NOTICES
from tests.sim.restores import RESTORES
from tests.sim.reviving import REVIVING
from tests.sim.signals import SIGNALLING
from tests.sim.texts import TEXTS
from tests.sim.topic import Topic
from tests.sim.unique import UNIQUE

TOPICS: tuple[Topic, ...] = (
    LISTS, UNIQUE, MEMBERSHIP, LEASES, SIGNALLING, COLLECTION, DRIFT, TEXTS, REVIVING, NOTICES, LOST_LEASES, RESTORES,
    KEEPING,
)  # fmt: skip
