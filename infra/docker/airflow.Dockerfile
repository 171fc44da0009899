# Airflow's own parts. No Spark, Ray or torch: steps run in the other two images.
# compose.yaml builds it once more with every extra and Java, since LocalExecutor runs steps inside.
FROM apache/airflow:3.3.2-python3.11
ARG EXTRAS=airflow
ARG WITH_JAVA=
USER root
RUN mkdir -p /opt/reckoner && chown airflow: /opt/reckoner && mkdir -m 1777 /ray-storage
RUN if [ -n "$WITH_JAVA" ]; then apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*; fi
USER airflow
WORKDIR /opt/reckoner
COPY --chown=airflow requirements.lock pyproject.toml README.md ./
COPY --chown=airflow dags dags
COPY --chown=airflow feature_jobs feature_jobs
COPY --chown=airflow infra infra
COPY --chown=airflow models models
COPY --chown=airflow pipelines pipelines
COPY --chown=airflow infra/airflow_pools.json airflow_pools.json
# The base image brings the git provider that GitDagBundle needs; the lock does not pin it.
RUN pip install --no-cache-dir -c requirements.lock ".[${EXTRAS}]"
WORKDIR /opt/airflow
