"""The same explanations by the packages shap, lime, captum and Quantus, of the same models.

``-rP`` prints how close they come.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from recurrent import explain

pytestmark = [pytest.mark.long, pytest.mark.optimized]

BATCH, STEPS, FEATURES, HIDDEN, CLASSES = 4, 6, 3, 8, 3


def package(name: str) -> Any:
    """Import a package, whose own warnings are its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed: it is in explain")


@pytest.fixture(autouse=True)
def their_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def torch() -> Any:
    return package("torch")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def perceptron(features: int) -> Any:
    w, v = draw(features, 12) / 2, draw(12, seed=1)
    return jax.jit(lambda xs: jnp.tanh(jnp.asarray(xs, jnp.float32) @ w) @ v)


def correlation(name: str, found: Any, expected: Any) -> float:
    value = np.corrcoef(np.ravel(found), np.ravel(expected))[0, 1]
    print(f"{name}: correlation {value:.5f}")
    return value


def test_kernel_shap_is_that_of_shap() -> None:
    shap = package("shap")
    f, xs, background = perceptron(16), draw(BATCH, 16, seed=2), draw(10, 16, seed=3)
    explainer = shap.KernelExplainer(lambda rows: np.asarray(f(rows)), background, seed=0)
    theirs = explainer.shap_values(xs, nsamples=2000, l1_reg=False, silent=True)
    ours = jax.jit(
        lambda xs: explain.kernel_shap(
            f, xs, jax.random.key(0), background=background, samples=2000
        )
    )(xs)
    assert correlation("kernel SHAP, 16 features, 2000 samples", ours.values, theirs) >= 0.98
    np.testing.assert_allclose(ours.gap, 0, atol=1e-4)


def test_exact_values_are_those_of_shap() -> None:
    shap = package("shap")
    f, xs, background = perceptron(8), draw(BATCH, 8, seed=2), draw(10, 8, seed=3)
    explainer = shap.explainers.ExactExplainer(lambda rows: np.asarray(f(rows)), background)
    theirs = explainer(xs).values
    ours = explain.exact_shapley(f, xs, background=background)
    difference = abs(np.asarray(ours.values) - theirs).max()
    print(f"exact SHAP, 8 features: largest difference {difference:.1e}")
    assert difference < 1e-5


def test_local_models_are_those_of_lime_for_tables() -> None:
    """Features are shown or hidden, so to lime they are categories, 1 or 0."""
    lime_tabular = package("lime.lime_tabular")
    f, xs = perceptron(10), draw(BATCH, 10, seed=2)
    table = np.random.default_rng(0).integers(0, 2, (500, 10))
    table[:2] = [[0] * 10, [1] * 10]
    theirs = np.zeros((BATCH, 10))
    for row, x in enumerate(xs):
        explainer = lime_tabular.LimeTabularExplainer(
            table,
            mode="regression",
            categorical_features=range(10),
            feature_names=list(map(str, range(10))),
            random_state=0,
        )
        found = explainer.explain_instance(
            np.ones(10), lambda shown, x=x: np.asarray(f(shown * x)), num_features=10,
            num_samples=4000,
        )  # fmt: skip
        for feature, weight in found.local_exp[1]:
            theirs[row, feature] = weight
    ours = explain.lime_weights(f, xs, jax.random.key(0), samples=4000)
    assert correlation("LIME of tables", ours.weights, theirs) >= 0.95


def test_local_models_are_those_of_lime_for_images() -> None:
    lime_image = package("lime.lime_image")
    f, image = perceptron(64), np.abs(draw(8, 8, seed=2))
    labels = explain.grid_labels((8, 8), (2, 2))

    def two_classes(images: Any) -> Any:
        score = np.asarray(f(np.asarray(images)[..., 0].reshape(-1, 64)))
        return np.stack([score, -score], 1)

    found = lime_image.LimeImageExplainer(random_state=0).explain_instance(
        np.repeat(image[..., None], 3, -1).astype(np.float64),
        two_classes,
        labels=(0,),
        top_labels=None,
        hide_color=0,
        num_samples=3000,
        segmentation_fn=lambda image: labels,
    )
    theirs = np.zeros(16)
    for segment, weight in found.local_exp[0]:
        theirs[segment] = weight
    ours = explain.lime_weights(
        lambda xs: f(xs.reshape(-1, 64)), image[None], jax.random.key(0), labels=labels,
        samples=3000,
    )  # fmt: skip
    assert correlation("LIME of images", ours.weights, theirs) >= 0.95


