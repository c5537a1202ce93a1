"""Read the figures back: their lines, images and texts must equal the data."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.figures import classification, curves, kernels, style
from experiments.figures.states import hidden_over_time
from experiments.figures.text import colored_text
from recurrent.training.task import Metric

LOSS = Metric("loss", higher_is_better=False)
ACCURACY = Metric("accuracy", higher_is_better=True, format="{:.2%}")
RETURN = Metric("return", higher_is_better=True, format="{:.1f} points")
BOTH = [LOSS, ACCURACY]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ROWS = [
    {
        "step": 40 * (i + 1),
        "evaluation": i + 1,
        "train_loss": 2.0 * 0.5**i,
        "train_accuracy": 0.70 + 0.04 * i,
        "valid_loss": 2.1 * 0.6**i,
        "valid_accuracy": 0.65 + 0.05 * i - 0.01 * i**2,
    }
    for i in range(6)
]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def message(figure: Figure) -> str:
    return figure.get_suptitle()


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def pixel(figure: Figure, panel: int, point: tuple[float, float]) -> np.ndarray:
    """Return the color, 0 to 1, drawn at a point given in the panel's data coordinates."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    from_the_bottom = np.asarray(canvas.buffer_rgba())[::-1] / 255
    x, y = figure.axes[panel].transData.transform(point)
    return from_the_bottom[int(y), int(x)]


def shown(text: Text) -> str:
    """Return what matplotlib draws of a text, by its own rule of what is a formula."""
    assert not is_math_text(text.get_text())
    return text.get_text().replace(r"\$", "$").replace("\u200b", "")


