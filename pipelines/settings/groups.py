"""The settings of each step and service, with their defaults."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Group(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Group):
    """Where a nightly input is read from; `{partition}` in the path becomes the date."""

    source: str | None = Field(None, description="file or folder; {partition} becomes the date")
    preset: str | None = Field(None, description="a preset's name, such as movielens")
    mapping: str | None = Field(None, description="a mapping file with the source's own columns")
    max_rejected_share: float = Field(0.05, ge=0, le=1, description="above it the step stops")


class ItemSource(Source):
    """The items' source."""

    snapshot: Literal["changes", "full"] = Field(
        "changes", description="full: an item missing from the latest delivery is unavailable"
    )


class SequenceSettings(Group):
    """How behaviour sequences are assembled."""

    lookback_days: int = Field(
        365, ge=1, le=36_500, description="days of history that a sequence may hold"
    )
    max_length: int = Field(200, ge=1, description="events kept per user, the latest")
    actions: tuple[str, ...] = Field((), description="actions kept; empty keeps all")
    collapse_repeats: bool = Field(False, description="keep the last of consecutive equal items")
    session_gap_minutes: int | None = Field(
        None, ge=1, description="keep only events of sessions split at this gap; none: no split"
    )
    min_session_length: int = Field(1, ge=1, description="shorter sessions are dropped")
    merge_yesterday: bool = Field(True, description="build from yesterday's partition where fresh")


class GraphSettings(Group):
    """The item graph's coefficients; swing as ManCAR (arXiv 2602.20093) gives them."""

    neighbours: int = Field(100, ge=1, description="neighbours kept per item and kind")
    swing_alpha1: float = 5.0
    swing_alpha2: float = 1.0
    swing_beta: float = 0.3
    min_common_users: int = Field(2, ge=1)
    max_user_pairs: int = Field(10, ge=1, description="user pairs sampled per item pair")
    max_users_per_item: int = Field(200, ge=2, description="users of an item that are paired")
    max_items_per_user: int = Field(100, ge=2, description="latest items of a user that are paired")


class SparkSettings(Group):
    """Where Spark runs."""

    master: str = Field("local[*]", description="local[N], spark://, k8s:// or sc:// (Connect)")
    driver_memory: str = "2g"
    executor_memory: str = "2g"
    shuffle_partitions: int = Field(8, ge=1)
    conf: dict[str, str] = Field(default_factory=dict, description="further Spark configuration")


class RaySettings(Group):
    """Where Ray runs."""

    address: str | None = Field(None, description="a cluster's address; none starts one here")
    num_workers: int = Field(1, ge=0, description="training workers; 0 trains in this process")
    use_gpu: bool = False
    cpus_per_worker: float = Field(1, gt=0)
    shard_items: bool = Field(False, description="lay the item table by rows over the workers")
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="the other weights: whole on every worker, or in parts (FSDP2)"
    )
    storage: str | None = Field(None, description="training checkpoints; default: beside the lake")
    max_failures: int = Field(2, ge=0)
    object_store_mb: int = Field(512, ge=80)


class MlflowSettings(Group):
    """The registry."""

    tracking_uri: str | None = Field(None, description="default: mlflow.db beside a local lake")
    artifact_root: str | None = Field(None, description="default: artifacts beside a local lake")


class TrainSettings(Group):
    """What a training run may change without a new recipe."""

    recipe: str = "nightly"
    weekday: int = Field(6, ge=0, le=6, description="the night that trains: 0 Monday .. 6 Sunday")
    train_share: float = Field(0.8, gt=0, lt=1, description="events before the first cut")
    validation_share: float = Field(0.1, gt=0, lt=1, description="events between the two cuts")
    checkpoint_every_steps: int = Field(200, ge=1)
    seed: int = 0


class GateSettings(Group):
    """When a challenger becomes champion."""

    baselines: tuple[str, ...] = ("popularity", "last-transition", "tgh")
    min_gain_over_baselines: float = Field(0.0, description="lower bound of the NDCG@10 gain")
    max_loss_to_champion: float = Field(0.02, ge=0, description="share of the champion's NDCG@10")
    min_coverage: float = Field(
        0.01, ge=0, le=1, description="share of known items in top-10 lists"
    )
    max_slice_loss: float = Field(0.2, ge=0, le=1, description="share a slice may lose to champion")
    min_slice_users: int = Field(50, ge=1, description="smaller slices are reported, not gated")
    min_users: int = Field(20, ge=1, description="fewer test users refuse")
    max_users: int = Field(100_000, ge=100, description="test users judged at most")
    bootstrap_samples: int = Field(1000, ge=100)


class RecommendSettings(Group):
    """The published lists."""

    top_k: int = Field(10, ge=1, le=1000)
    allow_repeats: bool = Field(False, description="recommend what the user has interacted with")
    allowed_items: str | None = Field(None, description="file of item ids allowed on the surface")
    fallback_days: int = Field(30, ge=1, description="days that the popularity fallback counts")
    batch_size: int = Field(1024, ge=1, description="users scored at once")
    num_actors: int = Field(1, ge=1)
    min_users: int = Field(1, ge=0)
    max_row_change: float = Field(0.5, gt=0, description="row count band against yesterday")
    min_coverage: float = Field(0.005, ge=0, le=1)
    max_score_drift: float = Field(0.5, gt=0, description="population stability index of scores")
    max_fallback_share: float = Field(0.5, ge=0, le=1)


