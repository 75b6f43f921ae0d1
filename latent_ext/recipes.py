"""Reading recipes: YAML mappings that the command line can change, in which a misspelt key is an error.

Recipes come from elsewhere, so nothing in them is trusted: `yaml.safe_load` semantics, no repeated keys, no file beyond
`MAX_BYTES`, and errors that show a value without walking through it (a short YAML text can hold 10^9 aliases).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from latent_ext.hints import did_you_mean

MAX_BYTES = 1 << 20

# What PyYAML raises on texts that are no YAML, or whose scalars are no dates, numbers or bytes after all.
_NO_YAML = (yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError, AttributeError)


def read_mapping(path: str | Path, replaced: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, changed by "key=value" texts.

    Args:
        path: the file, at most `MAX_BYTES` long.
        replaced: "key=value" texts, values in YAML, applied in order. A key may lead into what is nested:
            ``arms.noise.n=16`` changes n in the item of the list ``arms`` whose name is noise, ``arms.0.n=16`` in the
            first.

    Returns:
        A dict; the file's, so values may be anything that YAML holds.

    Raises:
        ValueError: naming the file, key or text at fault.
    """
    try:
        with Path(path).open("rb") as file:
            read = file.read(MAX_BYTES + 1)
        decoded = read.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"recipe: {path} cannot be read: {reason}") from None
    if len(read) > MAX_BYTES:
        raise ValueError(f"recipe: {path} is longer than {MAX_BYTES} bytes")
    try:
        found = yaml.load(decoded, Loader=_StrictLoader)
    except _NO_YAML as error:
        raise ValueError(f"recipe: {path} is not YAML: {_one_line(error)}") from None
    settings = {} if found is None else found
    if not isinstance(settings, dict):
        raise ValueError(f"recipe: {path} holds {type(settings).__name__}; keys and values are needed")
    for text_of_one in replaced:
        _replace(settings, text_of_one)
    return settings


def check_keys(found: Mapping[Any, Any], allowed: Collection[str], where: str) -> None:
    """Refuses keys that are not allowed and says which allowed one is nearest.

    Raises:
        ValueError: naming the key and `where` it stands.
    """
    for key in found:
        if key not in allowed:
            raise ValueError(
                f"{where}: got the key {shown(key)}{did_you_mean(key, allowed)}; allowed are {', '.join(allowed)}"
            )


def shown(value: object) -> str:
    """A value in an error: short, and never what is nested in it."""
    if isinstance(value, (dict, list, tuple, set)):
        return f"a value of type {type(value).__name__}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses a key that stands twice in a mapping, of which YAML would keep the last."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable) or key in seen:
            what = (
                f"the key {shown(key)} stands twice"
                if isinstance(key, Hashable)
                else "a key is no single value"
            )
            raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True)
        for key, value in node.value
    }


_MERGE = "tag:yaml.org,2002:merge"
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _replace(settings: dict[Any, Any], text: str) -> None:
    key, given, value = text.partition("=")
    if not given or not key.strip():
        raise ValueError(f"set: got {shown(text)}; key=value is needed")
    try:
        parsed = yaml.load(value, Loader=_StrictLoader)
    except _NO_YAML:
        raise ValueError(f"set: got {shown(text)}; its value is not YAML") from None
    *path, last = key.strip().split(".")
    inside: Any = settings
    for part in path:
        inside = _step(inside, part, text)
    if isinstance(inside, dict):
        inside[last] = parsed
    elif isinstance(inside, list):
        inside[_place(inside, last, text)] = parsed
    else:
        raise ValueError(f"set: got {shown(text)}; there is nothing inside what stands before {last!r}")


def _step(inside: Any, part: str, text: str) -> Any:
    if isinstance(inside, dict) and part in inside:
        return inside[part]
    if isinstance(inside, list):
        return inside[_place(inside, part, text)]
    keys = [key for key in inside if isinstance(key, str)] if isinstance(inside, dict) else []
    raise ValueError(f"set: got {shown(text)}; the recipe has no {part!r} there{did_you_mean(part, keys)}")


def _place(items: list[Any], part: str, text: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if part.isdecimal() and len(part) < 10 and int(part) < len(items):
        return int(part)
    known = [name for name in names if isinstance(name, str)]
    raise ValueError(f"set: got {shown(text)}; the list has no item {part!r}{did_you_mean(part, known)}")


def _one_line(error: BaseException) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return text if len(text) <= 200 else text[:197] + "..."
