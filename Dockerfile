# A small image that runs `ctune`. The first stage builds the environment, the second carries it without build tools.
#   docker build -t ctune .                                    CPU
#   docker build --build-arg DEVICE=cuda -t ctune:cuda .       CUDA: a torch with its CUDA libraries
#   docker build --build-arg DEVICE=cuda --build-arg EXTRAS=postgres,s3,ray -t ctune:ray .   a node of a Ray cluster
#   docker run ctune demo
#   docker run -p 3000:3000 -v "$PWD/project":/project -v ctune-state:/var/lib/ctune ctune serve NAME@production --project /project --tokens /project/tokens.json
# The root file system may be read-only (--read-only --tmpfs /tmp): what is written goes to /var/lib/ctune and /tmp.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
# /opt/ctune is the same path in both stages: a virtual environment knows where it lies.
RUN python3 -m venv /opt/ctune
ENV PATH=/opt/ctune/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# cpu or cuda. TORCH_ARGS says where such a build of torch is found, e.g. an --index-url (pytorch.org names them); without it
# torch comes from pip's usual place. A build for the other device is refused here, not found out in a hospital.
ARG DEVICE=cpu
ARG TORCH_ARGS=""
# Where pip finds packages may be private: it arrives as a secret for this one step and never enters a layer.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m pip install ${TORCH_ARGS} -c constraints.txt torch
RUN DEVICE=${DEVICE} python3 -c 'import os, sys, torch; wanted = os.environ["DEVICE"]; \
got = "cpu" if torch.version.cuda is None else "cuda"; \
sys.exit(wanted != got and f"expected a build of torch for {wanted}, got one for {got}; say where it is found with --build-arg TORCH_ARGS")'
COPY pyproject.toml README.md LICENSE ./
COPY ctune ctune
COPY cli cli
COPY registry registry
ARG EXTRAS=serve,review,dicom,nrrd,postgres
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m pip install -c constraints.txt ".[${EXTRAS}]"

FROM ${BASE}
COPY --from=build /opt/ctune /opt/ctune
RUN useradd --create-home --uid 1000 ctune && install -d -o ctune -g ctune -m 700 /var/lib/ctune
USER ctune
WORKDIR /home/ctune
ENV PATH=/opt/ctune/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CTUNE_HOST=0.0.0.0 CTUNE_STATE=/var/lib/ctune XDG_CACHE_HOME=/tmp MPLCONFIGDIR=/tmp BENTOML_DO_NOT_TRACK=True
EXPOSE 3000
VOLUME /var/lib/ctune
# Of `ctune serve`; another command has nothing that could be asked.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
ENTRYPOINT ["ctune"]
CMD ["demo"]
