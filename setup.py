"""Builds the native libraries with CMake; all metadata is in pyproject.toml.

Nothing here imports torch: metadata can be asked for where torch is not installed, and the build itself only
needs to know where its headers and libraries are.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MIN_TORCH = (2, 11)
MIN_CMAKE = (3, 26)


def version_pair(text: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def find_torch() -> Path:
    """Folder of the installed torch package, found without importing it."""
    how = "install torch>=2.11, then run `pip install --no-build-isolation` so that the build can see it"
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit(f"latent_ext needs PyTorch to build and none is installed: {how}.")
    version = importlib.metadata.version("torch")
    if version_pair(version) < MIN_TORCH:
        raise SystemExit(f"latent_ext needs torch>=2.11 to build and found torch {version}: {how}.")
    return Path(spec.origin).parent


def find_cmake() -> str:
    how = "install a newer one with `pip install 'cmake>=3.26'`"
    script = Path(sys.executable).with_name("cmake")
    cmake = str(script) if script.exists() else shutil.which("cmake")
    if cmake is None:
        raise SystemExit("latent_ext needs CMake>=3.26 to build and found none: `pip install 'cmake>=3.26'`.")
    report = subprocess.run([cmake, "--version"], capture_output=True, text=True, check=True).stdout
    version = report.split()[2]
    if version_pair(version) < MIN_CMAKE:
        raise SystemExit(f"latent_ext needs CMake>=3.26 to build and found CMake {version}: {how}.")
    return cmake


def find_ninja() -> list[str]:
    script = Path(sys.executable).with_name("ninja")
    ninja = str(script) if script.exists() else shutil.which("ninja")
    return ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []


def find_pybind11() -> Path:
    spec = importlib.util.find_spec("pybind11")
    if spec is None or spec.origin is None:
        raise SystemExit("latent_ext needs pybind11 to build and found none: `pip install 'pybind11>=2.12'`.")
    return Path(spec.origin).parent / "share" / "cmake" / "pybind11"


def require_compiler() -> None:
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in names):
        raise SystemExit(
            f"latent_ext needs a C++17 compiler to build and found none of {names}: install g++>=12 or "
            "clang++>=15, or set CXX to one."
        )


class CMakeBuild(build_ext):
    """Runs CMake once in build/ and installs every native library into the package."""

    def run(self) -> None:
        torch = find_torch()
        cmake = find_cmake()
        pybind11 = find_pybind11()
        require_compiler()
        build = ROOT / "build" / "native"
        if self.editable_mode or self.inplace:
            package = ROOT / "latent_ext"
        else:
            package = Path(self.build_lib).resolve() / "latent_ext"
        options = {
            "CMAKE_BUILD_TYPE": os.environ.get("CMAKE_BUILD_TYPE", "Release"),
            "LATENT_EXT_TORCH_DIR": torch,
            "LATENT_EXT_CUDA": os.environ.get("LATENT_EXT_CUDA", "AUTO"),
            "LATENT_EXT_TESTING": "ON" if self.editable_mode or self.inplace else "OFF",
            "LATENT_EXT_SANITIZE": os.environ.get("LATENT_EXT_SANITIZE", ""),
            "LATENT_EXT_CUDA_ARCHITECTURES": os.environ.get("CMAKE_CUDA_ARCHITECTURES", ""),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11,
        }
        configure = [cmake, "-S", str(ROOT), "-B", str(build), *find_ninja()]
        self.cmake([*configure, *(f"-D{name}={value}" for name, value in options.items())])
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        self.cmake([cmake, "--build", str(build), "--parallel", jobs])
        self.cmake([cmake, "--install", str(build), "--prefix", str(package)])

    def cmake(self, command: list[str]) -> None:
        result = subprocess.run(command)
        if result.returncode != 0:
            raise SystemExit(f"the native build of latent_ext stopped at: {' '.join(command)}")

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    ext_modules=[Extension("latent_ext._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
