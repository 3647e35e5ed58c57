# whyfake in a container: docs/docker.md says how to build and run it.
#   docker build --target cpu -t whyfake:cpu .
#   docker build --target gpu -t whyfake:gpu .
# scripts/check_dockerfile.py checks this file, and runs the steps of the target cpu without Docker.

# ---- cpu: build ------------------------------------------------------------------------------
FROM python:3.12.12-slim-trixie AS cpu-build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Debian, like Ubuntu below, deletes superseded versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# two environments: the tools that make the wheel stay behind, and the image's own has no pip
COPY docker/constraints-build.txt docker/constraints-cpu.txt docker/
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install -r docker/constraints-build.txt \
 && python -m venv --without-pip /opt/whyfake \
 && /opt/build/bin/pip --python /opt/whyfake/bin/python install -r docker/constraints-cpu.txt
# what is installed above is complete: whatever the project asks for beyond it fails `pip check`
COPY pyproject.toml README.md LICENSE hatch_build.py ./
COPY whyfake whyfake
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /wheels . \
 && /opt/build/bin/pip --python /opt/whyfake/bin/python install --no-deps /wheels/*.whl \
 && /opt/build/bin/pip --python /opt/whyfake/bin/python check \
 && /opt/whyfake/bin/python -m compileall -q /opt/whyfake/lib

# ---- cpu -------------------------------------------------------------------------------------
FROM python:3.12.12-slim-trixie AS cpu
LABEL org.opencontainers.image.title="whyfake" \
      org.opencontainers.image.description="Why does this deepfake detector call this frame fake? (CPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
# /out and /cache are anybody's, as /tmp is: the container may be run as any user (--user)
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /cache whyfake \
 && install -d -m 1777 /data /out /cache
COPY --from=cpu-build /opt/whyfake /opt/whyfake
ENV PATH=/opt/whyfake/bin:$PATH HOME=/cache WHYFAKE_CACHE=/cache PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /out
VOLUME ["/data", "/out", "/cache"]
ENTRYPOINT ["whyfake"]
CMD ["--help"]

# ---- gpu: build ------------------------------------------------------------------------------
# Its Python is Ubuntu's 3.12, since that of python:3.12-slim wants a newer glibc than this base has.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS gpu-build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Ubuntu deletes superseded versions, so that exact ones would stop this build within weeks; the
# release pins them to 3.12.x and security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3.12-dev python3.12-venv g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY docker/constraints-build.txt docker/constraints-gpu.txt docker/
RUN python3.12 -m venv /opt/build \
 && /opt/build/bin/pip install -r docker/constraints-build.txt
# pycuda has no wheels: compiled against the headers here, linked against the toolkit's stub of the
# driver. cuRAND is left out: whyfake draws its numbers on the host, from one seed.
COPY docker/build_pycuda.sh docker/
RUN sh docker/build_pycuda.sh /usr/local/cuda /wheels
# TensorRT's packages are stubs that fetch the libraries from NVIDIA's own index while they install
RUN python3.12 -m venv --without-pip /opt/whyfake \
 && /opt/build/bin/pip --python /opt/whyfake/bin/python install \
      --find-links /wheels -r docker/constraints-gpu.txt
COPY pyproject.toml README.md LICENSE hatch_build.py ./
COPY whyfake whyfake
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /wheels . \
 && /opt/build/bin/pip --python /opt/whyfake/bin/python install --no-deps /wheels/whyfake-*.whl \
 && /opt/build/bin/pip --python /opt/whyfake/bin/python check \
 && /opt/whyfake/bin/python -m compileall -q /opt/whyfake/lib

# ---- gpu -------------------------------------------------------------------------------------
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS gpu
LABEL org.opencontainers.image.title="whyfake" \
      org.opencontainers.image.description="Why does this deepfake detector call this frame fake? (NVIDIA GPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3.12 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /cache whyfake \
 && install -d -m 1777 /data /out /cache
COPY --from=gpu-build /opt/whyfake /opt/whyfake
# ONNX Runtime's TensorRT provider looks for libnvinfer.so.10 as any program does
ENV PATH=/opt/whyfake/bin:$PATH HOME=/cache WHYFAKE_CACHE=/cache PYTHONDONTWRITEBYTECODE=1 \
    LD_LIBRARY_PATH=/opt/whyfake/lib/python3.12/site-packages/tensorrt_libs:$LD_LIBRARY_PATH
USER 10001:10001
WORKDIR /out
VOLUME ["/data", "/out", "/cache"]
ENTRYPOINT ["whyfake"]
CMD ["--help"]
