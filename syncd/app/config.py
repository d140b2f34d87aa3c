"""Reading the configuration: one TOML file and `SYNCD_...` variables become checked settings, or precise complaints.

Owns where settings come from, which source wins (a variable over the file, the file over a default), where the state
directory and the secrets lie, and the text of every complaint. What the keys are is `settings.py`'s; what notifications
are, `notify/workflows.py`'s; what schemas are, `schemas.py`'s; how a TOML text is read, `toml.py`'s. Must not open the
store or a socket.

Notifications are defined by four more tables (`DEFINED`), in the same file or in any of the `*.toml` in a directory
`workflows` beside it: a workflow is one file that can be copied in, and a name that two files define is a mistake.

Invariants: F1 a configuration with any mistake is refused whole, and every mistake in it is named. F2 a complaint reads
`WHERE: section.key: got X, expected Y`, where WHERE is file:line:column or the name of the variable; in a condition the
column is that of its wrong part. F3 secrets stand
in files of their own, never in the configuration or in a variable.
"""

import base64
import difflib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from syncd.app import schemas, toml
from syncd.app.settings import AuthKey, Config, broken_relations, expectation
from syncd.engine.schemas import Schemas
from syncd.net.auth import BadKey, TokenKey, token_key
from syncd.notify.workflows import BadDefinitions, Definitions, Problem, definitions

PREFIX = "SYNCD_"
# Short names for what a test, a container or a shell sets most often.
SHORT_NAMES = {
    "SYNCD_STATE_DIR": ("store", "directory"),
    "SYNCD_LISTEN": ("server", "listen"),
    "SYNCD_ADMIN_LISTEN": ("server", "admin_listen"),
}
CONFIG_NAME = "SYNCD_CONFIG"
CONFIG_BYTES_MAX = 1024 * 1024  # a file beyond this is no configuration; the biggest real one is some kilobytes
KEY_BYTES_MAX = 64 * 1024  # an RSA key of 16,384 bits in PEM has 13 KB
SHOWN_CHARACTERS_MAX = 60  # of a wrong value, in a complaint
DEFINED = ("policy", "category", "workflow", "template")  # the tables that define notifications
WORKFLOWS_DIRECTORY = "workflows"
WORKFLOW_FILES_MAX = 200  # as many as there may be workflows


class ConfigError(Exception):
    """The configuration is refused. The text has one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration in force, and what was found on the way. `file`: None if there is none. `state_directory` holds
    the store, the admin socket and generated secrets; it may not exist yet. `bases`: where relative names of secret
    files are looked up, in this order. `defined`: the tables of notifications as they were written, which
    `definitions` was made of. `schemas`: of collections."""

    config: Config
    file: Path | None
    state_directory: Path
    bases: tuple[Path, ...]
    defined: Mapping[str, Any]
    definitions: Definitions
    schemas: Schemas

    @property
    def admin_socket(self) -> Path:
        return self.state_directory / "admin.sock"

    @property
    def store_directory(self) -> Path:
        return self.state_directory / "store"

    @property
    def generated_key(self) -> Path:
        """The secret that signs and verifies tokens while no key is configured."""
        return self.state_directory / "token.key"


