"""Give environments the names that flags know them by."""

from collections.abc import Callable

from experiments.environments.cart_pole import cart_pole
from experiments.environments.environment import Environment
from experiments.environments.memory_chain import memory_chain
from experiments.environments.t_maze import t_maze

# from the length of a chain or a corridor, which a cart does without
OF_LENGTH: dict[str, Callable[[int], Environment]] = {
    "memory_chain": memory_chain,
    "t_maze": t_maze,
}
ENVIRONMENTS: dict[str, Callable[[int], Environment]] = {
    "cart_pole_positions": lambda length: cart_pole(velocities=False),
    "cart_pole": lambda length: cart_pole(),
    **OF_LENGTH,
}