def rendered(text: str, parse_math: bool) -> np.ndarray:
    figure = Figure((3, 1), 100)
    figure.text(0.1, 0.4, text, parse_math=parse_math)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def curve(figure: Figure, panel: int, label: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = [line for line in figure.axes[panel].lines if line.get_label() == label]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


@pytest.mark.parametrize(("panel", "name"), [(0, "loss"), (1, "accuracy")])
@pytest.mark.parametrize(("label", "split"), [("train", "train"), ("validation", "valid")])
def test_learning_curves_draw_every_evaluation(panel: int, name: str, label: str, split: str):
    steps, values = curve(curves.learning_curves(ROWS, BOTH), panel, label)
    np.testing.assert_array_equal(steps, [40, 80, 120, 160, 200, 240])
    np.testing.assert_array_equal(values, [row[f"{split}_{name}"] for row in ROWS])


def test_learning_curves_mark_the_best_step_in_both_panels():
    figure = curves.learning_curves(ROWS, BOTH, best_step=160)
    assert message(figure) == (
        "At its best evaluation, step 160 of 240: validation accuracy 71.0 %"
    )
    for panel in (0, 1):
        steps, _ = curve(figure, panel, "best")
        np.testing.assert_array_equal(steps, [160, 160])
    assert texts(figure).count("best evaluation") == 2


@pytest.mark.parametrize("best_step", [40, 120, 240])
def test_the_mark_of_the_best_evaluation_covers_no_title_and_leaves_no_panel(best_step: int):
    figure = curves.learning_curves(ROWS, BOTH, best_step)
    figure.draw_without_rendering()
    for axes in figure.axes:
        (mark,) = [t for t in axes.texts if t.get_text() == "best evaluation"]
        box = mark.get_window_extent()
        (title,) = [t for t in axes.findobj(Text) if t.get_text() == axes.get_title("left")]
        assert not box.overlaps(title.get_window_extent())
        assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1 + 1


@pytest.mark.parametrize("best_step", [0, None])
def test_learning_curves_without_a_best_step_state_the_last_value(best_step: int | None):
    figure = curves.learning_curves(ROWS, BOTH, best_step)
    assert message(figure) == "Validation accuracy 65.0 % after 240 steps"
    assert "best" not in texts(figure)


def test_loss_is_logarithmic_only_when_it_spans_a_decade():
    assert curves.learning_curves(ROWS, BOTH).axes[0].get_yscale() == "log"
    assert curves.learning_curves(ROWS[:2], BOTH).axes[0].get_yscale() == "linear"
    to_zero = [*ROWS, {**ROWS[-1], "step": 280, "train_loss": 0.0}]
    assert curves.learning_curves(to_zero, BOTH).axes[0].get_yscale() == "linear"


def test_what_is_better_when_higher_is_never_logarithmic():
    rows = [{"step": i, "valid_return": 10.0**i} for i in range(4)]
    assert curves.learning_curves(rows, [RETURN]).axes[0].get_yscale() == "linear"


def test_labels_of_curves_that_meet_do_not_overlap():
    rows = [{"step": i, "train_loss": 1.0 / i, "valid_loss": 1.0 / i} for i in range(1, 5)]
    figure = curves.learning_curves(rows, [LOSS])
    figure.draw_without_rendering()
    train, valid = (
        next(t for t in figure.axes[0].texts if t.get_text().startswith(name))
        for name in ("train", "validation")
    )
    assert not train.get_window_extent().overlaps(valid.get_window_extent())


def test_one_evaluation_is_a_visible_point():
    figure = curves.learning_curves(ROWS[:1], BOTH, best_step=40)
    _, values = curve(figure, 1, "validation")
    np.testing.assert_array_equal(values, [0.65])
    np.testing.assert_allclose(pixel(figure, 1, (40, 0.65)), to_rgba(style.ACCENT), atol=0.02)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("metric", BOTH)
def test_values_that_are_not_finite_leave_a_gap_and_a_note(broken: float | None, metric: Metric):
    gap = {f"train_{metric.name}": broken, f"valid_{metric.name}": broken}
    figure = curves.learning_curves([*ROWS[:4], *({**row, **gap} for row in ROWS[4:])], BOTH, 160)
    _, values = curve(figure, BOTH.index(metric), "train")
    np.testing.assert_array_equal(np.isnan(values), [False] * 4 + [True] * 2)
    assert texts(figure).count("not finite in 2 of 6 evaluations,\nfirst at step 200") == 1
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert png(figure).startswith(PNG_SIGNATURE)


def test_curves_of_nan_alone_can_be_drawn():
    rows: list[dict[str, float | None]] = [{"step": 40, "train_loss": float("nan")}]
    figure = curves.learning_curves(rows, BOTH)
    assert message(figure) == "No finite accuracy after 40 steps"
    assert png(figure).startswith(PNG_SIGNATURE)


def test_missing_validation_leaves_the_training_curve():
    rows = [{key: row[key] for key in ("step", "train_loss", "train_accuracy")} for row in ROWS]
    figure = curves.learning_curves(rows, BOTH)
    assert [line.get_label() for line in figure.axes[1].lines] == ["train"]
    assert message(figure) == "Training accuracy 90.0 % after 240 steps"


def test_a_return_that_is_only_evaluated_has_one_curve_up_to_below_zero():
    rows = [{"step": i, "train_loss": 1.0, "valid_return": -200.0 / i} for i in range(1, 21)]
    figure = curves.learning_curves(rows, [LOSS, RETURN], best_step=20)
    assert message(figure) == ("At its best evaluation, step 20 of 20: validation return -10.0")
    assert [line.get_label() for line in figure.axes[1].lines if len(line.get_xydata()) > 2] == [  # pyright: ignore[reportArgumentType]
        "validation"
    ]
    low, high = figure.axes[1].get_ylim()
    assert -250 < low < -200
    assert -10 < high < 50
    assert "validation -10.0" in texts(figure)


def test_a_metric_that_no_row_has_is_said_to_be_missing():
    figure = curves.learning_curves([{"step": 10, "valid_return": -5.0}], BOTH, best_step=10)
    assert {"loss was not measured", "accuracy was not measured"} <= set(texts(figure))
    assert "best" not in texts(figure)
    assert png(figure).startswith(PNG_SIGNATURE)


def test_before_the_first_evaluation_the_figure_says_that_there_is_none():
    assert message(curves.learning_curves([], BOTH)) == "No evaluation is finished yet"


def test_only_what_people_read_in_percent_is_drawn_in_percent():
    rows = [{"step": 10, "valid_accuracy": 84.25}, {"step": 20, "valid_accuracy": 61.5}]
    points = Metric("accuracy", higher_is_better=False)
    figure = curves.learning_curves(rows, [points], best_step=20)
    assert message(figure) == ("At its best evaluation, step 20 of 20: validation accuracy 61.5")
    assert not any("%" in text for text in texts(figure))


def test_an_error_rate_over_decades_is_logarithmic_and_in_percent():
    rows = [{"step": i, "valid_error": 0.9 / 10**i} for i in range(3)]
    figure = curves.learning_curves(rows, [Metric("error", False, "{:.1%}")])
    figure.draw_without_rendering()
    assert figure.axes[0].get_yscale() == "log"
    assert {"1 %", "10 %", "validation 0.9 %"} <= set(texts(figure))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.012345, "0.0123"),
        (-12.34, "-12.3"),
        (-152.3, "-152"),
        (12345.6, "12346"),
        (2e9, "2.00e+09"),
    ],
)
def test_values_have_three_digits(value: float, expected: str):
    assert curves.format_value(value, RETURN) == expected


