"""Feed gold answers and garbage through the grader and the rewards: a random model would never show what they pay."""

from collections.abc import Mapping, Sequence

from diffpo.core.printable import printable
from diffpo.rehearsal.findings import Findings
from diffpo.tasks.base import Grade, Problem, Task, grade_all
from diffpo.tasks.custom_reward import PART, WithReward

GRADED = 32
"""Problems whose gold answers and garbage are graded, at most."""
GOLD, EMPTY, PROMPT, OTHER = "gold answers", "empty texts", "the prompts themselves", "answers of other problems"

Grades = Mapping[str, Sequence[Grade]]
"""By the kind of text: one of each problem."""


def check_rewards(task: Task, problems: Sequence[Problem], findings: Findings) -> str:
    """Add what is wrong with the rewards of train problems, and return what each kind of text earned, in words."""
    grades = try_rewards(task, problems)
    judge_rewards(task, problems, grades, findings)
    return ", ".join(f"{kind} {_mean([g.reward for g in own]):.3g}" for kind, own in reversed([*grades.items()]))


def with_answers(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems whose gold answers are known and are graded."""
    return [problem for problem in problems if problem.answer][:GRADED]


def try_rewards(task: Task, problems: Sequence[Problem]) -> Grades:
    """Return what each kind of text earns: of gold answers and those of others, for the problems `with_answers`."""
    known = with_answers(problems)
    texts = {
        EMPTY: ["" for _ in problems],
        PROMPT: [problem.prompt for problem in problems],
        OTHER: [_another_answer(known, index) for index in range(len(known))],
        GOLD: [problem.answer for problem in known],
    }
    tried = {EMPTY: problems[:GRADED], PROMPT: problems[:GRADED], OTHER: known, GOLD: known}
    return {kind: grade_all(task, own, texts[kind][: len(own)]) for kind, own in tried.items() if own}


def _another_answer(known: Sequence[Problem], index: int) -> str:
    """Return the answer of the next problem that has another one, or of the next where all have the same."""
    others = [problem.answer for problem in [*known[index + 1 :], *known[: index + 1]]]
    return next((answer for answer in others if answer != known[index].answer), others[0])


def judge_rewards(task: Task, problems: Sequence[Problem], grades: Grades, findings: Findings) -> None:
    """Add what is wrong with the rewards that were tried on these problems."""
    known = with_answers(problems)
    if not known:
        findings.note("no gold answers are known, so that the rewards could be tried on garbage alone")
    _check_failures(grades, findings)
    _check_gold(task, known, grades.get(GOLD, ()), "train", findings)
    working = {kind: [g for g in own if g.status != "grader_failed"] for kind, own in grades.items()}
    if all(working.values()) and known:
        _check_payment(task, working, known[0].answer, findings)


def check_test_answers(task: Task, problems: Sequence[Problem], findings: Findings) -> None:
    """Add how many gold answers of test problems are wrong to the task's own grader, which decides what is solved."""
    known = [problem for problem in problems if problem.answer]
    own = task.task if isinstance(task, WithReward) and task.solved_at is None else task
    _check_gold(own, known, grade_all(own, known, [problem.answer for problem in known]), "test", findings)


def _check_failures(grades: Grades, findings: Findings) -> None:
    every = [grade for own in grades.values() for grade in own]
    failed = [grade for grade in every if grade.status == "grader_failed"]
    if failed:
        findings.rewards_fail = True
        kinds = ", ".join(kind for kind, own in grades.items() if any(g.status == "grader_failed" for g in own))
        told = printable(next((grade.failure for grade in failed if grade.failure), "no reason is given"))
        findings.fault(
            f"the reward or the grader fails on {len(failed)} of the {len(every)} texts that were tried ({kinds}); "
            f"of the first: {told}"
        )


def _check_gold(
    task: Task, problems: Sequence[Problem], grades: Sequence[Grade], split: str, findings: Findings
) -> None:
    told = {"grader_failed"} if findings.rewards_fail else set()
    wrong = [(p, g) for p, g in zip(problems, grades, strict=True) if not g.is_solved and g.status not in told]
    if wrong:
        problem, grade = wrong[0]
        findings.fault(
            f"{task.name}: the grader takes {len(wrong)} of the {len(grades)} gold answers of {split} problems for "
            f"wrong, so that nothing can be right there; the first is that of {problem.id}, "
            f"{printable(problem.answer[-120:])!r} ({grade.status}): mend the row, or leave it out"
        )


def _check_payment(task: Task, grades: Grades, gold_answer: str, findings: Findings) -> None:
    """Add what is wrong with the amounts, of texts on which nothing failed."""
    paid = {kind: [grade.reward for grade in own] for kind, own in grades.items()}
    gold, garbage = paid[GOLD], [*paid[EMPTY], *paid[PROMPT]]
    names = _own_rewards(task)
    which = f" ({', '.join(names)})" if names else ""
    if not any(gold) and not any(garbage):
        findings.fault(
            f"every reward is 0{which}, also for gold answers: nothing would ever be learned; look at how the reward "
            f"reads a completion; a gold answer is given to it as {printable(gold_answer[-120:])!r}"
        )
        return
    if len({*gold, *garbage}) == 1:
        findings.fault(
            f"the reward is the same, {gold[0]:g}{which}, for gold answers, for empty texts and for the prompts "
            "themselves: there is nothing to learn from it"
        )
        return
    if _mean(gold) <= max(_mean(paid[EMPTY]), _mean(paid[PROMPT])):
        findings.fault(
            f"garbage earns at least as much as gold answers{which}: on average {_mean(gold):.3g} for gold answers, "
            f"{_mean(paid[EMPTY]):.3g} for empty texts and {_mean(paid[PROMPT]):.3g} for the prompts themselves; a "
            "model would learn to answer so"
        )
    for name in names:
        values = {grade.parts.get(PART.format(name)) for own in grades.values() for grade in own}
        if len(values) == 1 and len(names) > 1:
            findings.fault(f"the reward {name} gives {values.pop():g} to everything, gold answers and garbage alike")
    if paid.get(OTHER) == gold:
        findings.note("the reward pays well-formed wrong answers, those of other problems, as much as right ones")


def _own_rewards(task: Task) -> list[str]:
    return [reward.name for reward in task.rewards] if isinstance(task, WithReward) else []


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
