"""Proximal policy optimization: the first ratio is 1, it learns, and goes on after a stop."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__, recurrent_ppo
from experiments.harness.checkpoint import checkpoints, restore, save
from experiments.harness.config import hparams_of
from experiments.harness.errors import UserError
from experiments.recurrent_ppo import Config, agent_of, program
from experiments.shared import acting, playing, proximal
from experiments.shared.policies import policy_agent
from experiments.shared.proximal import (
    chosen,
    experience,
    orders,
    proximal_loss,
    proximal_task,
)
from tests.experiments.countdown import countdown

SMALL = Config(
    environment="memory_chain",
    length=2,
    hidden_size=8,
    environments=4,
    horizon=8,
    minibatches=2,
    epochs=2,
    steps=20 * 32,
)


def hparams(config: Config, **changes: Any) -> dict[str, Any]:
    found = hparams_of(dataclasses.replace(config, **changes))
    return {name: jnp.asarray(value[0]) for name, value in found.items()}


def bits(tree: Any) -> list[bytes]:
    def plain(leaf: Any) -> Any:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return [np.asarray(plain(leaf)).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def trainer() -> Any:
    """The task, its hyperparameters, and three steps of it, compiled once."""
    task, given = program(SMALL).task, hparams(SMALL)
    train = jax.jit(lambda state, given=given: task.train(state, given, (), 3))
    return task, given, train


CELLS = ["gru", *(pytest.param(cell, marks=pytest.mark.long) for cell in ("lstm", "lru", "mlstm"))]


@pytest.mark.parametrize("cell", CELLS)
def test_the_ratio_of_the_first_minibatch_is_one(cell: str) -> None:
    """In episodes that begin and end within a rollout, and with carries from the one before."""
    config = dataclasses.replace(SMALL, cell=cell)
    agent, task, given = agent_of(config), program(config).task, hparams(config)

    @jax.jit
    def ratios(seed: Any) -> Any:
        learner = task.init(given | {"seed": seed})
        for key in jax.random.split(jax.random.key(1)):
            learner, batch, _ = experience(config, agent, learner, key, given)
        sharp = jax.tree.map(lambda leaf: 3 * leaf, learner.training.params)
        training = learner.training._replace(params=sharp)
        learner = learner._replace(training=training)
        _, batch, _ = experience(config, agent, learner, jax.random.key(3), given)
        part = chosen(batch, orders(jax.random.key(4), config)[0])
        exact = proximal_loss(agent, sharp, part, jax.random.key(0), given)[1]
        late = part._replace(start=jnp.roll(part.start, 1, axis=0))
        wrong = proximal_loss(agent, sharp, late, jax.random.key(0), given)[1]
        return part.start, exact["ratio_error"].mean, wrong["ratio_error"].mean

    start, exact, wrong = ratios(0)
    assert np.asarray(start)[1:].any()
    assert float(exact) < 1e-6
    assert float(wrong) > 1e-4, "a reset one step late is seen"


def test_minibatches_are_whole_sequences_and_each_is_in_an_epoch_once() -> None:
    rows = np.asarray(orders(jax.random.key(0), SMALL))
    assert rows.shape == (4, 2)
    np.testing.assert_array_equal(np.sort(rows.reshape(2, 4)), [[0, 1, 2, 3]] * 2)
    assert (rows[:2] != rows[2:]).any()


@pytest.mark.long
def test_the_loss_is_that_of_the_paper() -> None:
    config = dataclasses.replace(SMALL, value_clip=0.1, entropy_cost=0.02)
    agent, task, given = agent_of(config), program(config).task, hparams(config)
    learner = task.init(given)
    moved = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.cos(leaf * 99), learner.training.params)

    @jax.jit
    def lost() -> Any:
        _, batch, _ = experience(config, agent, learner, jax.random.key(3), given)
        return batch, *proximal_loss(agent, moved, batch, jax.random.key(0), given)

    batch, total, metrics = lost()
    logits, values = logits_by_hand(agent, moved, batch)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, np.asarray(batch.action)[..., None], -1)[..., 0]
    ratio = chosen / np.exp(np.asarray(batch.log_prob, float))
    a = np.asarray(batch.advantage, float)
    a = (a - a.mean()) / a.std()
    surrogate = -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).mean()
    old = np.asarray(batch.value, float)
    target = old + np.asarray(batch.advantage, float)
    near = old + np.clip(values - old, -0.1, 0.1)
    error = np.maximum((values - target) ** 2, (near - target) ** 2).mean() / 2
    entropy = -(p * np.log(p)).sum(-1).mean()
    assert float(total) == pytest.approx(surrogate + 0.5 * error - 0.02 * entropy, rel=1e-4)
    assert float(metrics["entropy"].mean) == pytest.approx(entropy, rel=1e-5)
    assert float(metrics["clipped"].mean) == pytest.approx((abs(ratio - 1) > 0.2).mean())


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_advantages_are_those_of_a_loop_over_the_steps(ends: str) -> None:
    """Of two rollouts, over whose boundary an episode goes on; rewards are divided by the spread
    of their discounted sums up to now."""
    config = dataclasses.replace(SMALL, discount=0.9, decay=0.7)
    agent, given = policy_agent(config, countdown(3, ends)), hparams(config)
    sums, seen = np.zeros(config.environments), []

    @jax.jit
    def both(learner: Any, key: Any) -> Any:
        kept = acting.Kept(learner.training.params, learner.moments)
        _, steps = acting.rollout(agent, kept, learner.actors, key, config.horizon)
        later = acting.next_values(agent, kept, steps)
        return steps, later, *experience(config, agent, learner, key, given)[:2]

    learner = proximal_task(config, agent, greedy=True).init(given)
    for seed in (1, 2):
        steps, later, learner, batch = both(learner, jax.random.key(seed))
        rewards, *flags = (np.asarray(x) for x in steps.transition[1:4])
        terminated, truncated = flags
        assert {"terminated": terminated, "truncated": truncated}[ends].any()
        for t in range(config.horizon):
            sums = 0.9 * sums + rewards[t]
            seen += sums.tolist()
            sums = np.where(terminated[t] | truncated[t], 0, sums)
        advantage, expected = np.zeros(config.environments), []
        for t in reversed(range(config.horizon)):
            bootstrap = np.where(terminated[t], 0, later[t])
            delta = rewards[t] / np.std(seen) + 0.9 * bootstrap - steps.value[t]
            goes_on = ~(terminated[t] | truncated[t])
            advantage = delta + 0.9 * 0.7 * goes_on * advantage
            expected.append(advantage)
        np.testing.assert_allclose(batch.advantage, expected[::-1], rtol=1e-4, atol=1e-5)


def test_episodes_that_choose_are_not_those_of_the_test() -> None:
    assert not {*recurrent_ppo.VALIDATION.tolist()} & {*recurrent_ppo.TEST.tolist()}


def logits_by_hand(agent: Any, params: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Step by step, with the carry reset before a step that begins an episode."""
    carry, outputs = batch.carry, []
    fresh = agent.core.initial_state(params["core"], batch.start.shape[1:])
    for x, start in zip(batch.inputs, batch.start, strict=True):
        carry = jax.tree.map(lambda a, b, s=start: jnp.where(s[:, None], a, b), fresh, carry)
        carry, y = agent.core.step(params["core"], carry, x)
        outputs.append(np.asarray(y, float))
    ys = np.stack(outputs)
    heads = [jax.tree.map(np.asarray, params[name]) for name in ("policy", "value")]
    logits, values = (ys @ head["kernel"] + head["bias"] for head in heads)
    return logits, values[..., 0]