class LlmSettings(Group):
    """The language model behind item knowledge."""

    backend: Literal["offline", "http", "vllm", "recorded"] = "offline"
    base_url: str | None = Field(None, description="of an OpenAI-compatible endpoint, with /v1")
    model: str | None = None
    api_key: SecretStr | None = None
    max_requests_per_second: float = Field(5, gt=0, description="all executors together")
    max_concurrency: int = Field(8, ge=1, description="requests in flight, all executors together")
    partitions: int = Field(2, ge=1, description="Spark tasks that ask")
    price_per_million_in: float = Field(0, ge=0, description="dollars per million prompt tokens")
    price_per_million_out: float = Field(0, ge=0, description="dollars per million answer tokens")
    timeout_seconds: float = Field(60, gt=0, description="of one request")
    max_attempts: int = Field(6, ge=1, description="tries of one request at a failing service")
    breaker_failures: int = Field(20, ge=1, description="failures in a row that may stop the step")
    breaker_seconds: float = Field(
        30, ge=0, description="and how long nothing must have been answered"
    )
    max_answer_tokens: int = Field(2048, ge=64, description="of one answer")
    max_item_chars: int = Field(4000, ge=100, description="of an item's description are sent")
    language: str = Field("en", description="that answers are written in, an ISO 639-1 code")
    recorded: str | None = Field(None, description="file of answers that `recorded` replays")
    recorded_column: str = Field("answer", description="its column of texts")
    trace_share: float = Field(0.01, ge=0, le=1, description="of items, shown in MLflow as traces")
    engine: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="further vLLM engine arguments"
    )
    replicas: int = Field(1, ge=1, description="vLLM engines")


class KnowledgeSettings(Group):
    """When item knowledge is too much worse than the last accepted to be published."""

    min_records: int = Field(50, ge=1, description="fewer records of a round are not judged")
    max_quality_loss: float = Field(
        0.1, ge=0, le=1, description="share by which a measure may fall behind the last accepted"
    )
    judge_share: float = Field(
        0.0, ge=0, le=1, description="of new records, graded by the model for one request each"
    )


class InterestSettings(Group):
    """What of a person's history their interests are read from."""

    actions: tuple[str, ...] = Field(
        (), description="reliable actions; empty: all but mere views and clicks"
    )
    min_items: int = Field(3, ge=1, description="people with fewer reliable items are left out")
    max_items: int = Field(100, ge=1, description="items told of a person, the latest")
    max_history_tokens: int = Field(4000, ge=100, description="of a person's compressed history")
    max_interests: int = Field(16, ge=1, le=32, description="kept of a person, the weightiest")
    refresh_days: int = Field(
        14, ge=1, description="a person's turn comes once in so many nights; 1: every night"
    )


class VectorSettings(Group):
    """How an item's text becomes a vector."""

    encoder: Literal["hashed", "minilm", "folder"] = Field(
        "hashed", description="hashed: words, no model; minilm: the packaged one; folder: your own"
    )
    folder: str | None = Field(None, description="of a sentence transformer, for encoder=folder")
    hashed_width: int = Field(256, ge=8, description="coordinates of encoder=hashed")
    pca: int | None = Field(None, ge=1, description="principal components kept; none: all")
    max_chars: int = Field(2000, ge=100, description="of an item's description are encoded")
    batch_size: int = Field(16, ge=1, description="texts encoded at once; more on a GPU")


class SemanticIdSettings(Group):
    """How item vectors become codes."""

    method: Literal["kmeans", "rqvae"] = Field(
        "kmeans", description="residual k-means of the vectors, or of what RQ-VAE makes of them"
    )
    levels: int = Field(3, ge=1, description="codes of an item, but for the one that tells twins")
    codes: int = Field(256, ge=2, description="values of a code at most")
    epochs: int = Field(300, ge=1, description="of RQ-VAE")
    seed: int = 0
    max_drift: float | None = Field(
        None, gt=0, description="rise of the coding error that refits; none: only --refit does"
    )


class MaintenanceSettings(Group):
    """Compaction and retention."""

    retention_hours: int = Field(168, ge=168, description="files are kept this long for readers")
    target_file_mb: int = Field(128, ge=1)


class LaunchSettings(Group):
    """How a DAG's task runs its command line."""

    mode: Literal["local", "pod", "rayjob"] = "local"
    namespace: str = "reckoner"
    image_airflow: str = "reckoner-airflow:latest"
    image_spark: str = "reckoner-spark:latest"
    image_ray: str = "reckoner-ray:latest"
    gpus: int = Field(1, ge=0)
    ray_workers: int = Field(1, ge=1)
