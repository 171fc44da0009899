"""Who finds out what people are interested in: nobody, a model, or a file of recorded texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from feature_jobs.item_knowledge import MODEL, PROMPT_VERSION
from pipelines.knowledge.backends import SHOWN_CHARS, Caps, require_model
from pipelines.knowledge.estimate import ANSWERS_WORTH_A_MEAN, EXPECTED_OUT, Estimate
from pipelines.knowledge.interests import SUBJECT_PREFIX, Found, read_off
from pipelines.knowledge.quota import Stop
from pipelines.knowledge.recorded_interests import recorded_interests
from pipelines.knowledge.requests import SCHEMA_TOKENS, price, prompt_text, step_version, tokens_of
from pipelines.knowledge.user_history import Line
from pipelines.step import Context

STEP = "interests"
Catalogue = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Person:
    """A person and their compressed history."""

    user_id: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Told:
    """What a backend made of a round of people.

    Attributes:
        found: per person, interests as `kept` gives them.
        judged: results of the model, for the judge; None where no model was asked.
        failed: per person, columns of `user_interests_failed` beside the key.
        stop: why no further round should begin.
    """

    found: dict[str, list[Found]]
    judged: list[Found] | None = None
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    stop: Stop | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class InterestBackend(Protocol):
    """Finds interests, marked with its prompt version and model."""

    prompt_version: str
    model: str

    def estimate(self, people: Sequence[Person]) -> Estimate:
        """Say what `tell` would ask for at most: known answers are not asked for again."""
        ...

    def tell(self, people: Sequence[Person]) -> Told:
        """Find the interests of a round of people."""
        ...

    def close(self) -> None:
        """Let go of what the rounds shared."""
        ...


def open_interest_backend(context: Context, items: Catalogue, caps: Caps) -> InterestBackend:
    """Open the backend that `llm.backend` names.

    Args:
        context: the step's.
        items: title, category and brand by item id.
        caps: where to stop.

    Raises:
        InputError: a setting that it needs is missing.
    """
    llm = context.settings.llm
    if llm.backend == "offline":
        return ReadOff(context, items)
    require_model(llm, caps)
    if llm.backend == "recorded":
        from pipelines.io.llm_recorded import BY_USER, read_recorded

        recorded = read_recorded(llm, BY_USER)
        if BY_USER in recorded.column_names:
            texts: dict[str, list[str]] = {}
            column = recorded[llm.recorded_column]
            for user, text in zip(recorded[BY_USER].to_pylist(), column.to_pylist(), strict=True):
                texts.setdefault(str(user), []).append(str(text or ""))
            return Recorded(context, items, texts)
    return Asked(context, caps)


class ReadOff:
    """Reads categories and brands off the history; asks nobody."""

    prompt_version = PROMPT_VERSION
    model = MODEL

    def __init__(self, context: Context, items: Catalogue) -> None:
        self._most, self._items = context.settings.interests.max_interests, items

    def estimate(self, people: Sequence[Person]) -> Estimate:
        """Nothing is asked."""
        return Estimate(0, 0, 0, 0.0)

    def tell(self, people: Sequence[Person]) -> Told:
        """Read every person's interests off."""
        return Told({one.user_id: read_off(one.lines, self._items, self._most) for one in people})

    def close(self) -> None:
        """Nothing is shared."""


class Recorded:
    """Takes over texts about people, see `recorded_interests`; people without one wait."""

    prompt_version = "recorded-1"

    def __init__(
        self, context: Context, items: Catalogue, texts: Mapping[str, Sequence[str]]
    ) -> None:
        assert context.settings.llm.model is not None
        self.model = context.settings.llm.model
        self._most = context.settings.interests.max_interests
        self._items, self._texts = items, texts

    def estimate(self, people: Sequence[Person]) -> Estimate:
        """Nothing is asked."""
        return Estimate(0, 0, 0, 0.0)

    def tell(self, people: Sequence[Person]) -> Told:
        """Parse each person's texts; the first usable one counts."""
        told = Told({}, notes={"not_recorded": 0, "claimed": 0})
        for one in people:
            texts = self._texts.get(one.user_id)
            if texts is None:
                told.notes["not_recorded"] += 1
                continue
            reason = ""
            for text in texts:
                try:
                    found, claimed = recorded_interests(text, one.lines, self._items, self._most)
                except ValueError as error:
                    reason = f"recorded: {error}"
                    continue
                told.found[one.user_id] = found
                told.notes["claimed"] += claimed
                break
            else:
                told.failed[one.user_id] = _failure(reason, len(texts), texts[-1])
        return told

    def close(self) -> None:
        """Nothing is shared."""


class Asked:
    """Asks a model about each person, one request each."""

    def __init__(self, context: Context, caps: Caps) -> None:
        from pipelines.knowledge.asking import ModelAsker

        self._llm, self._most = context.settings.llm, context.settings.interests.max_interests
        assert self._llm.model is not None
        self.model = self._llm.model
        self.prompt_version = step_version(STEP, self._llm.language)
        self._asker = ModelAsker(context, caps, "build-user-interests")

    def estimate(self, people: Sequence[Person]) -> Estimate:
        """Estimate from the histories, and from earlier answers' tokens where there are enough."""
        answers, mean_in, mean_out = self._asker.measured().get(STEP, (0, 0.0, 0.0))
        if answers < ANSWERS_WORTH_A_MEAN:
            told = sum(tokens_of(line.said) for one in people for line in one.lines)
            asked = tokens_of(prompt_text(STEP, self._llm.language)) + SCHEMA_TOKENS
            mean_in = asked + told / max(1, len(people))
            mean_out = EXPECTED_OUT[STEP]
        tokens_in, tokens_out = round(mean_in * len(people)), round(mean_out * len(people))
        cost = price(tokens_in, tokens_out, self._llm)
        return Estimate(len(people), tokens_in, tokens_out, round(cost, 6))

    def tell(self, people: Sequence[Person]) -> Told:
        """Ask about a round of people; known answers are taken from `llm_answers`."""
        subjects = [
            (
                SUBJECT_PREFIX + one.user_id,
                json.dumps({"lines": [asdict(line) for line in one.lines], "most": self._most}),
            )
            for one in people
        ]
        outcomes = self._asker.ask("user", subjects)
        judged: list[Found] = []
        told = Told({}, judged, stop=self._asker.quota.stop, notes=self._asker.spent())
        for outcome in outcomes:
            user = outcome["subject"].removeprefix(SUBJECT_PREFIX)
            if outcome["status"] == "done":
                result = json.loads(outcome["result"])
                told.found[user] = result["interests"]
                judged.append(result)
            elif outcome["status"] == "failed":
                names = ("reason", "attempts", "last_answer", "tokens_in", "tokens_out", "cost_usd")
                told.failed[user] = {name: outcome[name] for name in names}
        return told

    def close(self) -> None:
        """Close the quota's port."""
        self._asker.close()


def _failure(reason: str, attempts: int, text: str) -> dict[str, Any]:
    spent = {"tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0}
    return {"reason": reason, "attempts": attempts, "last_answer": text[:SHOWN_CHARS]} | spent
