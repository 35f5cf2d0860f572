"""Learning-compression: its formulas, its schedule, and exact networks."""
from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from nomul.compiler.errors import ModelError
from nomul.compiler.network import Dense
from nomul.compiler.quantize.additive import Additive
from nomul.compiler.quantize.codebooks import Codebook
from nomul.compiler.quantize.compressed import Compressed, Layers
from nomul.compiler.quantize.csteps import (
    Adaptive,
    CStep,
    FixedCodebook,
    PowersOfTwo,
    ScaledCodebook,
    Signs,
)
from nomul.compiler.quantize.datasets import load
from nomul.compiler.quantize.export import layer_codes, to_network
from nomul.compiler.quantize.lc import (
    DcMethod,
    IdcMethod,
    LcMethod,
)
from nomul.compiler.quantize.lutq import grid_bias_of, shadow_of, tied_of
from nomul.compiler.quantize.norms import Norm
from nomul.compiler.quantize.recipes import Recipe, recipe_of
from nomul.compiler.quantize.training import Teacher, fit, train
from nomul.sim import golden

STEPS: dict[str, CStep] = {
    "adaptive": Adaptive(clusters=3),
    "signs": Signs(),
    "signs-zero": Signs(zero=True),
    "pow2": PowersOfTwo(depth=4),
    "scaled": ScaledCodebook(values=(-3.0, -1.0, 1.0, 3.0)),
    "fixed": FixedCodebook(values=(-0.5, 0.0, 0.3)),
}


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    """A float net for the digits."""
    torch.set_num_threads(1)
    return fit(recipe_of("digits"), DcMethod(step=Signs()), epochs=10).teacher


def short(step: CStep, **settings: Any) -> LcMethod:
    return LcMethod(step=step, **{
        "steps": 3, "epochs": 1, "rate": 5e-3, "mu": 1e-3, "growth": 2.0, **settings})


def pair(*numbers: tuple[float, ...], step: CStep, shared: bool = False) -> Layers:
    """Dense layers of one output, with these weights."""
    modules: list[nn.Module] = []
    for weights in numbers:
        module = nn.Linear(len(weights), 1, bias=False)
        module.weight.data = torch.tensor([weights])
        register_parametrization(module, "weight",
                                 Compressed(module.weight.data, step.entries, finest=-20))
        modules.append(module)
    return Layers(modules=modules, step=step, shared=shared, value_bits=16)


def only(layers: Layers) -> tuple[Tensor, Compressed]:
    (shadow, weights), = layers
    return shadow.data, weights


def test_one_round_is_the_augmented_lagrangian() -> None:
    """By hand: w = (1, 2, -1.5) compressed to {-a, a}, moved, and compressed again."""
    layers = pair((1.0, 2.0, -1.5), step=Signs())
    shadow, weights = only(layers)
    layers.compress()
    assert weights.decompressed().tolist() == [[1.5, 1.5, -1.5]]
    assert layers.gap() == pytest.approx((0.5 / (1 + 4 + 2.25)) ** 0.5)

    layers.penalize(0.25)
    assert layers.distance().item() == pytest.approx(0.25 / 2 * 0.5)
    shadow.copy_(torch.tensor([[1.25, 1.75, -0.5]]))
    layers.compress()  # lambda is still 0
    mean = 3.5 / 3
    assert weights.decompressed().tolist()[0] == pytest.approx([mean, mean, -mean], rel=1e-4)
    layers.multiply()
    multipliers = [-0.25 * (w - d) for w, d in ((1.25, mean), (1.75, mean), (-0.5, -mean))]
    assert weights.multipliers.tolist()[0] == pytest.approx(multipliers, rel=1e-3)

    layers.penalize(0.5)
    shifted = [w - each / 0.5 for w, each in zip((1.25, 1.75, -0.5), multipliers, strict=True)]
    assert weights.shifted(shadow).tolist()[0] == pytest.approx(shifted, rel=1e-3)
    penalty = 0.5 / 2 * sum((w - d) ** 2
                            for w, d in zip(shifted, (mean, mean, -mean), strict=True))
    assert layers.distance().item() == pytest.approx(penalty, rel=1e-3)
    layers.compress()
    assert float(weights.dictionary.max()) == pytest.approx(np.abs(shifted).mean(), rel=1e-3)


