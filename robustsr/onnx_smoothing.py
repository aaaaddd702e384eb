"""Randomized smoothing as an ONNX graph around a network's: the same noise, a loop over draws, the same reduction.

The noise is the very code of `robustsr.noise`, run on symbols. ONNX shifts unsigned words only, hence uint64 where
torch has int64: the bits are the same, and the normals agree within 1e-6. Of onnxruntime's providers CUDA has no bit
operators (1.31): there the CPU makes the bits.

Memory: one draw in the network at a time, and for a mean one output besides. An exact median needs the outputs of
all n draws, and ONNX's Loop copies what it gathers: 2n outputs are held at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx

from .noise import box_muller, philox, upper
from .onnx_graph import Graph, Value
from .smoothing import Draws, Reduce, selection_network

LEAST_OPSET = 18  # the first with bitwise operators
_WORD = 0xFFFFFFFF


def smoothed(
    net: onnx.GraphProto, scale: int, reduce: Reduce, sigma: float, samples: int, draws: Draws
) -> onnx.GraphProto:
    """The graph of `robustsr.smoothing.Smoothed` around ``net``, which has one input and one output, both float32.

    ``input (N, 3, h, w)``, float32; ``seed ()``, int64; ``origin (N, 2)``, int64, to ``output (N, 3, s*h, s*w)``.
    """
    top = Graph()
    x = top.value(np.float32, "input", ("batch", 3, "height", "width"))
    seed, origin = top.value(np.int64, "seed", ()), top.value(np.int64, "origin", ("batch", 2))
    output = top.value(np.float32, "output", ("batch", 3, "output_height", "output_width"))
    shape = top.node("Shape", x, dtype=np.int64)
    counter, key = _counter(shape, origin), _key(seed)

    body, pairs = top.inside(), 2 if draws == "antithetic" else 1
    draw, more, before = body.value(np.int64, shape=()), body.value(np.bool_, shape=()), body.value(np.float32)
    planes = _planes(body, draw, 4 * pairs, before, counter, key)
    noise = planes.pick(draw // pairs % 4)
    if draws == "antithetic":
        noise = noise * (draw % 2 * -2 + 1).float()
    body.node("Add", x, noise * sigma, name=net.input[0].name)
    body.nodes.extend(net.node)
    sr = body.value(np.float32, net.output[0].name)

    # What the body hands on: as it gets it, as it leaves it, as the loop begins with it.
    carried = [(before, planes, _zeros(top.node("Concat", top.constant([4]), shape, axis=0)))]
    if reduce == "mean":
        total = body.value(np.float32)
        carried.append((total, total + sr, _zeros(shape * top.constant([1, 1, scale, scale]))))
    got, left, begun = (list(values) for values in zip(*carried, strict=True))
    gathered = [sr] if reduce == "median" else []
    loop = body.proto("draws", [draw, more, *got], [body.node("Identity", more), *left, *gathered])
    loop.initializer.extend(net.initializer)
    last, result = top.value(np.float32), top.value(np.float32)
    top.write("Loop", [top.constant(samples).name, "", *(v.name for v in begun)], [last, result], body=loop)
    reduced = _median(result, samples) if reduce == "median" else result / samples
    top.write("Identity", [reduced.name], [output])
    return top.proto("smoothed", [x, seed, origin], [output])


def _zeros(shape: Value) -> Value:
    return shape.graph.node("ConstantOfShape", shape, dtype=np.float32)


def _counter(shape: Value, origin: Value) -> tuple[Value, Value, Value]:
    """Columns, rows and channels, as words that broadcast to (N, 3, h, w)."""
    graph = shape.graph

    def places(axis: int, *layout: int) -> Value:
        steps = graph.node("Range", graph.constant(0), shape.pick(axis + 2), graph.constant(1))
        return (steps.reshape(*layout) + origin.pick(axis, axis=1).reshape(-1, 1, 1, 1)).to(np.uint64)

    return places(1, 1, 1, 1, -1), places(0, 1, 1, -1, 1), graph.constant([[[[0]], [[1]], [[2]]]], np.uint64)


def _key(seed: Value) -> tuple[Value, Value]:
    words = seed.to(np.uint64)
    return words & _WORD, words >> 32


def _planes(
    body: Graph, draw: Value, every: int, before: Value, counter: Sequence[Value], key: Sequence[Value]
) -> Value:
    """The four planes of noise (4, N, 3, h, w) of a block of Philox: new ones at each ``every``-th draw."""
    new, old = body.inside(), body.inside()
    block = (draw.within(new) // every).to(np.uint64)
    words: Any = philox(cast(Any, (*(v.within(new) for v in counter), block)), cast(Any, [v.within(new) for v in key]))
    u, v, s, t = map(upper, words)
    normals = cast(Any, (*box_muller(u, v), *box_muller(s, t)))
    fresh = new.node("Concat", *(new.node("Unsqueeze", n, new.constant([0])) for n in normals), axis=0)
    branches = {
        "then_branch": new.proto("new", [], [fresh]),
        "else_branch": old.proto("old", [], [old.node("Identity", before)]),
    }
    first = body.node("Equal", draw % every, body.constant(0), dtype=np.bool_)
    return body.node("If", first, dtype=np.float32, **branches)


def _median(stacked: Value, n: int) -> Value:
    """The median over the first axis of (n, N, 3, H, W)."""
    graph = stacked.graph
    line = [graph.value(np.float32) for _ in range(n)]
    graph.write("Split", [stacked.name], line, axis=0, num_outputs=n)
    middle = [n // 2] if n % 2 else [n // 2 - 1, n // 2]
    for i, j, low, high in selection_network(n, middle):
        a, b = line[i], line[j]
        if low:
            line[i] = graph.node("Min", a, b)
        if high:
            line[j] = graph.node("Max", a, b)
    value = line[middle[0]] if len(middle) == 1 else (line[middle[0]] + line[middle[1]]) / 2
    return graph.node("Squeeze", value, graph.constant([0]))
