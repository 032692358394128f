"""diffpo's models in EleutherAI's lm-evaluation-harness, as `--model diffpo`; importing this module registers them.

lm-eval finds no models of others by itself: it knows its own, and what was registered before it runs. So
`diffpo lm-eval ...` is its command line with this module imported, and from Python the import alone does it.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from diffpo.core.conversation import ROLES
from diffpo.core.errors import UserError
from diffpo.core.output import warn
from diffpo.core.suggestion import suggestion
from diffpo.evaluation.completing import chosen_decoding, warn_beyond_training
from diffpo.evaluation.sample_file import complete_rows
from diffpo.models.chat import encode_turns
from diffpo.models.positions import require_room
from diffpo.models.tokenizer import decode_text, encode_text, first_stop
from diffpo.recipes.stored import sampled_length
from diffpo.recipes.strict import recipe_of
from diffpo.recipes.tables import DeviceSettings
from diffpo.runs.device import configure_model_, configure_torch_, resolve_device
from diffpo.runs.memory_check import check_memory
from diffpo.sampling.policy import load

OWN_COMMANDS = ("run", "ls", "validate")
"""What lm-eval's command line may begin with; without one it runs."""
USUAL_LENGTH = 256
"""Tokens of a completion where neither the task nor the model's training says how many; lm-eval's own default."""
BATCH = 64


