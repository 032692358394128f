"""What importing a library has changed is taken back."""

import os
import warnings

import pytest

from diffpo.core.imports import COMPILED, unchanged_process


def test_filters_and_the_compilers_folder_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(warnings.filters)
    for folder in (None, "/mine"):
        if folder is None:
            monkeypatch.delenv(COMPILED, raising=False)
        else:
            monkeypatch.setenv(COMPILED, folder)
        with pytest.raises(ZeroDivisionError), unchanged_process():
            warnings.filterwarnings("ignore", module="somewhere")
            os.environ.setdefault(COMPILED, "/tmp/theirs")
            raise ZeroDivisionError
        assert list(warnings.filters) == before and os.environ.get(COMPILED) == folder
