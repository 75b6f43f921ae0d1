"""`latent-ext info`: what is installed, what it was built for, and what would run."""

from __future__ import annotations

import platform
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table

import latent_ext
from latent_ext import _native
from latent_ext.cli.strict_json import strict_json
from latent_ext.engine import choose_rung, engine_report, rung_report

EXAMPLES = """Examples:

  latent-ext info

  latent-ext info --json"""


def facts() -> dict[str, Any]:
    """Versions, ISA levels and the one in use, CUDA architectures built, engines and rungs and those chosen."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    engines, rungs = engine_report(device), rung_report(device)
    return {
        "version": latent_ext.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "cpu": {
            "capability": _native.cpu_capability(),
            "supported": list(_native.supported_capabilities()),
        },
        "cuda": {
            "available": torch.cuda.is_available(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "rungs": [{"name": r.name, "usable": r.usable, "why": r.why} for r in rungs],
        "rung": choose_rung(None, device).name if any(r.usable for r in rungs) else None,
        "build": dict(_native.build_facts()),
        "device": device,
        "engines": [{"name": e.name, "usable": e.usable, "why": e.why} for e in engines],
        "engine": next(e.name for e in engines if e.usable),
    }


def info(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Shows versions, ISA levels, CUDA architectures and the engine that would be chosen, and why."""
    found = facts()
    if as_json:
        print(strict_json(found, indent=2))
        return
    table = Table("", "", show_header=False, box=None)
    for name in ("version", "python", "torch", "transformers", "threads"):
        table.add_row(name, str(found[name]))
    cpu = found["cpu"]
    table.add_row("cpu level", f"{cpu['capability']} (supported: {', '.join(cpu['supported'])})")
    for name, value in found["build"].items():
        table.add_row(
            f"build: {name}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        )
    table.add_row("cuda", found["cuda"]["device"] or "not available")
    # Rungs are of CUDA devices: without one there is nothing to say about them.
    for kind, choices in (("engine", found["engines"]), ("rung", found["rungs"] if found["rung"] else [])):
        for choice in choices:
            chosen = choice["name"] == found[kind]
            mark = "[green]chosen[/]" if chosen else ("usable" if choice["usable"] else "no")
            table.add_row(f"{kind} {choice['name']}", f"{mark}: {choice['why']}")
    Console().print(table)
