"""The ranks that torchrun sets, and variables that are none."""

import re

import pytest

from diffpo.core.errors import PeerFailedError, UserError
from diffpo.distributed import joining
from diffpo.distributed.collectives import process_group
from diffpo.distributed.process import Process, current_process

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


def set_only(monkeypatch: pytest.MonkeyPatch, **variables: str | None) -> None:
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)


def test_ranks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, **WHOLE)
    assert current_process() == Process(1, 2, 1, 2)
    set_only(monkeypatch, RANK="3", WORLD_SIZE="8")  # of the machine and not of a process, as clusters set them
    assert current_process() == Process()


@pytest.mark.parametrize(
    "changed",
    [
        {"RANK": None},
        {"WORLD_SIZE": None},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "1"},
        {"RANK": "two"},
        {"RANK": ""},
        {"RANK": "-1"},
        {"RANK": "2"},
        {"LOCAL_RANK": "\u0663"},
        {"LOCAL_RANK": "9" * 5000},
    ],
)
def test_variables_that_are_no_ranks_are_named(changed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, **WHOLE | changed)
    with pytest.raises(UserError, match=r"the environment has .*start it by torchrun"):
        current_process()


def test_processes_that_are_told_no_meeting_place_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, **WHOLE)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(UserError, match="has LOCAL_RANK and lacks MASTER_PORT; start it by torchrun"), process_group():
        pass


@pytest.mark.parametrize("port", ["none", "-1", "65536", "9" * 5000, "\u0663"])
def test_a_meeting_place_that_is_none_is_named(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, **WHOLE | {"MASTER_ADDR": "localhost", "MASTER_PORT": port})
    told = r"has MASTER_ADDR='localhost', MASTER_PORT=.{3,70}, where no processes can meet; start it by torchrun"
    with pytest.raises(UserError, match=told), process_group():
        pass


def test_restarts_on_a_store_with_old_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, **WHOLE)
    for name, value in (("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1"), ("TORCHELASTIC_MAX_RESTARTS", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(joining, "TCPStore", raising)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    told = r"^torchrun's --max-restarts .* set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
    with pytest.raises((UserError, PeerFailedError)) as caught, process_group():
        pass
    assert caught.type is UserError and re.search(told, str(caught.value)), "it must not get as far as joining"
    for name, value in (("TORCHELASTIC_USE_AGENT_STORE", "False"), ("TORCHELASTIC_MAX_RESTARTS", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            told = r"^process 1 has found nobody at localhost, port 1, "
            with pytest.raises(PeerFailedError, match=told), process_group():
                pass


def raising(*_: object, **__: object) -> None:
    raise RuntimeError("nobody there")


def test_a_machine_has_a_part_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, RANK="5", WORLD_SIZE="8", LOCAL_RANK="1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert current_process() == Process(5, 8, 1, 4)
    for wrong in ("1", "9", "0", ""):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", wrong)
        with pytest.raises(UserError, match="which are no ranks"):
            current_process()
