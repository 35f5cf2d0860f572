"""C steps of LC against all codebooks that there are."""
from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.additive import Additive
from nomul.compiler.quantize.codebooks import Codebook
from nomul.compiler.quantize.csteps import (
    Adaptive,
    CStep,
    FixedCodebook,
    PowersOfTwo,
    ScaledCodebook,
    Signs,
)
from nomul.compiler.quantize.segments import best_dictionary, best_trimmed_dictionary

Floats = NDArray[np.float64]

VALUES = (-2.0, -0.5, 0.0, 1.5)  # no symmetry
SIGNS = {2: (-1.0, 1.0), 3: (-1.0, 0.0, 1.0)}

EXACT: dict[str, CStep] = {
    "adaptive-1": Adaptive(clusters=1),
    "adaptive-2": Adaptive(clusters=2),
    "adaptive-3": Adaptive(clusters=3),
    "fixed": FixedCodebook(values=VALUES),
    "signs": Signs(scaled=False),
    "signs-zero": Signs(zero=True, scaled=False),
    "signs-scaled": Signs(),
    "signs-zero-scaled": Signs(zero=True),
    "pow2": PowersOfTwo(depth=0),
    "scaled": ScaledCodebook(values=VALUES),
    "scaled-symmetric": ScaledCodebook(values=(-1.0, 1.0, 2.0, -2.0)),
    "scaled-positive": ScaledCodebook(values=(1.0, 3.0)),
    "additive-adaptive": Additive(base=Adaptive(clusters=2), share=0.4, exact=True),
    "additive-fixed": Additive(base=FixedCodebook(values=VALUES), share=0.4),
}
LOCAL: dict[str, CStep] = {
    "k-means": Adaptive(clusters=3, exact=False),
    "additive-adaptive": Additive(base=Adaptive(clusters=3), share=0.1),
    "additive-scaled": Additive(base=Signs(zero=True), share=0.1),
}


def numbers(seed: int, size: int) -> Tensor:
    """Normal numbers, or, for odd seeds, halves that repeat."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(-4, 5, size) / 2.0 if seed % 2
                            else rng.normal(size=size))


def least_error(step: CStep, weights: Tensor) -> float:
    """By trying each assignment with the best scale or the best values."""
    w = weights.numpy()
    if isinstance(step, Additive):
        kept = itertools.combinations(range(len(w)), len(w) - step.corrections(len(w)))
        return min(least_error(step.base, weights[list(part)]) for part in kept)
    places = np.array(list(itertools.product(range(step.entries), repeat=len(w))))
    match step:
        case Adaptive():
            errors = np.square(w).sum() - sum(
                np.square((w * (places == entry)).sum(axis=1))
                / np.maximum((places == entry).sum(axis=1), 1) for entry in range(step.entries))
        case Signs(scaled=True) | ScaledCodebook():
            given = step.values if isinstance(step, ScaledCodebook) else SIGNS[step.entries]
            taken = np.array(given)[places]
            errors = np.square(w).sum() - np.square(taken @ w) / np.maximum(
                np.square(taken).sum(axis=1), 1e-300)
        case _:
            given = VALUES if isinstance(step, FixedCodebook) else SIGNS[step.entries]
            errors = np.square(np.array(given)[places] - w).sum(axis=1)
    return float(np.min(errors))


def check(step: CStep, weights: Tensor) -> Codebook:
    """Its codebook, whose error no other one has less of."""
    found = step.solve(weights)
    assert found.error(weights) == pytest.approx(least_error(step, weights), abs=1e-11)
    return found


@pytest.mark.parametrize("step", EXACT.values(), ids=EXACT)
def test_no_codebook_has_a_smaller_error(step: CStep) -> None:
    for seed, size in itertools.product(range(6), (1, 2, 5, 7)):
        found = check(step, numbers(seed, size))
        assert len(found.values) == step.entries


@pytest.mark.parametrize("wrong", ["scale", "value", "assignment", "correction"])
def test_the_comparison_can_fail(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken twins: the right codebook, but for one number."""
    step: CStep = Additive(base=Signs(zero=True), share=0.2) if wrong == "correction" else (
        EXACT["adaptive-2"] if wrong == "value" else EXACT["signs-zero-scaled"])
    weights = numbers(0, 5)
    found = step.solve(weights)
    change: dict[str, Any] = {
        "scale": lambda: {"scale": float(weights.abs().mean())},
        "value": lambda: {"entries": found.entries + torch.tensor([1e-3, 0])},
        "assignment": lambda: {"assignment": found.assignment.roll(1)},
        "correction": lambda: {"correction": torch.zeros(5)}}
    parts = {"entries": found.entries, "assignment": found.assignment, "scale": found.scale,
             "correction": found.correction, **change[wrong]()}
    monkeypatch.setattr(type(step), "solve", lambda *_arguments: Codebook(**parts))
    with pytest.raises(AssertionError):
        check(step, weights)


