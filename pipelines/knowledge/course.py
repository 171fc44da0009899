"""A subject's way through its chain, and how it ended."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.knowledge.quota import Stop
from pipelines.knowledge.reasoning import Chain, Unusable
from pipelines.knowledge.requests import Reply, Request


@dataclass
class Outcome:
    """How a subject ended: done (with the record), failed (with the reason) or left.

    Attributes:
        result: the chain's result as JSON.
        answered: of a failure of the service: requests of the run answered by then; else None.
    """

    subject: str
    status: Literal["done", "failed", "left"] = "left"
    result: str | None = None
    reason: str | None = None
    attempts: int = 0
    last_answer: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    answered: int | None = None

    def without_blame(self, answered: int, stop: Stop | None) -> "Outcome":
        """Leave for later what failed in an outage: nothing came since, up to the run's end.

        An outage ended the run, or nothing was ever answered.
        """
        is_outage = answered == 0 or (stop is not None and stop.kind in ("breaker", "input"))
        if is_outage and self.answered is not None and self.answered >= answered:
            return Outcome(self.subject)
        return self


class Course:
    """Holds a chain between its request and the reply to it.

    Attributes:
        request: what is to be answered next; None once the chain has ended.
    """

    def __init__(self, subject: str, chain: Chain[Any]) -> None:
        self.outcome = Outcome(subject)
        self.request: Request | None = None
        self._chain = chain
        self._advance(lambda: next(chain))

    def tell(self, reply: Reply) -> None:
        """Give the chain the reply that it waits for."""
        self.outcome.tokens_in += reply.tokens_in
        self.outcome.tokens_out += reply.tokens_out
        self.outcome.cost_usd += reply.cost_usd
        self._advance(lambda: self._chain.send(reply))

    def give_up(self, reason: str, attempts: int, answered: int | None) -> None:
        """End the chain because the service did not answer."""
        self._chain.close()
        self.request = None
        self._fail(reason, attempts, None)
        self.outcome.answered = answered

    def _advance(self, step: Callable[[], Request]) -> None:
        self.request = None
        try:
            self.request = step()
        except StopIteration as end:
            self.outcome.status = "done"
            self.outcome.result = json.dumps(end.value)
        except Unusable as error:
            self._fail(error.reason, error.attempts, error.last_answer)

    def _fail(self, reason: str, attempts: int, last_answer: str | None) -> None:
        outcome = self.outcome
        outcome.status, outcome.reason = "failed", reason
        outcome.attempts, outcome.last_answer = attempts, last_answer
