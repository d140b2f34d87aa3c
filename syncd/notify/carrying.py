"""Commands about notifications, each handed to the module that decides it.

Owns nothing but the way from a command to a decision, and from its errors to a refusal. The engine calls it for what is
not about sync, inside its transaction.
"""

from syncd.engine.batch import Batch
from syncd.engine.commands import (
    ActivateWorkflow,
    Command,
    Configure,
    Done,
    DropWorkflow,
    ErasedUser,
    EraseUser,
    KeepWorkflows,
    Kept,
    Refused,
    Result,
)
from syncd.notify import erasure, optout, versions


def carried_out(batch: Batch, command: Command) -> Result:
    """The result of a command. What is refused leaves no trace: each decision is made before the first write."""
    tx, now_ms = batch.tx, batch.now_ms
    batch.count_uses()
    try:
        match command:
            case Configure():
                versions.configured(tx, now_ms, command.values)
                optout.ensure_key(batch)
            case KeepWorkflows():
                return Kept(tuple(versions.made(tx, now_ms, command.values, command.by)))
            case ActivateWorkflow(version=None):
                versions.stopped(tx, now_ms, command.name, command.by)
            case ActivateWorkflow(version=str(version)):
                versions.activated(tx, now_ms, command.name, version, command.by)
            case DropWorkflow():
                versions.dropped(tx, command.name)
            case EraseUser():
                step = erasure.erased(batch, command.user)
                return ErasedUser(*step)
            case _:
                raise AssertionError(f"nobody carries out {type(command).__name__}")
    except versions.Unknown as error:
        return Refused("unknown", str(error.args[0]))
    except versions.TooMany as error:
        return Refused("too_many", str(error))
    except versions.InUse as error:
        return Refused("active", str(error))
    return Done()