def loaded(file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read everything. `file`: as given on the command line; None: `SYNCD_CONFIG`, or no file. Raises `ConfigError`."""
    if file is None and environ.get(CONFIG_NAME):
        file = Path(environ[CONFIG_NAME])
    sources = _Sources({}, {})
    problems = []
    if file is not None:
        sources.add_file(file)
        problems += sources.add_workflows(file.parent / WORKFLOWS_DIRECTORY)
    problems += sources.add_variables(environ)
    defined = {name: sources.values.pop(name) for name in DEFINED if name in sources.values}
    found = _defined(defined, sources, problems)
    of_collections = _schemas(sources, problems)
    try:
        config = Config.model_validate(sources.values)
    except ValidationError as error:
        raise ConfigError([sources.complaint(detail) for detail in _ordered(error, sources)] + problems) from None
    problems += [
        f"{sources.where(path)}{dotted(path)}: got {_shown(value)}, expected {expected}"
        for path, value, expected in broken_relations(config)
    ]
    if problems or found is None or of_collections is None:
        raise ConfigError(problems)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    bases = (*((Path(credentials),) if credentials else ()), file.parent if file else Path())
    return Settings(config, file, _state_directory(config, environ), bases, defined, found, of_collections)


def _defined(values: Mapping[str, Any], sources: "_Sources", problems: list[str]) -> Definitions | None:
    """What the tables of notifications define; None if they have mistakes, which `problems` gets."""
    try:
        return definitions(values)
    except BadDefinitions as error:
        problems.extend(sources.mistakes(error.problems))
        return None


def _schemas(sources: "_Sources", problems: list[str]) -> Schemas | None:
    """The schemas of collections; None if they have mistakes, which `problems` gets."""
    try:
        return schemas.schemas(sources.values.pop(schemas.TABLE, {}))
    except schemas.BadSchemas as error:
        problems.extend(sources.mistakes(error.problems))
        return None


def dotted(path: toml.Path) -> str:
    """`("auth", "key", 0, "kid")` -> `auth.key[0].kid`"""
    text = ""
    for item in path:
        text += f"[{item}]" if isinstance(item, int) else f".{item}" if text else item
    return text


def _state_directory(config: Config, environ: Mapping[str, str]) -> Path:
    if config.store.directory:
        return Path(config.store.directory)
    # systemd names the directory that StateDirectory= made; it may list several, of which the first is ours.
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # a relative one is to be ignored, says the XDG base directory specification
        return Path(base) / "syncd"
    return Path(environ.get("HOME") or Path.home()) / ".local" / "state" / "syncd"


# -- secrets ----------------------------------------------------------------------------------------------------------


def token_keys(settings: Settings) -> tuple[TokenKey, ...]:
    """The configured token keys, read from their files. Raises `ConfigError` that names each bad one."""
    keys: list[TokenKey] = []
    problems: list[str] = []
    for index, entry in enumerate(settings.config.auth.key):
        try:
            keys.append(read_key(entry, settings.bases))
        except (OSError, BadKey) as error:
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
            problems.append(f"auth.key[{index}].file: got {_shown(entry.file)}, expected a readable key: {reason}")
    if problems:
        raise ConfigError(problems)
    return tuple(keys)


def signing_key(settings: Settings, kid: str | None) -> TokenKey:
    """The key that `syncd token` signs with: the one named, else the first that can. Raises `ConfigError`."""
    candidates = verifying_keys(settings)
    found = [key for key in candidates if key.signing is not None and kid in (None, key.kid)]
    if found:
        return found[0]
    if not candidates:
        raise ConfigError(
            [
                f"no key to sign with: none is configured (auth.key), and {settings.generated_key} does not exist;"
                " `syncd serve` makes it at its first start"
            ]
        )
    wanted = f"a key {kid!r} that can sign" if kid is not None else "a secret or private key, which can sign"
    raise ConfigError([f"auth.key: got {', '.join(key.kid for key in candidates)}, expected {wanted}"])


def verifying_keys(settings: Settings) -> tuple[TokenKey, ...]:
    """The configured keys; with none, the generated one if it was made. Raises `ConfigError`."""
    if settings.config.auth.key or not settings.generated_key.exists():
        return token_keys(settings)
    try:
        return (read_key(AuthKey(kid="generated", algorithm="HS256", file=str(settings.generated_key)), (Path(),)),)
    except (OSError, BadKey) as error:
        raise ConfigError([f"{settings.generated_key}: cannot be used: {error}"]) from None


def ensure_generated_key(settings: Settings, entropy: Callable[[int], bytes]) -> bool:
    """With no key configured, make one that lasts, readable by our own user only. Whether it was made now. The caller
    holds the lock of the state directory. Raises `OSError`."""
    path = settings.generated_key
    if settings.config.auth.key or path.exists():
        return False
    # Written aside and renamed: a death in between leaves no half of a secret under its name.
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(base64.urlsafe_b64encode(entropy(32)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    # The name must survive a power cut, too: with another key every token signed so far would be refused.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def certificate_files(settings: Settings) -> tuple[Path, Path] | None:
    """The files of certificate and key, if TLS is configured. They may be missing."""
    tls = settings.config.tls
    return (
        (_found(tls.certificate, settings.bases), _found(tls.private_key, settings.bases)) if tls.private_key else None
    )


def _found(name: str, bases: tuple[Path, ...]) -> Path:
    """A file by the first base that has it, else by the last."""
    candidates = [base / name for base in bases]  # joining an absolute name yields that name
    return next((path for path in candidates if path.is_file()), candidates[-1])


def read_key(entry: AuthKey, bases: tuple[Path, ...]) -> TokenKey:
    """One key from its file. Raises `OSError`, `BadKey`."""
    with _found(entry.file, bases).open("rb") as file:
        material = file.read(KEY_BYTES_MAX)
    # Whoever writes a secret with an editor or `echo` leaves a line feed behind it, which is not part of it.
    return token_key(entry.kid, entry.algorithm, material.strip() if entry.algorithm == "HS256" else material)


# -- sources ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sources:
    """Values from all sources, merged, and where each stands. `files`: what says the values of a path."""

    values: dict[str, Any]
    places: dict[toml.Path, tuple[str, str]]  # path -> ("FILE:LINE:COLUMN: " of its key, the same of its value)
    files: dict[toml.Path, tuple[Path, toml.Document]] = field(default_factory=dict)

    def add_file(self, file: Path) -> None:
        found = _read(file)
        self.values = found.values
        for path in found.places:
            self._place(path, file, found)

    def add_workflows(self, directory: Path) -> list[str]:
        """Put what each file in a directory defines beside the rest. Returns complaints."""
        files = sorted(directory.glob("*.toml")) if directory.is_dir() else []
        if len(files) > WORKFLOW_FILES_MAX:
            return [f"{directory}: got {len(files)} files, expected at most {WORKFLOW_FILES_MAX}"]
        problems = []
        for file in files:
            found = _read(file)
            taken = set()
            for table, entries in found.values.items():
                line, column = found.places[(table,)].key
                mine = self.values.setdefault(table, {}) if table in DEFINED else None
                if mine is None or not isinstance(entries, dict) or not isinstance(mine, dict):
                    got = f"got {_shown(entries)}, expected tables of {', '.join(DEFINED)}"
                    problems.append(f"{file}:{line}:{column}: {table}: {got}")
                    continue
                for name, entry in entries.items():
                    if name in mine:
                        line, column = found.places[table, name].key
                        first = self.where((table, name), of_key=True).removesuffix(": ")
                        problems.append(f"{file}:{line}:{column}: {table}.{name}: is defined already, at {first}")
                    else:
                        mine[name] = entry
                        taken.add((table, name))
            for path in found.places:
                if path[:2] in taken or (len(path) == 1 and path not in self.places):
                    self._place(path, file, found)
        return problems

    def _place(self, path: toml.Path, file: Path, found: toml.Document) -> None:
        place = found.places[path]
        self.places[path] = tuple(f"{file}:{line}:{column}: " for line, column in (place.key, place.value))  # type: ignore[assignment]
        self.files[path] = file, found

    def add_variables(self, environ: Mapping[str, str]) -> list[str]:
        """Put variables over the file. Returns complaints about names."""
        problems = []
        for name in sorted(environ):
            if not name.startswith(PREFIX) or name == CONFIG_NAME or not environ[name]:
                continue
            if not _is_utf8(name + environ[name]):
                shown = name.encode(errors="backslashreplace").decode()
                problems.append(f"{shown}: got bytes that are no UTF-8, expected text in name and value")
            elif name in SHORT_NAMES:
                self._set(SHORT_NAMES[name], environ[name], name)
            elif "__" in name:
                section, _, key = name[len(PREFIX) :].lower().partition("__")
                self._set((section, key), environ[name], name)
            elif near := difflib.get_close_matches(name, [*SHORT_NAMES, CONFIG_NAME], 1, 0.85):
                # Other programs may have variables with this prefix; only what looks like a slip is refused.
                problems.append(f"{name}: got an unknown variable; did you mean {near[0]}?")
        return problems

    def _set(self, path: tuple[str, str], text: str, name: str) -> None:
        section = self.values.setdefault(path[0], {})
        if not isinstance(section, dict):
            return  # `server = 1` in the file: that complaint comes first
        field = field_at(path)
        self.places.setdefault(path[:1], (f"{name}: ", f"{name}: "))
        is_text = field.annotation is str if field is not None else path[0] not in (*DEFINED, schemas.TABLE)
        section[path[1]] = text if is_text else _value(text)
        self.places = {at: place for at, place in self.places.items() if at[:2] != path}
        self.files = {at: found for at, found in self.files.items() if at[:2] != path}
        self.places[path] = (f"{name}: ", f"{name}: ")

    def where(self, path: toml.Path, *, of_key: bool = False) -> str:
        """The place of a key or its value; of the nearest table around it, if it stands nowhere itself."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path][0 if of_key else 1] if path else ""

    def mistakes(self, problems: Iterable[Problem]) -> list[str]:
        """Mistakes in what defines notifications or schemas, in the order of the file."""
        order = {path: index for index, path in enumerate(self.places)}
        return [self.mistake(each) for each in sorted(problems, key=lambda each: order.get(each.path, len(order)))]

    def mistake(self, problem: Problem) -> str:
        """One of them. A column within a text that a file holds becomes the file's own."""
        path, column = problem.path, problem.column
        if column is not None and path in self.files and path in self.places:
            file, found = self.files[path]
            line, at = found.within(path, column - 1)
            return f"{file}:{line}:{at}: {dotted(path)}: {problem.message}"
        within = "" if column is None else f"column {column}: "
        return f"{self.where(path, of_key=problem.is_key)}{dotted(path)}: {within}{problem.message}"

    def complaint(self, detail: ErrorDetails) -> str:
        path = detail["loc"]
        if detail["type"] == "extra_forbidden":
            known = [*_model_at(path[:-1]).model_fields, *((*DEFINED, schemas.TABLE) if len(path) == 1 else ())]
            near = difflib.get_close_matches(str(path[-1]), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            expected = f"one of {', '.join(sorted(known))}{hint}"
            return f"{self.where(path, of_key=True)}{dotted(path)}: got an unknown key, expected {expected}"
        got = "nothing" if detail["type"] == "missing" else _shown(detail["input"])
        return f"{self.where(path)}{dotted(path)}: got {got}, expected {_expected(path)}"


def _read(file: Path) -> toml.Document:
    """One file. Raises `ConfigError`."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError([f"{file}: got {len(data)} bytes, expected at most {CONFIG_BYTES_MAX}"])
    try:
        return toml.document(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError([f"{file}: got no UTF-8 at byte {error.start}, expected a TOML file"]) from None
    except toml.TomlError as error:
        line, column = error.position
        raise ConfigError([f"{file}:{line}:{column}: no valid TOML: {error}"]) from None


def _is_utf8(text: str) -> bool:
    """Whether a variable was UTF-8: Python reads other bytes as lone surrogates, which nothing can print."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(text: str) -> Any:
    """A variable's text as a TOML value, so that numbers, booleans and lists can be given; else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _shown(value: object) -> str:
    """A wrong value for a complaint, as TOML would write it."""
    text = "a table" if isinstance(value, dict) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "..."


def _ordered(error: ValidationError, sources: _Sources) -> list[ErrorDetails]:
    """In the order of the file, and one complaint per key."""
    order = {path: index for index, path in enumerate(sources.places)}
    unique = {detail["loc"]: detail for detail in error.errors()}
    return sorted(unique.values(), key=lambda detail: order.get(detail["loc"], len(order)))


# -- the shape of the configuration -----------------------------------------------------------------------------------


def _model_at(path: toml.Path) -> type[BaseModel]:
    """The table that a path leads to."""
    model: type[BaseModel] = Config
    for item in path:
        if isinstance(item, str):
            model = _table(model.model_fields[item]) or model
    return model


def _table(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a table, or of the elements of an array of tables; None for a plain value."""
    for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def field_at(path: toml.Path) -> FieldInfo | None:
    """The key that a path names, or None if there is none."""
    names = [item for item in path if isinstance(item, str)]
    model: type[BaseModel] | None = Config
    field: FieldInfo | None = None
    for name in names:
        field = model.model_fields.get(name) if model is not None else None
        if field is None:
            return None
        model = _table(field)
    return field


def _expected(path: toml.Path) -> str:
    field = field_at(path)
    assert field is not None, "an unknown key was complained about as such"
    if _table(field) is not None:
        is_array = field.annotation is not _table(field) and not isinstance(path[-1], int)
        return "an array of tables" if is_array else "a table"
    return expectation(field)


def keys() -> Iterator[tuple[str, str, FieldInfo]]:
    """(section, key, field) of all keys except arrays of tables, in order."""
    for section, table in Config.model_fields.items():
        model = _table(table)
        assert model is not None, "the configuration has only sections at its top"
        for key, item in model.model_fields.items():
            if _table(item) is None:
                yield section, key, item
