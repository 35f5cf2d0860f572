"""The options of ``nomul train``: they say what the package does when they are left out."""
import re
from dataclasses import replace

import click
import pytest

from nomul.compiler.quantize import names
from nomul.compiler.quantize.norms import Norm
from nomul.compiler.quantize.recipes import constraint_from_names, recipe_of
from nomul.compiler.quantize.rounding import Rounding
from nomul.compiler.quantize.schemes import Scheme
from nomul.learning import _recipe, train

OPTIONS = {option.name: option for option in train.params
           if isinstance(option, click.Option) and option.name}
DEFAULT = re.compile(r"\[default: ([^];]+)(?:; ([^]]+))?\]")
NUMBERS = {"bits", "value_bits", "fraction", "entries", "depth", "steps", "step_epochs", "codes",
           "budget", "last_bits"}
# Settings without which another one has no meaning.
NEEDED = {"fraction": {"dictionary": "pruned"}, "scale": {"dictionary": "binary"},
          "depth": {"codebook": "pow2"}}


def defaults() -> list[tuple[str, str, str]]:
    """Methods, options and the defaults that the help texts claim for them."""
    found = []
    for name, option in OPTIONS.items():
        text = option.help or ""
        match = DEFAULT.search(text)
        if not match:
            continue
        methods = re.findall(r"\b([a-z]+)(?=[,:])", text.split("[")[0])
        others = dict(part.split() for part in (match[2] or "").split(",") if part)
        found += [(method, name, others.get(method, match[1]))
                  for method in methods if method in names.METHODS]
    return found


@pytest.mark.parametrize(("method", "name", "default"), defaults())
def test_the_default_that_the_help_claims(method: str, name: str, default: str) -> None:
    value = (default == "zero" if name == "zero"
             else float(default) if name in NUMBERS else default)
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    given = {**NEEDED.get(name, {}), name: value}
    left_out = {key: other for key, other in given.items() if key != name}
    assert (names.method_from_names(method, **given).settings()
            == names.method_from_names(method, **left_out).settings())


@pytest.mark.parametrize("norm", Norm)
def test_any_normalization_can_be_asked_for(norm: Norm) -> None:
    assert _recipe("fashion", norm.value) == replace(recipe_of("fashion"), norm=norm)
    assert _recipe("fashion", None) == recipe_of("fashion")
    assert {*OPTIONS["norm"].type.choices} == {item.value for item in Norm}  # type: ignore[attr-defined]


def test_defaults_are_found() -> None:
    found = {(method, name) for method, name, _ in defaults()}
    assert {("lutq", "dictionary"), ("lutq", "bits"), ("lc", "entries"), ("tbnu", "entries"),
            ("lc", "step_epochs"), ("cq", "budget"), ("tbnu", "levels")} <= found


@pytest.mark.parametrize(("name", "known"), [
    ("method", names.METHODS),
    ("codebook", names.CODEBOOKS),
    ("rounding", tuple(item.value for item in Rounding)),
    ("levels", tuple(item.value for item in Scheme)),
])
def test_all_that_the_package_knows_can_be_chosen(name: str, known: tuple[str, ...]) -> None:
    kind = OPTIONS[name].type
    assert isinstance(kind, click.Choice)
    assert sorted(kind.choices) == sorted(known)


def test_each_dictionary_that_can_be_chosen_is_known() -> None:
    kind = OPTIONS["dictionary"].type
    assert isinstance(kind, click.Choice)
    for name in kind.choices:
        constraint_from_names(name)