@register_model("diffpo")
class DiffpoLM(LM):
    """A masked diffusion model that answers lm-eval's `generate_until` requests by diffpo's sampler.

    `pretrained` is a model's folder, a run's, or ORG/NAME[@REVISION]. `length`: tokens of a completion; without it what
    the task asks for (`max_gen_toks`), else that of the model's training. `entropy_bound`, `price` and `block_length`
    are those of `diffpo sample`; without them the model's learned sampler decides, or one token is committed per call.
    `seed` is the first request's, where the task asks for a temperature. Raises UserError for what is wrong with any.
    """

    def __init__(
        self,
        pretrained: str,
        length: int | None = None,
        entropy_bound: float | None = None,
        price: float | None = None,
        block_length: int | None = None,
        seed: int = 0,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        known = ("pretrained", "length", "entropy_bound", "price", "block_length", "seed", "dtype", "device", "threads")
        for name in unknown:
            raise UserError(f"model_args: unknown {name!r}{suggestion(name, known)} (known: {', '.join(known)})")
        if entropy_bound is not None and price is not None:
            raise UserError("model_args: price lets the model's sampler choose how to decode; leave entropy_bound out")
        table = {"dtype": dtype, "device": device_of(device), "threads": threads}
        settings = recipe_of(DeviceSettings, {key: value for key, value in table.items() if value}, "model_args")
        configure_torch_(settings)
        self._name, self._given_length, self._seed = str(pretrained), length, seed
        self._policy = load(self._name, *resolve_device(settings))
        configure_model_(self._policy.denoiser, settings)
        self._bound, self._price, self._block_length = entropy_bound, price, block_length
        self._batch = (int(batch_size) if batch_size and str(batch_size).isdecimal() else 0) or BATCH  # not "auto"
        self._is_chat = False

    @property
    def tokenizer_name(self) -> str:
        """The model's name, under which lm-eval may keep requests."""
        return self._name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the model's own template, for lm-eval's records; another cannot be chosen."""
        if isinstance(chat_template, str):
            raise UserError(f"{self._name} has one chat template; give --apply_chat_template without a name")
        template = self._policy.tokenizer.chat_template
        return json.dumps(template) if isinstance(template, dict) else template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the messages as JSON: the template is applied where they are encoded, so that no text of theirs
        becomes a control token."""
        if not self._policy.tokenizer.chat_template:
            raise UserError(f"{self._name} has no chat template; leave --apply_chat_template out")
        if chat_history[-1]["role"] == "assistant":
            raise UserError("the task begins the answer itself (gen_prefix), which diffpo does not; leave it out")
        self._is_chat = True
        return json.dumps(chat_history)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the completion of each request, up to the first of its stop strings."""
        asked = [(str(request.args[0]), self._settings(request.args[1])) for request in requests]
        groups: defaultdict[tuple[int, float], list[int]] = defaultdict(list)
        for row, (_, settings) in enumerate(asked):
            groups[settings["max_gen_toks"], float(settings.get("temperature") or 0.0)].append(row)
        texts, calls = [""] * len(asked), 0
        for (length, temperature), rows in groups.items():
            completions, nfe = self._complete([asked[row][0] for row in rows], length, temperature)
            calls += nfe
            for row, text in zip(rows, completions, strict=True):
                texts[row] = text[: first_stop(text, asked[row][1].get("until") or [])]
                self.cache_hook.add_partial("generate_until", requests[row].args, texts[row])
        if texts:
            warn(f"diffpo: {len(texts)} completions, {calls / len(texts):.2f} denoiser calls each on average")
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raise UserError: there is none that is exact."""
        raise UserError(
            "a masked diffusion model has no exact likelihood of a text, so tasks of multiple choice and perplexity "
            "cannot be measured by --model diffpo; choose tasks that generate (output_type: generate_until)"
        )

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Raise UserError, as `loglikelihood`."""
        self.loglikelihood(requests)
        return []

    def _settings(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        length = self._given_length or self._trained_length()
        found: dict[str, Any] = normalize_gen_kwargs(dict(asked), length)
        return found | ({"max_gen_toks": self._given_length} if self._given_length else {})

    def _trained_length(self) -> int:
        try:
            return sampled_length(self._name, None)
        except UserError:  # a model of the hub, or another's, does not say
            return USUAL_LENGTH

    def _complete(self, prompts: Sequence[str], length: int, temperature: float) -> tuple[list[str], int]:
        """Return the completions of prompts, and the denoiser calls of all together."""
        policy = self._policy
        decoding, _ = chosen_decoding(
            policy, self._name, length, self._bound, self._price, temperature, block_length=self._block_length
        )
        rows = [self._encode(prompt) for prompt in prompts]
        warn_beyond_training(policy, self._name, length)
        longest, advice = max(map(len, rows)), "give fewer examples (--num_fewshot), or a smaller length"
        require_room(policy.most_tokens, longest, length, "a request", advice)
        check_memory(
            policy.denoiser,
            min(self._batch, len(rows)),
            prompt_tokens=longest,
            length=length,
            block_length=decoding.block_length,
            has_cache=False,
            option="--batch_size",
        )
        ids, nfe = complete_rows(policy, rows, decoding, self._seed, self._batch)
        stops = policy.denoiser.stop_ids
        return [decode_text(policy.tokenizer, row, stops) for row in ids.tolist()], int(nfe.sum())

    def _encode(self, prompt: str) -> list[int]:
        tokenizer = self._policy.tokenizer
        if not prompt:
            raise UserError("a request of the task is empty, and a completion needs a prompt of at least one character")
        if not self._is_chat:
            return encode_text(tokenizer, prompt)
        turns = json.loads(prompt)
        if strange := sorted({str(turn["role"]) for turn in turns} - {*ROLES}):
            raise UserError(f"the task has messages of the role {strange[0]!r}, and diffpo knows {', '.join(ROLES)}")
        return encode_turns(tokenizer, turns, is_answered=False)


def device_of(device: str | None) -> str:
    """Return lm-eval's device as diffpo's. Its default is "cuda:0", which is taken if there is one."""
    name, _, index = (device or "cuda").partition(":")
    if index not in ("", "0"):
        raise UserError(f"--device {device}: give --device cuda, and choose it by CUDA_VISIBLE_DEVICES={index}")
    return "auto" if name == "cuda" else name


def run_harness(arguments: Sequence[str]) -> None:
    """Run lm-eval's own command line, on a diffpo model unless it names another."""
    words = list(arguments)
    is_run = words[0] not in OWN_COMMANDS or words[0] == "run"
    if is_run and not any(word == "--model" or word.startswith("--model=") for word in words):
        words += ["--model", "diffpo"]
    before = sys.argv
    sys.argv = ["lm_eval", *words]  # where lm-eval reads them
    try:
        cli_evaluate()
    finally:
        sys.argv = before
