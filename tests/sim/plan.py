"""What one run is like: drawn from its seed and profile before anything happens.

Owns the knobs. A swarm draws which kinds of faults a run has at all, so that a rare one is not drowned by the others.
"""

from dataclasses import dataclass
from random import Random

FAULTS = (
    "kill-server", "stop-server", "power-cut", "kill-device", "close-device", "cut", "reset", "clock", "weather",
    "grants", "stale-token", "auth-down",
)  # fmt: skip
# Drawn apart from the others, so that a new kind leaves the runs without it as they were.
LATER_FAULTS = ("half-open", "stop-reading", "clone", "store-full", "disk-fails", "hour")
CROWD_MAX = 300  # devices
EDITS_MIN, HEARD_MAX = 100, 1600  # of a run: edits, and edits times devices
PROFILES = ("swarm", "offline", "storm", "rogue", "crowd")


@dataclass(frozen=True, slots=True)
class Plan:
    """`*_every_s`: mean time between two. `page_bytes`: what a page of a catch-up holds. `is_rated`:
    addresses, callers and users meet their rates."""

    profile: str
    devices: int
    users: int
    spaces: int
    safety_s: float
    edit_every_s: float
    fault_every_s: float
    faults: frozenset[str]
    page_bytes: int
    disk_s: float
    fault_share: float
    latency_s: float
    buffer_bytes: int
    short_share: float
    token_s: float
    ping_ms: int
    first_jitter_ms: int
    offline_share: float
    join_share: float
    delete_share: float
    post_every_s: float
    rogues: int
    misdeed_every_s: float
    frame_bytes_max: int
    push_changes_max: int
    pushes_in_flight_max: int
    subscriptions_max: int
    control_bytes_max: int
    connections_per_address_max: int
    upgrades_per_s_max: float
    is_rated: bool
    is_followed: bool


def drawn(seed: int, profile: str) -> Plan:
    random = Random(f"{profile}/{seed}/plan")
    share = random.choice((0.2, 0.5, 0.8))
    faults = frozenset(fault for fault in FAULTS if random.random() < share)
    if random.random() < 0.4:
        faults |= {"grants"}  # with few others a connection lives long enough to see a grant go
    devices = random.choice((2, 3, 4, 6, 8))
    if profile == "storm":
        devices = random.choice((12, 20, 30))
        faults |= {"kill-server", "power-cut"}
    later = Random(f"{profile}/{seed}/later")
    share = 0.0 if profile == "rogue" else later.choice((0.0, 0.3, 0.7))
    faults |= {fault for fault in LATER_FAULTS if later.random() < share}
    if profile == "crowd":
        devices = CROWD_MAX if later.random() < 0.15 else random.randint(60, 120)
    if profile == "offline":
        faults |= {"cut", "kill-device"}
    # In all: the auditor's cost grows faster than these, and each is heard by everyone.
    edits = max(EDITS_MIN, min(random.randint(EDITS_MIN, 400), HEARD_MAX // devices))
    safety_s = random.choice((40.0, 90.0, 200.0)) * (4 if profile == "offline" else 1)
    if profile == "crowd":
        edits, safety_s = random.randint(EDITS_MIN, 250), random.choice((15.0, 30.0))
    if profile == "rogue":
        devices, edits, safety_s = random.choice((2, 3)), random.randint(20, 60), 150.0
        faults = frozenset()
    # Pages that are read while others write: small ones, on a link that takes few at a time.
    page_bytes, buffer_bytes, latency_s = random.choice((
        (1, 256, 0.2), (1, 700, 0.2), (300, 256, 0.5), (300, 4096, 0.02), (1500, 700, 0.02), (262_144, 65536, 0.001),
        (262_144, 256, 0.02),
    ))  # fmt: skip
    return Plan(
        profile=profile,
        devices=devices,
        users=random.randint(devices // 16, devices // 8) if profile == "crowd" else random.randint(1, min(devices, 4)),
        spaces=random.randint(1, 2 if profile == "crowd" else 4),
        safety_s=safety_s,
        edit_every_s=safety_s * devices / edits,
        fault_every_s=random.choice((3.0, 8.0, 20.0)),
        faults=faults,
        page_bytes=page_bytes,
        disk_s=random.choice((0.0, 0.002, 0.02, 0.2)),
        fault_share=random.choice((0.0, 0.01, 0.04)) if "power-cut" in faults else 0.0,
        latency_s=latency_s,
        buffer_bytes=buffer_bytes,
        short_share=random.choice((0.0, 0.0, 0.1, 0.4)),
        token_s=random.choice((20.0, 20.0, 60.0, 600.0)),
        ping_ms=random.choice((15_000, 30_000)),
        first_jitter_ms=random.choice((200, 1000, 5000)),
        offline_share=random.choice((0.3, 0.6)) if profile == "offline" else random.choice((0.0, 0.05, 0.15)),
        join_share=random.choice((0.05, 0.05, 0.3)),
        delete_share=random.choice((0.03, 0.2)),
        post_every_s=safety_s / random.randint(3, 20),
        rogues=6 if profile == "rogue" else later.choice((0, 1, 1, 2)),
        misdeed_every_s=1.0 if profile == "rogue" else later.choice((1.0, 4.0)),
        frame_bytes_max=later.choice((20_000, 131_072, 1_048_576)),
        push_changes_max=later.choice((5, 50, 1000)),
        pushes_in_flight_max=later.choice((1, 2, 16)),
        # A rogue meets small limits soon.
        subscriptions_max=8 if profile == "rogue" else later.choice((8, 256)),
        control_bytes_max=2048 if profile == "rogue" else later.choice((2048, 65_536)),
        connections_per_address_max=12 if profile == "rogue" else later.choice((12, 5000)),
        upgrades_per_s_max=later.choice((2.0, 1000.0)) if profile == "storm" else 1000.0,
        is_followed=later.random() < 0.4,
        is_rated=later.random() < (0.5 if profile == "rogue" else 0.3),
    )
