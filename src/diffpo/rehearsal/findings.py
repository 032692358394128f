"""What a rehearsal has found, in words. Imports no torch."""

from dataclasses import dataclass, field


@dataclass
class Findings:
    """Collects what is wrong, and what is worth knowing, in the order in which it was found."""

    faults: list[str] = field(default_factory=list)
    """What must be mended before the run is paid for."""
    notes: list[str] = field(default_factory=list)
    rewards_fail: bool = False
    """Whether it has been told that a reward or a grader fails."""

    def fault(self, text: str) -> None:
        """Add what is wrong, once."""
        if text not in self.faults:
            self.faults.append(text)

    def note(self, text: str) -> None:
        """Add what is worth knowing, once."""
        if text not in self.notes:
            self.notes.append(text)

    def verdict(self, looked: str = "a rehearsal") -> str:
        """Return what is wrong as a numbered list, or that nothing is; `looked` is what has looked for it."""
        if not self.faults:
            return f"nothing is wrong that {looked} can see"
        count = "1 thing is" if len(self.faults) == 1 else f"{len(self.faults)} things are"
        lines = [f"{number}. {_indented(text)}" for number, text in enumerate(self.faults, start=1)]
        return "\n".join([f"{count} wrong:", *lines])


def _indented(text: str) -> str:
    """Return a text whose further lines, of a traceback for instance, stand behind the number of its first."""
    return text.replace("\n", "\n   ")
