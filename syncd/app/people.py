"""Commands about notifications and the people they are for: decisions, reports, what is kept of somebody.

Owns these commands and how their answers look on a terminal. Must not decide anything: it asks the daemon, or reads the
store by itself when none runs; only an erasure needs the daemon, as it writes.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from syncd.app import client, notices, show
from syncd.app.terminal import Failure, asked, json_option, loaded, settings_options
from syncd.env.real import SystemClock
from syncd.net.problems import ProblemRaised
from syncd.notify import asking, reports


@click.command(short_help="Show what was decided about a user.")
@click.argument("user")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, asking.PAGE_MAX))
@settings_options
@json_option
def decisions(user: str, limit: int, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the latest decisions about a user's notifications, newest first, each with the sentence that explains it."""
    query = {"user": user, "limit": limit}
    found = asked(loaded(file, state_dir), ("admin", "decisions"), query, lambda tx: notices.decisions(tx, user, limit))
    if as_json:
        click.echo(show.json_text(found))
        return
    for each in found["decisions"]:
        click.echo(f"{_time(each['decided_ms'])}  {each['id']}  {each['outcome']:<10}  {each['category']}")
        click.echo(f"    {each['explanation']}")
    if not found["decisions"]:
        click.echo(f"nothing was decided about {user}")


def explain_decision(text: str, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """`syncd explain decision ID`"""
    found = asked(loaded(file, state_dir), ("admin", "decisions", text), {}, lambda tx: notices.decision(tx, text))
    if found is None:
        raise Failure(f"there is no decision {text!r}")
    if as_json:
        click.echo(show.json_text(found))
        return
    click.echo(found["explanation"])
    if found["counterfactual"]:
        click.echo(found["counterfactual"])
    click.echo()
    for name in ("user", "workflow", "version", "category", "topic", "priority", "outcome", "reason", "into", "by"):
        if found[name] is not None:
            click.echo(f"{name:<12}{found[name]}")
    click.echo(f"{'decided':<12}{_time(found['decided_ms'])}")
    for verdict in found["verdicts"]:
        click.echo(f"  {verdict['gate']:<12}{verdict['says']:<8}{verdict['words']}")
    for score in found["scores"]:
        click.echo(f"  moment      {_time(score['at_ms'])}  worth {score['score']:.4f}")
    for past in found["past"]:
        click.echo(f"  before      {_time(past['at_ms'])}  {past['outcome']}  {past['reason'] or ''}".rstrip())


@click.command(short_help="Show what came of notifications.")
@click.option("--from", "first", help="The first day, such as 2026-11-01; thirty days before the last.")
@click.option("--to", "last", help="The last day; today.")
@click.option("--by", type=click.Choice(reports.BY), default="category", show_default=True)
@settings_options
@json_option
def report(
    first: str | None, last: str | None, by: str, file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Show what was sent, seen, opened, dismissed and turned off, and sessions, by category, workflow or day."""
    query = {"from": first, "to": last, "by": by}
    now_ms = SystemClock().now_ms()
    given = {name: text for name, text in query.items() if text is not None}
    try:
        found = asked(
            loaded(file, state_dir), ("admin", "report"), query, lambda tx: notices.engagement(tx, given, now_ms)
        )
    except ProblemRaised as error:
        raise Failure(error.problem.detail) from None
    if as_json:
        click.echo(show.json_text(found))
        return
    table = Table(title=f"{found['from']} to {found['to']}", box=None, title_justify="left")
    columns = (by, "sent", "seen", "opened", "dismissed", "opt-outs", "sessions", "minutes")
    for name in columns:
        table.add_column(name, justify="left" if name == by else "right")
    for group in found["groups"]:
        table.add_row(group[by] or "-", *_cells(group))
    table.add_row("in all", *_cells(found["total"]))
    show.printed(table)


def _cells(group: Mapping[str, Any]) -> list[str]:
    def share(name: str) -> str:
        rate = group[f"{name}_rate"]
        return str(group[name]) if rate is None else f"{group[name]} ({rate:.1%})"

    mean = group["session_s_mean"]
    minutes = "" if mean is None else f"{mean / 60:.1f}"
    return [str(group["sent"]), *map(share, ("seen", "opened", "dismissed")), str(group["opt_outs"]),
            str(group["sessions"]), minutes]  # fmt: skip


@click.command(short_help="Print all that is kept of a user.")
@click.argument("user")
@settings_options
def export(user: str, file: Path | None, state_dir: Path | None) -> None:
    """Print as JSON all that is kept of a user about notifications: choices, inbox, what was learned, decisions."""
    now_ms = SystemClock().now_ms()
    found = asked(
        loaded(file, state_dir), ("admin", "export"), {"user": user}, lambda tx: notices.export(tx, user, now_ms)
    )
    click.echo(show.json_text(found))


@click.command(short_help="Forget what is kept of a user.")
@click.argument("user")
@settings_options
@json_option
@click.confirmation_option(prompt="What is erased cannot be brought back. Erase it?")
def erase(user: str, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Forget all that is kept of a user about notifications, in steps that hold nobody up."""
    settings = loaded(file, state_dir)
    documents = rows = 0
    while True:
        step = client.request(settings.admin_socket, "POST", ("admin", "erase"), body={"user": user})
        documents, rows = documents + step["documents"], rows + step["rows"]
        if not step["more"]:
            break
    if as_json:
        click.echo(show.json_text({"documents": documents, "rows": rows}))
    else:
        click.echo(f"erased {documents} documents and {rows} rows of {user}")


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


COMMANDS = (decisions, report, export, erase)
