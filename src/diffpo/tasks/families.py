"""The families of tasks that are put in words, by the name that a recipe's `kind` gives them."""

from diffpo.tasks.countdown_text import COUNTDOWN_D1
from diffpo.tasks.gsm8k import GSM8K
from diffpo.tasks.math500 import MATH500
from diffpo.tasks.sudoku_text import SUDOKU_D1, SUDOKU_SPG
from diffpo.tasks.text import TaskFamily

TASK_FAMILIES: dict[str, TaskFamily] = {
    family.name: family for family in (GSM8K, MATH500, COUNTDOWN_D1, SUDOKU_D1, SUDOKU_SPG)
}
