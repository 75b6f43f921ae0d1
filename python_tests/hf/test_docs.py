"""docs/plugging.md runs as it stands, and so does the example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import latent_ext

ROOT = Path(latent_ext.__file__).parents[1]


def test_the_blocks_of_the_page_run_in_order() -> None:
    text = (ROOT / "docs" / "plugging.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/plugging.md, block {number}", "exec"), names)


def test_the_example_prints_equal_tokens_and_a_speed_up() -> None:
    command = [sys.executable, "examples/accelerate_latenttts.py"]
    command += ["--questions", "3", "--layers", "2", "--hidden", "64"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "equal tokens on 3 of 3 questions" in done.stdout
    assert "speed-up" in done.stdout
