"""Records: JSON that has a schema, checked whole before anything uses it. Torch-free.

A schema says what readers rely on. Keys that it does not name pass: files of other versions have more, or fewer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.errors import InputError
from functions.files import note, read_sealed, unsealed

Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**12)]
Amount = Annotated[float, Field(ge=0)]  # finite


class Record(BaseModel):
    """Strict types, numbers finite."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Exact(Record):
    """A record of which every key is known: they become arguments."""

    model_config = ConfigDict(extra="forbid")


def read_record(path: Path | str, schema: type[Record], remedy: str = "", text: bytes | None = None) -> dict:
    """What a JSON file, or the `text` inside another one, says, as it says it.

    Raises InputError with the file's name, the key, and `remedy` at its end.

    A record without a seal is of an older version: it is taken, and a line says that nobody can tell if it is whole.
    """
    try:
        content, has_seal = read_sealed(path) if text is None else unsealed(text, path)
        check_record(content, schema, path)
    except InputError as error:
        raise InputError(f"{error}{remedy and f'; {remedy}'}") from None
    if not has_seal:
        note(f"{path}: of an older version, without a seal: damage would not be noticed")
    return content


def check_record(content: object, schema: type[Record], source: Path | str) -> None:
    """Raises InputError with one line: where, which key, what came, what was wanted."""
    try:
        schema.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
    else:
        return
    key = ".".join(str(part) for part in problem["loc"])
    named = f"{source}: {key}" if key else str(source)
    if problem["type"] == "missing":
        raise InputError(f"{named}: missing")
    if problem["type"] == "extra_forbidden":
        raise InputError(f"{named}: unknown key")
    wanted = problem["msg"].replace("Input should be", "wanted")
    wanted = "wanted an object" if problem["type"] in ("model_type", "dict_type") else wanted
    raise InputError(f"{named}: got {_shown(problem['input'])}; {wanted}")


def _shown(value: object) -> str:
    """A number or a short text as it is, anything else by its type."""
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:40]!r}..."
    if isinstance(value, int) and abs(value) > 10**20:
        return "an integer beyond 10^20"
    return repr(value) if value is None or isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
