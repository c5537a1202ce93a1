"""Fields of a Config: what they accept, what they refuse, and in which words."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness import catalogue
from experiments.harness.config import (
    Option,
    RunConfig,
    check_value,
    fields_from_json,
    hparams_of,
    option,
    options,
    parse,
    prefixed,
)
from experiments.harness.errors import UserError
from experiments.shared.optimizer_flags import OptimizerConfig
from experiments.shared.tasks import MinibatchConfig
from tests import toys

CONFIGS = {name: catalogue.load(name).module.Config for name in catalogue.experiments()}
CONFIGS |= {f"toy {name}": module.Config for name, module in toys.ALL.items()}


@dataclasses.dataclass(frozen=True)
class Base:
    whole: int = option(3, "a count", minimum=1, maximum=10)
    rate: float = option(0.5, "a rate", traced=True, above=0, below=1)
    flag: bool = option(False, "a switch")
    word: str = option("tea", "a drink", choices=("tea", "coffee"))
    free: str = option("", "any text")


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    whole: int = 7


@dataclasses.dataclass(frozen=True)
class Counted:
    n: int = option(1, "counted", traced=True)


def field(name: str) -> Option:
    return options(Base)[name]


def test_options_keep_the_order_and_the_declared_types():
    found = options(Base)
    assert list(found) == ["whole", "rate", "flag", "word", "free"]
    assert [item.type for item in found.values()] == [int, float, bool, str, str]
    assert options(Base()) == found


def test_a_subclass_changes_the_default_and_inherits_bounds_and_help():
    inherited, own = options(Base)["whole"], options(Derived)["whole"]
    assert own == inherited._replace(default=7)
    assert list(options(Derived)) == list(options(Base))
    assert Derived().whole == 7


def test_a_field_that_is_not_declared_by_option_is_named_in_the_error():
    @dataclasses.dataclass(frozen=True)
    class Bare:
        size: int = 1

    with pytest.raises(TypeError, match=r"Bare\.size.*option"):
        options(Bare)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("whole", "10", 10),
        ("whole", "1", 1),
        ("rate", "0.25", 0.25),
        ("rate", "1e-3", 0.001),
        ("flag", "true", True),
        ("flag", "True", True),
        ("flag", "1", True),
        ("flag", "no", False),
        ("flag", "0", False),
        ("word", "coffee", "coffee"),
        ("free", "a=b c", "a=b c"),
    ],
)
def test_parse_gives_the_declared_type(name: str, text: str, value: object):
    found = parse(name, field(name), text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("whole", "1.5", "whole number"),
        ("whole", "", "whole number"),
        ("whole", "ten", "whole number"),
        ("whole", "1e3", "whole number"),
        ("whole", "nan", "whole number"),
        ("whole", "9" * 5000, "whole number"),
        ("whole", "0", "at least 1"),
        ("whole", "-4", "at least 1"),
        ("whole", "11", "at most 10"),
        ("rate", "fast", "a number"),
        ("rate", "", "a number"),
        ("rate", "0,5", "a number"),
        ("rate", "nan", "finite"),
        ("rate", "inf", "finite"),
        ("rate", "-inf", "finite"),
        ("rate", "1e400", "finite"),
        ("rate", "1e39", "finite"),
        ("rate", "0", "more than 0"),
        ("rate", "-0.0", "more than 0"),
        ("rate", "1", "less than 1"),
        ("flag", "maybe", "true or false"),
        ("flag", "", "true or false"),
        ("flag", "2", "true or false"),
        ("word", "cofee", 'Did you mean "coffee"'),
        ("word", "", "one of tea, coffee"),
        ("free", "", "a text"),
        ("free", "--whole=3", "a text"),
    ],
)
def test_parse_says_what_was_expected_and_what_came(name: str, text: str, words: str):
    with pytest.raises(UserError) as caught:
        parse(name, field(name), text)
    assert str(caught.value).startswith(f"--{name}: expected ")
    assert words in str(caught.value)


@given(st.integers(-50, 50))
def test_bounds_of_whole_numbers_include_both_ends(value: int):
    if 1 <= value <= 10:
        assert parse("whole", field("whole"), str(value)) == value
    else:
        with pytest.raises(UserError):
            parse("whole", field("whole"), str(value))


@given(st.floats(width=32))
def test_above_and_below_exclude_the_bound(value: float):
    if math.isfinite(value) and 2**-126 <= value < 1:  # below, processors may count with 0
        assert parse("rate", field("rate"), repr(value)) == value
    else:
        with pytest.raises(UserError):
            parse("rate", field("rate"), repr(value))


def test_the_largest_float32_is_a_number_and_the_next_double_is_none():
    free = options(OptimizerConfig)["weight_decay"]
    largest = (2 - 2**-23) * 2.0**127
    assert parse("weight_decay", free, repr(largest)) == largest
    with pytest.raises(UserError, match="finite"):
        parse("weight_decay", free, repr(math.nextafter(largest, math.inf)))


@pytest.mark.parametrize("text", ["1e-46", "-1e-46", "1e-40", "5e-324"])
@pytest.mark.parametrize("name", ["weight_decay", "learning_rate"])
def test_what_float32_takes_for_zero_is_refused(name: str, text: str):
    """NumPy says so: such a learning rate would train nothing."""
    assert abs(np.float32(text)) < np.finfo(np.float32).tiny
    with pytest.raises(UserError, match="expected"):
        parse(name, options(OptimizerConfig)[name], text)
    assert parse("weight_decay", options(OptimizerConfig)["weight_decay"], "0") == 0


def test_a_bound_excludes_what_float32_takes_for_it():
    assert np.float32(0.99999999) == 1
    assert np.float32(0.9999999) < 1
    assert parse("rate", field("rate"), "0.9999999") == 0.9999999
    with pytest.raises(UserError, match=r"expected less than 1, and 0\.99999999 is 1 in float32"):
        parse("rate", field("rate"), "0.99999999")


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e-46, math.inf, math.nan])
def test_a_number_of_a_json_file_is_refused_as_that_of_a_flag_is(value: float):
    with pytest.raises(UserError, match=r"c\.json: --rate: expected"):
        fields_from_json("c.json", Base, {"rate": value})


def test_a_traced_whole_number_has_32_bits():
    made = option(1, "counted", traced=True).metadata["option"]
    for value in (2**31 - 1, -(2**31)):
        check_value("n", made, value)
        assert hparams_of(Counted(value))["n"].tolist() == [value]
    for value in (2**31, -(2**31) - 1):
        with pytest.raises(UserError, match="expected a whole number of 32 bits"):
            check_value("n", made, value)


def test_a_field_s_own_check_comes_after_its_bounds():
    seen: list[int] = []
    made = option(1, "checked", minimum=0, check=seen.append).metadata["option"]
    with pytest.raises(UserError):
        check_value("n", made, -1)
    assert seen == []
    check_value("n", made, 4)
    assert seen == [4]


def test_hyperparameters_are_the_traced_fields_stacked_over_configs():
    found = hparams_of(Base(rate=0.25), Base(rate=0.5))
    assert list(found) == ["rate"]
    assert found["rate"].tolist() == [0.25, 0.5]
    assert set(hparams_of(MinibatchConfig())) == {
        "seed",
        "learning_rate",
        "momentum",
        "beta1",
        "beta2",
        "epsilon",
        "weight_decay",
        "l1",
        "clip_norm",
        "clip_value",
    }


def test_a_prefix_gives_the_same_fields_other_names():
    second = prefixed(RunConfig, "other_")
    assert [f"other_{name}" for name in options(RunConfig)] == list(options(second))
    for name, field in options(RunConfig).items():
        assert options(second)[f"other_{name}"] == field
    assert second(other_seed=3).other_seed == 3


@pytest.mark.parametrize("name", CONFIGS)
def test_every_default_passes_its_own_checks(name: str):
    for flag, item in options(CONFIGS[name]).items():
        check_value(flag, item, item.default)
        if item.default != "":  # which no flag can say, since it may be an unset shell variable
            assert parse(flag, item, str(item.default)) == item.default


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_has_a_meaning_and_the_type_of_its_default(name: str):
    for flag, item in options(CONFIGS[name]).items():
        assert item.help, flag
        assert type(item.default) is item.type, flag
