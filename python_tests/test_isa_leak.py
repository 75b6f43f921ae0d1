"""No instruction of a wider ISA level may sit outside that level's own symbols.

One function compiled for AVX-512 that the linker shares with baseline code would kill the process on an older
CPU, where no test of this machine could see it. So the library is disassembled.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from latent_ext import _C

HEADING = re.compile(r"^[0-9a-f]+ <(.*)>:$")
LEVELS = ("isa_avx2", "isa_avx512", "isa_avx512_dot")
X86 = platform.machine().lower() in ("x86_64", "amd64")


def instructions() -> Iterator[tuple[str, str]]:
    """Every (symbol, instruction) of _C."""
    objdump = shutil.which("objdump")
    assert objdump, "this test disassembles the library: install binutils for objdump"
    command = [objdump, "--disassemble", "--demangle", "--no-show-raw-insn", _C.__file__]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    symbol = ""
    for line in process.stdout:
        heading = HEADING.match(line)
        if heading:
            symbol = heading[1]
        elif "\t" in line:
            yield symbol, line.split("\t", 1)[1].strip()
    assert process.wait() == 0


@pytest.fixture(scope="module")
def disassembly() -> list[tuple[str, str]]:
    return list(instructions())


def level_of(symbol: str) -> str:
    """Innermost ISA namespace that the symbol itself, not its argument types, lives in."""
    names = re.findall(r"latent_ext::(isa_\w+)::", symbol)
    assert len(set(names)) <= 1, f"{symbol} mixes ISA levels"
    return names[0] if names else "baseline"


def is_avx(instruction: str) -> bool:
    system = re.match(r"verr|verw|vm(call|launch)", instruction)
    return instruction.startswith("v") and system is None


def is_avx512(instruction: str) -> bool:
    return re.search(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b", instruction) is not None


def test_baseline_symbols_hold_no_avx_instruction(disassembly: list[tuple[str, str]]) -> None:
    leaks = {s for s, i in disassembly if (is_avx(i) or is_avx512(i)) and level_of(s) not in LEVELS}
    assert not leaks, f"AVX instructions outside the ISA namespaces: {sorted(leaks)[:10]}"


def test_avx2_symbols_hold_no_avx512_instruction(disassembly: list[tuple[str, str]]) -> None:
    leaks = {s for s, i in disassembly if is_avx512(i) and level_of(s) == "isa_avx2"}
    assert not leaks, f"AVX-512 instructions in the AVX2 level: {sorted(leaks)[:10]}"


def test_dot_product_instructions_stay_with_the_cpus_that_have_them(
    disassembly: list[tuple[str, str]],
) -> None:
    holders = {level_of(s) for s, i in disassembly if i.startswith(("vdpbf16ps", "vpdpbusd"))}
    assert holders == ({"isa_avx512_dot"} if X86 else set())


def test_every_level_uses_the_registers_it_is_named_for(disassembly: list[tuple[str, str]]) -> None:
    registers: dict[str, set[str]] = {level: set() for level in LEVELS}
    for symbol, instruction in disassembly:
        level = level_of(symbol)
        if level in registers:
            registers[level].update(re.findall(r"%([yz]mm)\d", instruction))
    assert ("ymm" in registers["isa_avx2"]) == X86
    assert ("zmm" in registers["isa_avx512"]) == X86
