"""Imports run one way: cli, training, evaluation, search, engine, then rewards, models, samplers, then ops."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import latent_ext

PACKAGE = Path(latent_ext.__file__).parent

# What the modules of a room may import from other rooms of the package.
ALLOWED = {
    "_library": {"_native", "_C", "_C_cuda"},
    "_version": set(),
    "assets": set(),
    "durable": set(),
    "hints": set(),
    "recipes": {"hints"},
    "ops": {"_library", "_native"},
    "sampler_parts": set(),
    "samplers": {"hints", "ops", "sampler_parts"},
    "mixture": {"samplers"},
    "models": {"assets", "ops"},
    "rewards": {"assets", "hints", "models", "ops"},
    "engine": {"_native", "mixture", "models", "ops", "rewards", "sampler_parts", "samplers"},
    "search": {"engine", "mixture", "models", "ops", "rewards", "samplers"},
    "hf": {"engine", "models", "ops", "rewards", "samplers", "search"},
    "evaluation": {
        "_native",
        "_version",
        "assets",
        "durable",
        "engine",
        "hints",
        "models",
        "ops",
        "recipes",
        "rewards",
        "samplers",
        "search",
    },
    "training": {
        "_version",
        "durable",
        "hints",
        "recipes",
        "engine",
        "evaluation",
        "models",
        "ops",
        "rewards",
        "samplers",
        "search",
    },
    "cli": {
        "",
        "_native",
        "assets",
        "engine",
        "evaluation",
        "models",
        "rewards",
        "samplers",
        "search",
        "training",
    },
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported_by(source: str, rooms: set[str]) -> Iterator[str]:
    """First part after `latent_ext` of every import, also inside functions; "" for the package itself."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the direction"
            inside = node.module == "latent_ext"
            names = [f"{node.module}.{alias.name}" if inside else str(node.module) for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "latent_ext":
                room = rest.partition(".")[0]
                yield room if room in rooms else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_rooms_below_its_own(path: Path) -> None:
    room = room_of(path)
    rooms = {*ALLOWED, "_native", "_C", "_C_cuda"}
    imported = set(rooms_imported_by(path.read_text(encoding="utf-8"), rooms)) - {room}
    assert imported <= ALLOWED[room]


def test_the_allowed_arrows_have_no_cycle() -> None:
    left = {room: targets & ALLOWED.keys() for room, targets in ALLOWED.items()}
    while left:
        lowest = {room for room, targets in left.items() if not targets & left.keys()}
        assert lowest, f"a cycle among {sorted(left)}"
        left = {room: targets for room, targets in left.items() if room not in lowest}


def test_the_generator_of_problems_stands_alone() -> None:
    source = (PACKAGE / "evaluation" / "arithmetic.py").read_text(encoding="utf-8")
    assert list(rooms_imported_by(source, set(ALLOWED))) == []


def test_forbidden_imports_are_seen_wherever_they_stand() -> None:
    source = (
        "import latent_ext.search.solve\ndef f():\n    from latent_ext import models\n    import latent_ext\n"
    )
    assert list(rooms_imported_by(source, set(ALLOWED))) == ["search", "models", ""]
