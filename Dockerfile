# One image for every command: `serve` (the default), `worker`, `migrate`, `create-api-key`, …
#
# Everything is installed from the lock files, by hash. It runs as a numeric user, needs no shell, and writes to /data
# alone (SQLite's file and its key; with Postgres nothing at all), so `--read-only --cap-drop=ALL` is fine:
#
#     docker build -t calendar-service .
#     docker run --read-only --tmpfs /tmp --cap-drop=ALL --security-opt=no-new-privileges \
#         -v calendar:/data -p 127.0.0.1:50051:50051 -e CALENDAR_PLAINTEXT=1 calendar-service
#
# Secrets come at run time, as CALENDAR_… variables or as files that CALENDAR_…_FILE names; none is in a layer.
# For an image that never changes under you, give the base by digest: `--build-arg BASE=python:3.11-slim-bookworm@sha256:…`.
# hadolint global ignore=DL3059
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN ["python", "-m", "venv", "--without-pip", "/opt/calendar"]
# The dependencies first: this layer stays when only our code has changed.
COPY requirements.lock requirements-build.lock ./
RUN ["python", "-m", "pip", "--python", "/opt/calendar/bin/python", "install", \
     "--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile", "-r", "requirements.lock"]
RUN ["python", "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "-r", "requirements-build.lock"]
COPY pyproject.toml README.md ./
COPY server server
COPY clients clients
COPY gen gen
RUN ["python", "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
RUN ["python", "-m", "pip", "--python", "/opt/calendar/bin/python", "install", \
     "--no-index", "--no-deps", "--no-compile", "--find-links", "dist", "calendar-service"]
# Compiled here, for the file system is read-only later. Checked by content, so that times in layers do not matter.
RUN ["/opt/calendar/bin/python", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", \
     "/opt/calendar/lib"]
# An empty folder of the user's own, which a new volume takes over.
RUN ["install", "-d", "-m", "0700", "-o", "65532", "-g", "65532", "/data"]

FROM ${BASE}
LABEL org.opencontainers.image.title="calendar-service" \
      org.opencontainers.image.description="Connects Google, Microsoft and CalDAV calendars by gRPC."
COPY --from=build /opt/calendar /opt/calendar
COPY --from=build --chown=65532:65532 /data /data
ENV PATH=/opt/calendar/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    CALENDAR_GRPC_ADDRESS=0.0.0.0:50051 \
    CALENDAR_HTTP_ADDRESS=0.0.0.0:8080
# The database is /data/var/calendar.db unless CALENDAR_DATABASE_URL, or a file that CALENDAR_DATABASE_URL_FILE names, says else.
WORKDIR /data
VOLUME /data
USER 65532:65532
EXPOSE 50051 8080
# SIGTERM: health says NOT_SERVING, calls in flight finish (CALENDAR_DRAIN_S), exit 0. Give it 45 seconds or more.
STOPSIGNAL SIGTERM
# Asks the server's /readyz. Turn it off for workers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["calendar-server", "health"]
ENTRYPOINT ["calendar-server"]
CMD ["serve"]
