#!/bin/sh
# Build a wheel of pycuda without a GPU: sh build_pycuda.sh CUDA_ROOT WHEELS
# Needs a C++ compiler, Python's headers, and pip with setuptools, wheel and numpy in /opt/build
# (or in $PIP's environment).
set -eu
root=$1 wheels=$2 pip=${PIP:-/opt/build/bin/pip}
python=$(dirname "$pip")/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(sed -n 's/^pycuda==//p' "$(dirname "$0")/constraints-gpu.txt")
"$pip" download --no-deps --no-binary pycuda --no-build-isolation -d "$work" "pycuda==$version"
tar -xzf "$work/pycuda-$version.tar.gz" -C "$work"
cd "$work/pycuda-$version"
"$python" configure.py --cuda-root="$root" --cudadrv-lib-dir="${STUBS:-$root/lib64/stubs}" \
  --no-cuda-enable-curand
"$pip" wheel --no-deps --no-build-isolation -w "$wheels" .
