# The recipes with everything that they were tried with, in /align. On a CPU:
#   docker build -t align-recipes .
#   docker run --rm -it --shm-size 8g -v "$PWD/runs:/align/runs" align-recipes align doctor
# With GPUs (the base needs Python 3.11 or newer, and its headers; Ubuntu 24.04 has 3.12):
#   docker build -t align-recipes:cuda --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#       --build-arg TORCH_INDEX=… .
# TORCH_INDEX is the address that https://pytorch.org/get-started/locally shows behind --index-url: of the builds for CPUs,
# or for one CUDA. Without one torch comes from Python's package index, with CUDA beside it, and runs on a CPU as well.
#   docker run --rm -it --gpus all --shm-size 8g -v "$PWD/runs:/align/runs" align-recipes:cuda align doctor
ARG BASE=python:3.11-slim
FROM ${BASE}

# Of both bases: what DeepSpeed compiles with, git for the record of a run, make; of the second Python as well
RUN apt-get update -q \
    && apt-get install -qy --no-install-recommends ca-certificates g++ git make \
    && if ! command -v pip; then apt-get install -qy --no-install-recommends python3-dev python3-venv; fi \
    && rm -rf /var/lib/apt/lists/*

# Where torch comes from; see above
ARG TORCH_INDEX=
ENV TORCH_INDEX=${TORCH_INDEX} PIP_NO_CACHE_DIR=1 HF_HUB_DISABLE_TELEMETRY=1

WORKDIR /align
# What `make setup` reads: its layer is kept until one of these changes
COPY Makefile constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY align/__init__.py align/__init__.py
RUN make setup

COPY . .
# What was copied last is newer than what `make setup` left, though nothing that it reads has changed
RUN touch .venv/.done

ENV PATH=/align/.venv/bin:${PATH}
CMD ["align", "doctor"]
