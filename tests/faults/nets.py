# SPDX-License-Identifier: Apache-2.0
"""Random networks in double precision: what a planner is asked for and a step is judged by.

Layers take one or two earlier values each, so that values live for different times; there are statistics, dropout,
views, weights that two layers share, and layers that change their input in place.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH, ROWS, CLASSES = 6, 4, 3
ONE: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    torch.relu,
    torch.sigmoid,
    nn.functional.gelu,
    lambda value: value.t().contiguous().t(),
    lambda value: value.softmax(-1),
    lambda value: torch.relu_(value * 1.5),
    lambda value: nn.functional.dropout(value, 0.25),
    lambda value: torch.cat((value[:, 2:], value[:, :2].exp()), 1),
)
TWO: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add,
    torch.mul,
    lambda left, right: left @ right.t() @ right / WIDTH,
    lambda left, right: torch.where(left > right, left, right * 0.5),
)


class Net(nn.Module):
    """`ROWS x WIDTH` to `ROWS x CLASSES`; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        chance = random.Random(seed)
        self.layers = nn.ModuleList()
        self.takes: list[tuple[int, ...]] = []
        """Of each layer the values it takes, by number; 0 is the input."""
        self.plain: list[Callable[..., Tensor] | None] = []
        """What a layer without weights computes."""
        for number in range(chance.randint(4, 10)):
            latest = max(0, number - 3)
            takes = tuple(chance.randint(latest, number) for _ in range(chance.choice((1, 1, 2))))
            plain: Callable[..., Tensor] | None = None
            if len(takes) > 1:
                plain = chance.choice(TWO)
            elif chance.random() < 0.5:
                plain = chance.choice(ONE)
            self.takes.append(takes)
            self.plain.append(plain)
            self.layers.append(nn.Identity() if plain else self._layer(chance))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.double()

    def forward(self, value: Tensor) -> Tensor:
        values = [value]
        for layer, takes, plain in zip(self.layers, self.takes, self.plain, strict=True):
            taken = [values[number] for number in takes]
            values.append(layer(taken[0]) if plain is None else plain(*taken))
        found: Tensor = self.head(values[-1] + values[len(values) // 2])
        return found

    def _layer(self, chance: random.Random) -> nn.Module:
        shared = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return chance.choice(
            (
                lambda: nn.Linear(WIDTH, WIDTH),
                lambda: nn.Linear(WIDTH, WIDTH, bias=False),
                lambda: nn.LayerNorm(WIDTH),
                lambda: nn.BatchNorm1d(WIDTH),
                lambda: chance.choice(shared) if shared else nn.Linear(WIDTH, WIDTH),
            )
        )()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Values and classes."""
    torch.manual_seed(seed)
    return torch.randn(ROWS, WIDTH, dtype=torch.float64), torch.randint(0, CLASSES, (ROWS,))
