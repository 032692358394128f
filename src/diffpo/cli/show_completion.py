"""Complete one prompt, or talk with a model, and show each completion as it is drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffpo.cli.live_canvas import ENDED, LINE_BREAK, LiveCanvas, canvas_texts
from diffpo.core.canvas import canvas_at
from diffpo.core.conversation import Prompt, Turn
from diffpo.core.errors import UserError
from diffpo.core.output import show
from diffpo.core.rollout import Rollout
from diffpo.evaluation.completing import chosen_decoding, draw_completions, hint_at_prices, warn_beyond_training
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.models.tokenizer import decode_text
from diffpo.recipes.tables import DeviceSettings
from diffpo.runs.device import configure_torch_, resolve_device
from diffpo.runs.progress import is_live_terminal
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.prices import Candidate

EXIT, ANEW = "/exit", "/new"


@dataclass(frozen=True)
class _Sampler:
    """A loaded model with how it decodes."""

    policy: Policy
    decoding: Decoding
    chosen: Candidate | None
    """What the model's sampler chose for a price."""
    price: float | None
    is_quiet: bool
    """Whether nothing is shown but the text."""

    def draw(self, prompt: Prompt, seed: int) -> str:
        """Draw a completion and show how; return its text, up to where it ends."""
        names = dict.fromkeys(self.policy.denoiser.stop_ids, ENDED)
        if is_live_terminal() and not self.is_quiet:
            with LiveCanvas(self.policy.tokenizer, self.decoding.length, names) as view:
                rollout = draw_completions(self.policy, [prompt], self.decoding, seed, view.observe)
                view.finish(rollout)
        else:
            rollout = draw_completions(self.policy, [prompt], self.decoding, seed)
            if not self.is_quiet:
                for line in self._canvas_lines(rollout, names):
                    show(line)
        text = decode_text(self.policy.tokenizer, rollout.completion_ids[0].tolist(), self.policy.denoiser.stop_ids)
        if self.is_quiet:
            show(text)
        else:
            calls = int(rollout.nfe)
            show(f"{calls} denoiser call{'' if calls == 1 else 's'}, {self._how(rollout)}")
        return text

    def _canvas_lines(self, rollout: Rollout, names: dict[int, str]) -> Iterator[str]:
        """Yield the canvas after each call, on one line."""
        mask_id = self.policy.denoiser.mask_id
        for call in range(1, int(rollout.nfe) + 1):
            ids = canvas_at(rollout, call, mask_id)[0, -self.decoding.length :].tolist()
            texts = canvas_texts(self.policy.tokenizer, [None if i == mask_id else i for i in ids], names)
            yield f"{call:4d}  {''.join(texts).replace(chr(10), LINE_BREAK)}"

    def _how(self, rollout: Rollout) -> str:
        if self.chosen is not None:
            return f"{self.chosen.name}, chosen for price {self.price:g}"
        if isinstance(self.decoding.controller, CommitPolicy):
            return self.decoding.controller.kind
        return f"entropy bound {float(rollout.entropy_bound):.3g}"


def run_sample(
    model: str | Path,
    prompt: str,
    settings: SampleSettings,
    device: DeviceSettings,
) -> None:
    """Show a completion as it is drawn. `model` is a folder, a run or a hub name.

    On a terminal each token appears at its place; elsewhere there is a line for the canvas after every call. Where it
    is quiet the text alone is printed. Without a bound the controller chooses it, or the commit policy the tokens of
    each call, if there is one; with a price the model's sampler decodes. Raises UserError for a price where it has
    none, and for a prompt that is too long for the model.
    """
    _load(model, settings, device).draw(prompt, settings.seed)


def run_chat(
    model: str | Path,
    system: str | None,
    settings: SampleSettings,
    device: DeviceSettings,
) -> None:
    """Answer the lines of stdin as a conversation, up to its end or EXIT; ANEW forgets what was said.

    `system` is the conversation's first message; the n-th answer has the settings' seed + n. Raises UserError for a
    model without a chat template. A turn for which the model has no room is told, and forgotten.
    """
    sampler = _load(model, settings, device)
    if not sampler.policy.tokenizer.chat_template:
        raise UserError(f"{model} has no chat template, so there is no conversation with it; give --prompt")
    beginning = (Turn("system", system),) if system else ()
    turns, number = beginning, 0
    if is_live_terminal():
        show(f"{EXIT} ends, {ANEW} forgets what was said")
    for line in _lines_of_user():
        if line == EXIT:
            return
        if line == ANEW:
            turns = beginning
            continue
        asked = (*turns, Turn("user", line))
        try:
            turns = (*asked, Turn("assistant", sampler.draw(asked, settings.seed + number)))
        except UserError as error:
            show(f"({error}; {ANEW} forgets what was said)")
        number += 1


def _lines_of_user() -> Iterator[str]:
    """Yield what the user types, without blank lines, until there is no more."""
    while True:
        try:
            line = input("> " if is_live_terminal() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _load(model: str | Path, settings: SampleSettings, device: DeviceSettings) -> _Sampler:
    configure_torch_(device)
    policy = load(model, *resolve_device(device))
    warn_beyond_training(policy, str(model), settings.length)
    hint_at_prices(policy, str(model), settings)
    decoding, chosen = chosen_decoding(
        policy, str(model), settings.length, settings.entropy_bound, settings.price, settings.temperature
    )
    return _Sampler(policy, decoding, chosen, settings.price, settings.is_quiet)
