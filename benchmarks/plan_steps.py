# SPDX-License-Identifier: Apache-2.0
"""Training steps made up for `make bench-plan`: chains, residual nets and transformers with a true backward graph.

Every op makes one storage, so that POET's own program applies too. The backward pass has one op per input that needs a
gradient, reads what that derivative needs, and adds up gradients that meet. Costs are those of a made-up device, drawn
from the seed: `time = flops / rate * U(0.8, 1.3) + traffic / bandwidth * U(0.9, 1.2) + 5 us`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from finetune.graph import Graph, Op, Phase, Storage
from finetune.planning.limits import ROOMY, plain_step
from finetune.problem import Costs, Limits, Problem, Semantics

FLOP_PER_S, BYTES_PER_S, COMPUTE_W = 60e9, 8e9, 6.0
WRITE_BYTES_PER_S, READ_BYTES_PER_S, LATENCY_S, STORAGE_W = 150e6, 300e6, 1e-4, 1.5
OP_S = 5e-6
FLOAT = 4


@dataclass(frozen=True, slots=True)
class Made:
    """An op before its place in the graph is known: inputs are numbers of other ops."""

    name: str
    inputs: tuple[int, ...]
    size_bytes: int
    flops: float
    reads_back: tuple[int, ...] = ()
    """Of its inputs, which its derivatives read, by position."""
    reads_result: bool = False


@dataclass
class Tape:
    """Collects the forward pass; `step` adds loss and backward pass."""

    ops: list[Made] = field(default_factory=list)

    def add(self, made: Made) -> int:
        """The number of a new op."""
        self.ops.append(made)
        return len(self.ops) - 1

    def dense(self, name: str, source: int, elements: int, flops: float) -> int:
        """A convolution or a matrix product with weights: its derivatives read its input."""
        return self.add(Made(name, (source,), FLOAT * elements, flops, (0,)))

    def pointwise(self, name: str, source: int, elements: int, *, reads_result: bool = True) -> int:
        """An activation, whose derivative reads its result, or a normalisation, whose derivative reads its input."""
        reads = () if reads_result else (0,)
        return self.add(Made(name, (source,), FLOAT * elements, 5.0 * elements, reads, reads_result))

    def added(self, name: str, left: int, right: int, elements: int) -> int:
        """A sum; its derivatives read nothing."""
        return self.add(Made(name, (left, right), FLOAT * elements, elements))

    def product(self, name: str, left: int, right: int, elements: int, flops: float) -> int:
        """A product of two results; each derivative reads the other."""
        return self.add(Made(name, (left, right), FLOAT * elements, flops, (0, 1)))

    def step(self, name: str) -> tuple[Graph, tuple[float, ...]]:
        """The whole step and the floating-point operations of each op."""
        made = [*self.ops, Made("loss", (len(self.ops) - 1,), FLOAT, self.ops[-1].size_bytes / FLOAT, (0,))]
        phases: list[Phase] = ["forward"] * len(made)
        whole: dict[int, int | None] = {len(made) - 1: None}
        for number in range(len(made) - 1, -1, -1):
            if number not in whole or not made[number].inputs:
                continue
            for position, source in enumerate(made[number].inputs):
                if made[source].inputs:
                    self._derivative(made, phases, whole, number, position)
        ops = [
            Op(m.name, "made up", tuple(sorted(set(m.inputs))), (n,), (), True, p)
            for n, (m, p) in enumerate(zip(made, phases, strict=True))
        ]
        storages = [Storage(m.name, m.size_bytes, "input" if not m.inputs else "activation") for m in made]
        return Graph(name, tuple(ops), tuple(storages)), tuple(m.flops for m in made)

    @staticmethod
    def _derivative(
        made: list[Made], phases: list[Phase], whole: dict[int, int | None], number: int, position: int
    ) -> None:
        op, source = made[number], made[number].inputs[position]
        others = [i for p, i in enumerate(op.inputs) if p in op.reads_back and (len(op.inputs) == 1 or p != position)]
        upstream = whole[number]
        reads = [*([upstream] if upstream is not None else []), *others, *([number] if op.reads_result else [])]
        if upstream is None and not reads:
            reads = [number]
        made.append(
            Made(f"d{op.name}.{position}", tuple(reads), made[source].size_bytes, 2 * op.flops / len(op.inputs))
        )
        phases.append("backward")
        met = whole.get(source)
        if met is not None:
            size = made[source].size_bytes
            made.append(Made(f"sum{len(made)}.{made[source].name}", (met, len(made) - 1), size, size / FLOAT))
            phases.append("backward")
        whole[source] = len(made) - 1


def chain(layers: int, seed: int = 0) -> tuple[Graph, tuple[float, ...]]:
    """Convolutions, normalisations and activations one after another, ever smaller; N is about 2 x layers + 2."""
    draw, tape = random.Random(seed), Tape()
    elements = 64 * 56 * 56
    last = tape.add(Made("input", (), FLOAT * 3 * 224 * 224, 0.0))
    for layer in range(layers - 1):
        if layer % max(8, layers // 3) == max(8, layers // 3) - 1:
            elements //= 2
        kind = layer % 3
        if kind == 0:
            last = tape.dense(f"conv{layer}", last, elements, elements * draw.choice((128, 576, 1152)))
        else:
            last = tape.pointwise(f"{'norm' if kind == 1 else 'act'}{layer}", last, elements, reads_result=kind == 2)
    return tape.step(f"chain{layers}")


def residual(blocks: int, seed: int = 0) -> tuple[Graph, tuple[float, ...]]:
    """Residual blocks of convolutions, normalisations, activations and a sum; N is about 15 x blocks + 6."""
    draw, tape = random.Random(seed), Tape()
    elements = 64 * 56 * 56
    image = tape.add(Made("input", (), FLOAT * 3 * 224 * 224, 0.0))
    last = tape.dense("stem", image, elements, 147.0 * elements)
    for block in range(blocks):
        start = last
        wide = elements * draw.choice((1, 1, 2))
        for half, size in (("a", wide), ("b", elements)):
            last = tape.dense(f"conv{block}{half}", last, size, 576.0 * size)
            last = tape.pointwise(f"norm{block}{half}", last, size, reads_result=False)
            if half == "a":
                last = tape.pointwise(f"act{block}{half}", last, size)
        last = tape.added(f"join{block}", last, start, elements)
        last = tape.pointwise(f"act{block}b", last, elements)
        if block % max(2, blocks // 4) == max(2, blocks // 4) - 1 and block + 1 < blocks:
            elements //= 2
            last = tape.dense(f"down{block}", last, elements, 128.0 * elements)
    return tape.step(f"residual{blocks}")


def transformer(layers: int, seed: int = 0) -> tuple[Graph, tuple[float, ...]]:
    """Layers of attention and feed-forward with residual sums; N is about 35 x layers + 4."""
    draw, tape = random.Random(seed), Tape()
    tokens, heads, width = 128, 12, 64 * draw.choice((8, 12))
    wide, scores = tokens * width, heads * tokens * tokens
    last = tape.dense("embed", tape.add(Made("input", (), FLOAT * wide, 0.0)), wide, 2.0 * wide)
    for layer in range(layers):
        start = last
        q, k, v = (tape.dense(f"{name}{layer}", last, wide, 2.0 * wide * width) for name in "qkv")
        weights = tape.product(f"scores{layer}", q, k, scores, 2.0 * wide * tokens)
        weights = tape.pointwise(f"softmax{layer}", weights, scores)
        mixed = tape.product(f"mix{layer}", weights, v, wide, 2.0 * wide * tokens)
        last = tape.dense(f"project{layer}", mixed, wide, 2.0 * wide * width)
        last = tape.added(f"join{layer}a", last, start, wide)
        start = last = tape.pointwise(f"norm{layer}a", last, wide, reads_result=False)
        last = tape.dense(f"up{layer}", last, 4 * wide, 8.0 * wide * width)
        last = tape.pointwise(f"gelu{layer}", last, 4 * wide, reads_result=False)
        last = tape.dense(f"down{layer}", last, wide, 8.0 * wide * width)
        last = tape.added(f"join{layer}b", last, start, wide)
        last = tape.pointwise(f"norm{layer}b", last, wide, reads_result=False)
    return tape.step(f"transformer{layers}")


KINDS = {"chain": chain, "residual": residual, "transformer": transformer}
OPS_PER_UNIT = {"chain": 2.0, "residual": 15.0, "transformer": 30.0}


def made_up(
    kind: str, ops: int, share: float, *, deadline: float | None = 1.3, semantics: Semantics = "poet", seed: int = 0
) -> Problem:
    """A step of about so many ops within a share of its keep-everything peak; `deadline` in base times."""
    graph, flops = KINDS[kind](max(1, round(ops / OPS_PER_UNIT[kind])), seed)
    return with_limits(graph, costs_of(graph, flops, seed), share, deadline, semantics)


def costs_of(graph: Graph, flops: tuple[float, ...], seed: int) -> Costs:
    """What each op and each transfer cost on the made-up device."""
    draw = random.Random(seed + 1)
    size = [storage.size_bytes for storage in graph.storages]
    times = []
    for op, count in zip(graph.ops, flops, strict=True):
        traffic = sum(size[number] for number in (*op.inputs, *op.outputs))
        spread = count / FLOP_PER_S * draw.uniform(0.8, 1.3), traffic / BYTES_PER_S * draw.uniform(0.9, 1.2)
        times.append(sum(spread) + OP_S)
    write_s = tuple(LATENCY_S + bytes_ / WRITE_BYTES_PER_S for bytes_ in size)
    read_s = tuple(LATENCY_S + bytes_ / READ_BYTES_PER_S for bytes_ in size)
    return Costs(
        tuple(times),
        tuple(COMPUTE_W * seconds for seconds in times),
        (0,) * len(times),
        write_s,
        tuple(STORAGE_W * seconds for seconds in write_s),
        read_s,
        tuple(STORAGE_W * seconds for seconds in read_s),
    )


def with_limits(graph: Graph, costs: Costs, share: float, deadline: float | None, semantics: Semantics) -> Problem:
    """The problem whose budget is a share of the keep-everything peak, but no less than the largest working set."""
    kept = plain_step(Problem(graph, costs, Limits(ROOMY), semantics))
    size = [storage.size_bytes for storage in graph.storages]
    least = max(sum(size[number] for number in graph.touched(op)) for op in range(len(graph.ops)))
    deadline_s = None if deadline is None else deadline * math.fsum(costs.time_s)
    return Problem(graph, costs, Limits(max(least, int(share * kept.peak_bytes)), deadline_s), semantics)
