r"""An advantage of your own: how many of the other completions of its prompt a completion beats.

    diffpo sft sudoku4-base --out runs/base  # once for all examples
    diffpo rl tiny-d1 --out runs/ranks base=runs/base 'budget={steps=20}' task.cell_credit=0.5 \
        objective.advantage=examples/custom_advantage.py:wins

A function has no options. A class with options is given as a table: `objective.advantage={kind="FILE.py:Class", ...}`.
"""

from torch import Tensor


def wins(reward: Tensor) -> Tensor:
    """Return [Q, G]: of the other G - 1 completions of the prompt, the share that it beats less the share it loses to.

    Only the order of the rewards counts, so one reward that is far from the others, or on another scale, moves nothing.
    With rewards 0 and 1 this is `leave-one-out`.
    """
    difference = reward[:, :, None] - reward[:, None, :]
    return difference.sign().sum(dim=2) / (reward.shape[1] - 1)