def test_dynamic_programming_needs_no_small_numbers_of_weights() -> None:
    """Against all segmentations, one prefix after the other; 300 weights, 5 entries."""
    weights = np.sort(np.random.default_rng(0).standard_t(3, size=300))
    sums, squares = (np.r_[0, (weights ** power).cumsum()] for power in (1, 2))
    begin, end = np.triu_indices(301, 1)
    errors = np.full((301, 301), np.inf)
    errors[begin, end] = (squares[end] - squares[begin]
                          - (sums[end] - sums[begin]) ** 2 / (end - begin))
    best = errors[0]
    for _ in range(4):
        best = (best[:, None] + errors).min(axis=0)
    found = best_dictionary(weights, 5)
    assert np.square(weights[:, None] - found).min(axis=1).sum() == pytest.approx(best[300])


def test_trimming_is_exact_with_more_clusters_and_gaps() -> None:
    weights = np.array([-5.0, -4.9, -2.0, 0.0, 0.1, 0.2, 3.0, 8.0, 8.1])
    assert best_trimmed_dictionary(weights, 3, 2).tolist() == pytest.approx([-4.95, 0.1, 8.05])
    assert best_trimmed_dictionary(weights, 2, 0).tolist() == best_dictionary(weights, 2).tolist()


@pytest.mark.parametrize("depth", [0, 3, 14])
def test_powers_of_two_are_the_closed_form(depth: int) -> None:
    weights = torch.from_numpy(np.random.default_rng(depth).normal(size=2000)
                               * np.exp2(np.random.default_rng(1).integers(-18, 2, 2000)))
    f = -weights.abs().log2()
    magnitude = torch.where(f > depth + 1, 0, torch.where(f <= 0, 1, torch.where(
        f > depth, 2.0 ** -depth, 2.0 ** -(f + np.log2(1.5)).floor())))
    assert torch.equal(PowersOfTwo(depth=depth).solve(weights).weights(),
                       weights.sign() * magnitude)


@pytest.mark.parametrize("signs, values", [
    (Signs(), (-1.0, 1.0)), (Signs(zero=True), (-1.0, 0.0, 1.0))], ids=["binary", "ternary"])
def test_closed_forms_of_a_scale_equal_the_sweep(signs: Signs, values: tuple[float, ...]) -> None:
    weights = numbers(2, 5000)
    assert signs.solve(weights).scale == pytest.approx(
        ScaledCodebook(values=values).solve(weights).scale, rel=1e-12)