def test_the_gap_of_a_convex_loss_closes_at_its_constrained_minimum() -> None:
    """|w - t| ** 2 / 2 with w in {-a, a}: the solution is the C step on t."""
    wanted = torch.tensor([[0.2, 1.0, -0.9, 1.6]])
    layers = pair((0.2, 1.0, -0.9, 1.6), step=Signs())
    shadow, weights = only(layers)
    layers.compress()
    for number in range(12):
        mu = 0.1 * 2 ** number
        layers.penalize(mu)
        shadow.copy_((wanted + mu * weights.target) / (1 + mu))  # the exact L step
        layers.compress()
        layers.multiply()
    assert layers.gap() < 1e-4
    assert weights.decompressed().tolist()[0] == pytest.approx([0.925, 0.925, -0.925, 0.925],
                                                               rel=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_a_codebook_is_of_one_layer_or_of_all(shared: bool) -> None:
    layers = pair((1.0, -1.0), (3.0, -3.0, 3.0), step=Signs(), shared=shared)
    layers.compress()
    found = [weights.decompressed().tolist()[0] for _shadow, weights in layers]
    assert found[0] == pytest.approx([2.2, -2.2] if shared else [1, -1], rel=1e-4)
    assert found[1] == pytest.approx([2.2, -2.2, 2.2] if shared else [3, -3, 3], rel=1e-4)


def test_weights_are_themselves_in_an_l_step_alone() -> None:
    layers = pair((1.0, 2.0), step=Signs())
    module, = layers.modules
    layers.compress()
    read = torch.eye(2)
    with layers.loose():
        assert module(read).tolist() == [[1.0], [2.0]]
        module(read).sum().backward()
    assert module(read).tolist() == [[1.5], [1.5]]
    assert shadow_of(module, "weight").grad is not None


@pytest.mark.train
@pytest.mark.parametrize("shared", [False, True], ids=["layers", "shared"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_every_code_of_all_digits(step: CStep, shared: bool, teacher: Teacher) -> None:
    trained = train(recipe_of("digits"), short(step, shared=shared), teacher=teacher)
    data = load("digits")
    trace = golden.run(trained.network, data.images)
    for name, codes in layer_codes(trained.model, data.images).items():
        assert np.array_equal(codes, trace[name]), name
    whole = {"signs": {-1, 1}, "signs-zero": {-1, 0, 1}, "scaled": {-3, -1, 1, 3}}
    for layer in trained.network.layers:
        if isinstance(layer, Dense):
            for name, values in whole.items():
                assert step is not STEPS[name] or {*layer.dictionary.tolist()} <= values
    if shared:
        first, second = (tied for module in trained.model.modules()
                         if (tied := tied_of(module)) is not None)
        assert torch.equal(first.dictionary, second.dictionary)


@pytest.mark.train
@pytest.mark.parametrize("norm", [Norm.AFFINE, Norm.POWER_OF_TWO])
def test_every_code_behind_a_normalization(norm: Norm) -> None:
    recipe = replace(recipe_of("digits"), norm=norm, model=lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(),
        nn.Linear(12, 10)))
    trained = train(recipe, short(Signs(zero=True), value_bits=16), epochs=1)
    data = load("digits")
    trace = golden.run(trained.network, data.images)
    for name, codes in layer_codes(trained.model, data.images).items():
        assert np.array_equal(codes, trace[name]), name


@pytest.mark.train
def test_direct_compression_is_the_c_step_on_the_trained_weights(teacher: Teacher) -> None:
    step = Adaptive(clusters=4)
    model = fit(recipe_of("digits"), DcMethod(step=step, value_bits=16),
                teacher=teacher).model
    weights = teacher.state["dense1.weight"].double()
    expected = step.solve(weights)
    module = model.get_submodule("dense1")
    torch.testing.assert_close(module.weight.double(), expected.weights(), rtol=0,
                               atol=float(weights.abs().max()) * 2 ** -14)
    assert torch.equal(tied_of(module).assignment, expected.assignment)  # type: ignore[union-attr]


@pytest.mark.train
def test_learning_compression_beats_its_baselines(teacher: Teacher) -> None:
    """One bit a weight, stochastic gradient descent, accuracy on all images not trained on."""
    recipe = replace(recipe_of("digits"), momentum=0.9, weight_decay=0.0, distillation=0.0)
    settings: dict[str, Any] = {"step": Adaptive(clusters=2), "steps": 12, "epochs": 2,
                                "rate": 0.05, "decay": 0.9}
    methods = [DcMethod(step=Adaptive(clusters=2)), IdcMethod(**settings),
               LcMethod(**settings, mu=1e-2, growth=1.4)]
    found = [fit(recipe, method, teacher=teacher).provenance["accuracy"]
             for method in methods]
    direct, iterated, learned = (
        (each["quantized_validation"] + each["quantized_test"]) / 2 for each in found)
    assert direct + 0.05 < iterated < learned - 0.05


@pytest.mark.train
def test_training_stops_where_the_gap_is_small(teacher: Teacher) -> None:
    """With any gap small enough, only the first L step, of two epochs, is left."""
    done: list[int] = []
    method = short(Signs(), tolerance=1e9)
    fit(recipe_of("digits"), method, teacher=teacher,
        progress=lambda stage, epoch, total, text: done.append(epoch))
    assert done == [1, 2]


@pytest.mark.train
def test_mu_and_the_rate_follow_their_schedule(teacher: Teacher,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Layers, "penalize", lambda layers, mu: seen.append(mu))
    fit(recipe_of("digits"), short(Signs(), mu=0.5, growth=2.0, epochs=2), teacher=teacher)
    assert seen == [0.5, 1.0, 2.0]
    assert [short(Signs(), epochs=2).number(epoch) for epoch in range(8)] == [
        0, 0, 0, 0, 1, 1, 2, 2]
    method = short(Signs(), rate=0.5, decay=0.9, mu=1.0, growth=2.0)
    assert [method.share(number) for number in range(4)] == [1.0, 0.9, 0.5, 0.25]


class Interrupted(Exception):
    pass


@pytest.mark.train
@pytest.mark.parametrize("kind", [IdcMethod, LcMethod])
def test_an_interrupted_training_ends_alike(kind: type[IdcMethod], recipe: Recipe,
                                            teacher: Teacher, tmp_path: Path) -> None:
    method = kind(step=Adaptive(clusters=3, exact=False), steps=3, epochs=1, rate=5e-3)
    whole = train(recipe, method, teacher=teacher)

    def interrupt(stage: str, done: int, total: int, text: str) -> None:
        assert total == 4
        if done == 4:
            raise Interrupted

    path = tmp_path / "digits.ckpt"
    with pytest.raises(Interrupted):
        train(recipe, method, teacher=teacher, checkpoint=path, progress=interrupt)
    again = train(recipe, method, teacher=teacher, checkpoint=path)
    assert again.network == whole.network
    assert again.provenance == whole.provenance


@pytest.mark.train
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("base", STEPS.values(), ids=STEPS)
def test_every_code_of_all_digits_with_corrections(base: CStep, bits: int, teacher: Teacher,
                                                   ) -> None:
    """And a dictionary of signs is two powers of two, on the grid of the corrections."""
    method = DcMethod(step=Additive(base=base, share=0.02), value_bits=bits)
    trained = train(recipe_of("digits"), method, teacher=teacher)
    data = load("digits")
    trace = golden.run(trained.network, data.images)
    for name, codes in layer_codes(trained.model, data.images).items():
        assert np.array_equal(codes, trace[name]), name
    layers = [layer for layer in trained.network.layers if isinstance(layer, Dense)]
    counts = [0 if layer.corrections is None else len(layer.corrections) for layer in layers]
    if base in (STEPS["adaptive"], STEPS["signs"], STEPS["signs-zero"]):
        assert counts == [round(0.02 * 2048), round(0.02 * 320)]
    assert 0 < counts[0] <= round(0.02 * 2048)
    whole = {"signs": {-64, 64}, "signs-zero": {-64, 0, 64}, "scaled": {-96, -32, 32, 96}}
    for name, values in whole.items():
        assert base is not STEPS[name] or {*layers[0].dictionary.tolist()} == values


@pytest.mark.train
def test_learned_corrections_are_those_of_the_network(teacher: Teacher) -> None:
    step = Additive(base=Adaptive(clusters=2), share=0.02)
    trained = train(recipe_of("digits"), short(step), teacher=teacher)
    data = load("digits")
    trace = golden.run(trained.network, data.images)
    for name, codes in layer_codes(trained.model, data.images).items():
        assert np.array_equal(codes, trace[name]), name
    corrected = [(int((tied.corrections != 0).sum()), float(tied.unit()))
                 for module in trained.model.modules()
                 if isinstance(tied := tied_of(module), Compressed)]
    layers = [layer for layer in trained.network.layers if isinstance(layer, Dense)]
    assert [count for count, _ in corrected] == [round(0.02 * 2048), round(0.02 * 320)]
    for layer, (count, unit), name in zip(layers, corrected, ("dense1", "dense2"), strict=True):
        assert layer.corrections is not None and len(layer.corrections) == count
        torch_weights = trained.model.get_submodule(name).weight.detach().double().numpy()
        assert np.array_equal(layer.weights * unit, torch_weights)


def test_corrections_are_rounded_to_what_is_missing() -> None:
    """On the grid of a dictionary, and on a 64th of the scale of signs."""
    w = torch.tensor([[1.0, 1.0, -1.0, -1.0, 3.0]])
    codebook = Additive(base=Signs(scaled=False), share=0.2).solve(w)
    weights = Compressed(w, 2, -20)
    weights.take(codebook, 8)
    assert weights.decompressed().tolist() == w.tolist()
    assert (weights.integers(), weights.correction_codes().tolist()) == (
        [-4096, 4096], [[0, 0, 0, 0, 8192]])
    assert float(weights.unit()) == 1.0
    weights.take(replace(codebook, correction=torch.tensor([[0, 0, 0.013, -0.4, 0]])), 8)
    assert (weights.decompressed() * 64).tolist() == [[64, 64, -63, -90, 64]]
    assert float(weights.unit()) * 64 == 1.0


def test_corrections_fit_a_float() -> None:
    w = torch.tensor([[1.0, -1.0, 1e6]], dtype=torch.float64)
    weights = Compressed(w.float(), 2, -30)
    weights.take(Codebook(entries=torch.tensor([-1.0, 1.0], dtype=torch.float64), scale=32767.0,
                          assignment=torch.tensor([[1, 0, 1]]),
                          correction=torch.tensor([[0.0, 0.0, 1e9]], dtype=torch.float64)), 16)
    whole = weights.dictionary.double()[weights.assignment] + weights.corrections.double()
    assert weights.decompressed().double().tolist() == whole.tolist()
    assert weights.correction_codes()[0, 2] * weights.grid == weights.corrections[0, 2].double()


@pytest.mark.train
def test_an_interrupted_training_with_corrections_ends_alike(teacher: Teacher, tmp_path: Path,
                                                             ) -> None:
    method = short(Additive(base=Signs(), share=0.02))
    whole = train(recipe_of("digits"), method, teacher=teacher)

    def interrupt(stage: str, done: int, total: int, text: str) -> None:
        if done == total:
            raise Interrupted

    path = tmp_path / "digits.ckpt"
    with pytest.raises(Interrupted):
        train(recipe_of("digits"), method, teacher=teacher, checkpoint=path, progress=interrupt)
    again = train(recipe_of("digits"), method, teacher=teacher, checkpoint=path)
    assert again.network == whole.network


@pytest.mark.train
def test_a_convolution_has_no_corrections() -> None:
    recipe = replace(recipe_of("digits"), model=lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)))
    step = Additive(base=Signs(), share=0.1)
    with pytest.raises(ModelError, match=re.escape(
            "method 'dc': layer '0' must be a Linear to have sparse corrections; use a codebook "
            "without them")):
        train(recipe, DcMethod(step=step), epochs=1)

    fitted = fit(recipe, DcMethod(step=Signs()), epochs=1).model
    module = next(module for module in fitted.modules() if isinstance(module, nn.Conv2d))
    tied = tied_of(module)
    assert isinstance(tied, Compressed)
    tied.take(step.solve(shadow_of(module, "weight").detach()), 8)
    bias = grid_bias_of(module)
    assert bias is not None
    bias.follow(tied)
    with pytest.raises(ModelError, match="sparse corrections must be those of a Linear; use"):
        to_network(fitted, "net", (8, 8, 1))


@pytest.mark.parametrize("change, message", [
    ({"value_bits": 17}, "method 'lc': bits of a value must be 2 to 16, not 17"),
    ({"steps": 0}, "method 'lc': steps and epochs must be at least 1, not 0 and 1"),
    ({"rate": 0.0}, "method 'lc': rate must be above 0, not 0.0"),
    ({"decay": 0.0}, "method 'lc': decay must be above 0 and at most 1, not 0.0"),
    ({"mu": 0.0}, "method 'lc': mu must be above 0 and its growth at least 1, not 0.0 and 2.0"),
])
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        short(Signs(), **change)
    assert str(caught.value) == message


def test_settings_are_json_values() -> None:
    settings = short(Additive(base=FixedCodebook(values=(0.0, 1.0)), share=0.1)).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["method"] == "lc"
    assert settings["settings"]["growth"] == 2.0
    assert replace(short(Signs()), shared=True).settings()["settings"]["shared"] is True