ODD_NAMES = ["_hidden", "$x$ of $y$", "$", "a$b", r"\$1 and \$2", "<b> & 'c'", "x^2_i", "_$a$"]


def test_what_no_font_has_is_drawn_as_the_sign_for_it() -> None:
    assert style.plain("a\u4f60\U0001f9e0\x00\ud800\n\u00e9") == "a\ufffd\ufffd\ufffd\ufffd\n\u00e9"
    text = "\u4f60\u597d _\n\U0001f9e0$"
    drawn = colored_text(text, np.ones(len(text)))
    drawn.canvas.draw()  # a warning of a missing glyph is an error here


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_plain_text_is_drawn_as_it_is(name: str):
    expected = rendered(name, parse_math=False)
    assert expected.min() < 255
    np.testing.assert_array_equal(rendered(style.plain(name), parse_math=True), expected)


def test_what_cannot_be_printed_is_drawn_as_a_mark_of_its_own():
    assert style.plain("a\tb\udcff\nc") == "a\ufffdb\ufffd\nc"
    rendered(style.plain("a\tb\udcff\nc"), parse_math=True)


def test_a_legend_shows_every_name_as_it_is():
    figure = curves.overlaid({name: [([1, 2], [1.0, None])] for name in ODD_NAMES}, "$a$ _b")
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [shown(text) for text in legend.get_texts()] == ODD_NAMES
    title = [text for text in figure.texts if "b" in text.get_text()]
    assert [shown(text) for text in title] == ["$a$ _b"]
    box = legend.get_window_extent()
    assert not box.overlaps(title[0].get_window_extent())
    assert not box.overlaps(figure.axes[0].bbox)


def test_a_long_title_is_wrapped_within_its_figure():
    figure = style.titled_figure(3.0, "a title of many $words$ " * 10)
    axes = figure.subplots()
    figure.draw_without_rendering()
    (title,) = figure.texts
    box = title.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= axes.bbox.y1


@pytest.mark.parametrize("name", ODD_NAMES)
def test_learning_curves_show_the_name_of_a_metric_as_it_is(name: str):
    rows: list[dict[str, float | None]] = [{"step": 5, f"valid_{name}": 0.5}]
    metric = Metric(name, higher_is_better=True)
    figure = curves.learning_curves(rows, [metric, LOSS._replace(name=f"{name}2")], best_step=5)
    figure.draw_without_rendering()
    drawn = [shown(text) for text in figure.findobj(Text)]
    assert {name, f"{name}2", f"{name}2 was not measured"} <= set(drawn)
    figure = curves.learning_curves(rows, [metric], best_step=5)
    assert shown(figure.texts[0]).endswith(f"validation {name} 0.500")


def test_confusion_matrix_prints_each_count_in_its_cell_and_no_zero():
    counts = np.array([[50, 0, 2], [1, 40, 0], [0, 0, 7]])
    figure = classification.confusion_matrix(counts)
    cells = {t.get_position(): t.get_text() for t in figure.axes[0].texts}
    assert cells == {(0, 0): "50", (2, 0): "2", (0, 1): "1", (1, 1): "40", (2, 2): "7"}
    assert message(figure).splitlines() == [
        "97.0 % correct; 3 of 100 wrong",
        "Most common mistake: 0 predicted as 2, 2 times",
    ]


def test_only_mistakes_are_colored():
    counts = np.array([[50, 0, 2], [1, 40, 0], [0, 0, 7]])
    image = classification.confusion_matrix(counts).axes[0].images[0].get_array()
    assert isinstance(image, np.ma.MaskedArray)
    np.testing.assert_array_equal(~np.ma.getmaskarray(image), [[0, 0, 1], [1, 0, 0], [0, 0, 0]])