class _Pair:
    """Hold one recurrent classifier twice: in torch, and as a function of JAX."""

    def __init__(self, torch: Any, kind: str) -> None:
        torch.manual_seed(0)
        hidden = getattr(torch.nn, kind)(FEATURES, HIDDEN, batch_first=True)
        readout = torch.nn.Linear(HIDDEN, CLASSES)

        class Classifier(torch.nn.Module):  # pyright: ignore[reportUntypedBaseClass]
            def __init__(self) -> None:
                super().__init__()
                self.hidden, self.readout = hidden, readout

            def forward(self, xs: Any) -> Any:
                return self.readout(self.hidden(xs.reshape(len(xs), -1, FEATURES))[0][:, -1])

        self.module = Classifier().eval()
        make = {"LSTM": recurrent.lstm, "GRU": recurrent.gru, "RNN": recurrent.elman}[kind]
        cell = make(FEATURES, HIDDEN)
        params = recurrent.convert.from_torch(hidden.state_dict())
        kernel, bias = (each.detach().numpy() for each in (readout.weight, readout.bias))

        def model(xs: Any) -> Any:
            return recurrent.unroll(cell, params, xs)[1][-1] @ kernel.T + bias

        self.model = explain.time_major(model)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_integrated_gradients_and_gradients_are_those_of_captum(torch: Any, kind: str) -> None:
    attr = package("captum.attr")
    pair, xs, base = _Pair(torch, kind), draw(BATCH, STEPS, FEATURES), draw(STEPS, FEATURES, seed=1)
    classes = [0, 1, 2, 0]
    tensors = torch.from_numpy(xs), torch.from_numpy(np.broadcast_to(base, xs.shape).copy())
    target = torch.tensor(classes)
    theirs = attr.IntegratedGradients(pair.module).attribute(*tensors, target=target, n_steps=50)
    f = explain.chosen_output(pair.model, classes)
    ours = explain.integrated_gradients(f, xs, baseline=base)
    difference = abs(np.asarray(ours.map) - theirs.detach().numpy()).max()
    print(f"integrated gradients of {kind}: largest difference {difference:.1e}")
    assert difference < 1e-4
    np.testing.assert_allclose(ours.gap, 0, atol=1e-4)
    saliency = attr.Saliency(pair.module).attribute(tensors[0], target=target, abs=False)
    np.testing.assert_allclose(explain.gradient(f, xs), saliency.detach().numpy(), atol=1e-5)


def test_occlusion_of_windows_is_that_of_captum(torch: Any) -> None:
    attr = package("captum.attr")
    pair, xs = _Pair(torch, "GRU"), draw(BATCH, STEPS, FEATURES)
    theirs = attr.Occlusion(pair.module).attribute(
        torch.from_numpy(xs), sliding_window_shapes=(2, 2), target=1, baselines=0.3
    )
    f = explain.chosen_output(pair.model, 1)
    ours = explain.sliding_occlusion(f, xs, window=(2, 2), baseline=0.3)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)


def test_deletion_is_the_pixel_flipping_of_quantus(torch: Any) -> None:
    quantus = package("quantus")
    pair, xs = _Pair(torch, "LSTM"), draw(BATCH, STEPS, FEATURES)
    maps, classes = draw(BATCH, STEPS, FEATURES, seed=5), np.array([0, 1, 2, 0])
    metric = quantus.PixelFlipping(
        features_in_step=3, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )
    theirs = metric(
        model=pair.module,
        x_batch=xs[:, None],  # it takes images [B, C, H, W]
        y_batch=classes,
        a_batch=maps[:, None],
        softmax=False,
        device="cpu",
        channel_first=True,
    )
    f = explain.chosen_output(pair.model, classes)
    ours = explain.deletion_curve(f, xs, maps, steps=STEPS * FEATURES // 3)
    print(f"pixel flipping: largest difference {abs(ours[1:].T - np.asarray(theirs)).max():.1e}")
    np.testing.assert_allclose(ours[1:].T, theirs, atol=1e-5)


def test_the_largest_sensitivity_is_that_of_quantus(torch: Any) -> None:
    """Both see the same noise: the largest of two samples of it would differ by 10 %."""
    quantus = package("quantus")
    pair, xs = _Pair(torch, "GRU"), draw(BATCH, STEPS, FEATURES)
    f, seen = explain.chosen_output(pair.model, 1), []

    def watched(xs: Any) -> Any:
        jax.debug.callback(lambda each: seen.append(np.asarray(each)), xs)
        return explain.gradient(f, xs)

    ours = explain.max_sensitivity(watched, xs, jax.random.key(0), radius=0.2, samples=50)
    jax.effects_barrier()
    assert len(seen) >= 50
    noisy = iter(seen)

    def saliency(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        tensor = torch.tensor(inputs, dtype=torch.float32, requires_grad=True)
        model(tensor)[:, 1].sum().backward()
        return tensor.grad.numpy()

    metric = quantus.MaxSensitivity(
        nr_samples=len(seen),
        perturb_func=lambda arr, **_: next(noisy).reshape(arr.shape),
        disable_warnings=True,
    )
    theirs = metric(
        model=pair.module,
        x_batch=xs[:, None],
        y_batch=np.ones(BATCH, int),
        a_batch=None,
        explain_func=saliency,
        softmax=False,
        device="cpu",
        channel_first=True,
    )
    print(f"sensitivity: relative difference {abs(ours / np.asarray(theirs) - 1).max():.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
