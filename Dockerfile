# A small image that runs `ctune`. The first stage builds the environment, the second carries it without build tools.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
# /opt/ctune is the same path in both stages: a virtual environment knows where it lies.
RUN python3 -m venv /opt/ctune
ENV PATH=/opt/ctune/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# Where pip finds packages may be private: it arrives as a secret for this one step and never enters a layer.
# TORCH_ARGS says where the CPU build is found, e.g. an --index-url; without it torch comes from pip's usual place.
ARG TORCH_ARGS=""
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m pip install ${TORCH_ARGS} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY ctune ctune
COPY cli cli
COPY registry registry
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m pip install -c constraints.txt .

FROM ${BASE}
COPY --from=build /opt/ctune /opt/ctune
RUN useradd --create-home --uid 1000 ctune
USER ctune
WORKDIR /home/ctune
ENV PATH=/opt/ctune/bin:$PATH PYTHONUNBUFFERED=1
CMD ["ctune", "demo"]
