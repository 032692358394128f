"""What the endpoint refuses, in the shape and the words that OpenAI's clients read."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from unittest.mock import Mock

import openai
import pytest
from tests.serve.conftest import Served
from tests.serve.test_server import USER, chat_of, text_of

from diffpo.serve import http_server, served_model
from diffpo.serve.json_body import parse

DEEP = b'{"kind": "top-k", "k": ' + b"[" * 900 + b"]" * 900 + b"}"
MANY = b",".join(b'"%d":1' % number for number in range(70_000))
IMAGE = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]


@pytest.mark.parametrize(
    ("options", "param", "code", "told"),
    [
        (
            {"prompt": "1" * 53},
            "prompt",
            "context_length_exceeded",
            "the prompt has 53 tokens, more than the 52 tokens that tiny has beside a completion of 12 can hold;",
        ),
        ({"max_tokens": 64}, "max_tokens", "context_length_exceeded", "a completion of 64 tokens leaves none for the"),
        ({"model": "lengthless"}, "max_tokens", "missing_required_parameter", "does not know how long its completions"),
        ({"prompt": "a b"}, "prompt", "invalid_value", "400 - this model's tokenizer knows only the characters of"),
        ({"prompt": ""}, "prompt", "invalid_value", "prompt is an empty text; give at least one character"),
        (
            {"prompt": ["1", ""]},
            "prompt[1]",
            "invalid_value",
            "prompt[1] is an empty text; give at least one character",
        ),
        ({"prompt": []}, "prompt", "invalid_value", "prompt is an empty array; give at least one text"),
        ({"prompt": [5, 6]}, "prompt", "invalid_value", "prompt is given as token ids; send the text itself"),
        ({"prompt": [[5], [6]]}, "prompt", "invalid_value", "prompt is given as token ids; send the text itself"),
        ({"prompt": ["1"] * 1025}, "prompt", "invalid_value", "prompt has 1025 texts, and at most 1024 are taken"),
        ({"extra_body": {"prompt": 5}}, "prompt", "invalid_value", "should be a text or an array of texts, got 5"),
        ({"extra_body": {"prompt": ["1", ["1"]]}}, "prompt[1]", "invalid_value", "should be a text, got an array"),
        ({"extra_body": {"prompt": "\0"}}, "prompt", "invalid_value", "prompt has a NUL character; leave it out"),
        ({"stop": 5}, "stop", "invalid_value", "stop should be a text or an array of texts, got 5"),
        ({"stop": ["a", ""]}, "stop[1]", "invalid_value", "stop[1] is an empty text"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value", "stop has 17 texts, and at most 16 are taken; give fewer"),
        ({"temperature": "hot"}, "temperature", "invalid_value", 'should be a number from 0 to 100, got "hot"'),
        ({"temperature": -1}, "temperature", "invalid_value", "temperature should be a number from 0 to 100, got -1"),
        ({"temperature": 1e-30}, "temperature", "invalid_value", "temperature is 1e-30; give 0"),
        ({"stream": "yes"}, "stream", "invalid_value", "stream should be true or false, got"),
        ({"n": 0}, "n", "invalid_value", "n should be an integer from 1 to 128, got 0"),
        ({"n": True}, "n", "invalid_value", "n should be an integer from 1 to 128, got true"),
        (
            {"n": 100, "prompt": ["1"] * 10},
            "n",
            "invalid_value",
            "n = 100 for each of 10 prompts asks for 1000 completions, and this server takes 320 at most;",
        ),
        ({"prompt": ["1"] * 321}, "prompt", "invalid_value", "n = 1 for each of 321 prompts asks for 321 completions"),
        ({"stop": "a" * 1025}, "stop", "invalid_value", "stop has 1025 characters, and at most 1024 are taken; give"),
        ({"stop": ["a", "b" * 2000]}, "stop[1]", "invalid_value", "stop[1] has 2000 characters, and at most 1024 are"),
        ({"seed": -1}, "seed", "invalid_value", "seed should be an integer from 0 to 9223372036854775807, got -1"),
        ({"seed": 1.5}, "seed", "invalid_value", "seed should be an integer from 0 to 9223372036854775807, got 1.5"),
        ({"seed": 2**63 - 1, "n": 2}, "seed", "invalid_value", "leaves no seeds for 2 completions; give a smaller one"),
        (
            {"extra_body": {"max_completion_tokens": 3}},
            "max_completion_tokens",
            "unknown_parameter",
            "is no field of this endpoint; give max_tokens instead",
        ),
        ({"extra_body": {"messages": USER}}, "messages", "unknown_parameter", "give prompt instead"),
        (
            {"extra_body": {"voices": 1}},
            "voices",
            "unknown_parameter",
            "known here; there are prompt, model, max_tokens",
        ),
        ({"extra_body": {"rule": "top-k"}}, "rule", "invalid_value", "rule should be an object, got"),
        ({"extra_body": {"entropi_bound": 1}}, "entropi_bound", "unknown_parameter", "did you mean 'entropy_bound'?"),
        ({"extra_body": {"rule": {"kind": "entropy"}}}, "rule.kind", "invalid_value", "did you mean 'entropy-bound'?"),
        ({"extra_body": {"rule": {"kind": "top-k", "n": 1}}}, "rule.n", "unknown_parameter", "known: kind, k"),
        ({"extra_body": {"rule": {"kind": "x.py:Rule"}}}, "rule.kind", "invalid_value", "should be 'entropy-bound'"),
        ({"extra_body": {"price": 1, "entropy_bound": 1}}, "price", "invalid_value", "give one of them"),
        (
            {"extra_body": {"price": 1}},
            "price",
            "unsupported_parameter",
            "tiny has no learned sampler, so a price says",
        ),
        ({"extra_body": {"block_length": 5}}, "block_length", "invalid_value", "does not divide the 12 tokens"),
        ({"top_p": 0.9}, "top_p", "unsupported_parameter", "leave it out, or give 1"),
        ({"logprobs": 2}, "logprobs", "unsupported_parameter", "leave it out"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "goes with stream = true"),
    ],
)
def test_what_cannot_be_is_told_with_its_field(
    served: Served, options: dict[str, Any], param: str, code: str | None, told: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        text_of(served, **options)
    assert (refused.value.param, refused.value.code, refused.value.type) == (param, code, "invalid_request_error")
    assert told in str(refused.value) and refused.value.status_code == 400


@pytest.mark.parametrize(
    ("options", "param", "told"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not supported by diffpo serve"),
        ({"response_format": {"type": "json_object"}}, "response_format", 'or give {"type": "text"}'),
        ({"messages": []}, "messages", "messages is empty; give at least one message"),
        ({"messages": ["hi"]}, "messages[0]", "messages[0] should be an object, as {"),
        (
            {"messages": [{"role": "usr", "content": "x"}]},
            "messages[0].role",
            "should be system, developer, user or assistant, got",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "messages[0].role is missing"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "content is missing; give the message's text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "content should be a text, got 5"),
        ({"messages": [*USER, {"role": "user", "content": IMAGE}]}, "messages[1].content[1]", "part of type"),
        ({"messages": [{**USER[0], "nam": "y"}]}, "messages[0].nam", "messages[0].nam is no part of a message here"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content", "NUL"),
        ({"model": "tiny", "messages": [*USER, *USER]}, "messages", "has no chat template"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_completion_tokens", "give one"),
    ],
)
def test_what_a_chat_cannot_be_is_told(served: Served, options: dict[str, Any], param: str, told: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat_of(served, **options)
    assert refused.value.param == param and told in str(refused.value)


def test_a_bad_model_name_is_not_found(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="there are: tiny, chat") as refused:
        text_of(served, model="gpt-4")
    assert refused.value.code == "model_not_found" and refused.value.param == "model"


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        (b'{"model": ', {}, 400, "not JSON"),
        (b"\xff\xfe", {}, 400, "not UTF-8"),
        (b"[1]", {}, 400, "the body is an array; send a JSON object"),
        (b"5", {}, 400, "the body is 5; send a JSON object"),
        (b'{"temperature": NaN}', {}, 400, "NaN is no number"),
        (b"[" * 100_000, {}, 400, "nested too deep"),
        (b'{"model": "tiny", "prompt": ' + b"[" * 900 + b"]" * 900 + b"}", {}, 400, "prompt[0] should be a text"),
        (b'{"model": "tiny", "prompt": "1", "rule": ' + DEEP + b"}", {}, 400, "rule"),
        (b'{"model": "tiny", "prompt": "1", "seed": ' + b"9" * 10_000 + b"}", {}, 400, "got a number too large to be"),
        (b'{"model": "tiny", "prompt": "1", "seed": 1' + b"0" * 40 + b"}", {}, 400, "should be an integer from 0 to 9"),
        (b'{"model": "tiny", "n": 2, "prompt": "1", "n": 3}', {}, 400, 'the body gives "n" twice; give it once'),
        (b'{"model": "a", "prompt": "1", "rule": {"k": 1, "k": 1}}', {}, 400, 'the body gives "k" twice'),
        (b'{"prompt": "' + b"1" * 2**20 + b'"}', {}, 413, "larger than 1 MiB"),
        (
            b'{"model": "tiny", "prompt": "1", "rule": {"kind": "top-k", ' + MANY + b"}}",
            {},
            400,
            "rule has 70001 options",
        ),
        (b"{}", {}, 400, "model is missing; give it"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "Content-Type: application/json"),
    ],
)
def test_a_broken_body_is_refused(served: Served, body: bytes, headers: dict[str, str], status: int, told: str) -> None:
    answered, error = post(served, "/v1/completions", body, headers)
    assert answered == status and told in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


def test_addresses_that_are_not_served_say_which_are(served: Served) -> None:
    status, error = post(served, "/v1/embeddings", b"{}", {})
    assert (
        status == 404 and "POST /v1/embeddings is not served; there are POST /v1/chat/completions" in error["message"]
    )
    status, error = post(served, "/v1/models", b"{}", {})
    assert status == 405 and error["code"] == "method_not_allowed"
    assert "POST /v1/models is not served" in error["message"]
    status, body = get(served, "/v1/models/", {})
    assert status == 200 and b"tiny" in body, "a slash at the end changes nothing"
    status, error = post(served, "/v1/completions/", b"{}", {})
    assert status == 400 and error["message"] == "model is missing; give it"


HALF = r"\ud800"


@pytest.mark.parametrize(
    "body",
    [
        *(
            f'{{"model": "tiny", "prompt": "1", "{field}": "{HALF}"}}'
            for field in ("n", "stream", "rule", "logit_bias")
        ),
        f'{{"model": "{HALF}", "prompt": "1"}}',
        f'{{"model": "tiny", "prompt": "{HALF}"}}',
        f'{{"model": "tiny", "prompt": "1", "{HALF}": 1}}',
        f'{{"{HALF}": 1, "{HALF}": 1}}',
        f'"{HALF}"',
        r'{"model": "tiny", "prompt": "\uDC00\uD800"}',
        r'{"model": "tiny", "prompt": "\\\udc00"}',
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(served: Served, body: str) -> None:
    status, error = post(served, "/v1/completions", body.encode(), {})
    assert (
        status == 400 and error["message"] == "the body has half a surrogate pair, which is no character; leave it out"
    )


@pytest.mark.parametrize("text", [r"\ud83d\ude42", r"\\ud800", r"\uD83D\uDE42\u00e9"])
def test_whole_pairs_and_what_only_looks_like_half_of_one_are_taken(text: str) -> None:
    body = f'{{"a": "{text}"}}'
    assert parse(body.encode()) == json.loads(body)


@pytest.mark.parametrize("where", ["model", "field", "address"])
def test_a_long_name_is_not_repeated_whole(served: Served, where: str) -> None:
    name = "b" * 50_000
    if where == "address":
        status, body = get(served, f"/v1/models/{name}", {})
    else:
        asked = {"model": name, "prompt": "1"} if where == "model" else {name: 1}
        headers = {"Content-Type": "application/json"}
        status, body = send(served, "POST", "/v1/completions", json.dumps(asked).encode(), headers)
    assert status in (400, 404) and b"bbb" in body and len(body) < 1000


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("evil.example", "'evil.example', and this server answers to 127.0.0.1, [::1], localhost alone"),
        ("evil.example:80", "answers to"),
        ("[::1", "names no host"),
        ("127.0.0.1@evil.example", "names no host"),
        ("", "names no host"),
        ("localhost:1", None),
        ("[::1]", None),
        ("127.0.0.1", None),
    ],
)
def test_another_sites_name_is_not_answered(served: Served, host: str, told: str | None) -> None:
    status, body = get(served, "/v1/models", {"Host": host})
    assert (status == 200) is (told is None) and (b"tiny" in body) is (told is None)
    if told is not None:
        assert told in (error := json.loads(body)["error"])["message"]
        assert (status, error["code"], error["type"]) == (400, "invalid_host", "invalid_request_error")


@pytest.mark.parametrize(
    "request_text", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nx" + b"y" * 10**5]
)
def test_what_is_no_http_is_told_in_the_same_shape(served: Served, request_text: bytes) -> None:
    head, body = raw(served, request_text)
    assert head.startswith(b"HTTP/1.1 400 Bad Request") and b"content-type: application/json" in head
    assert json.loads(body)["error"]["code"] == "invalid_http"


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_request_says_once_where_it_ends(served: Served) -> None:
    lengths = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    head, body = raw(served, HEAD + lengths + b"{}")
    assert head.startswith(b"HTTP/1.1 400 Bad Request") and b"connection: close" in head.lower()
    assert json.loads(body)["error"]["message"] == (
        "the request has both Content-Length and Transfer-Encoding; send one of them"
    )


@pytest.mark.parametrize("part", [HEAD, HEAD + b"Content-Length: 99\r\n\r\n{"])
def test_a_request_that_does_not_come_whole_ends(served: Served, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "RECEIVING_SECONDS", 0.2)
    head, body = raw(served, part)
    assert head.startswith(b"HTTP/1.1 408 Request Timeout") and b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error["code"] == "request_timeout" and error["type"] == "invalid_request_error"
    assert error["message"] == "the request has not come whole within 0.2 seconds; send it anew"


def test_an_answer_does_not_keep_a_connection_for_the_rest(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "RECEIVING_SECONDS", 0.2)
    start = time.monotonic()
    head, _ = raw(served, HEAD.replace(b"json", b"xml") + b"Content-Length: 99\r\n\r\n{")
    assert head.startswith(b"HTTP/1.1 415 ")
    assert raw(served, b"") == (b"", b""), "nobody has asked anything"
    assert time.monotonic() - start < 4, "a connection whose request was whole is kept for five seconds"


def test_who_is_drawn_has_no_deadline(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "RECEIVING_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as pool:
        body = json.dumps({"model": "gated", "prompt": "1", "max_tokens": 1}).encode()
        answer = pool.submit(send, served, "POST", "/v1/completions", body, {"Content-Type": "application/json"})
        served.wait_for_load("gated", 1, 0)
        time.sleep(0.4)
        served.gated.permits.release()
        assert answer.result()[0] == 200


def test_a_text_that_no_prompt_can_have_is_not_encoded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding 1 MB takes seconds."""
    encode = Mock(return_value=[0])
    monkeypatch.setattr(served_model, "encode_text", encode)
    body = json.dumps({"model": "tiny", "prompt": "1" * 1_000_000}).encode()
    status, answer = send(served, "POST", "/v1/completions", body, {"Content-Type": "application/json"})
    assert not encode.called and status == 400
    error = json.loads(answer)["error"]
    assert error["code"] == "context_length_exceeded" and "the prompt has 1000000 bytes of text" in error["message"]


