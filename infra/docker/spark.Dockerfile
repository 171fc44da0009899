# Spark steps (ingest, sequences, item graph, upkeep), and the executors of a Spark cluster.
FROM python:3.11-slim-bookworm
ARG EXTRAS=spark,llm
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 TZ=UTC
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless procps tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home reckoner
WORKDIR /opt/reckoner
COPY requirements.lock pyproject.toml README.md ./
COPY dags dags
COPY feature_jobs feature_jobs
COPY infra infra
COPY models models
COPY pipelines pipelines
RUN pip install -c requirements.lock ".[${EXTRAS}]"
# pyspark ships Spark itself: its own scripts start masters, workers and executors.
ENV SPARK_HOME=/usr/local/lib/python3.11/site-packages/pyspark
USER reckoner
ENTRYPOINT ["tini", "--"]
CMD ["reckoner", "--help"]
