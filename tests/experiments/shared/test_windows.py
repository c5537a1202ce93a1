"""Windows of series: no value of the future in what is read, errors as MASE defines them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.forecast import Panel
from experiments.harness.errors import UserError
from experiments.shared import forecasting, forecasts, windows
from experiments.shared.reading_series import Reader, read
from experiments.shared.series_classes import mixed
from experiments.shared.series_jobs import with_fitting_season
from experiments.time_series import Config

H, SEASON, FOLDS = 3, 4, 2


def panel(columns: int = 2, length: int = 40) -> Panel:
    rng = np.random.default_rng(0)
    values = [100 + rng.normal(size=(length + 5 * k, columns)).cumsum(0) for k in range(2)]
    values[0][7, 0] = values[1][20, -1] = values[1][-2, 0] = np.nan
    return Panel(["one", "two"], values, H, SEASON)


def arrays_of(series: Panel) -> dict[str, windows.Windows]:
    return windows.prepared(series, FOLDS, 0).windows


def test_targets_of_the_splits_follow_one_another() -> None:
    places = windows.places_of(panel(), FOLDS)
    reach = FOLDS * H
    for number, values in enumerate(panel().values):
        total = len(values)
        own = {
            name: [each for each in found if each.series == number]
            for name, found in places.items()
        }
        assert {each.end for each in own["train"]} == {total - 2 * reach}
        assert max(each.origin for each in own["train"]) == total - 2 * reach - 1
        assert min(each.origin for each in own["valid"]) == total - 2 * reach
        assert max(each.origin for each in own["valid"]) + H == total - reach
        assert [each.origin for each in own["test"]] == [total - reach, total - reach + H]


def test_what_is_read_does_not_move_with_what_comes() -> None:
    """Nor do covariates of the same steps, nor the statistics of training."""
    before = arrays_of(panel())
    changed = panel()
    for values in changed.values:
        values[-2 * FOLDS * H :] += 50.0
    after = arrays_of(changed)
    for name in ("past", "naive", "length"):
        np.testing.assert_array_equal(before["train"].arrays[name], after["train"].arrays[name])
    np.testing.assert_array_equal(before["train"].arrays["known"], after["train"].arrays["known"])
    known = before["train"].arrays["known"]
    first = len(panel().values[0]) - 2 * FOLDS * H
    for place, each in zip(before["train"].places, known, strict=True):
        if place.series == 0 and place.origin > first - H:
            assert not each[first - place.origin :].any()


@pytest.mark.long
def test_errors_are_those_of_the_definition() -> None:
    """MASE by loops over the values, of the forecasts that need no network."""
    series = panel(columns=1)
    test = arrays_of(series)["test"]
    batch = {name: jnp.asarray(each) for name, each in test.arrays.items()}
    batch["mask"] = jnp.ones(len(test.last), bool)
    found = forecasting.metrics(jnp.zeros((len(test.last), H, 7)), batch)
    sums = {
        name: []
        for name in (*("naive", "seasonal_naive", "drift"), *("seasonal_drift", "seasonal_mean"))
    }
    for values in (each[:, 0] for each in series.values):
        total, reach = len(values), FOLDS * H
        train = values[: total - reach]
        unit = np.nanmean([abs(train[t] - train[t - SEASON]) for t in range(SEASON, len(train))])
        for origin in (total - reach, total - H):
            past = [*values[:origin]]
            for t in range(1, origin):
                past[t] = past[t - 1] if np.isnan(past[t]) else past[t]
            slope = (past[-1] - past[0]) / (origin - 1)
            predicted = {
                "naive": [past[-1]] * H,
                "seasonal_naive": [past[origin + k - SEASON] for k in range(H)],
                "drift": [past[-1] + (k + 1) * slope for k in range(H)],
                "seasonal_drift": [*past],
            }
            over = np.mean([past[t] - past[t - SEASON] for t in range(SEASON, origin)])
            ahead = predicted["seasonal_drift"]
            for _ in range(H):
                ahead.append(ahead[-SEASON] + over)
            predicted["seasonal_drift"] = ahead[origin:]
            starts = [*range(origin - SEASON, -1, -SEASON)][:8]
            levels = {start: np.mean(past[start : start + SEASON]) for start in starts}
            predicted["seasonal_mean"] = [
                levels[origin - SEASON]
                + np.mean([past[start + k % SEASON] - levels[start] for start in starts])
                for k in range(H)
            ]
            for name, each in predicted.items():
                errors = [
                    abs(a - b) for a, b in zip(each, values[origin : origin + H], strict=True)
                ]
                sums[name].append(np.nanmean(errors) / unit)
    for name, each in sums.items():
        assert float(found[f"mase_{name}"].mean) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(found["mase"].mean) == pytest.approx(np.mean(sums["naive"]), rel=1e-5)


def test_missing_values_are_flagged_carried_forward_and_no_targets() -> None:
    values = np.array([[1.0], [2.0], [np.nan], [4.0], [np.nan], [8.0]])
    units, steps = np.array([1.0, 5.0]), np.array([1.0, 2.0])
    settings = windows.Settings(4, 1, 2, np.zeros(0), np.ones(0), units, steps)
    naive = windows.naive_forecasts(windows.filled(values[:4, 0]), 2, 1)
    arrays, last, scale = windows.example(values[:4], values[4:, 0], naive, settings, series=1)
    assert (last, scale) == (4.0, 1.0)  # steps 1, 0 and 2
    np.testing.assert_allclose(arrays["past"][:, 0], np.arcsinh([0, 1, 0, 2]), rtol=1e-6)
    assert arrays["past"][:, 3].tolist() == [0, 0, 1, 0]
    assert arrays["known"].tolist() == [False, True]
    assert arrays["future"].tolist() == [0, 4]
    assert (arrays["ratio"], arrays["steps"]) == (np.float32(0.2), np.float32(0.5))


def test_short_and_constant_series_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"one: expected at least 15 steps, .* got 14"):
        windows.prepared(Panel(["one"], [np.arange(14.0)[:, None]], H), FOLDS, 0)
    windows.prepared(Panel(["one"], [np.arange(15.0)[:, None]], H), FOLDS, 0)
    assert capsys.readouterr().err == ""
    flat = Panel(["flat"], [np.full((30, 1), 7.0)], H)
    found = windows.prepared(flat, FOLDS, 0)
    assert (
        "flat: before the test windows, no known value differs from another, so MASE is not"
        in capsys.readouterr().err
    )
    for each in found.windows["test"].arrays.values():
        assert np.isfinite(each).all()
    gone = flat.values[0].copy()
    gone[-FOLDS * H :] = np.nan
    with pytest.raises(UserError, match="expected known values in and before the test windows"):
        windows.prepared(Panel(["flat"], [gone], H), FOLDS, 0)


def sines(noise: float, every: int = 1) -> Panel:
    """Twelve years of months that repeat themselves but for noise, some of them known."""
    t = np.arange(144)
    values = 5 + np.sin(2 * np.pi * t / 12) + noise * np.random.default_rng(0).normal(size=144)
    values[t % every > 0] = np.nan
    return Panel(["sine"], [values[:, None]], H, season=12)


@pytest.mark.parametrize(
    ("noise", "every", "said"),
    [
        (0.0, 1, "each season repeats the one before, which the naive forecast gets right; MASE"),
        (1e-15, 1, "each season repeats the one before"),
        (0.1, 5, ""),  # known values are a season of 12 apart where 5 divides 60
        (0.1, 1, ""),
        (1e-6, 1, ""),
    ],
)
def test_a_series_that_repeats_itself_but_for_rounding_counts_in_mean_steps(
    capsys: pytest.CaptureFixture[str], noise: float, every: int, said: str
) -> None:
    """Else MASE divides by rounding, and a forecast that is off by 0.01 has one of 1e13."""
    series = sines(noise, every)
    if every > 1:
        series = series._replace(season=every)
    found = windows.prepared(series, FOLDS, 0)
    err = capsys.readouterr().err
    assert said in err
    assert bool(said) == ("MASE" in err)
    values = series.values[0][: 144 - FOLDS * H, 0]
    season = 1 if said else series.season
    changes = [abs(values[t] - values[t - season]) for t in range(season, len(values))]
    assert found.settings.units[0] == pytest.approx(np.nanmean(changes))


def test_known_values_that_are_never_a_step_apart_have_a_unit_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    series = sines(0.1, every=3)._replace(season=1)
    found = windows.prepared(series, FOLDS, 0)
    err = capsys.readouterr().err
    assert "sine: before the test windows, no two known values are one step apart; MASE" in err
    known = series.values[0][: 144 - FOLDS * H : 3, 0]
    steps = [abs(b - a) for a, b in itertools.pairwise(known)]
    assert found.settings.units[0] == pytest.approx(np.mean(steps))
    assert found.settings.steps[0] == pytest.approx(np.mean(steps))


def test_windows_without_a_known_value_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    values = np.arange(40.0)[:, None]
    values[-H:] = np.nan
    found = windows.prepared(Panel(["one"], [values], H), FOLDS, 0)
    assert len(found.windows["test"].places) == FOLDS - 1
    assert f"the test windows: 1 of {FOLDS} have no known value in them" in capsys.readouterr().err


@pytest.mark.parametrize("season", [1, 4, 7])
def test_the_change_over_a_season_is_the_mean_of_all(season: int) -> None:
    """It is computed from the ends, since all between cancels."""
    values = np.random.default_rng(season).normal(size=30).cumsum()
    found = windows.naive_forecasts(values, 1, season)[0, windows.NAIVE.index("seasonal drift")]
    changes = [values[t] - values[t - season] for t in range(season, 30)]
    assert found == pytest.approx(values[30 - season] + np.mean(changes), rel=1e-12)


def test_the_quantile_loss_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    found, future = np.sort(rng.normal(size=(5, H, 7)), -1), rng.normal(size=(5, H))
    expected = np.zeros((5, H))
    for k, q in enumerate(forecasting.QUANTILES):
        error = future - found[..., k]
        expected += 2 * np.where(error > 0, q * error, (q - 1) * error) / 7
    np.testing.assert_allclose(
        forecasting.pinball(jnp.asarray(found), jnp.asarray(future)), expected, rtol=1e-5
    )


@pytest.mark.long
def test_a_new_network_predicts_the_mean_of_the_naive_forecasts_and_quantiles_rise() -> None:
    test = arrays_of(panel())["test"]
    model = forecasting.model_for(Config(hidden_size=4, layers=1), test.arrays)
    params = forecasting.init(model, jax.random.key(0))
    found = np.asarray(forecasting.quantiles(model, params, test.arrays))
    np.testing.assert_allclose(
        found[..., forecasting.MIDDLE], test.arrays["naive"].mean(-1), rtol=1e-4, atol=1e-5
    )
    moved = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params
    )
    assert (
        np.diff(np.asarray(forecasting.quantiles(model, moved, test.arrays)), axis=-1) > 0
    ).all()


@pytest.mark.long
@pytest.mark.parametrize("surprise", [0.1, 9.0], ids=["wide enough", "too narrow"])
def test_the_validation_windows_make_bands_wider_but_never_narrower(surprise: float) -> None:
    valid = arrays_of(panel(length=80))["valid"].arrays
    model = forecasting.model_for(Config(hidden_size=4, layers=1), valid)
    params = forecasting.init(model, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    raw = np.asarray(forecasting.quantiles(model, params, valid), float)
    low, high = forecasting.BANDS[80]
    median = raw[..., forecasting.MIDDLE]
    noise = surprise * np.random.default_rng(1).normal(size=median.shape)
    valid = valid | {"future": (median + noise).astype(np.float32)}
    known = np.asarray(valid["known"], bool)
    params = forecasting.widened(model, params, {}, valid)
    found = np.asarray(forecasting.quantiles(model, params, valid), float)
    np.testing.assert_allclose(found[..., forecasting.MIDDLE], median, rtol=1e-5, atol=1e-6)
    reached = np.maximum(-noise / (median - raw[..., low]), noise / (raw[..., high] - median))
    factor = np.quantile(reached[known], 0.8)
    assert (factor > 1) == (surprise == 9)
    steps, wider = (each - median[..., None] for each in (raw, found))
    np.testing.assert_allclose(wider, max(1, factor) * steps, rtol=1e-3, atol=1e-4)
    inside = (found[..., low] <= valid["future"]) & (valid["future"] <= found[..., high])
    assert inside[known].mean() >= 0.8 - 1 / known.sum()


@pytest.mark.parametrize("surprise", [0.0, 1.0], ids=["none", "some"])
def test_bands_of_no_width_stay_as_they_are(surprise: float) -> None:
    valid = arrays_of(panel())["valid"].arrays
    model = forecasting.model_for(Config(hidden_size=2, layers=1), valid)
    params = forecasting.init(model, jax.random.key(0))
    params["head"]["bias"] = params["head"]["bias"] - 200
    found = np.asarray(forecasting.quantiles(model, params, valid))
    assert (np.diff(found) == 0).all()
    valid = valid | {"future": found[..., forecasting.MIDDLE] + np.float32(surprise)}
    assert forecasting.widened(model, params, {}, valid)["wider"] == 1


@pytest.mark.long
def test_forecasts_are_in_the_units_of_the_values() -> None:
    """Ten times the values, and some more: ten times the forecasts, and some more."""
    one = panel(columns=1)
    other = one._replace(values=[10 * each + 7 for each in one.values])
    config = Config(hidden_size=4, layers=1)
    found = []
    for series in (one, other):
        ready = windows.prepared(series, FOLDS, 0)
        model = forecasting.model_for(config, ready.windows["test"].arrays)
        params = forecasting.init(model, jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
        found.append(forecasts.next_steps(config, params, series, ready.settings))
    np.testing.assert_allclose(found[1], 10 * found[0] + 7, rtol=1e-4)
    assert found[0].shape == (2, H, 7)


@pytest.mark.long
@pytest.mark.parametrize("flat", [False, True], ids=["moving", "flat"])
def test_the_next_steps_are_predicted_as_those_of_a_test_window_were(flat: bool) -> None:
    """Also after a past that never changes, which gives no unit of its own."""
    values = 1000 + np.random.default_rng(0).normal(size=(60, 1)).cumsum(0)
    values[30:] = values[30] if flat else values[30:]
    series = Panel(["one"], [values], H, SEASON)
    config = Config(hidden_size=4, layers=1)
    ready = windows.prepared(series, FOLDS, context=10)
    model = forecasting.model_for(config, ready.windows["test"].arrays)
    params = jax.tree.map(lambda leaf: leaf + 0.1, forecasting.init(model, jax.random.key(0)))
    expected = forecasts.predicted(config, params, ready.windows["test"])[-1]
    cut = series._replace(values=[values[:-H]])
    (found,) = forecasts.next_steps(config, params, cut, ready.settings)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    widest = (found[:, -1] - found[:, 0]).max()
    assert 0 < widest < 100 * windows.unit_of(values[:30, 0], 1)


def test_the_loss_of_forecasts_does_not_depend_on_the_season_and_mase_does() -> None:
    found = []
    for season in (1, SEASON):
        test = arrays_of(panel()._replace(season=season))["test"]
        batch = test.arrays | {"mask": np.ones(len(test.last), bool)}
        metrics = forecasting.metrics(jnp.asarray(in_units(in_values(test), test)), batch)
        found.append([float(metrics[name].mean) for name in ("loss", "mase")])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    units = [windows.units_of(panel()._replace(season=each), FOLDS) for each in (1, SEASON)]
    assert found[0][1] / found[1][1] == pytest.approx((units[1] / units[0]).mean(), rel=0.2)


@pytest.mark.long
def test_padding_and_company_do_not_change_what_is_read_of_a_series() -> None:
    reader = Reader("gru", 2, 3, 2)
    params = reader.model().init(jax.random.key(0))
    rng = np.random.default_rng(0)
    xs, lengths = jnp.asarray(rng.normal(size=(6, 2, 2)), jnp.float32), jnp.array([6, 2])
    together = read(reader, params, xs, lengths, 0.0, None)
    assert together.shape == (2, reader.size)
    for row, length in enumerate(lengths.tolist()):
        alone = read(reader, params, xs[:length, row : row + 1], jnp.array([length]), 0.0, None)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6)


def test_steps_side_by_side_share_their_coverage_where_windows_are_few() -> None:
    inside = np.arange(4 * 17).reshape(4, 17) % 3 == 0
    ahead, share = forecasts.by_steps(inside, np.ones((4, 17), bool))
    assert ahead.tolist() == [3.0, 8.0, 14.0]
    parts = inside[:, :5], inside[:, 5:10], inside[:, 10:]
    np.testing.assert_allclose(share, [part.mean() for part in parts])


def test_all_steps_share_their_coverage_where_a_line_would_have_two_points() -> None:
    inside = np.arange(4 * 12).reshape(4, 12) % 3 == 0
    ahead, share = forecasts.by_steps(inside, np.ones((4, 12), bool))
    assert ahead.tolist() == [6.5]
    np.testing.assert_allclose(share, [inside.mean()])


@pytest.mark.long
def test_examples_that_fill_up_a_batch_have_features_and_gradients_of_zero() -> None:
    reader = Reader("gru", 2, 3, 1)
    params = reader.model().init(jax.random.key(0))
    xs = jnp.ones((4, 2, 2))

    def total(params: object, lengths: jax.Array) -> jax.Array:
        return read(reader, params, xs, lengths, 0.0, None)[1].sum()

    value, slopes = jax.value_and_grad(total)(params, jnp.array([4, 0]))
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes))


def test_a_season_that_does_not_fit_is_none_which_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    series = Panel(["one"], [np.arange(20.0)[:, None]], H, season=14)
    assert with_fitting_season(series, FOLDS).season == 1
    assert "one: a season of 14 steps does not fit into the 14" in capsys.readouterr().err
    assert with_fitting_season(series._replace(season=13), FOLDS).season == 13
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_cases_are_mixed_as_the_equation_says_and_never_with_what_fills_up() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 4, 2)).astype(np.float32)
    batch = {"values": values, "label": np.arange(6), "mask": np.arange(6) < 5}
    shares = []
    for seed in range(20):
        found, partner, share = map(jax.device_get, mixed(jax.random.key(seed), batch, 0.4))
        assert sorted(partner) == [*range(6)]
        for i, j in enumerate(partner):
            expected = (1 - share[i]) * values[i] + share[i] * values[j]
            np.testing.assert_allclose(found["values"][i], expected, rtol=1e-5, atol=1e-6)
            assert 5 not in (i, j) or share[i] == 0
        shares += [*share]
    assert 0.05 < np.mean(shares) < 0.25
    assert max(shares) <= 0.5
    unmixed, _, share = mixed(jax.random.key(0), batch, 0.0)
    np.testing.assert_array_equal(unmixed["values"], values)
    assert not share.any()


def in_values(found: windows.Windows, seed: int = 0) -> np.ndarray:
    """Rising quantiles about the last value of each window, in values."""
    rng = np.random.default_rng(seed)
    shape = len(found.last), H, len(forecasting.QUANTILES)
    return found.last[:, None, None] + np.sort(3 * rng.normal(size=shape), axis=-1)


def in_units(values: np.ndarray, found: windows.Windows) -> np.ndarray:
    return (values - found.last[:, None, None]) / found.scale[:, None, None]


def test_a_band_lies_between_the_quantiles_that_its_share_says() -> None:
    levels = forecasting.QUANTILES
    assert levels[forecasting.MIDDLE] == 0.5
    for share, (low, high) in forecasting.BANDS.items():
        assert levels[high] - levels[low] == pytest.approx(share / 100)
        assert levels[high] + levels[low] == pytest.approx(1)


def test_coverage_and_errors_of_metrics_and_report_are_those_that_are_counted() -> None:
    found = arrays_of(panel())["test"]
    values = in_values(found)
    batch = found.arrays | {"mask": np.ones(len(values), bool)}
    metrics = forecasting.metrics(jnp.asarray(in_units(values, found)), batch)
    judged = forecasts.judged(values, found)
    units = windows.units_of(panel(), FOLDS)
    inside, mases = {share: [] for share in forecasting.BANDS}, []
    for place, row in zip(found.places, values, strict=True):
        truth = panel().values[place.series][place.origin : place.origin + H, 0]
        known = np.isfinite(truth)
        for share, (low, high) in forecasting.BANDS.items():
            lies = (row[: len(truth), low] <= truth) & (truth <= row[: len(truth), high])
            inside[share] += lies[known].tolist()
        errors = np.abs(row[: len(truth), forecasting.MIDDLE] - truth)[known]
        mases.append(errors.mean() / units[place.series])
    for share, lies in inside.items():
        assert float(metrics[f"coverage_{share}"].mean) == pytest.approx(np.mean(lies), abs=1e-6)
        within, known = forecasts.inside_band(judged, share)
        assert within.sum() / known.sum() == pytest.approx(np.mean(lies))
    assert float(metrics["mase"].mean) == pytest.approx(np.mean(mases), rel=1e-4)
    np.testing.assert_allclose(forecasts.mase_of(judged.errors["ours"]), mases, rtol=1e-4)


def test_a_window_weighs_in_training_as_the_root_of_its_unit() -> None:
    found = arrays_of(panel())["test"]
    model = forecasting.model_for(Config(hidden_size=3, layers=1), found.arrays)
    params = forecasting.init(model, jax.random.key(0))
    batch = found.arrays | {"mask": np.ones(len(found.last), bool)}
    hparams = {"noise": 0.0, "dropout": 0.0}
    loss, _ = forecasting.training_loss(model, params, batch, jax.random.key(0), hparams)
    quantiles = np.asarray(forecasting.quantiles(model, params, batch), float)
    costs = []
    for k, row in enumerate(quantiles):
        known = batch["known"][k]
        e = (batch["future"][k][:, None] - row)[known]
        q = np.array(forecasting.QUANTILES)
        costs.append(2 * np.maximum(q * e, (q - 1) * e).mean() * batch["ratio"][k] ** 0.5)
    assert float(loss) == pytest.approx(np.mean(costs), rel=1e-4)