@pytest.mark.parametrize("step", LOCAL.values(), ids=LOCAL)
def test_a_local_optimum_is_where_steps_change_nothing(step: CStep) -> None:
    for seed in range(4):
        weights = numbers(seed, 400)
        found = step.solve(weights)
        again = step.solve(weights, found)
        assert again.error(weights) == pytest.approx(found.error(weights), rel=1e-12)
        torch.testing.assert_close(again.values, found.values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step", LOCAL.values(), ids=LOCAL)
def test_a_warm_start_is_never_made_worse(step: CStep) -> None:
    old, weights = numbers(0, 400), numbers(2, 400)
    before = step.solve(old)
    start = (weights[:, None] - before.values).abs().min(dim=1).values.square().sort().values
    count = step.corrections(400) if isinstance(step, Additive) else 0
    assert step.solve(weights, before).error(weights) <= float(start[:400 - count].sum())


def test_k_means_starts_where_it_ended() -> None:
    """Two optima: the warm start decides which."""
    weights = torch.tensor([-3.0, -2.9, 0.0, 0.1, 3.0, 3.1], dtype=torch.float64)
    step = Adaptive(clusters=2, exact=False)
    left = Codebook(entries=torch.tensor([-3.0, 2.0]), assignment=torch.zeros(6).long())
    right = Codebook(entries=torch.tensor([-2.0, 3.0]), assignment=torch.zeros(6).long())
    assert step.solve(weights, left).assignment.tolist() == [0, 0, 1, 1, 1, 1]
    assert step.solve(weights, right).assignment.tolist() == [0, 0, 0, 0, 1, 1]


def test_corrections_go_to_their_share_and_make_weights_what_they_are() -> None:
    weights = numbers(0, 400).view(20, 20)
    found = Additive(base=Adaptive(clusters=2), share=0.05).solve(weights)
    assert found.correction is not None
    corrected = found.correction != 0
    assert int(corrected.sum()) == 20
    torch.testing.assert_close(found.weights()[corrected], weights[corrected], rtol=1e-15, atol=0)
    left = (weights - found.values[found.assignment]).abs()
    assert left[corrected].min() >= left[~corrected].max()


def test_never_all_weights_are_corrected() -> None:
    assert Additive(base=Signs(), share=0.9).corrections(1) == 0
    assert Additive(base=Signs(), share=0.01).corrections(266_200) == 2662


@pytest.mark.parametrize("step", EXACT.values(), ids=EXACT)
def test_weights_of_any_shape_and_all_zero(step: CStep) -> None:
    found = step.solve(torch.zeros(2, 3, 1))
    assert found.weights().shape == (2, 3, 1)
    assert found.weights().isfinite().all()
    assert found.weights().dtype is torch.float64


@pytest.mark.parametrize("make, message", [
    (lambda: Adaptive(clusters=0), "C step 'adaptive': clusters must be 1 to 256, not 0"),
    (lambda: FixedCodebook(values=()), "C step 'fixed': values must be 1 to 256, not 0"),
    (lambda: FixedCodebook(values=(1.0, 1.0)),
     "C step 'fixed': values must all differ, not (1.0, 1.0)"),
    (lambda: FixedCodebook(values=(float("inf"),)),
     "C step 'fixed': values must be finite, not (inf,)"),
    (lambda: ScaledCodebook(values=(0.0,)),
     "C step 'scaled': values must hold one that is not 0; add it"),
    (lambda: PowersOfTwo(depth=15), "C step 'pow2': depth must be 0 to 14, not 15"),
    (lambda: Additive(base=Signs(), share=1.0),
     "C step 'additive': share must be at least 0 and below 1, not 1.0"),
    (lambda: Additive(base=Additive(base=Signs(), share=0.1), share=0.1),
     "C step 'additive': base must be a codebook without corrections"),
    (lambda: Additive(base=Signs(), share=0.1, exact=True),
     "C step 'additive': an exact step needs an adaptive base; leave exact out"),
    (lambda: Additive(base=Adaptive(clusters=2), share=0.1, exact=True).solve(numbers(0, 10_000)),
     "C step 'additive': 10000 weights, 2 entries and 1000 corrections are too many for an exact "
     "step; leave exact out"),
    (lambda: Signs().solve(torch.tensor([float("nan")])),
     "weights must be finite, but hold NaN or infinity; train again with a lower learning rate"),
])
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        make()
    assert str(caught.value) == message


def test_settings_are_json_values() -> None:
    step = Additive(base=FixedCodebook(values=(0.0, 1.0)), share=0.5)
    assert step.settings() == {
        "kind": "additive", "entries": 2, "share": 0.5, "exact": False,
        "base": {"kind": "fixed", "entries": 2, "values": [0.0, 1.0]}}
