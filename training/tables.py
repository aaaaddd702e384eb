"""Recipes as TOML: the shipped ones, a recipe over its base, ``--set``, and the frozen dataclasses made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from robustsr.types import RobustSRError, meant

RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


def shipped() -> dict[str, str]:
    """The names of the shipped recipes and what they say of themselves: the first line of the file, a comment."""
    files = sorted(RECIPES.glob("*.toml"))
    return {p.stem: p.read_text("utf-8").partition("\n")[0].removeprefix("#").strip() for p in files}


def read(name_or_path: str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The recipe's TOML over that of its base."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        path = ((seen[-1].parent if seen else Path()) / path).resolve()
    else:
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file() and name_or_path.endswith(".toml"):
        raise RobustSRError(f"no file {name_or_path!r}")
    if not path.is_file():
        raise RobustSRError(
            f"no recipe {name_or_path!r}: {meant(name_or_path, shipped(), 'give a .toml file or one of')}"
        )
    if path in seen:
        raise RobustSRError(f"recipe: base of {seen[-1]} leads back to {path}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise RobustSRError(f"{path} is not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise RobustSRError(f"{path} is not UTF-8, as TOML has to be ({error.reason}): save it as such") from None
    base = table.pop("base", "")
    table.setdefault("name", path.stem)
    return _merged(read(base, (*seen, path)), table) if base else table


def _merged(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merged(base[k], v) for k, v in table.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **table, **both}


def override(table: dict[str, Any], said: str) -> None:
    """Puts one ``section.key=value`` of ``--set`` into ``table``."""
    key, separator, text = said.partition("=")
    if not separator:
        raise RobustSRError(f"--set wants key=value, got {said!r}")
    value: Any = text  # an unquoted string, as one types it in a shell
    short = r"""(["']).*?\1|(?<![\w.])\.(?=\d)"""  # numbers like .5, which TOML does not know; not in strings
    for spelled in (text, re.sub(short, lambda found: "0." if found[0] == "." else found[0], text)):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            value = tomllib.loads(f"v = {spelled}")["v"]
            break
    *sections, last = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RobustSRError(f"--set {said}: {section!r} is a value, not a section")
    table[last] = value


def build(cls: type[T], table: dict[str, Any], prefix: str = "") -> T:
    """The dataclass ``cls`` that ``table`` says; RobustSRError: an unknown key, or a value of another type."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            known = ", ".join(["base", *hints] if not prefix else hints)
            hint = f"; did you mean {prefix}{near[0]!s}?" if near else f"; known: {known}"
            raise RobustSRError(f"recipe: unknown key {prefix}{key}{hint}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise RobustSRError(f"recipe: {prefix}{key} is a section, got {value!r}")
            values[key] = build(cast(type[Any], kind), value, f"{prefix}{key}.")
            continue
        values[key] = _list(kind, value, prefix + key) if get_origin(kind) is tuple else _one(kind, value, prefix + key)
    return cls(**values)


def _list(kind: Any, value: Any, key: str) -> tuple[Any, ...]:  # noqa: ANN401
    """A TOML list as the tuple that ``kind`` says: of one type, and where it says so of one length."""
    element, *others = get_args(kind)
    count = None if others == [...] else 1 + len(others)
    if not isinstance(value, list):
        raise RobustSRError(f"recipe: {key} must be a list, got {value!r}: write {key}={toml([value] * (count or 1))}")
    if count not in (None, len(value)):
        raise RobustSRError(f"recipe: {key} must be a list of {count}, got {toml(value)}")
    return tuple(_one(element, one, f"{key}, each,") for one in value)


def _one(kind: type, value: Any, key: str) -> Any:  # noqa: ANN401
    """A TOML value of the type ``kind``; whole numbers are floats too."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RobustSRError(f"recipe: {key} must be {kind.__name__}, got {value!r}")
    return value


def written(recipe: object) -> str:
    """A recipe, or a section of one, as TOML: all its keys, with what the class that declares them says of each."""
    lines, sections = list[str](), list[str]()
    remarks = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(type(recipe)), re.MULTILINE))
    for field in dataclasses.fields(cast(Any, recipe)):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            about = "\n".join(f"# {line}".strip() for line in inspect.cleandoc(type(value).__doc__ or "").splitlines())
            sections.append(f"\n{about}\n[{field.name}]\n{written(value)}")
        else:
            remark = f"  # {remarks[field.name]}" if field.name in remarks else ""
            lines.append(f"{field.name} = {toml(value)}{remark}")
    return "\n".join(lines + sections)


def toml(value: Any) -> str:  # noqa: ANN401
    """A value as one would write it in a recipe."""
    return json.dumps(value, ensure_ascii=False, default=str)
