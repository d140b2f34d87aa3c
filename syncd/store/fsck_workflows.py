"""fsck of workflows: what is active is there, each version has its use; and of what is counted.

Owns what must be true between the set of workflows, their versions, what is counted of their runs, and what came of
notifications. Must not know what a definition means.
"""

from collections import Counter

from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.checking import Damaged, Finding, Findings, get, rows
from syncd.store.tables import COUNTERS, META, RUNS, VERSION_USES, WORKFLOW_VERSIONS


def workflow_versions(tx: Reader) -> Findings:
    """Each version has a use under the name of its workflow; each active version is there."""
    for key, row in rows(tx, WORKFLOW_VERSIONS, keys.table_range(keys.WORKFLOW)):
        name, version = keys.parse_workflow_version(key)
        use = get(tx, VERSION_USES, keys.version_use(version))
        if use is None:
            yield Finding(WORKFLOW_VERSIONS.name, f"{name} {version}", "it has no use")
        elif not isinstance(use, Damaged) and use.name != name:
            yield Finding(WORKFLOW_VERSIONS.name, f"{name} {version}", f"its use is of the workflow {use.name!r}")
        if not isinstance(row, Damaged) and list(row.values.get("workflow", ())) != [name]:
            yield Finding(WORKFLOW_VERSIONS.name, f"{name} {version}", "it defines another workflow")
    found = get(tx, META, keys.workflow_set())
    for name, head in {} if found is None or isinstance(found, Damaged) else found[0][1].items():
        active = head[0]
        if active is not None and tx.get(keys.workflow_version(name, active)) is None:
            yield Finding(META.name, name, f"its active version {active} is not there")


def version_uses(tx: Reader) -> Findings:
    """Each use is that of a version, and counts the runs that are in it."""
    runs = Counter(
        run.version
        for _, run in rows(tx, RUNS, keys.table_range(keys.RUN))
        if not isinstance(run, Damaged) and run.kind == "run"
    )
    for key, use in rows(tx, VERSION_USES, keys.table_range(keys.VERSION_USE)):
        version = key[1:].hex()
        if isinstance(use, Damaged):
            continue
        if tx.get(keys.workflow_version(use.name, version)) is None:
            yield Finding(VERSION_USES.name, version, f"the workflow {use.name!r} has no such version")
        if use.runs != runs[version]:
            yield Finding(VERSION_USES.name, version, f"it counts {use.runs} runs, {runs[version]} are there")


def counters(tx: Reader) -> Findings:
    """Nothing is counted below nothing."""
    for key, row in rows(tx, COUNTERS, keys.table_range(keys.COUNTER)):
        if not isinstance(row, Damaged) and min(row) < 0:
            day, category, workflow = keys.parse_counter(key)
            yield Finding(COUNTERS.name, f"day {day} {category} {workflow}", f"it counts {min(row)}")
