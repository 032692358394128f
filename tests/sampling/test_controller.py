"""The learned sampler: its features, its law, its running statistics, and its folder."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.sampling.controller import LEVELS, NUM_FEATURES, QUANTILES, Controller, entropy_features
from diffpo.sampling.controller_files import CONTROLLER_CONFIG, CONTROLLER_WEIGHTS, load_controller, save_controller


def some_entropy(rows: int = 6, length: int = 16, seed: int = 0) -> Tensor:
    return 2 * torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) ** 2


def controller(seed: int = 0, spread: float = 0.5, taught: bool = True) -> Controller:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Controller(initial_bound=0.3, initial_spread=spread, hidden=8)
        if taught:
            for parameter in made.head.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    return made


# ------------------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("length", [1, 4, 16, 256])
def test_features_have_one_size_for_every_length(length: int) -> None:
    features = entropy_features(some_entropy(length=length))
    assert features.shape == (6, NUM_FEATURES)
    assert bool(features.isfinite().all())


def test_features_by_hand() -> None:
    # Ranked: .005 .05 .2 .9. Sixteen quantiles of four values are each value four times: position round(i / 5).
    features = entropy_features(torch.tensor([[0.9, 0.05, 0.005, 0.2]]))[0]
    ranked = torch.tensor([0.005, 0.05, 0.2, 0.9])
    index = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3])
    quantiles, logs, spent, ends, below = features.split([QUANTILES, QUANTILES, QUANTILES, 2, len(LEVELS)])
    torch.testing.assert_close(quantiles, ranked[index])
    torch.testing.assert_close(logs, (ranked[index] + 1e-3).log())
    # The entropy-bound rule's sum - max of the first 1, 2, 3, 4 positions.
    error = torch.tensor([0.0, 0.005, 0.055, 0.255])
    torch.testing.assert_close(spent, (error[index] + 1e-3).log())
    torch.testing.assert_close(ends, torch.tensor([1.155 / 4, 0.9]))
    torch.testing.assert_close(below, torch.tensor([0.25, 0.25, 0.5, 0.75, 0.75, 1.0]))


def test_features_do_not_depend_on_the_order_of_positions() -> None:
    entropy = some_entropy()
    shuffled = entropy[:, torch.randperm(16, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(entropy_features(shuffled), entropy_features(entropy))


# ----------------------------------------------------------------------------------------------------------------- law


def test_it_starts_at_the_initial_bound_for_every_prompt() -> None:
    law = controller(taught=False).log_bound(entropy_features(some_entropy()))
    torch.testing.assert_close(law.loc, torch.full((6,), math.log(0.3)))
    torch.testing.assert_close(law.scale, torch.full((6,), 0.5))


def test_a_taught_one_depends_on_the_prompt() -> None:
    law = controller().log_bound(entropy_features(some_entropy()))
    assert float(law.loc.std().detach()) > 0.01


def test_the_density_is_the_normals_and_reproduces() -> None:
    made, features = controller(), entropy_features(some_entropy())
    with torch.no_grad():
        bound, logp = made.choose(features, torch.linspace(0.02, 0.98, 6))
        law = made.log_bound(features)
        again = made.logp(features, bound)
    for x, mean, sd, density in zip(
        bound.log().tolist(), law.loc.tolist(), law.scale.tolist(), logp.tolist(), strict=True
    ):
        by_hand = -0.5 * ((x - mean) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)
        assert density == pytest.approx(by_hand, abs=1e-4)
    torch.testing.assert_close(again, logp, atol=1e-5, rtol=1e-5)


def test_bounds_follow_their_law() -> None:
    made = controller()
    rows = 4000
    features = entropy_features(some_entropy(1)).expand(rows, -1)
    with torch.no_grad():
        bound, _ = made.choose(features, torch.rand(rows, generator=torch.Generator().manual_seed(0)))
        law = made.log_bound(features[:1])
    cdf = 0.5 * (1 + torch.erf((bound.log() - law.loc) / law.scale / math.sqrt(2)))
    grid = torch.arange(1, rows + 1) / rows
    distance = (cdf.sort().values - grid).abs().max()  # Kolmogorov and Smirnov's
    assert float(distance) < 2 / math.sqrt(rows)


def test_a_larger_uniform_gives_a_larger_bound_and_the_ends_stay_finite() -> None:
    features = entropy_features(some_entropy(1)).expand(5, -1)
    with torch.no_grad():
        bound, logp = controller().choose(features, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
        median, _ = controller().choose(features[:1], None)
    assert bound.tolist() == sorted(set(bound.tolist()))
    assert bool(bound.isfinite().all() and logp.isfinite().all())
    torch.testing.assert_close(bound[2:3], median)


def test_without_a_uniform_it_is_the_mean_of_the_log_at_no_density() -> None:
    made, features = controller(), entropy_features(some_entropy())
    bound, logp = made.choose(features, None)
    torch.testing.assert_close(bound.log(), made.log_bound(features).loc)
    assert not logp.any()


def test_the_density_is_differentiable_in_head_and_spread() -> None:
    made, features = controller(), entropy_features(some_entropy())
    made.logp(features, torch.full((6,), 0.7)).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


# --------------------------------------------------------------------------------------------------- a grid of bounds

GRID = (0.05, 0.3, 0.9, 2.5)


def on_grid(taught: bool = True) -> Controller:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = Controller(initial_bound=0.3, initial_spread=0.8, hidden=8, bounds=GRID)
        if taught:
            for parameter in made.head.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
    return made


def test_a_grid_starts_with_the_weights_of_the_log_normal_for_every_prompt() -> None:
    density = [math.exp(-0.5 * (math.log(bound / 0.3) / 0.8) ** 2) for bound in GRID]
    made, features = on_grid(taught=False), entropy_features(some_entropy())
    for value, weight in zip(GRID, density, strict=True):
        found = made.logp(features, torch.full((6,), value)).exp()
        torch.testing.assert_close(found, torch.full((6,), weight / sum(density)), atol=1e-5, rtol=1e-5)
    bound, logp = made.choose(features, None)
    torch.testing.assert_close(bound, torch.full((6,), 0.3))
    assert not logp.any()


def test_bounds_of_a_grid_follow_their_probabilities_and_reproduce() -> None:
    made, rows = on_grid(), 20000
    features = entropy_features(some_entropy(1)).expand(rows, -1)
    with torch.no_grad():
        bound, logp = made.choose(features, torch.rand(rows, generator=torch.Generator().manual_seed(0)))
        probability = [float(made.logp(features[:1], torch.tensor([value])).exp()) for value in GRID]
        again = made.logp(features, bound)
    assert sum(probability) == pytest.approx(1, abs=1e-5) and max(probability) < 0.9
    for value, expected in zip(GRID, probability, strict=True):
        error = math.sqrt(expected * (1 - expected) / rows)
        assert float(torch.isclose(bound, torch.tensor(value)).float().mean()) == pytest.approx(expected, abs=4 * error)
    assert torch.equal(again, logp)
    mean = sum(p * math.log(value) for p, value in zip(probability, GRID, strict=True))
    variance = sum(p * (math.log(value) - mean) ** 2 for p, value in zip(probability, GRID, strict=True))
    law = made.log_bound(features[:1])
    assert float(law.scale.detach()) == pytest.approx(math.sqrt(variance), abs=1e-5)
    assert float(law.loc.exp()) == pytest.approx(GRID[probability.index(max(probability))])


def test_a_larger_uniform_gives_no_smaller_bound_of_a_grid_and_the_ends_are_on_it() -> None:
    features = entropy_features(some_entropy(1)).expand(7, -1)
    with torch.no_grad():
        bound, logp = on_grid(taught=False).choose(features, torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 0.999, 1.0]))
    assert bound.tolist() == sorted(bound.tolist())
    assert float(bound[0]) == pytest.approx(GRID[0]) and float(bound[-1]) == pytest.approx(GRID[-1])
    assert bool(logp.isfinite().all())


def test_the_gradient_of_a_grids_log_probability_is_a_difference_quotient() -> None:
    made, features = on_grid().double(), entropy_features(some_entropy()).double()
    bound = torch.tensor([GRID[i % 4] for i in range(6)], dtype=torch.float64)
    made.logp(features, bound).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for at in range(0, len(flat), max(1, len(flat) // 3)):
            values = []
            for move in (1e-5, -1e-5):
                flat[at] += move
                values.append(float(made.logp(features, bound).sum().detach()))
                flat[at] -= move
            assert float(gradient[at]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-5)


# ------------------------------------------------------------------------------------------------------- hidden states


def test_hidden_features_of_another_width_are_refused() -> None:
    made = Controller(hidden=8, feature_kind="hidden", num_features=5)
    hidden = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert made.needs_hidden and not Controller().needs_hidden
    assert torch.equal(made.features(some_entropy(), hidden), hidden)
    assert made.features(some_entropy(), hidden.bfloat16()).dtype == torch.float32
    assert torch.equal(Controller().features(some_entropy()), entropy_features(some_entropy()))
    with pytest.raises(UserError, match="hidden states of width 5, and the model's have 4"):
        made.features(some_entropy(), hidden[:, :4])


# ---------------------------------------------------------------------------------------------------------- statistics


def test_observing_moves_the_running_statistics() -> None:
    made, features = controller(), entropy_features(some_entropy())
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-3)
    made.observe(features, 0.25)  # from mean 0 and std 1, a quarter of the way
    torch.testing.assert_close(made.mean, mean / 4)
    torch.testing.assert_close(made.std, 0.75 + std / 4)
    made.observe(features, 1.0)
    torch.testing.assert_close(made.mean, mean)
    torch.testing.assert_close(made.std, std)


def test_features_are_standardised_and_outliers_clamped() -> None:
    made, features = controller(), entropy_features(some_entropy())
    plain = made.log_bound((features - 2) / 3).loc
    made.mean.fill_(2.0)
    made.std.fill_(3.0)
    torch.testing.assert_close(made.log_bound(features).loc, plain)
    far = made.log_bound(torch.full_like(features, 1e6)).loc
    torch.testing.assert_close(far, made.log_bound(torch.full_like(features, 2 + 3 * 5.0)).loc)


def test_features_that_never_vary_do_not_divide_by_zero() -> None:
    made, features = controller(), entropy_features(some_entropy(1)).expand(4, -1)
    made.observe(features, 1.0)
    assert bool(made.log_bound(features).loc.isfinite().all())


# -------------------------------------------------------------------------------------------------------------- folder


@pytest.mark.parametrize("kind", ["log-normal", "grid", "hidden"])
def test_saved_and_loaded_is_bit_equal(kind: str, tmp_path: Path) -> None:
    features = entropy_features(some_entropy())
    made = {
        "log-normal": controller(spread=0.7),
        "grid": on_grid(),
        "hidden": Controller(0.3, 0.5, 8, "hidden", NUM_FEATURES, GRID),
    }[kind]
    made.observe(features, 0.5)
    save_controller(made, tmp_path)
    loaded = load_controller(tmp_path)
    assert isinstance(loaded, Controller)
    assert (loaded.feature_kind, loaded.bounds) == (made.feature_kind, made.bounds)
    assert loaded.state_dict().keys() == made.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())
    assert torch.equal(loaded.log_bound(features).loc, made.log_bound(features).loc)
    assert torch.equal(loaded.log_bound(features).scale, made.log_bound(features).scale)


def test_one_saved_before_there_were_grids_and_hidden_features_loads(tmp_path: Path) -> None:
    made, features = controller(), entropy_features(some_entropy())
    save_controller(made, tmp_path)
    config = {"kind": "log-normal-entropy-bound", "initial_bound": 0.3, "hidden": 8}
    (tmp_path / CONTROLLER_CONFIG).write_text(json.dumps(config))
    loaded = load_controller(tmp_path)
    assert isinstance(loaded, Controller) and torch.equal(loaded.log_bound(features).loc, made.log_bound(features).loc)


def test_a_folder_without_one_holds_none(tmp_path: Path) -> None:
    assert load_controller(tmp_path) is None


def test_a_controller_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_controller(controller(), tmp_path)
    config = json.loads((tmp_path / CONTROLLER_CONFIG).read_text())
    (tmp_path / CONTROLLER_CONFIG).write_text(json.dumps(config | {"hidden": 9}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_controller(tmp_path)
    (tmp_path / CONTROLLER_CONFIG).write_text(json.dumps(config))
    (tmp_path / CONTROLLER_WEIGHTS).unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_controller(tmp_path)


def test_a_truncated_controller_is_refused(tmp_path: Path) -> None:
    save_controller(controller(), tmp_path)
    weights = tmp_path / CONTROLLER_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_controller(tmp_path)