@pytest.mark.long
def test_a_training_gone_on_with_from_a_checkpoint_has_the_same_bits(
    trainer: Any, tmp_path: Path
) -> None:
    task, given, train = trainer
    half, _ = train(task.init(given))
    with checkpoints(tmp_path / "saved") as manager:
        save(manager, 3, half, {})
    with checkpoints(tmp_path / "saved") as manager:
        found = restore(manager, jax.eval_shape(lambda: half))
    assert found is not None
    assert bits(found[0]) == bits(half)
    assert bits(train(found[0])) == bits(train(half))


def test_a_step_learns_and_follows_observations_and_rewards(trainer: Any) -> None:
    task, given, train = trainer
    before = task.init(given)
    after, metrics = train(before)
    assert int(after.training.step) == 3 * 2 * 2
    assert float(after.moments.counted) == 3 * 8 * 4
    # of the cue, -1 or 1 in the first step of three and 0 in the others
    assert float(after.moments.variance[2]) == pytest.approx(1 / 3, abs=0.05)
    assert float(after.spread.counted) == 3 * 8 * 4
    assert int(metrics["return"].weight) == 3 * 8 * 4 // 3, "episodes of three steps"
    assert float(metrics["skipped"].mean) == 0
    assert float(metrics["ratio_error"].weight) == 3
    assert float(metrics["ratio_error"].mean) < 1e-6
    assert bits(before.training.params) != bits(after.training.params)
    kept = task.keep(after)
    assert bits(kept) == bits((after.training.params, after.moments))


