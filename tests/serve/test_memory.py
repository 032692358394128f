"""A thousand requests in a row do not let the server grow."""

import json
import os
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.serve.conftest import Served

WARM_UP, COUNT = 200, 1000
MOST_GROWTH = 8 * 2**20
"""Bytes: less than 9 KB a request, of which each takes some 100 KB while it is answered."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_thousand_requests_take_no_memory(served: Served) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    sizes = []
    for number in range(WARM_UP + COUNT):
        body = {
            "model": ("tiny", "chat")[number % 2],
            "prompt": "1234"[: 1 + number % 4] * (1 + number % 7),
            "max_tokens": 4 + number % 9,
            "temperature": 0.5 + number % 11 / 10,
            "stream": number % 3 == 0,
            "stop": "never" if number % 5 else None,
            "entropy_bound": float(number),
        }
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
        if number % 100 == 99:
            sizes.append(resident_bytes())
    connection.close()
    print("MiB after each hundred:", [round(size / 2**20, 1) for size in sizes])
    assert sizes[-1] - sizes[WARM_UP // 100 - 1] < MOST_GROWTH
