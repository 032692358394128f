"""The endpoint as OpenAI's client sees it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from tests.serve.conftest import LENGTH, Served

from diffpo.api.completed import complete
from diffpo.sampling.rules import EntropyBound, TopK

PROMPT = "1234"
USER = [{"role": "user", "content": "Say it."}]


def text_of(served: Served, **options: Any) -> Any:
    return served.client.completions.create(**{"model": "tiny", "prompt": PROMPT, **options})


def chat_of(served: Served, **options: Any) -> Any:
    return served.client.chat.completions.create(**{"model": "chat", "messages": USER, **options})


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        ({}, EntropyBound(0.0)),
        ({"entropy_bound": 2.5}, EntropyBound(2.5)),
        ({"rule": {"kind": "top-k", "k": 5}}, TopK(5)),
        ({"rule": {"kind": "entropy-bound", "bound": 2.5, "subtract_max": False}}, EntropyBound(2.5, False)),
    ],
)
def test_a_completion_is_what_complete_draws(served: Served, extra: dict[str, Any], rule: Any) -> None:
    policy = served.models["tiny"].policy
    found = text_of(served, temperature=1.0, seed=5, n=3, max_tokens=10, extra_body={**extra, "block_length": 5})
    alone = complete(policy, [PROMPT] * 3, 10, rule, temperature=1.0, block_length=5, seed=5)
    assert [choice.text for choice in found.choices] == [one.text for one in alone]
    assert found.usage.nfe == sum(one.nfe for one in alone)
    assert found.usage.prompt_tokens == 4
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.usage.tokens_per_call == found.usage.completion_tokens / found.usage.nfe
    assert found.seed == 5 and found.model == "tiny" and found.object == "text_completion"


def test_a_chat_is_framed_by_the_template(served: Served) -> None:
    policy = served.models["chat"].policy
    found = chat_of(served, seed=1, temperature=1.0, max_completion_tokens=8)
    (alone,) = complete(policy, ["Say it."], 8, temperature=1.0, seed=1)
    assert found.choices[0].message.content == alone.text and found.choices[0].message.role == "assistant"
    assert found.usage.nfe == alone.nfe
    assert found.usage.prompt_tokens == len(
        served.models["chat"].policy.tokenizer.encode(
            policy.tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True),
            add_special_tokens=False,
        )
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "it."}]}]
    again = chat_of(served, messages=parts, seed=1, temperature=1.0, max_completion_tokens=8)
    assert again.choices[0].message.content == alone.text


def test_a_model_without_a_template_takes_one_message_as_its_prompt(served: Served) -> None:
    found = chat_of(served, model="tiny", messages=[{"role": "user", "content": PROMPT}])
    assert found.choices[0].message.content == text_of(served).choices[0].text


def test_users_text_never_becomes_a_control_token(served: Served) -> None:
    text = "<|mdm_mask|><|eot_id|>"
    found = served.client.completions.create(model="chat", prompt=text, max_tokens=4)
    assert found.usage is not None and found.usage.prompt_tokens == len(text), "each character is a token"


def test_several_prompts_have_their_choices_in_order(served: Served) -> None:
    both = text_of(served, prompt=["1234", "4321"], n=2, seed=3, temperature=1.0)
    alone = complete(served.models["tiny"].policy, ["1234", "1234", "4321", "4321"], LENGTH, temperature=1.0, seed=3)
    assert [choice.text for choice in both.choices] == [one.text for one in alone]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3] and both.usage.prompt_tokens == 8
    likeliest = text_of(served, prompt=["1234", "4321"], n=2).choices
    assert [choice.text == likeliest[0].text for choice in likeliest] == [True, True, False, False]


def test_without_a_seed_answers_differ_and_tell_theirs(served: Served) -> None:
    first, second = (text_of(served, temperature=1.0, max_tokens=12) for _ in range(2))
    assert first.seed != second.seed
    again = text_of(served, temperature=1.0, max_tokens=12, seed=second.seed)
    assert again.choices[0].text == second.choices[0].text


def test_the_model_may_choose_and_a_price_may(served: Served) -> None:
    own = text_of(served, model="learned")
    assert own.decoding == "entropy bound 0.7, chosen by the model"
    policy = served.models["learned"].policy
    (alone,) = complete(policy, [PROMPT], 16)
    assert (own.choices[0].text, own.usage.nfe) == (alone.text, alone.nfe)
    for price in (0.2, 20.0):
        priced = text_of(served, model="learned", extra_body={"price": price})
        (alone,) = complete(policy, [PROMPT], 16, price=price)
        assert (priced.choices[0].text, priced.usage.nfe) == (alone.text, alone.nfe)
        assert priced.decoding.endswith(f"chosen for price {price:g}") and "commit risk" in priced.decoding


def test_an_answer_ends_before_a_stop_text(served: Served) -> None:
    whole = text_of(served, temperature=1.0, seed=2).choices[0].text
    stop = whole[5:7]
    cut = text_of(served, temperature=1.0, seed=2, stop=["never", stop])
    assert cut.choices[0].text == whole[: whole.index(stop)] and cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens == whole.index(stop) + len(stop)
    assert text_of(served, temperature=1.0, seed=2, stop="never").choices[0].text == whole


def test_the_reason_of_an_end_is_right(served: Served) -> None:
    found = text_of(served, temperature=2.0, seed=0, n=16, extra_body={"unmask_events": True})
    ended = {event["choice"] for event in found.unmask_events if None in event["tokens"]}
    assert 0 < len(ended) < 16
    for choice in found.choices:
        assert choice.finish_reason == ("stop" if choice.index in ended else "length")


# ----------------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("stop", [None, "2"])
def test_a_stream_is_the_answer_in_pieces(served: Served, stop: str | None) -> None:
    options = {"temperature": 1.0, "seed": 7, "n": 2, "stop": stop, "extra_body": {"entropy_bound": 1.5}}
    whole = text_of(served, **options)
    chunks = list(text_of(served, **options, stream=True, stream_options={"include_usage": True}))
    texts = ["", ""]
    reasons: dict[int, str] = {}
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        assert choice.index not in reasons, "nothing comes behind the end"
        texts[choice.index] += choice.text
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len(chunks) > 5 and len({chunk.id for chunk in chunks}) == 1


def test_a_chats_stream_begins_with_its_role(served: Served) -> None:
    chunks = list(chat_of(served, stream=True, seed=1, temperature=1.0))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == chat_of(served, seed=1, temperature=1.0).choices[0].message.content
    assert all(chunk.usage is None for chunk in chunks), "nobody asked for it"


def test_events_tell_which_call_committed_each_token(served: Served) -> None:
    (alone,) = complete(served.models["tiny"].policy, [PROMPT], LENGTH, TopK(5), temperature=1.0, seed=4)
    extra = {"rule": {"kind": "top-k", "k": 5}, "unmask_events": True}
    chunks = list(text_of(served, temperature=1.0, seed=4, stream=True, extra_body=extra))
    events = [event for chunk in chunks for event in chunk.unmask_events]
    asked_for = {"stream": True, "stream_options": {"include_usage": True}, "extra_body": {"unmask_events": True}}
    for ask in (text_of, chat_of):
        assert all(isinstance(chunk.unmask_events, list) for chunk in ask(served, **asked_for)), "each chunk has them"
    assert [event["call"] for event in events] == list(range(alone.nfe))
    step = {position: event["call"] for event in events for position in event["positions"]}
    assert tuple(step[position] for position in range(LENGTH)) == alone.unmask_step
    token = {p: text for event in events for p, text in zip(event["positions"], event["tokens"], strict=True)}
    written = [token[position] for position in range(LENGTH)]
    end = written.index(None) if None in written else LENGTH
    assert "".join(written[:end]) == alone.text
    assert text_of(served, temperature=1.0, seed=4, extra_body=extra).unmask_events == events


# -------------------------------------------------------------------------------------------------------- many clients


def test_ten_clients_at_once_get_what_each_would_get_alone(served: Served) -> None:
    asked: list[dict[str, Any]] = [
        {
            "prompt": "1234"[: 1 + number % 4] * (1 + number % 3),
            "seed": number,
            "temperature": (0.0, 0.7, 1.0)[number % 3],
            "max_tokens": (12, 8)[number % 2],
            "extra_body": ({"entropy_bound": 1.0}, {"rule": {"kind": "low-confidence"}}, {})[number % 3]
            | {"unmask_events": True},
        }
        for number in range(10)
    ]
    alone = [text_of(served, **options) for options in asked]
    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(lambda options: text_of(served, **options), asked))
    for found, expected in zip(together, alone, strict=True):
        assert found.choices == expected.choices and found.usage == expected.usage
        assert found.unmask_events == expected.unmask_events


def test_requests_join_the_batch_that_runs_and_more_are_refused(served: Served) -> None:
    gated, rows = served.gated, len(served.gated.rows)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(chat_of, served, model="gated")]
        served.wait_for_load("gated", 1, 0)
        answers.append(pool.submit(chat_of, served, model="gated"))
        served.wait_for_load("gated", 1, 1)  # until the call is over
        answers.append(pool.submit(chat_of, served, model="gated", max_tokens=3))
        served.wait_for_load("gated", 1, 2)
        with pytest.raises(openai.RateLimitError, match="1 completions are drawn, and 2 wait") as refused:
            chat_of(served, model="gated")
        assert refused.value.code == "queue_full" and refused.value.type == "rate_limit_error"
        for _ in range(3 * LENGTH):
            gated.permits.release()
        found = [answer.result() for answer in answers]
    used = gated.rows[rows:]
    assert max(used) == 2 and used.count(2) >= 3, "those that waited have joined"
    assert sum(used) == sum(one.usage.nfe for one in found)
    served.wait_for_load("gated", 0, 0)
    while gated.permits.acquire(blocking=False):
        pass


def test_who_asks_for_much_leaves_a_place_for_others(served: Served) -> None:
    gated = served.gated
    with ThreadPoolExecutor(2) as pool:
        much = pool.submit(chat_of, served, model="gated", n=2)
        served.wait_for_load("gated", 1, 1)
        little = pool.submit(chat_of, served, model="gated", max_tokens=2)
        served.wait_for_load("gated", 1, 2)
        for _ in range(3):
            gated.permits.release()
        assert little.result().usage.nfe == 2 and not much.done()
        for _ in range(2 * LENGTH):
            gated.permits.release()
        assert much.result().usage.nfe == 2 * LENGTH
    while gated.permits.acquire(blocking=False):
        pass


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_away_frees_its_place(served: Served, is_streamed: bool) -> None:
    gated = served.gated
    if is_streamed:
        stream = chat_of(served, model="gated", n=2, stream=True)
        next(iter(stream))  # the role
        served.wait_for_load("gated", 1, 1)
        stream.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            served.client.with_options(timeout=0.5).chat.completions.create(
                model="gated", messages=[{"role": "user", "content": "Say it."}], n=2
            )
    served.wait_for_load("gated", 0, 0)
    before = len(gated.rows)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat_of, served, model="gated", max_tokens=4)
        served.wait_for_load("gated", 0, 1)
        for _ in range(4 + 1):
            gated.permits.release()
        assert answer.result().usage.nfe <= 4
    assert gated.rows[before + 1 :] == [1] * len(gated.rows[before + 1 :]), "after the call that was running"
    while gated.permits.acquire(blocking=False):
        pass


def test_many_requests_leave_nothing_behind(served: Served) -> None:
    for seed in range(40):
        text_of(served, seed=seed, max_tokens=2, extra_body={"entropy_bound": 10.0}, temperature=0.5 + seed)
    engine = served.models["tiny"].engine
    assert engine.load() == (0, 0)
    assert not engine._listeners and not engine._leaving and not engine._batch._groups


def test_models_are_listed_and_found(served: Served) -> None:
    assert [model.id for model in served.client.models.list()] == list(served.models)
    found = served.client.models.retrieve("learned").model_dump()
    assert (found["max_model_len"], found["max_tokens"]) == (64, 16)
    assert found["has_controller"] and found["has_prices"] and not found["has_chat_template"]
    with pytest.raises(openai.NotFoundError, match="no model 'tinny'; did you mean 'tiny'"):
        served.client.models.retrieve("tinny")


def test_what_changes_nothing_is_taken(served: Served) -> None:
    plain = chat_of(served, seed=1)
    found = chat_of(
        served,
        seed=1,
        top_p=1.0,
        presence_penalty=0,
        frequency_penalty=0,
        tools=[],
        logprobs=False,
        user="me",
        response_format={"type": "text"},
        stop=None,
    )
    assert found.choices == plain.choices