def test_the_learning_rate_falls_to_zero_over_the_whole_training(trainer: Any) -> None:
    task, given, train = trainer
    _, metrics = train(task.init(given))
    updates = 20 * 4
    expected = np.mean([1e-3 * (1 - step / updates) for step in range(12)])
    assert float(metrics["learning_rate"].mean) == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
def test_members_of_a_population_are_single_trainings() -> None:
    """Side by side products have other shapes, so they agree as far as rounding lets them."""
    task, given = program(SMALL).task, hparams(SMALL)

    def of_seed(seed: Any) -> Any:
        mine = given | {"seed": seed}
        return task.train(task.init(mine), mine, (), 1)[0]

    together = jax.jit(jax.vmap(of_seed))(jnp.arange(2))
    for k in range(2):
        alone = jax.jit(of_seed)(k)
        pairs = zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True)
        for many, one in pairs:
            if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(many[k], one, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_not_finite_is_skipped_and_counted(trainer: Any) -> None:
    task, given, train = trainer
    learner = task.init(given)
    kernel = learner.training.params["policy"]["kernel"].at[0, 0].set(jnp.nan)
    params = learner.training.params | {"policy": {"kernel": kernel, "bias": jnp.zeros(2)}}
    learner = learner._replace(training=learner.training._replace(params=params))
    after, metrics = train(learner)
    assert int(task.failures(after)) == 3 * 4
    assert float(metrics["skipped"].mean) == 1
    assert bits(after.training.params) == bits(learner.training.params)
    assert np.isfinite(np.asarray(after.moments.mean)).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"minibatches": 3}, "--minibatches: expected a divisor of the environments"),
        ({"minibatches": 8}, "got 8 with --environments=4"),
        ({"steps": 31}, "--steps: 31 are less than one rollout of 4 environments x 8 steps"),
    ],
)
def test_sizes_that_leave_nothing_to_train_on_are_refused(fields: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        program(dataclasses.replace(SMALL, **fields))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--environment=cart_pol", "got 'cart_pol'. Did you mean \"cart_pole\""),
        ("--memory=recurent", 'Did you mean "recurrent"'),
        ("--discount=1.1", "--discount: expected at most 1"),
        ("--clip=0", "--clip: expected more than 0"),
        ("--frames=0", "--frames: expected at least 1"),
    ],
)
def test_wrong_flags_are_refused(
    flag: str, words: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert __main__.main(["recurrent_ppo", flag, f"--workdir={tmp_path / 'run'}"]) == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_training_is_as_long_as_its_steps_allow() -> None:
    length = proximal.length_of(dataclasses.replace(SMALL, evaluate_every=3))
    assert length == (6, 3, 4)
    assert proximal.length_of(dataclasses.replace(SMALL, evaluate_every=99)) == (1, 20, 4)


@pytest.mark.long
@pytest.mark.parametrize(("memory", "frames"), [("recurrent", 1), ("none", 4)])
def test_it_learns_what_a_memory_or_frames_are_needed_for(
    memory: str, frames: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = ["--environment=memory_chain", "--length=3", "--steps=16384", "--horizon=64"]
    flags += [f"--memory={memory}", f"--frames={frames}", "--hidden_size=16"]
    assert __main__.main(["recurrent_ppo", *flags, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["test_return"] == 1


@pytest.mark.parametrize(("memory", "forgets"), [("none", True), ("recurrent", False)])
def test_without_memory_nothing_tells_cues_apart_after_the_first_step(
    memory: str, forgets: bool
) -> None:
    """Whatever the weights, it then acts in the same way, so that the chain is a guess.

    The first actions, which are free, tell the cue; a policy that read them could pass it on.
    """
    agent = agent_of(dataclasses.replace(SMALL, memory=memory))
    params = jax.tree.map(lambda leaf: 5 * leaf, acting.init(agent, jax.random.key(0)))
    kept = acting.Kept(params, acting.untrained(agent, jax.random.key(0)).moments)
    keys = jax.vmap(jax.random.key)(np.arange(20, dtype=np.uint32))
    steps = acting.watched(agent, kept, keys, SMALL.length + 1, greedy=True)[1]
    cues, outputs = steps.observation[0, :, -1], steps.output
    one, other = outputs[:, cues == 1], outputs[:, cues == -1]
    assert not np.array_equal(one[0, 0], other[0, 0])
    assert np.array_equal(one[1:, 0], other[1:, 0]) == forgets
    assert not forgets or np.ptp(outputs[1:], axis=1).max() == 0
    assert bool(jax.tree.leaves(agent.core.initial_state(params["core"], (1,)))) != forgets
    assert recurrent_ppo.Config().memory == "recurrent"


TINY = ["--horizon=16", "--environments=4", "--minibatches=2", "--hidden_size=8"]


@pytest.mark.long
def test_an_environment_of_ones_own_is_acted_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its page has no film without pictures, and one with them."""
    source = Path(__file__).parents[2] / "docs" / "environments" / "parity.py"
    own = tmp_path / "own.py"
    own.write_text(source.read_text())
    run = tmp_path / "plain"
    flags = ["recurrent_ppo", "--steps=256", "--evaluate_every=1", "--length=5", *TINY]
    flags.append(f"--environment={own}:parity")
    assert __main__.main([*flags, f"--workdir={run}"]) == 0
    assert {file.name for file in (run / "figures").iterdir()} >= {"returns.png", "memory.csv"}
    assert not (run / "figures" / "film_strip.png").exists()
    assert __main__.main(["play", str(run), "--episodes=2"]) == 0
    assert "return" in capsys.readouterr().out
    drawn = "lambda state, action: np.full((9, 9, 3), int(255 * state.odd), np.uint8)"
    text = own.read_text().replace("import jax\n", "import jax\nimport numpy as np\n", 1)
    text = text.replace('hidden=lambda state: {"odd": state.odd}', f"picture={drawn}")
    own.write_text(text)
    run = tmp_path / "pictures"
    assert __main__.main([*flags, f"--workdir={run}"]) == 0
    assert {file.name for file in (run / "figures").iterdir()} >= {"film_strip.png"}
    assert not (run / "figures" / "memory.csv").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    return Environment(", "    return {}\n    return Environment(", "got dict"),
        ("observation_size=1", "observation_size=2", "float32[2], got float32[1]"),
        ("return Ones(bit, jnp.int32(0)), bit[None]", "return bit[None]", "expected reset of"),
        ("return state, Transition(", "return state, (state.odd, ", "a Transition, got tuple"),
        ("(action == state.odd)", "(action == state.even)", "has no attribute 'even'"),
        (".astype(jnp.float32)\n        bit", "\n        bit", "the reward of"),
        ("state.odd + bit) % 2", "state.odd + bit[None]) % 2", "a state like that of reset"),
        ("def parity(length: int)", "def parity()", "takes 0 positional arguments"),
    ],
)
def test_an_environment_that_keeps_to_no_contract_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "environments" / "parity.py").read_text()
    assert old in text
    (tmp_path / "own.py").write_text(text.replace(old, new))
    name = f"{tmp_path / 'own.py'}:parity"
    with pytest.raises(UserError) as caught:
        program(dataclasses.replace(SMALL, environment=name))
    assert str(caught.value).startswith("--environment: ")
    assert words in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize("environment", ["t_maze", "cart_pole_positions"])
def test_a_run_leaves_exhibits_and_is_played(
    environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = [f"--environment={environment}", "--steps=256", "--evaluate_every=1"]
    flags += ["--length=2"] * (environment == "t_maze")
    assert __main__.main(["recurrent_ppo", *flags, *TINY, f"--workdir={run}"]) == 0
    names = {"returns.png", "distribution.png", "film_strip.png", "animation.png", "memory.csv"}
    assert {file.name for file in (run / "figures").iterdir()} >= names
    capsys.readouterr()
    play = ["play", str(run), "--episodes=3"]
    outputs = []
    for more in ([], [], ["--seed=1"]):
        assert __main__.main([*play, *more]) == 0
        outputs.append(capsys.readouterr().out.splitlines())
    assert len(outputs[0]) == 4
    assert outputs[0][:3] == outputs[1][:3]
    assert environment == "t_maze" or outputs[0][:3] != outputs[2][:3]
    returns = [float(line.split("return ")[1].split(",")[0]) for line in outputs[0][:3]]
    mean = float(outputs[0][3].split()[1].rstrip(","))
    assert mean == pytest.approx(np.mean(returns), rel=1e-4)


def test_what_is_remembered_is_measured_on_other_episodes() -> None:
    """A linear function of the features is found, and noise is not, however many they are."""
    rng = np.random.default_rng(0)
    xs, fitted = rng.normal(size=(400, 30)), np.arange(400) % 2 == 0
    assert playing.explained(xs, xs @ rng.normal(size=30) + 3, fitted) > 0.99
    assert playing.explained(xs, rng.normal(size=400), fitted) < 0.1
    assert playing.explained(xs, np.ones(400), fitted) == 0
