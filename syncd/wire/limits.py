"""Every limit of the wire, with its unit and its reason.

Owns the figures that a server announces in `welcome.limits` (SPEC section 9) and those that protect the decoder. Must
not know who enforces them. Limits inside a change are core's own; they are repeated to the client from there.
"""

from dataclasses import asdict, dataclass
from typing import Final

from syncd.core.changes import CHANGE_BYTES_MAX, DOCUMENTS_MAX, OPERATIONS_MAX
from syncd.core.documents import DOCUMENT_BYTES_MAX, FIELDS_MAX
from syncd.core.values import ITEMS_MAX, VALUE_BYTES_MAX

# -- the decoder ------------------------------------------------------------------------------------------------------

# A MessagePack array or map header makes msgpack allocate 8 bytes for each item that it *claims*, before one is read,
# and headers nest up to 1,024 deep (msgpack's own stack). So a frame of 3 KiB can claim 1,024 x 4,096 x 8 = 32 MiB at
# most, for the time of one decode (one at a time in the process). The rest of a frame can become at most about 72 bytes
# of objects for each of its bytes (a one-byte empty array: 56 bytes and a pointer): 72 MiB for 1 MiB.
ARRAY_ITEMS_MAX: Final = ITEMS_MAX  # no array of the protocol is longer: 1,000 changes, 1,000 operations, 4,096 values
MAP_ITEMS_MAX: Final = ITEMS_MAX

# Arrays and maps in one frame, whatever they lie in. Each costs the loop a step in Python, a number or a text next to
# nothing, and a frame of 1 MiB has room for a million empty ones. The shortest operation has 12 bytes, so a frame has
# room for 87,381 of them: pushes of numbers and text do not come near.
CONTAINERS_MAX: Final = 131_072

# Text that a body is made of is escaped at worst as \u00XX in JSON: six bytes for one.
JSON_FACTOR: Final = 6

# The first frame. A token has 16 KiB at most; 20,000 strangers who send and never finish cost 1.3 GB, not 20.
HELLO_BYTES_MAX: Final = 65_536

# -- time -------------------------------------------------------------------------------------------------------------

HELLO_MS_MAX: Final = 10_000  # a slow phone needs three round trips of TCP and TLS; Phoenix gives 10 s to join
PING_MS: Final = 30_000  # carriers drop idle mappings after 30 s to some minutes; 25-45 s suits desktops
PING_MS_MIN: Final = 15_000  # a client that asks for less gets this: its radio would never sleep
PING_MS_MAX: Final = 600_000  # and at most this: a half-open connection holds memory for twice as long
IDLE_SLACK_MS: Final = 5_000  # one retransmission of TCP more than two intervals

# -- rate -------------------------------------------------------------------------------------------------------------

MESSAGES_BURST_MAX: Final = 1_000  # a client with 256 spaces reconnects: subscribe and push for each, and acks


# -- signals ----------------------------------------------------------------------------------------------------------

SIGNAL_TTL_MS: Final = 10_000  # what a signal that says nothing of it is worth: "is typing" is repeated more often
SIGNALS_BURST_MAX: Final = 100  # two seconds' worth: a finger that draws, after a pause of the network

# -- events -----------------------------------------------------------------------------------------------------------

EVENTS_BURST_MAX: Final = 600  # a weekend offline, and then some

# What protects the decoder and is the same for each server. Announced with the others, so that a client that makes a
# frame knows all that it may be refused for.
FIXED: Final = {
    "frame_containers_max": CONTAINERS_MAX,
    "container_items_max": ITEMS_MAX,
    "hello_bytes_max": HELLO_BYTES_MAX,
    "messages_burst_max": MESSAGES_BURST_MAX,
    "signals_burst_max": SIGNALS_BURST_MAX,
    "events_burst_max": EVENTS_BURST_MAX,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server enforces, under the names of `welcome.limits`."""

    frame_bytes_max: int = 1_048_576  # a push of 1,000 small changes has about 100 KiB; NATS and MQTT brokers: 1 MiB
    push_changes_max: int = 1_000  # bounds one write transaction's share of one connection
    change_operations_max: int = OPERATIONS_MAX
    change_documents_max: int = DOCUMENTS_MAX
    change_bytes_max: int = CHANGE_BYTES_MAX
    value_bytes_max: int = VALUE_BYTES_MAX
    document_bytes_max: int = DOCUMENT_BYTES_MAX
    document_fields_max: int = FIELDS_MAX
    delta_bytes_max: int = 2_097_152  # what one seq alters fits (change_bytes_max, and 128 documents' envelopes)
    subscriptions_max: int = 256  # per connection; each costs some hundred bytes and one entry in the hub
    pushes_in_flight_max: int = 16  # enough to hide the round trip; the rest waits in the client's outbox
    messages_per_s_max: int = 200  # a busy editor commits 10 changes a second in a few pushes
    signal_bytes_max: int = 8_192  # of the value; Pusher: 10 KB. What is larger is worth keeping, so it is a change
    signal_ttl_ms_max: int = 300_000  # where someone was five minutes ago is history
    signals_per_s_max: int = 50  # of a device, over all spaces: a cursor on a screen of 60 Hz; Ably: 50 a connection
    presence_bytes_max: int = 512  # a name, a colour, a place: each goes to everyone; Pusher: 1 KB
    presence_members_max: int = 256  # of a space: beyond that they are a number. Pusher: 100, Ably: 250
    presence_spaces_max: int = 32  # per connection
    events_max: int = 100  # in one `event`: one transaction takes them, some 30 ms of the writer
    event_bytes_max: int = 4_096  # of the data of one: what conditions read is short
    # Of one user: a screen a second is none that anybody looks at. Each is remembered for days, so that it counts once.
    events_per_minute_max: int = 60

    def welcome(self) -> dict[str, int]:
        """The map that goes into `welcome`: all that is enforced, also what no configuration changes."""
        return {**asdict(self), **FIXED}


DEFAULT: Final = Limits()
