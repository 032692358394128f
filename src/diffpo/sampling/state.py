"""The canvases of a batch while it is decoded, and how each token came about. Its methods change it in place."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

from diffpo.core.canvas import completion_mask
from diffpo.core.rollout import Rollout
from diffpo.sampling.categorical import round_down_to_float32, row_noise
from diffpo.sampling.commit_sets import DrawnSet
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.risk_rules import CommitRisk
from diffpo.sampling.rules import EntropyBound


@dataclass
class SamplerState:
    """Everything that `sample` records, for all B rows; `rows` arguments choose the rows that are in flight.

    The first axis of every tensor is that of the rows.
    """

    prompt_ids: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    mask_id: int
    stop_ids: tuple[int, ...]
    completion_ids: Int[Tensor, "B L"]
    unmask_step: Int[Tensor, "B L"]
    is_drawn: Bool[Tensor, "B L"]
    behaviour_logp: Float[Tensor, "B L"]
    row_bound: Float[Tensor, " B"]
    """The rule's bound for each row; nan where it has none."""
    is_entropy_bound: bool
    """Whether those bounds are of entropies."""
    entropy_bound_logp: Float[Tensor, " B"]
    prompt_features: Float[Tensor, "B F"]
    commit_logp: Float[Tensor, "B C"]
    commit_inputs: Float[Tensor, "B C L S"]
    seeds: Int[Tensor, " B"]
    bound_noise: Float[Tensor, " B"]
    """The number with which the row's entropy bound is drawn."""
    token_noise: Float64[Tensor, "B L"]
    """The number with which each position's token is drawn."""
    set_noise: Float64[Tensor, "B D"]
    """The numbers with which each position is drawn, or not, into the set of the row's next call; D = 0 where no sets
    are drawn, else L."""
    step: Int[Tensor, " B"]
    """Denoiser calls of each row so far."""

    def is_masked(self, rows: Int[Tensor, " b"]) -> Bool[Tensor, "b L"]:
        return self.completion_ids[rows] == self.mask_id

    def canvas(self, rows: Int[Tensor, " b"]) -> Int[Tensor, "b N"]:
        return torch.cat([self.prompt_ids[rows], self.completion_ids[rows]], dim=1)

    def kept(self, rows: Int[Tensor, " k"]) -> "SamplerState":
        """Return the state of some of the rows."""
        return self.with_columns({name: column[rows] for name, column in self.columns().items()})

    def joined(self, other: "SamplerState") -> "SamplerState":
        """Return the state of these rows and then of those of `other`, which are decoded alike.

        Prompts are padded on the left, to one width.
        """
        columns = {}
        for name, column in other.columns().items():
            pair = [self.columns()[name], column]
            if column.dim() > 1:  # prompts of other widths; features, of which rows before their first call have none
                width = max(part.shape[1] for part in pair)
                pair = [_widened(part, width, is_left=name.startswith("prompt_")) for part in pair]
            columns[name] = torch.cat(pair)
        return self.with_columns(columns)

    def with_columns(self, columns: dict[str, Tensor]) -> "SamplerState":
        """Return the state of other rows, which are decoded alike."""
        return SamplerState(
            mask_id=self.mask_id, stop_ids=self.stop_ids, is_entropy_bound=self.is_entropy_bound, **columns
        )

    def columns(self) -> dict[str, Tensor]:
        """Return what there is of each row, by name."""
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}

    def is_open(self, rows: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Return whether a row has a mask before its first stop token."""
        completion_ids = self.completion_ids[rows]
        return ((completion_ids == self.mask_id) & completion_mask(completion_ids, self.stop_ids)).any(dim=1)

    def start_from_(self, completion_ids: Int[Tensor, "B L"]) -> None:
        """Take these completions for those of all rows. Raises ValueError for one that is done already."""
        self.completion_ids = completion_ids.to(self.completion_ids, copy=True)
        if not bool(self.is_open(torch.arange(len(completion_ids), device=self.step.device)).all()):
            raise ValueError("a completion to start from has no mask before its first stop token")

    def split_by_progress(self, rows: Int[Tensor, " b"]) -> tuple[Int[Tensor, " behind"], Int[Tensor, " ahead"]]:
        """Return the rows with the fewest committed tokens, and the others."""
        num_masked = self.is_masked(rows).sum(dim=1)
        is_behind = num_masked == num_masked.max()
        return rows[is_behind], rows[~is_behind]

    def choose_bounds_(
        self,
        rows: Int[Tensor, " n"],
        entropy: Float[Tensor, "n L"],
        hidden: Float[Tensor, "n D"] | None,
        decoding: Decoding,
    ) -> None:
        """Give new rows the entropy bounds that the controller chooses from their first call's entropies, or from its
        mean hidden states."""
        controller = decoding.bound_controller
        if controller is None or len(rows) == 0:
            return
        features = controller.features(entropy, hidden)
        if self.prompt_features.shape[1] == 0:
            self.prompt_features = features.new_zeros(len(self.step), features.shape[1])
        self.prompt_features[rows] = features
        chosen = controller.choose(features, self.bound_noise[rows] if decoding.explore else None)
        self.row_bound[rows], self.entropy_bound_logp[rows] = chosen

    def record_set_(
        self, rows: Int[Tensor, " b"], drawn: DrawnSet, inputs: Float[Tensor, "b L S"]
    ) -> Bool[Tensor, "b L"]:
        """Keep how a commit policy drew the sets of these rows' calls; return the sets."""
        if self.commit_logp.shape[1] == 0:
            batch, length = self.completion_ids.shape
            self.commit_logp = drawn.logp.new_zeros(batch, length)
            self.commit_inputs = inputs.new_zeros(batch, length, *inputs.shape[1:])
        self.commit_logp[rows, self.step[rows]] = drawn.logp
        self.commit_inputs[rows, self.step[rows]] = inputs
        self.set_noise[rows] = drawn.uniform
        return drawn.is_commit

    def commit_(
        self,
        rows: Int[Tensor, " b"],
        is_commit: Bool[Tensor, "b L"],
        token: Int[Tensor, "b L"],
        logp: Float[Tensor, "b L"],
    ) -> None:
        """Fix the tokens that the rule has chosen."""
        row, position = is_commit.nonzero(as_tuple=True)
        row = rows[row]
        self.completion_ids[row, position] = token[is_commit]
        self.behaviour_logp[row, position] = logp[is_commit]
        self.unmask_step[row, position] = self.step[row]
        self.is_drawn[row, position] = True

    def finish_call_(self, rows: Int[Tensor, " b"]) -> Int[Tensor, " a"]:
        """Count the call, close the rows that are done, and return those that are not.

        A row is done when no mask is left before its first stop token.
        """
        is_done = ~self.is_open(rows)
        self._fill_tail_(rows[is_done])
        self.step[rows] += 1
        return rows[~is_done]

    def _fill_tail_(self, rows: Int[Tensor, " d"]) -> None:
        """Replace the masks behind the first stop token by that token, as part of the last call."""
        if not self.stop_ids or len(rows) == 0:
            return
        ids = self.completion_ids[rows]
        first_stop = completion_mask(ids, self.stop_ids).sum(dim=1, keepdim=True) - 1
        is_left = ids == self.mask_id
        self.completion_ids[rows] = torch.where(is_left, ids.gather(1, first_stop), ids)
        self.unmask_step[rows] = torch.where(is_left, self.step[rows, None], self.unmask_step[rows])

    def rollout(self) -> Rollout:
        return Rollout(
            prompt_ids=self.prompt_ids,
            prompt_mask=self.prompt_mask,
            completion_ids=self.completion_ids,
            unmask_step=self.unmask_step,
            is_answer=completion_mask(self.completion_ids, self.stop_ids),
            is_drawn=self.is_drawn,
            behaviour_logp=self.behaviour_logp,
            nfe=self.unmask_step.amax(dim=1) + 1,
            entropy_bound=self.row_bound if self.is_entropy_bound else torch.full_like(self.row_bound, torch.nan),
            entropy_bound_logp=self.entropy_bound_logp,
            prompt_features=self.prompt_features,
            commit_logp=self.commit_logp,
            commit_inputs=self.commit_inputs,
        )


def fully_masked(
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    mask_id: int,
    stop_ids: tuple[int, ...],
    decoding: Decoding,
    seeds: Int[Tensor, " B"] | None = None,
    row_bound: Float[Tensor, " B"] | None = None,
) -> SamplerState:
    """Return the state before the first call: every completion position is masked.

    Raises ValueError where something is drawn at random and there are no seeds, and where bounds of rows cannot take
    the place of the rule's.
    """
    if row_bound is not None:
        check_takes_bounds(decoding)
    if seeds is None and decoding.needs_seeds:
        raise ValueError("drawing at a temperature above 0, or exploring bounds, needs one seed per row")
    batch, length, device = len(prompt_ids), decoding.length, prompt_ids.device
    rule = decoding.deciding_rule
    count = 1 + length * (2 if decoding.draws_sets else 1)
    noise = torch.zeros(batch, count, dtype=torch.float64) if seeds is None else row_noise(seeds, count)
    fixed_bound = rule.bound if isinstance(rule, EntropyBound | CommitRisk) else float("nan")
    completion_ids = torch.full((batch, length), mask_id, device=device)
    return SamplerState(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        mask_id=mask_id,
        stop_ids=stop_ids,
        completion_ids=completion_ids,
        unmask_step=torch.zeros_like(completion_ids),
        is_drawn=torch.zeros_like(completion_ids, dtype=torch.bool),
        behaviour_logp=torch.zeros(batch, length, device=device),
        row_bound=(torch.full((batch,), fixed_bound) if row_bound is None else row_bound.float()).to(device),
        is_entropy_bound=isinstance(rule, EntropyBound),
        entropy_bound_logp=torch.zeros(batch, device=device),
        prompt_features=torch.zeros(batch, 0, device=device),
        commit_logp=torch.zeros(batch, 0, device=device),
        commit_inputs=torch.zeros(batch, 0, length, 0, device=device),
        seeds=torch.zeros(batch, dtype=torch.long, device=device) if seeds is None else seeds.to(device),
        bound_noise=round_down_to_float32(noise[:, 0]).to(device),
        token_noise=noise[:, 1 : length + 1].to(device),
        set_noise=noise[:, length + 1 :].to(device),
        step=torch.zeros(batch, dtype=torch.long, device=device),
    )


def check_takes_bounds(decoding: Decoding) -> None:
    """Raise ValueError where bounds of rows cannot take the place of the rule's."""
    reason = None if isinstance(decoding.rule, EntropyBound | CommitRisk) else f"{decoding.rule} has none"
    if decoding.controller is not None:
        reason = "a controller chooses them, too"
    if reason:
        raise ValueError(f"bounds are given for rows, but {reason}")


def _widened(tensor: Shaped[Tensor, "b w *n"], width: int, is_left: bool) -> Shaped[Tensor, "b v *n"]:
    """Return a tensor with zeros, or False, on the left or the right of its second axis."""
    padding = tensor.new_zeros(len(tensor), width - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([padding, tensor] if is_left else [tensor, padding], dim=1)