def test_a_chat_has_a_most_of_messages(served: Served) -> None:
    """Each goes through the template, which takes time whatever its text."""
    body = json.dumps({"model": "chat", "messages": USER * 2049}).encode()
    status, error = post(served, "/v1/chat/completions", body, {})
    assert (status, error["message"]) == (400, "messages has 2049 messages, and at most 2048 are taken; give fewer")


def test_nobody_waits_for_a_very_long_text(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a tokenizer drops white space, so that no length is too long for sure."""
    model = served.models["chat"]
    monkeypatch.setitem(model.__dict__, "_longest_token", None)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(text_of, served, model="chat", prompt=" " * 400_000)
        while not model._long_encoder._turn.locked() and not long.done():
            time.sleep(0.001)
        assert text_of(served, model="chat", max_tokens=1).usage.nfe == 1 and not long.done()
        with pytest.raises(openai.BadRequestError, match="the prompt has 400000 tokens, more than the 52 tokens"):
            long.result()


def test_a_call_that_fails_ends_its_requests_and_no_others(served: Served) -> None:
    model = served.models["chat"].policy.denoiser.model
    weight = model.get_output_embeddings().weight
    kept = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(openai.InternalServerError, match="not finite") as failed:
            chat_of(served)
        assert failed.value.code == "non_finite_logits" and failed.value.type == "server_error"
        with pytest.raises(openai.APIError, match="not finite"):
            list(chat_of(served, stream=True))
    finally:
        weight.data.copy_(kept)
    assert chat_of(served).usage.nfe > 0


def post(served: Served, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    status, answer = send(served, "POST", path, body, {"Content-Type": "application/json", **headers})
    return status, json.loads(answer)["error"]


def raw(served: Served, request_text: bytes) -> tuple[bytes, bytes]:
    """Return head and body of all that comes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(request_text)
        try:
            answer = b"".join(iter(lambda: connection.recv(2**16), b""))
        except TimeoutError:
            raise AssertionError("the connection is kept") from None
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def get(served: Served, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    return send(served, "GET", path, None, headers)


def send(served: Served, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
