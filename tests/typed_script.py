"""A user's script for mypy, which `make lint` runs on it: no test executes it.

The public names must have their real types. Each line with a `type: ignore` has a deliberate mistake: mypy refuses an
ignore that nothing needs, so lint turns red where it no longer finds the mistake.
"""

from pathlib import Path

import diffpo

recipe = diffpo.load_recipe(diffpo.RlRecipe, "tiny-diffpo")
policy = diffpo.load("runs/demo/diffpo")
rule: diffpo.Rule = diffpo.EntropyBound(0.1)
decoding = diffpo.Decoding(rule, length=16, block_length=16, controller=policy.controller)
completions = diffpo.complete(policy, ["12"], rule=rule)
print([completion.text.upper() for completion in completions], diffpo.Sudoku().problems("test", 4, seed=7)[0].prompt)
diffpo.run_rl(recipe, Path("runs/mine"))

diffpo.Decoding(rule, length="16", block_length=16)  # type: ignore[arg-type]
diffpo.run_sft(recipe, Path("runs/mine"))  # type: ignore[arg-type]
print(completions[0].tekst)  # type: ignore[attr-defined]
print(diffpo.Sudoko())  # type: ignore[attr-defined]
