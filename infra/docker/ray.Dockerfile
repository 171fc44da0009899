# Ray steps (training, evaluation, scoring) and item vectors, and the nodes of a Ray cluster.
# The lock's torch wheel carries CUDA on Linux; the host brings the NVIDIA driver and runtime.
FROM python:3.11-slim-bookworm
ARG EXTRAS=ray,text
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 TZ=UTC
# KubeRay's probes call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home reckoner \
    && mkdir -m 1777 /artifacts /ray-storage
WORKDIR /opt/reckoner
COPY requirements.lock pyproject.toml README.md ./
COPY dags dags
COPY feature_jobs feature_jobs
COPY infra infra
COPY models models
COPY pipelines pipelines
RUN pip install -c requirements.lock ".[${EXTRAS}]"
USER reckoner
ENTRYPOINT ["tini", "--"]
CMD ["reckoner", "--help"]
