# The daemon, its engine and the command line tool in one image. Build: docker build -t gitopsd:v0.1.0 .
ARG GO_VERSION=1.26
ARG PYTHON_VERSION=3.13
ARG DEBIAN=trixie

# --- the engine: one static Go program ---
FROM golang:${GO_VERSION}-${DEBIAN} AS engine
WORKDIR /src/engine
COPY engine/go.mod engine/go.sum ./
RUN go mod download
COPY engine/ ./
RUN CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags="-s -w" -o /gitopsd-engine .

# --- gitopsd and its pinned dependencies in a virtual environment ---
FROM python:${PYTHON_VERSION}-slim-${DEBIAN} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/gitopsd
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE ./
COPY gitopsd/ gitopsd/
RUN /opt/gitopsd/bin/pip install --constraint constraints.txt . \
    && /opt/gitopsd/bin/python -m compileall -q /opt/gitopsd/lib \
    && /opt/gitopsd/bin/pip uninstall --yes pip
COPY --from=engine /gitopsd-engine /opt/gitopsd/bin/gitopsd-engine

# --- what runs: no compiler, no pip, no root ---
FROM python:${PYTHON_VERSION}-slim-${DEBIAN}
# git is for kustomize bases in other repositories only; sources are fetched without it
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/gitopsd /opt/gitopsd
ENV PATH=/opt/gitopsd/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN mkdir /data && chown 65534:65534 /data
USER 65534:65534
EXPOSE 8080 9090 9440
ENTRYPOINT ["gitopsd"]
CMD ["run"]
