"""`syncd demo`: devices that go offline, a daemon that is killed, and a verdict. Needs the reference client."""

from pathlib import Path

import click

from syncd.app.demo.play import DEVICES_MAX, DEVICES_MIN, Options, run


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--devices", type=click.IntRange(DEVICES_MIN, DEVICES_MAX), default=6, show_default=True,
              help="How many devices, each a process of its own.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(2, 3600), default=18.0, show_default=True,
              help="How long everyone edits, in all.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Leave the daemon up at the end, with commands to try.")
@click.option("--seed", type=int, default=1, show_default=True, help="What the shoppers choose.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the verdict here.")
def demo(devices: int, seconds: float, keep: bool, seed: int, json_file: Path | None) -> None:
    """Six devices, an unreliable network, a crash of the daemon: what was acknowledged is there, and all agree."""
    if json_file is not None:
        try:
            json_file.touch()  # refused now, not after the last scene
        except OSError as error:
            raise click.BadParameter(f"cannot write {json_file}: {error.strerror}", param_hint="'--json'") from None
    raise click.exceptions.Exit(run(Options(devices, seconds, keep, seed, json_file)))


def main(arguments: list[str]) -> int:
    """Play the demo with command-line arguments; returns the exit code."""
    code = demo.main(arguments, prog_name="syncd demo", standalone_mode=False)
    return int(code or 0)
