# One image for every role: the orchestrator, a worker, analytics. The role is the command.
#
#   docker build -t dressage .
#   docker run dressage orchestrator --server nats://nats-1:4222

FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 dressage && install --directory --owner=dressage /data /app
COPY --from=build /wheels /wheels
RUN wheel="$(echo /wheels/dressage-*.whl)" \
    && pip install --no-cache-dir --no-compile "${wheel}[all]" \
    && rm -r /wheels
USER dressage
# Modules of workers are mounted here; `dressage worker module:app` finds them.
WORKDIR /app
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1
VOLUME /data
ENTRYPOINT ["dressage"]
