"""Where training stands, how fast it learns there, and when a stage of it is over."""

from dataclasses import dataclass

from models.recipe import FitConfig


@dataclass
class Progress:
    """Where training stands; all of it travels in the state dict.

    Attributes:
        stage: Which of the ranker's stages.
        stage_began: Epochs completed before it.
        epoch: Epochs completed.
        batch: Batches taken of the epoch that runs.
        step: Optimiser steps taken.
        targets: Targets learnt from.
        best: Best validation NDCG@10 so far, -1 before the first.
        waited: Epochs since then.
        cpu_seconds: Process CPU seconds of training.
        done: The recipe has come to its end.
    """

    stage: int = 0
    stage_began: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    targets: int = 0
    best: float = -1.0
    waited: int = 0
    cpu_seconds: float = 0.0
    done: bool = False

    def take_metric(self, metric: float, epochs: int) -> bool:
        """Take in a validation after so many epochs; says whether it is the best so far."""
        better = metric > self.best
        self.waited = 0 if better else self.waited + epochs
        if better:
            self.best = metric
        return better

    def pace(self, config: FitConfig, stages: int, batches: int) -> float:
        """Share of the learning rate that the next step takes: it rises first and falls last.

        Args:
            config: The recipe.
            stages: Stages of the ranker.
            batches: Batches of an epoch.
        """
        rise = min(1.0, (self.step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        falling = config.falling_share
        if falling == 0:
            return rise
        if config.cpu_seconds is not None:
            behind = self._time_share(config.cpu_seconds, stages)
        else:
            epochs = self.epoch - self.stage_began + self.batch / max(batches, 1)
            behind = epochs / config.max_epochs
        return rise * min(1.0, max(0.0, 1.0 - behind) / falling)

    def is_out_of_time(self, config: FitConfig, stages: int) -> bool:
        """Say whether the stage has had its share of the CPU seconds."""
        limit = config.cpu_seconds
        return limit is not None and self._time_share(limit, stages) >= 1.0

    def _time_share(self, limit: float, stages: int) -> float:
        """How much of the stage's CPU seconds is spent; all stages have as many."""
        return self.cpu_seconds * stages / limit - self.stage

    def ends_stage(self, config: FitConfig, stages: int) -> bool:
        """Say, between epochs, whether the stage is over: out of time, epochs or patience."""
        trained = self.epoch - self.stage_began
        out_of_epochs = config.cpu_seconds is None and trained >= config.max_epochs
        out_of_patience = self.waited >= config.patience and trained >= config.min_epochs
        return self.is_out_of_time(config, stages) or out_of_epochs or out_of_patience

    def start_stage(self) -> None:
        """Go on to the next stage."""
        self.stage, self.stage_began, self.waited = self.stage + 1, self.epoch, 0
