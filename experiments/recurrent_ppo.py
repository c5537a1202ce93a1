"""Does a policy with memory act well on what it can no longer see?

Command: ./launch.sh recurrent_ppo [--environment=cart_pole_positions] [--memory=none] [--frames=4]
         ./launch.sh recurrent_ppo --environment=FILE.py:FUNCTION
         ./launch.sh sweep recurrent_ppo --sweep=seed=0:5
         ./launch.sh play RUN_DIRECTORY --episodes=100 --seed=1
"""

import dataclasses
from functools import partial

import numpy as np

from experiments.environments.environment import stacked
from experiments.environments.named import ENVIRONMENTS, OF_LENGTH
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared.acting import Agent
from experiments.shared.cell_flag import cell_option
from experiments.shared.environment_flag import environment_option, make_environment
from experiments.shared.idle_flags import check_idle
from experiments.shared.playing import exhibits, play_command
from experiments.shared.policies import policy_agent
from experiments.shared.proximal import ProximalConfig, length_of, proximal_task
from recurrent.training.task import Metric

# so many that a policy which fails once in a hundred episodes is seldom taken for one without fault
VALIDATION = np.arange(300, dtype=np.uint32)  # seeds of its episodes
TEST = np.arange(100, dtype=np.uint32) + 10**6
RETURN = Metric("return", higher_is_better=True, format="{:.2f}")


@dataclasses.dataclass(frozen=True)
class Config(ProximalConfig):
    """Hold the fields of this experiment."""

    environment: str = environment_option("cart_pole_positions")
    length: int = option(
        10,
        "of the memory chain, of the corridor of the maze, or what it means to your own",
        minimum=1,
        maximum=1000,
    )
    memory: str = option(
        "recurrent",
        "of the network: a recurrent cell that also reads the last action, or none of the past",
        choices=("recurrent", "none"),
    )
    cell: str = cell_option("gru", "; it must not look ahead")
    hidden_size: int = option(64, "H, of every layer", minimum=1, maximum=10**5)
    frames: int = option(1, "last observations that are seen at once", minimum=1, maximum=1000)
    evaluated: str = option(
        "greedy",
        "how evaluations act: by the likeliest action, or by one drawn from the policy",
        choices=("greedy", "sampled"),
    )
    learning_rate: float = 1e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    if config.environment in {*ENVIRONMENTS} - {*OF_LENGTH}:
        check_idle(config, {"length": f"--environment={' or '.join(OF_LENGTH)}"})
    if config.memory == "none":
        check_idle(config, {"cell": "--memory=recurrent"})
    length, agent = length_of(config), agent_of(config)
    greedy = config.evaluated == "greedy"
    rollout = config.environments * config.horizon
    return Program(
        task=proximal_task(config, agent, greedy=greedy),
        data={"train": (), "valid": {"seeds": VALIDATION}, "test": {"seeds": TEST}},
        evaluations=length.evaluations,
        steps_per_evaluation=length.rollouts,
        select=RETURN,
        report=RETURN,
        exhibits=partial(exhibits, agent, TEST, rollout, config.length, greedy),
    )


def agent_of(config: Config) -> Agent:
    """Return the environment and the network that acts in it."""
    environment = stacked(make_environment(config.environment, config.length), config.frames)
    return policy_agent(config, environment)


commands = {"play": play_command(agent_of)}
