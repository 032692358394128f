"""`import diffpo` is a complete catalogue that costs no torch. `typed_script.py` is the test of its types."""

import inspect
import subprocess
import sys

import diffpo
from tests.test_import_order import SOURCE, modules_of


def test_every_public_name_can_be_imported() -> None:
    missing = [name for name in diffpo.__all__ if getattr(diffpo, name, None) is None]
    assert missing == [] and set(diffpo.__all__) <= set(dir(diffpo))


def test_no_module_bears_the_name_of_a_public_function() -> None:
    functions = {name for name in diffpo.__all__ if inspect.isfunction(getattr(diffpo, name))}
    assert {"sample", "load", "save", "complete", "evaluate", "run_rl"} <= functions
    assert {module.rpartition(".")[2] for module in modules_of(SOURCE)} & functions == set()


def test_a_function_stays_a_function_when_its_module_is_imported() -> None:
    code = "import diffpo, diffpo.sampling.loop, diffpo.evaluation.loop; assert callable(diffpo.sample)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, diffpo; assert not {'torch', 'numpy', 'transformers', 'pydantic'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
