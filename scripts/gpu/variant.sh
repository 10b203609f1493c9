#!/usr/bin/env bash
# variant.sh PATCH LIBRARY: compiles the CUDA library for this machine's GPU (or ARCH, as sm_90), with a patch of the
# sources, as CMakeLists.txt does.
set -e
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r native "$work"
if [ -s "$1" ]; then patch -d "$work" -p1 --forward --fuzz=0 < "$1"; fi
compile() {
  nvcc -arch="${ARCH:-native}" -std=c++17 -O3 -DNDEBUG -fmad=false -Xptxas=-v -Xcompiler=-fPIC,-fvisibility=hidden "$@"
}
export -f compile
(cd "$work" && xargs -P "$(nproc)" -I{} bash -c 'compile -c -o "$(basename {}).o" {}' < native/cuda/sources.txt)
compile -shared -cudart static -o "$2" "$work"/*.o -ldl
