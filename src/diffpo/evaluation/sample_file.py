"""`diffpo sample --file`: the prompts of a file become completions, shared by the processes of a run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.core.files import check_writable, explain_write_errors, write_whole
from diffpo.distributed.collectives import all_gather_columns, on_rank_zero, process_group, raise_on_all_ranks
from diffpo.distributed.process import rank_slice
from diffpo.evaluation.completing import chosen_decoding, hint_at_prices, warn_beyond_training
from diffpo.evaluation.exchange import share_label
from diffpo.evaluation.prompt_file import PromptLine, encode_lines, read_prompts
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.models.encoding import pad_rows
from diffpo.models.tokenizer import decode_text
from diffpo.recipes.tables import DeviceSettings
from diffpo.runs.agreement import require_same_questions
from diffpo.runs.device import configure_torch_, resolve_device
from diffpo.runs.memory_check import check_memory
from diffpo.runs.progress import ProgressBar
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.policy import Policy, load


@process_group()
def run_sample_file(model: str, file: Path, out: Path, settings: SampleSettings, device: DeviceSettings) -> str:
    """Complete the prompts of `file`; write its objects with `completion`, `nfe` and `seed` into `out`, in their order.

    Returns a line about what was drawn. A line's completion depends on its prompt and its seed alone; processes share
    the lines, and the first one writes. Raises UserError for what is wrong with the model or its options; naming the
    line, with the file; and where `out` cannot be written, which is whole or as it was.
    """
    with raise_on_all_ranks():
        check_writable(out, begins=b"{")
        if out.exists() and out.samefile(file):
            raise UserError(f"--out {out} is the file of the prompts; choose another")
        lines = read_prompts(file)
        if settings.seed + len(lines) > 2**63:
            raise UserError(f"--seed {settings.seed} leaves no seeds for {len(lines)} lines; choose a smaller one")
        configure_torch_(device)
        policy = load(model, *resolve_device(device))
        decoding = chosen_decoding(
            policy, model, settings.length, settings.entropy_bound, settings.price, settings.temperature
        )[0]
        warn_beyond_training(policy, model, decoding.length)
        hint_at_prices(policy, model, settings)
        prompts = encode_lines(policy.tokenizer, lines, policy.most_tokens, decoding.length)
        check_memory(
            policy.denoiser,
            min(settings.batch, len(prompts)),
            prompt_tokens=max(map(len, prompts)),
            length=decoding.length,
            block_length=decoding.block_length,
            has_cache=False,
            option="--batch",
        )
    require_same_questions([json.dumps(line.prompt) for line in lines], model)
    if settings.is_quiet:
        ids, nfe = complete_rows(policy, prompts, decoding, settings.seed, settings.batch)
    else:
        num_own = len(prompts[rank_slice(len(prompts))])
        with ProgressBar(share_label(f"sample {file.name}"), num_own, unit="completion") as bar:
            ids, nfe = complete_rows(policy, prompts, decoding, settings.seed, settings.batch, bar.update)
    on_rank_zero(_write, policy, lines, ids, nfe, settings.seed, out)
    return f"{len(lines)} completions, {float(nfe.double().mean()):.2f} denoiser calls each on average"


def complete_rows(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    seed: int,
    batch: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"]]:
    """Return the completions of encoded prompts and their denoiser calls; the seeds are `seed`, `seed` + 1, ...

    Of several processes each draws its slice, at most `batch` rows at a time; then all have all of them. `on_progress`
    is called with the number of this process's completions so far.
    """
    own = range(len(prompts))[rank_slice(len(prompts))]
    ids = [torch.zeros(0, decoding.length, dtype=torch.long, device=policy.device)]
    nfe = [torch.zeros(0, dtype=torch.long, device=policy.device)]
    with raise_on_all_ranks():
        for start in range(0, len(own), batch):
            rows = own[start : start + batch]
            prompt_ids, prompt_mask = pad_rows(policy.tokenizer, [prompts[row] for row in rows])
            seeds = torch.tensor([seed + row for row in rows])
            rollout = sample(
                policy.denoiser, prompt_ids.to(policy.device), prompt_mask.to(policy.device), decoding, seeds
            )
            ids.append(rollout.completion_ids)
            nfe.append(rollout.nfe)
            if on_progress is not None:
                on_progress(start + len(rows))
    found = all_gather_columns({"ids": torch.cat(ids), "nfe": torch.cat(nfe)})
    return found["ids"], found["nfe"]


def _write(
    policy: Policy,
    lines: Sequence[PromptLine],
    ids: Int[Tensor, "B L"],
    nfe: Int[Tensor, " B"],
    seed: int,
    out: Path,
) -> None:
    texts = []
    for number, (line, row, calls) in enumerate(zip(lines, ids.tolist(), nfe.tolist(), strict=True)):
        text = decode_text(policy.tokenizer, row, policy.denoiser.stop_ids)
        texts.append(
            json.dumps({**line.columns, "completion": text, "nfe": calls, "seed": seed + number}, allow_nan=False)
            + "\n"
        )
    with explain_write_errors(out):
        write_whole(out, "".join(texts))
