#!/bin/sh
# Builds simt_selftest with AddressSanitizer and UndefinedBehaviorSanitizer and runs every CUDA kernel on the host; then checks
# that a write past shared memory is caught. Needs a C++ compiler and nothing else.
#
#     csrc/testing/run_sanitized.sh [BUILD_FOLDER]
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$(mktemp -d)}
mkdir -p "$build"
"${CXX:-c++}" -std=c++17 -O1 -g -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -fno-omit-frame-pointer \
  -fsanitize=address,undefined -fno-sanitize-recover=all -I"$source" -I"$source/include" \
  "$source/testing/simt_selftest.cpp" -o "$build/simt_selftest"
"$build/simt_selftest"
if output=$("$build/simt_selftest" past_shared_memory 2>&1); then
  echo "the write past shared memory was not caught: $output" >&2
  exit 1
fi
case $output in
  *heap-buffer-overflow*) echo "the write past shared memory was caught" ;;
  *) echo "unexpected failure: $output" >&2; exit 1 ;;
esac
