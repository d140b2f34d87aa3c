"""The soak: a slope is found where there is one, a verdict is not given too early, and what is wrong is said."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import soak, workload
from bench.client import Broken, Device, Replica
from bench.daemon import Daemon
from bench.garbage import KINDS
from bench.mixed import GENTLE, STEADY, Load, differences
from bench.soak import Report, Sample, Soak, leaks
from bench.trend import BLOCKS, GROWS, GROWTH_MAX, TOO_SHORT, Trend, trend
from bench.trend import STEADY as IS_STEADY

MIB = 1 << 20
HOUR_S = 3600


def series(seconds: float, per_hour: float, *, noise: float = 0.0, start: float = 40 * MIB) -> Trend:
    rng = random.Random(7)
    step_s = min(5.0, seconds / 60)
    times = [at * step_s for at in range(int(seconds / step_s))]
    values = [start * (1 + per_hour * at / HOUR_S) + rng.uniform(-noise, noise) for at in times]
    found = trend(times, values)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("seconds", "per_hour", "noise", "verdict"),
    [
        (HOUR_S, 0.0, 0.0, IS_STEADY),
        (HOUR_S, 0.0, 0.3 * MIB, IS_STEADY),
        (HOUR_S, 0.2, 0.3 * MIB, GROWS),
        (HOUR_S, 0.02, 0.3 * MIB, TOO_SHORT),  # less than two MiB: a longer run would tell
        (10 * HOUR_S, 0.02, 0.3 * MIB, GROWS),
        (10 * HOUR_S, 0.009, 0.0, IS_STEADY),
        (60, 0.0, 0.0, TOO_SHORT),  # nothing grew, but nothing could have been seen to
        (60, 0.5, 0.0, TOO_SHORT),
        (600, -0.01, 0.0, TOO_SHORT),
    ],
)
def test_a_verdict_on_growth_needs_time_and_a_clear_slope(
    seconds: float, per_hour: float, noise: float, verdict: str
) -> None:
    assert series(seconds, per_hour, noise=noise).verdict == verdict


@given(st.floats(-0.5, 2.0), st.floats(10 * MIB, 1000 * MIB))
def test_the_slope_of_a_line_is_found_whatever_its_height(per_hour: float, start: float) -> None:
    found = series(2 * HOUR_S, per_hour, start=start)
    # It is a share of the mean, not of the beginning.
    assert found.per_hour * found.mean == pytest.approx(per_hour * start, rel=1e-6, abs=1.0)


def test_what_happens_in_the_first_third_does_not_count() -> None:
    times = [float(at) for at in range(0, HOUR_S, 5)]
    warm = [40 * MIB * min(1.0, 0.5 + at / 1000) for at in times]
    found = trend(times, warm)
    assert found is not None and found.per_hour == pytest.approx(0.0, abs=1e-9)


def test_one_piece_of_memory_more_is_not_called_growth() -> None:
    times = [float(at) for at in range(0, HOUR_S, 5)]
    found = trend(times, [40.0 * MIB + (MIB if at > 2400 else 0) for at in times])
    assert found is not None and found.per_hour > GROWTH_MAX and found.verdict == TOO_SHORT


def test_too_few_samples_give_no_trend() -> None:
    assert trend([], []) is None
    assert trend([1.0], [1.0]) is None
    times = [float(at) for at in range(BLOCKS)]
    assert trend(times, times) is None  # two thirds of them are fewer than blocks


SAMPLE = Sample(0.0, 40 * MIB, 20 * MIB, 16, 2, 4096, 0, 1.0, 0.0, 0.0)


def report(samples: list[Sample], problems: tuple[str, ...] = ()) -> Report:
    return Report(tuple(samples), SAMPLE, SAMPLE, problems, {})


def test_only_a_steady_run_without_a_problem_passes() -> None:
    steady = [replace(SAMPLE, seconds=float(at)) for at in range(0, HOUR_S, 5)]
    assert (report(steady).verdict, report(steady).exit_code) == (IS_STEADY, 0)
    assert (report(steady, ("a change is lost",)).verdict, report(steady, ("x",)).exit_code) == ("failed", 1)
    growing = [replace(each, anon_bytes=int(40 * MIB * (1 + each.seconds / HOUR_S))) for each in steady]
    assert (report(growing).verdict, report(growing).exit_code) == (GROWS, 1)
    assert (report(steady[:5]).verdict, report(steady[:5]).exit_code) == (TOO_SHORT, 1)
    assert (report([]).verdict, report([]).exit_code) == (TOO_SHORT, 1)


def test_a_report_holds_every_sample_and_the_share_of_a_core() -> None:
    samples = [replace(SAMPLE, seconds=10.0 * at, daemon_s=1.0 * at, load_s=0.5 * at) for at in range(11)]
    written = report(samples).as_json()
    assert written["cpu_share"] == {"daemon": pytest.approx(0.1), "load": pytest.approx(0.05)}
    assert len(written["samples"]["anon_bytes"]) == 11
    assert written["loop_ms"] == {"p50": 1.0, "p99": 1.0, "max": 1.0}


def test_descriptors_and_devices_that_stay_are_leaks() -> None:
    assert leaks(SAMPLE, SAMPLE) == []
    assert leaks(SAMPLE, replace(SAMPLE, descriptors=30)) == [
        "30 descriptors are open after all have left; 16 were before"
    ]
    assert leaks(SAMPLE, replace(SAMPLE, devices=1)) == ["1 devices are counted after all have left"]


# -- the client -------------------------------------------------------------------------------------------------------


def delta(
    from_: int, to: int, docs: list[object], *, after: int | None = None, complete: bool = True
) -> dict[str, object]:
    return {
        "space": "s", "epoch": bytes(16), "from": from_, "after": from_ if after is None else after, "to": to,
        "complete": complete, "docs": docs,
    }  # fmt: skip


def document(name: str, state: int, **fields: object) -> list[object]:
    return ["notes", name, 1, state, {key: None if value is None else ["reg", value] for key, value in fields.items()}]


def test_documents_change_with_complete_only() -> None:
    replica = Replica("s")
    assert replica.take_delta(delta(0, 5, [document("a", 1, x=1, y=2)], complete=False))
    assert (replica.complete, replica.resume, replica.documents) == (0, 5, {})
    assert replica.take_delta(delta(0, 7, [document("a", 0, x=None)], after=5))
    assert (replica.complete, replica.documents) == (7, {("notes", "a"): {"y": 2}})
    assert replica.take_delta(delta(2, 7, [document("a", 2)])), "what is known already changes nothing"
    assert replica.documents
    assert not replica.take_delta(delta(9, 10, [])), "a gap"
    assert replica.take_delta(delta(7, 8, [document("a", 2)])) and replica.documents == {}


def test_a_change_leaves_the_outbox_by_its_own_outcome_only() -> None:
    replica = Replica("s")
    replica.edit([["create", "notes", "a"]])
    replica.edit([["create", "notes", "b"]])
    first, second = replica.outbox[1][1], replica.outbox[2][1]
    with pytest.raises(Broken, match="another change"):
        replica.take_outcomes({"epoch": bytes(16), "outcomes": [[1, bytes(8), "applied", 1, None]]})
    replica.take_outcomes({"epoch": bytes(16), "outcomes": [[1, first, "applied", 1, None]]})
    replica.take_outcomes({"epoch": bytes(16), "outcomes": [[1, first, "applied", 1, None]]})  # again: no harm
    assert (list(replica.outbox), replica.settled, replica.outcomes) == ([2], 1, {"applied": 1})
    with pytest.raises(Broken, match="never made"):
        replica.take_outcomes({"epoch": bytes(16), "outcomes": [[3, second, "applied", 2, None]]})
    with pytest.raises(Broken, match="misses a change"):
        replica.take_outcomes({"epoch": bytes(16), "outcomes": [], "gap": 2})


def test_devices_that_differ_at_the_end_are_named() -> None:
    devices = [Device(name, "", {"s": Replica("s")}) for name in ("one", "two")]
    assert differences(devices) == []
    devices[0].replicas["s"].documents[("notes", "a")] = {"x": 1}
    devices[1].replicas["s"].edit([["create", "notes", "b"]])
    devices[1].replicas["s"].outcomes["invalid"] = 1
    assert differences(devices) == [
        "two: 1 changes of s got no outcome", "two: outcomes ['invalid'] in s", "s: one at 0 and two at 0 differ",
    ]  # fmt: skip


def test_garbage_has_every_kind_and_is_the_same_from_the_same_seed() -> None:
    for kind in KINDS:
        made = [kind(random.Random(1), "127.0.0.1:1", "token.of.someone") for _ in range(2)]
        assert made[0] == made[1] and all(made[0])
    assert GENTLE.devices < STEADY.devices and GENTLE.edit_s > STEADY.edit_s


@pytest.mark.long
async def test_a_short_soak_finds_a_healthy_daemon_healthy(tmp_path: Path) -> None:
    said: list[str] = []
    with Daemon(tmp_path / "store", None, settings=soak.SETTINGS) as daemon:
        tokens = [daemon.token(f"soak-{user}") for user in range(2)]
        load = Load(daemon.port, GENTLE, tokens, daemon.api_key("events:write", "changes:write:bench/**"), seed=3)
        run = Soak(daemon, load, 20.0, said.append, tmp_path / "soak.json")
        await run.run()
    assert run.report().problems == () and run.report().verdict == TOO_SHORT
    assert load.counts.edits and load.counts.sessions and load.counts.posts and load.counts.hostile
    assert workload.COLLECTION in {key[0] for each in load.devices[0].replicas.values() for key in each.documents}
