"""What vLLM's processor is given, and the waves that drive it.

vLLM itself needs a GPU; here the waves are answered by the test's chat server.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx

from pipelines.io.llm_quota import QuotaAddress
from pipelines.io.llm_tasks import Job
from pipelines.io.llm_vllm import AnswerAll, engine_config, engine_row, in_waves
from pipelines.knowledge.quota import Limits, Quota
from pipelines.knowledge.reasoning import reason_about_item
from pipelines.knowledge.requests import Reply, Request
from pipelines.settings.groups import LlmSettings
from tests.llm_server import LlmServer, llm_server
from tests.pipelines.builders import a_lake, a_run
from tests.pipelines.knowledge.conversation import HAMMER, LLM

DS = "2026-03-01"


def test_the_engines_follow_the_settings() -> None:
    llm = LlmSettings(model="some/model", engine={"max_model_len": 8192}, replicas=3)
    config = engine_config(llm)
    assert config.model_source == "some/model"
    assert config.concurrency == 3
    assert config.should_continue_on_error
    assert config.engine_kwargs["max_model_len"] == 8192
    assert config.engine_kwargs["enable_prefix_caching"] is True
    overruled = engine_config(llm.model_copy(update={"engine": {"enable_prefix_caching": False}}))
    assert overruled.engine_kwargs["enable_prefix_caching"] is False


def test_a_row_carries_messages_and_a_schema_that_arrow_cannot_bend() -> None:
    import pyarrow as pa

    request = next(reason_about_item(HAMMER, [], LLM))
    rows = pa.Table.from_pylist([engine_row(request)]).to_pylist()
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user"]
    sampling = rows[0]["sampling_params"]
    assert sampling["max_tokens"] == LLM.max_answer_tokens
    schema = json.loads(sampling["structured_outputs"]["json"])
    assert schema == request.body["response_format"]["json_schema"]["schema"]


def subjects(count: int) -> list[tuple[str, str]]:
    return [
        (f"i{n}", json.dumps({"item": HAMMER | {"item_id": f"i{n}"}, "dimensions": []}))
        for n in range(count)
    ]


def job(tmp_path: Path) -> Job:
    nowhere = QuotaAddress("", 0, "")
    return Job("item", LLM, nowhere, 1, str(tmp_path / "lake"), {}, a_run(), DS)


def answers(server: LlmServer, waves: list[int]) -> AnswerAll:
    def answer_all(asked: Sequence[Request]) -> Iterable[tuple[Request, Reply | str]]:
        waves.append(len(asked))
        for request in asked:
            if request.subject == "i1" and request.step == "verify":
                yield request, "the engine ran out of memory"
                continue
            reply = httpx.post(f"{server.base_url}/chat/completions", json=request.body).json()
            usage = reply["usage"]
            text = reply["choices"][0]["message"]["content"]
            yield request, Reply(text, usage["prompt_tokens"], usage["completion_tokens"], 0.0)

    return answer_all


def test_waves_take_every_chain_a_step_further(tmp_path: Path) -> None:
    a_lake(tmp_path / "lake").ensure("llm_answers")
    waves: list[int] = []
    quota = Quota(Limits(1e9))
    with llm_server(tmp_path / "log.jsonl") as server:
        answer_all = answers(server, waves)
        outcomes = in_waves(job(tmp_path), subjects(5), quota, answer_all)
        assert waves == [5, 5, 5, 4]
        assert [one["status"] for one in outcomes] == ["done", "failed", "done", "done", "done"]
        assert outcomes[1]["reason"] == "service: the engine ran out of memory"
        assert quota.answered == len(server.billed()) == 18
        waves.clear()
        again = in_waves(job(tmp_path), subjects(5), quota, answer_all)
        assert waves == [1]  # only what has no answer yet
        assert [one["result"] for one in again] == [one["result"] for one in outcomes]


def test_a_cap_ends_the_waves_and_leaves_the_rest(tmp_path: Path) -> None:
    a_lake(tmp_path / "lake").ensure("llm_answers")
    quota = Quota(Limits(1e9, max_tokens=12_000))
    with llm_server(tmp_path / "log.jsonl") as server:
        answer_all = answers(server, [])
        outcomes = in_waves(job(tmp_path), subjects(9), quota, answer_all)
    assert quota.stop is not None
    assert quota.tokens_in + quota.tokens_out <= 12_000
    assert "left" in {one["status"] for one in outcomes}
    assert a_lake(tmp_path / "lake").read("llm_answers").num_rows == quota.answered > 0
