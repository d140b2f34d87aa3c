"""The source itself is tested: sizes that a reader can hold in the head, a first paragraph in each module."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("syncd", "clients/python/syncd_client", "tests", "bench")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PRODUCT = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("syncd", "clients")]

FILE_LINES_MAX = 600  # beyond it a module owns more than one thing
FUNCTION_LINES_MAX = 70  # a function fits a screen

# Work left for later, and leftovers of debugging.
LOOSE_ENDS = re.compile(
    r"\b(?:TODO|FIXME|XXX|HACK)\b|\bNotImplementedError\b|\bbreakpoint\(\)|\bpdb\b|^\s*print\(.*#\s*debug", re.M
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_short_enough_to_own_one_thing(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_a_module_says_what_it_owns(path: Path) -> None:
    source = path.read_text()
    assert not source.strip() or ast.get_docstring(ast.parse(source)), f"{name(path)} has no docstring"


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_functions_fit_a_screen(path: Path) -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long


@pytest.mark.parametrize("path", [path for path in SOURCES if path != Path(__file__)], ids=name)
def test_no_loose_ends(path: Path) -> None:
    assert LOOSE_ENDS.search(path.read_text()) is None


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_a_silenced_check_says_which_one(path: Path) -> None:
    """A bare silencer hides every later mistake on its line."""
    assert not re.search(r"#\s*noqa(?!:)|#\s*type:\s*ignore(?!\[)", path.read_text())