def test_confusion_matrix_uses_names_and_marks_a_class_without_examples():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 4]])
    figure = classification.confusion_matrix(counts, labels=["cat", "dog", "eel"])
    assert figure.axes[0].texts[2].get_text() == "none"
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["cat", "dog", "eel"]
    assert png(figure).startswith(PNG_SIGNATURE)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (np.diag([3, 4]), "All 7 correct"),
        (np.zeros((2, 2), int), "No examples"),
        (np.array([[9_999, 1], [0, 20_000]]), "99.99 % correct; 1 of 30,000 wrong"),
    ],
)
def test_confusion_matrix_message(counts: np.ndarray, expected: str):
    assert message(classification.confusion_matrix(counts)) == expected


@pytest.mark.parametrize("counts", [np.ones((2, 3), int), np.ones(4, int), np.eye(2) / 2])
def test_confusion_matrix_rejects_anything_but_square_counts(counts: np.ndarray):
    with pytest.raises(ValueError, match="Expected"):
        classification.confusion_matrix(counts)


def test_mistakes_are_the_wrong_images_most_confident_first():
    images = np.arange(4 * 6, dtype=float).reshape(4, 2, 3)
    figure = classification.mistakes(
        images,
        true=np.array([7, 3, 5, 8]),
        predicted=np.array([1, 3, 6, 0]),
        probability=np.array([0.5, 0.99, 0.999, 0.75]),
        total=360,
    )
    drawn = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    np.testing.assert_array_equal(drawn, images[[2, 0, 3]][[0, 2, 1]])
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert captions == ["5 → 6, 99 %", "8 → 0, 75 %", "7 → 1, 50 %"]
    assert message(figure).startswith("3 of 360 test images wrong, the most confident first")


def test_an_image_is_upright():
    image = np.zeros((1, 4, 4))
    image[0, 0, 3] = 1.0
    figure = classification.mistakes(image, np.array([1]), np.array([2]), np.array([0.5]), total=9)
    left, right, *edges = figure.axes[0].images[0].get_extent()
    on_screen = figure.axes[0].transData
    low, high = sorted(edges, key=lambda y: on_screen.transform((left, y))[1])
    centers = (np.arange(4) + 0.5) / 4
    shades = [
        [pixel(figure, 0, (left + x * (right - left), high + y * (low - high)))[0] for x in centers]
        for y in centers
    ]
    np.testing.assert_array_equal(np.array(shades) < 0.5, image[0] > 0)


def test_at_most_forty_mistakes_are_drawn():
    probability = np.linspace(0.2, 0.9, 100)
    figure = classification.mistakes(
        np.zeros((100, 8, 8)), np.zeros(100, int), np.ones(100, int), probability, total=1000
    )
    assert len(figure.axes[0].images) == 40
    assert figure.axes[0].texts[0].get_text() == "0 → 1, 90 %"
    assert message(figure).startswith("100 of 1,000 test images wrong; the 40 most confident")


def test_without_a_mistake_the_figure_says_that_all_are_correct():
    right = np.array([4, 2])
    for kept in (slice(0, 0), slice(0, 2)):
        figure = classification.mistakes(
            np.zeros((2, 8, 8))[kept], right[kept], right[kept], np.ones(2)[kept], total=360
        )
        assert message(figure) == "All 360 test images are classified correctly"
        assert png(figure).startswith(PNG_SIGNATURE)


def test_mistakes_of_different_lengths_are_rejected():
    with pytest.raises(ValueError, match="Expected images"):
        classification.mistakes(np.zeros((3, 8, 8)), np.zeros(3), np.ones(2), np.ones(3), total=3)


def peak_times(units_by_time: np.ndarray) -> np.ndarray:
    return np.abs(units_by_time).argmax(axis=1)


def columns_sorted(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, np.lexsort(matrix)]


