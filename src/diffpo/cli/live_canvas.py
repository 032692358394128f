"""A completion shown while it is drawn: each token at its place, in the colour of the call that committed it."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from diffpo.core.printable import printable
from diffpo.core.rollout import Rollout
from diffpo.models.tokenizer import token_texts
from diffpo.sampling.loop import SampledCall

MASKED, ENDED, LINE_BREAK = "_", "·", "↵"
COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
"""Of the calls, in turn."""


class LiveCanvas:
    """Shows one completion of `length` tokens on a terminal; `observe` is what `sample` calls at each denoiser call.

    What a call committed is known when the next begins: of its candidates those that are none any more. At the end the
    whole text is printed and stays.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int, names: Mapping[int, str]) -> None:
        self._tokenizer, self._names = tokenizer, names
        self._token: list[int | None] = [None] * length
        self._call = [0] * length
        self._calls = 0
        self._last: tuple[list[bool], list[int]] | None = None
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, transient=True, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> "LiveCanvas":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def observe(self, call: SampledCall) -> None:
        """Show what the call before has committed."""
        is_candidate = call.is_candidate[0].tolist()
        if self._last is not None:
            was_candidate, tokens = self._last
            self._commit([i for i, was in enumerate(was_candidate) if was and not is_candidate[i]], tokens)
        self._last, self._calls = (is_candidate, call.token[0].tolist()), self._calls + 1
        self._live.update(self._shown(), refresh=True)

    def finish(self, rollout: Rollout) -> None:
        """Print the finished completion, which stays."""
        self._live.update(Text(""), refresh=True)
        self._token, self._call = rollout.completion_ids[0].tolist(), rollout.unmask_step[0].tolist()
        self._live.stop()
        self._console.print(self._coloured(), soft_wrap=True)

    def _commit(self, positions: Sequence[int], tokens: Sequence[int]) -> None:
        for position in positions:
            self._token[position], self._call[position] = tokens[position], self._calls - 1

    def _shown(self) -> Text:
        """Return the canvas, or of one with more lines than the terminal those around the last that is written."""
        lines = list(self._coloured().wrap(self._console, self._console.width))
        room = max(1, self._console.height - 2)
        written = max((i for i, line in enumerate(lines) if set(line.plain) - {MASKED, ENDED, " "}), default=0)
        first = max(0, min(written - room + 2, len(lines) - room))
        return Text("\n").join([*lines[first : first + room], Text(f"call {self._calls}", style="dim")])

    def _coloured(self) -> Text:
        text = Text()
        for position, shown in enumerate(canvas_texts(self._tokenizer, self._token, self._names)):
            is_written = self._token[position] is not None and self._token[position] not in self._names
            text.append(shown, style=COLOURS[self._call[position] % len(COLOURS)] if is_written else "dim")
        return text


def canvas_texts(
    tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int | None], names: Mapping[int, str]
) -> list[str]:
    """Return what to show at each position: a mark where nothing is written (None), and printable texts elsewhere.

    `names` has the ids that are shown by a mark of their own. Tokens that stand side by side are decoded together, so
    that a character of several tokens comes out whole.
    """
    found: list[str] = []
    start = 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and tokens[end] is not None and tokens[end] not in names:
            end += 1
        found += map(printable, token_texts(tokenizer, [token for token in tokens[start:end] if token is not None]))
        if end < len(tokens):
            token = tokens[end]
            found.append(MASKED if token is None else names[token])
        start = end + 1
    return found
