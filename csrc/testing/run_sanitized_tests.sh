#!/bin/sh
# Builds the CPU library with AddressSanitizer and UndefinedBehaviorSanitizer into a copy of the package and runs the tests of
# native ops, native engine, thread team and CUDA kernels on the host on it. The installed package stays as it is. Needs g++ and what the tests need.
#
#     csrc/testing/run_sanitized_tests.sh PYTHON BUILD_FOLDER [PYTEST_ARGUMENT...]
set -eu
python=$(cd "$(dirname "$(command -v "$1")")" && pwd)/$(basename "$1")
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$2"
build=$(cd "$2" && pwd)
shift 2
cxx=${CXX:-g++}
PATH=$(dirname "$python"):$PATH  # cmake and ninja of that Python first

folder_of() { "$python" -c "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('$1').origin).parent)"; }
generator=
if command -v ninja >/dev/null; then generator="-G Ninja"; fi
cmake -S "$root" -B "$build/native" $generator -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_BUILD_TYPE=Debug \
  -DLATENT_EXT_SANITIZE=address,undefined -DLATENT_EXT_CUDA=0 -DLATENT_EXT_TESTING=ON \
  -DLATENT_EXT_TORCH_DIR="$(folder_of torch)" -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$(folder_of pybind11)/share/cmake/pybind11"
cmake --build "$build/native" --parallel "${MAX_JOBS:-$(nproc)}"

rm -rf "$build/site"
mkdir -p "$build/site"
cp -R "$root/latent_ext" "$build/site"
rm -f "$build"/site/latent_ext/_*.so
cmake --install "$build/native" --prefix "$build/site/latent_ext"

# Python itself is not instrumented, so the run-time library must come first; with libstdc++, or it would not find the function
# that throws. From the folder of the copy, because `python -m` looks in the current folder first.
cd "$build/site"
export LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
export OMP_NUM_THREADS=1
built=$("$python" -c "from latent_ext import _library, _native; print(_native.__file__, _native.build_facts()['sanitizers'])")
case $built in
  "$build"/site/*" address,undefined") ;;
  *) echo "the tests would run another library than the sanitized one: $built" >&2; exit 1 ;;
esac
# A sanitizer writes its report to file descriptor 2 and ends the process: pytest must not hold that back.
tests="$root/python_tests"
"$python" -m pytest -q -p no:cacheprovider --capture=sys --rootdir "$root" "$tests/ops" "$tests/test_team.py" "$@"
"$python" -m pytest -q -p no:cacheprovider --capture=sys --rootdir "$root" "$tests/engine" -k native "$@"
LATENT_EXT_SIMT_FOLDER="$build/native/testing" "$python" -m pytest -q -p no:cacheprovider --capture=sys --rootdir "$root" \
  "$tests/cuda/test_rollout_simt.py" -k "agrees or sense or grid" "$@"