@pytest.mark.parametrize(
    ("steps", "features", "upright"), [(8, 8, True), (28, 28, True), (784, 1, False)]
)
def test_hidden_state_shares_its_time_axis_with_the_input(steps: int, features: int, upright: bool):
    rng = np.random.default_rng(0)
    states = np.tanh(rng.normal(size=(steps, 16)))
    inputs = rng.uniform(size=(steps, features))
    figure = hidden_over_time(states, inputs, "A digit")
    input_panel, heat_panel = figure.axes[:2]
    drawn = np.asarray(heat_panel.images[0].get_array())
    drawn = drawn if upright else drawn.T
    np.testing.assert_array_equal(columns_sorted(drawn), columns_sorted(states))
    assert (np.diff(peak_times(drawn.T)) >= 0).all()
    assert message(figure) == "A digit"
    if upright:
        np.testing.assert_array_equal(input_panel.images[0].get_array(), inputs)
        assert input_panel.get_ylim() == heat_panel.get_ylim() == (steps - 0.5, -0.5)
    else:
        np.testing.assert_array_equal(input_panel.patches[0].get_data().values, inputs[:, 0])  # pyright: ignore[reportAttributeAccessIssue]
        assert input_panel.get_xlim() == heat_panel.get_xlim() == (-0.5, steps - 0.5)


def test_a_long_sequence_of_several_features_runs_to_the_right():
    inputs = np.random.default_rng(0).normal(size=(200, 12))
    figure = hidden_over_time(np.tanh(inputs), inputs, "Speech")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), inputs.T)


@pytest.mark.long
@pytest.mark.parametrize("scale", [1.0, 0.0, float("nan")])
@pytest.mark.parametrize(("steps", "features"), [(1, 1), (1, 8), (8, 8)])
def test_hidden_colors_are_centered_at_zero(steps: int, features: int, scale: float):
    states = scale * np.linspace(-0.2, 0.7, steps * 4).reshape(steps, 4)
    figure = hidden_over_time(states, np.ones((steps, features)), "Short")
    norm = figure.axes[1].images[0].norm
    largest = 0.7 if scale == 1.0 else 1.0
    assert (norm.vmin, norm.vmax) == (-largest, largest)
    assert png(figure).startswith(PNG_SIGNATURE)


@pytest.mark.parametrize(
    ("states", "inputs"),
    [((8, 4), (7, 8)), ((8, 2, 4), (8, 2, 8)), ((0, 4), (0, 8)), ((8, 0), (8, 8))],
)
def test_hidden_over_time_rejects_other_shapes(states: tuple[int, ...], inputs: tuple[int, ...]):
    with pytest.raises(ValueError, match="Expected"):
        hidden_over_time(np.zeros(states), np.zeros(inputs), "Wrong")


def test_kernels_are_drawn_largest_norm_first_on_one_scale():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 5))
    kernel[..., 3] *= 0.01
    kernel[..., 1] *= 100
    figure = kernels.kernels(kernel)
    images = figure.axes[0].images
    order = [int(text.get_text()) for text in figure.axes[0].texts]
    norms = np.linalg.norm(kernel.reshape(9, 5), axis=0)
    assert (np.diff(norms[order]) <= 0).all()
    assert sorted(order) == [0, 1, 2, 3, 4]
    for image, index in zip(images, order, strict=True):
        np.testing.assert_array_equal(image.get_array(), kernel[:, :, 0, index])
    largest = np.abs(kernel).max()
    assert {(image.norm.vmin, image.norm.vmax) for image in images} == {(-largest, largest)}


def test_input_channels_of_a_kernel_are_drawn_below_one_another():
    kernel = np.random.default_rng(0).normal(size=(2, 4, 3, 1))
    drawn = kernels.kernels(kernel).axes[0].images[0].get_array()
    assert isinstance(drawn, np.ma.MaskedArray)
    tile = drawn.filled(np.nan)
    assert tile.shape == (3 * 2 + 2, 4)
    for channel, top in enumerate((0, 3, 6)):
        np.testing.assert_array_equal(tile[top : top + 2], kernel[:, :, channel, 0])
    assert np.isnan(tile[[2, 5]]).all()


def test_the_title_of_kernels_counts_weights_that_are_not_finite():
    kernel = np.ones((3, 3, 1, 2))
    kernel[0, 0, 0, 1] = np.nan
    figure = kernels.kernels(kernel)
    assert message(figure).endswith("1 of 18 weights not finite")
    assert png(figure).startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("shape", [(3, 3, 8), (3, 3, 1, 0)])
def test_kernels_reject_other_shapes(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="Expected a kernel"):
        kernels.kernels(np.zeros(shape))
