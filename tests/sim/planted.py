"""The planted bugs: what each replaces in which function, and the seed that catches it.

Owns the table MUTANTS. The product has no hook for any of them; `mutants.py` puts them in and hunts.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `function` of `module`, `old` becomes `new`; both as they stand when the function is not indented.

    `seeds`: those that bring about what the bug needs; tried before the others.
    """

    name: str
    module: str
    function: str
    old: str
    new: str
    seeds: tuple[tuple[int, str], ...] = ()


ROGUE = tuple((seed, "rogue") for seed in (1, 2, 3, 4, 5))

MUTANTS = (
    # -- what well-behaved clients bring about --------------------------------------------------------------------
    Mutant(
        "no dedupe: a change that comes again is recorded again",
        "syncd.engine.changes", "_take_in_order", "if n <= taken.highest:", "if n < 0:",
    ),
    Mutant(
        "acknowledged before the commit",
        "syncd.store.committer", "Committer._committed",
        "results, decision = await self._offload.run(self._transact, began_ms, commands)",
        """try:
            with self._store.write() as tx:
                decision = self._decide(tx, began_ms, commands)
                raise KeyError
        except KeyError:
            results = decision.results
        trio.lowlevel.spawn_system_task(self._offload.run, self._transact, began_ms, commands)""",
    ),
    Mutant(
        "a page selects fields by `resume`",
        "syncd.engine.reading", "page",
        "entry_of(name, document, cursor.complete)", "entry_of(name, document, cursor.resume)",
    ),
    Mutant(
        "the remainder of a short write is lost",
        "syncd.net.delivery", "Delivery.keep_rest", "memoryview(data)[taken:]", "memoryview(data)[len(data):]",
    ),
    Mutant(
        "a counter adds twice",
        "syncd.core.fields", "_counter", "(state or 0) + args[0]", "(state or 0) + 2 * args[0]",
    ),
    Mutant(
        "a stale token is accepted",
        "syncd.net.auth", "_check_times", "and now_ms >= expires_ms:", "and False:",
        seeds=((1, "offline"),),
    ),
    Mutant(
        "two results of a batch are swapped",
        "syncd.engine.engine", "Engine.decide",
        "trim_idempotency(batch)",
        "results[:2] = results[1::-1] if all(isinstance(r, Pushed) for r in results[:2]) else results[:2]",
        seeds=((2, "storm"),),
    ),
    Mutant(
        "a delta is lost at the switch from pages to live",
        "syncd.net.delivery", "Delivery._go_live",
        "channel.pos, channel.cursor, channel.is_owed = cursor.complete, None, False",
        "channel.pos, channel.cursor, channel.is_owed = room.sent_to, None, False",
    ),
    Mutant(
        "outcomes after the delta",
        "syncd.store.committer", "Committer._run_publisher",
        """for entry, result in zip(batch.entries, batch.results, strict=True):
                entry.done(result)
            if batch.decision is not None:
                self._faults.reach("publish.before")
                await self._publish(batch.decision)""",
        """if batch.decision is not None:
                await self._publish(batch.decision)
            for entry, result in zip(batch.entries, batch.results, strict=True):
                entry.done(result)""",
    ),
    Mutant(
        "a first download forgets what was deleted while it ran",
        "syncd.engine.reading", "page", "and rev <= omitted", "",
        seeds=((3, "swarm"),),
    ),
    Mutant(
        "a refresh that takes a grant away is ignored",
        "syncd.net.connection", "Connection._refresh",
        "self._stand(channel, now)", "self._stand(channel, now) if now.may_read else None",
        seeds=((1988, "swarm"),),  # a grant goes from a connection that goes on
    ),
    Mutant(
        "an idempotency key is not remembered",
        "syncd.engine.posting", "_remembered", "row is not None and row.expires_ms > batch.now_ms", "False",
    ),
    Mutant(
        "the client counts what is staged as seen",
        "syncd_client.replica", "commit",
        "base = row.complete if read_at is None", "base = row.resume if read_at is None",
        seeds=((10, "swarm"),),
    ),
    Mutant(
        "the client loses staged pages",
        "syncd_client.replica", "apply", "[*tx.pages(row.name), delta.docs]", "[delta.docs]",
    ),
    Mutant(
        "the client drops a change when its outcome comes",
        "syncd_client.replica", "_store_outcome",
        "if answer.seq is None:\n        tx.drop_entry", "if True:\n        tx.drop_entry",
        seeds=((4, "rogue"),),
    ),
    Mutant(
        "the server trims entries that are not settled",
        "syncd.engine.batch", "SpaceWork.trimmed", "replica.settled - SETTLED_KEPT", "replica.highest",
    ),
    Mutant(
        "a change that comes again is told another outcome",
        "syncd.engine.changes", "_take_in_order",
        "                    taken.forked = n\n                    return\n            elif push.is_other:",
        """                    taken.forked = n
                    return
                entry = entry._replace(outcome="noop")
            elif push.is_other:""",
    ),
    Mutant(
        "`expect` always passes",
        "syncd.core.documents", "_expected", "not by.has_seen(field.seq, field.slot)", "False",
        seeds=((10, "swarm"),),
    ),
    Mutant(
        "the sum forgets what a deleted document made up",
        "syncd.engine.batch", "SpaceWork._index",
        "self.sum = (self.sum + change) & SUM_MASK", "self.sum = (self.sum + change * document.is_live) & SUM_MASK",
    ),
    Mutant(
        "a bucket forgets what a deleted document made up",
        "syncd.engine.batch", "SpaceWork._index",
        "(self._buckets[number] + change) & SUM_MASK", "(self._buckets[number] + change * document.is_live) & SUM_MASK",
    ),
    Mutant(
        "a page ends in the middle of a change",
        "syncd.engine.reading", "page",
        "in _groups(tx, row.id, cursor.resume):",
        "in ((rev, [item]) for rev, items in _groups(tx, row.id, cursor.resume) for item in items):",
    ),
    Mutant(
        "a document made anew is sent as a patch",
        "syncd.engine.batch", "entry_of", "if document.born > since:", "if since == 0:",
        seeds=((2, "swarm"),),
    ),
    Mutant(
        "time falls with the clock",
        "syncd.engine.batch", "SpaceWork.advance", "max(self.time, self.now_ms)", "self.now_ms",
        seeds=((6, "swarm"),),
    ),
    Mutant(
        "an event that comes again is taken again",
        "syncd.engine.posting", "_event", "_remembered(batch, event.key) is not None", "False",
        seeds=((2, "swarm"),),
    ),
    Mutant(
        "a delta that was read as a page comes again",
        "syncd.net.hub", "_hand_out", "channel.state is not live or to <= channel.pos", "channel.state is not live",
        seeds=((5, "swarm"),),  # a page is read between a slow commit and its publication
    ),
    Mutant(
        "the client takes a reset as a patch",
        "syncd_client.replica", "_put_document", "doc.state in (DELETED, RESET)", "doc.state == DELETED",
        seeds=((2, "swarm"),),
    ),
    Mutant(
        "the client acknowledges as settled what is not",
        "syncd_client.replica", "_with_settled", "(row.next_n if oldest_n is None else oldest_n) - 1", "row.next_n - 1",
        seeds=((2, "storm"),),
    ),
    Mutant(
        "the client forgets changes with the space",
        "syncd_client.replica", "leave",
        "if entry.seq is not None:",
        "if forget:\n            tx.drop_entry(space, entry.n)\n        elif entry.seq is not None:",
    ),
    Mutant(
        "the client numbers anew after it joins again",
        "syncd_client.replica", "drop_synced",
        "chain=None, sum=0", "chain=None, sum=0, next_n=row.settled + 1",
    ),
    Mutant(
        "a deleted document is told as one that is empty",
        "syncd.engine.batch", "entry_of",
        "document.rev, DELETED, {})", "document.rev, RESET, {})",
        seeds=((2, "swarm"),),
    ),
    # -- what only a rogue brings about ----------------------------------------------------------------------------
    Mutant(
        "a gap in a device's numbers is accepted",
        "syncd.engine.changes", "_take_in_order", "elif n > taken.highest + 1:", "elif False:",
        seeds=ROGUE,
    ),
    Mutant(
        "the nonce of a number that is taken is not compared",
        "syncd.engine.changes", "_take_in_order", "entry is None or entry.nonce != change.nonce", "entry is None",
        seeds=ROGUE,
    ),
    Mutant(
        "another installation may go on where the first was",
        "syncd.engine.changes", "_take_in_order", "elif push.is_other:", "elif False:",
        seeds=ROGUE,
    ),
    Mutant(
        "a void gives up its first number only",
        "syncd.engine.changes", "_take_in_order",
        "last = change.last if isinstance(change, Void) else change.n", "last = change.n",
        seeds=ROGUE,
    ),
    Mutant(
        "`seen` counts for nothing",
        "syncd.core.documents", "Draft.apply", "is_raised = seen > by.base", "is_raised = False",
        seeds=((10, "swarm"),),
    ),
    Mutant(
        "a change may have any number of operations",
        "syncd.core.changes", "_parsed_operations", "if len(items) > OPERATIONS_MAX:", "if False:",
        seeds=ROGUE,
    ),
    Mutant(
        "a push may have any number of changes",
        "syncd.wire.codec", "_decoded", "len(item) > limits.push_changes_max", "False",
        seeds=ROGUE,
    ),
    Mutant(
        "a frame may have any length",
        "syncd.net.websocket", "Inbound._taken", "if held + len(piece) > self._payload_bytes_max:", "if False:",
        seeds=ROGUE,
    ),
    Mutant(
        "a key that comes twice in a message is overlooked",
        "syncd.wire.codec", "_unique", "if len(result) != len(pairs):", "if False:",
        seeds=ROGUE,
    ),
    Mutant(
        "a base beyond the head is taken",
        "syncd.engine.engine", "_push", "_newest_position(change) > work.row.head for", "False for",
        seeds=ROGUE,
    ),
    Mutant(
        "another epoch is as good as ours in a push",
        "syncd.engine.engine", "_push", "command.epoch != work.row.epoch", "False",
        seeds=ROGUE,
    ),
    Mutant(
        "strangers get a place in a space that they may not write",
        "syncd.engine.engine", "_push", "if role < Role.WRITER and", "if False and",
        seeds=ROGUE,
    ),
    Mutant(
        "anyone may read",
        "syncd.engine.reading", "refused_attach", "if granted < Role.READER:", "if False:",
        seeds=ROGUE,
    ),
    Mutant(
        "a foreign chain is believed",
        "syncd.engine.reading", "_is_chained", "chain is None or complete == 0", "True",
        seeds=((2, "rogue"),),
    ),
    Mutant(
        "an ack beyond the head is taken",
        "syncd.engine.engine", "_ack", "command.applied > work.head or", "",
        seeds=ROGUE,
    ),
    Mutant(
        "an ack settles what was never recorded",
        "syncd.engine.engine", "_ack", "or command.settled > replica.highest", "",
        seeds=ROGUE,
    ),
    Mutant(
        "a device is whoever's user says so",
        "syncd.engine.reading", "bound", "row.user != author.user or", "",
        seeds=ROGUE,
    ),
    Mutant(
        "a refresh may bring another user",
        "syncd.net.connection", "Connection._refresh", "principal.user != author.user", "False",
        seeds=ROGUE,
    ),
    Mutant(
        "a client may be too small for a delta",
        "syncd.net.answers", "check_frame_bytes",
        "hello.frame_bytes_max < delta_bytes_max", "False",
        seeds=ROGUE,
    ),
    Mutant(
        "subscriptions are not counted",
        "syncd.net.connection", "Connection._subscribe",
        "len(delivery.channels) >= services.wire_limits.subscriptions_max", "False",
        seeds=ROGUE,
    ),
    Mutant(
        "a flood is served",
        "syncd.wire.session", "ServerSession.charge", "if self._allowance < 0:", "if False:",
        seeds=ROGUE,
    ),
    Mutant(
        "a user may have any number of connections",
        "syncd.net.hub", "Hub.has_room_for",
        "device in self._members or len(self._users.get(user, ())) < self._limits.connections_per_user_max", "True",
        seeds=ROGUE,
    ),
    Mutant(
        "an address may have any number of connections",
        "syncd.net.server", "Server._unwelcome",
        "self._hosts.get(host, 0) >= limits.connections_per_address_max", "False",
        seeds=ROGUE,
    ),
    Mutant(
        "a request may take for ever",
        "syncd.net.http", "_Conversation._head", "trio.move_on_after(limits.header_s)",
        "trio.move_on_after(limits.header_s * 1000)",
        seeds=ROGUE,
    ),
    Mutant(
        "who guesses tokens may go on",
        "syncd.net.gate", "Gate.failed", "if reason in GUESSES:", "if False:",
        seeds=ROGUE,
    ),
    Mutant(
        "who guesses tokens shuts out his neighbours",
        "syncd.net.gate", "Gate.credentials_refused_s",
        "if wait_s and digest in self._proven:", "if False:",
        seeds=ROGUE,
    ),
    # -- backends that follow a space ------------------------------------------------------------------------------
    Mutant(
        "an acknowledgement moves a consumer to the head",
        "syncd.engine.feeding", "consumer_acked",
        "complete = max(found.complete, place.complete)\n",
        "complete = row.head\n    place = place._replace(resume=row.head)\n",
        seeds=((2, "rogue"), (4, "rogue")),
    ),
    # -- half-open connections, slow readers, storms, disks ----------------------------------------------------------
    Mutant(
        "who never says hello may stay",
        "syncd.wire.session", "ServerSession.tick", "if deadline_ms is None or now_ms < deadline_ms:",
        "if deadline_ms is None or now_ms < deadline_ms or self._life is Life.NEW:",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "a half-open connection stays",
        "syncd.wire.session", "ServerSession.tick", "if deadline_ms is None or now_ms < deadline_ms:",
        "if deadline_ms is None or now_ms < deadline_ms or self._life is Life.PINGED:",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "who reads nothing is never cut off",
        "syncd.net.connection", "Connection._serve_deadlines",
        "if delivery.is_stalled and now_s >=", "if False and now_s >=",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "what waits behind a remainder is not bounded",
        "syncd.net.delivery", "Delivery.send_frame",
        "if self._control_bytes > self._wiring.control_bytes_max:", "if False:",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "a device may signal as often as it likes",
        "syncd.net.live", "Live._take_rate", "table.refused_s(key, now_s, cost)", "0.0",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "a user's devices may tell as many events as they like",
        "syncd.net.happenings", "take",
        "services.told.refused_s(author.user, trio.current_time(), len(message.events))", "0.0",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "an event too many in a message is taken",
        "syncd.wire.codec", "_decoded", "len(item) > limits.events_max:", "False:",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "who falls behind skips to the head",
        "syncd.net.delivery", "Delivery.fall_behind",
        "channel.space_id, channel.pos, channel.pos, None",
        "channel.space_id, channel.room.sent_to, channel.room.sent_to, None",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "the older connection of a device stays open",
        "syncd.net.hub", "Hub.join", "older.supersede()", "pass",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "the newer connection of a device is closed",
        "syncd.net.hub", "Hub.join", "older.supersede()", "member.supersede()",
        seeds=((1, "rogue"), (2, "rogue")),
    ),
    Mutant(
        "all who are refused come back at once",
        "syncd.net.server", "Server._retry_s",
        "self._env.entropy.uniform(self._limits.refused_retry_min_s, self._limits.refused_retry_max_s)", "5.0",
        seeds=((2, "storm"), (3, "storm")),
    ),
    Mutant(
        "all who are sent away come back at once",
        "syncd.net.hub", "Hub.drain", "int(uniform(slot * slot_ms, (slot + 1) * slot_ms))", "0",
        seeds=((103, "storm"),),
    ),
    Mutant(
        "a server goes on after its disk failed",
        "syncd.store.committer", "Committer._write", "raise  # C6",
        "results = [self._failed(STORE_FULL, '')] * len(tried)",
        seeds=((4, "swarm"), (6, "swarm")),
    ),
    Mutant(
        "a full store calls itself broken",
        "syncd.net.answers", "answer_to",
        "error(KIND_BY_NAME.get(reason, INTERNAL)", "error(INTERNAL",
        seeds=((5, "swarm"), (3, "swarm")),
    ),
    Mutant(
        "what a full store refuses is answered to another",
        "syncd.store.committer", "Committer._completed", "for entry in entries\n", "for entry in reversed(entries)\n",
        seeds=((5, "swarm"), (3, "swarm")),
    ),
    # -- polls -----------------------------------------------------------------------------------------------------
    Mutant(
        "polls: a message that comes again is taken again",
        "syncd.net.carriage", "Carriage.take", "while n != self._taken_n:",
        "self._taken_n -= n == self._taken_n\n    while n != self._taken_n:",
        seeds=((36, "swarm"),),
    ),
    Mutant(
        "polls: an answer that was lost on its way is not given again",
        "syncd.net.carriage", "Carriage._ready", "return self._kept\n", "self._answered_n -= 1\n",
        seeds=((36, "swarm"),),
    ),
    Mutant(
        "polls: the last frame of an answer is its first",
        "syncd.net.carriage", "Carriage._made", "self._frames.popleft()", "self._frames.pop()",
        seeds=((3, "swarm"),),
    ),
    Mutant(
        "the client takes the outcome of another's change for its own",
        "syncd_client.replica", "take_outcomes", "(entry is not None and entry.nonce != answer.nonce)", "False",
        seeds=((23, "swarm"),),
    ),
)  # fmt: skip
