"""ONNX graphs written by calculating: the operators of a symbolic value write nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import helper, numpy_helper

Number = float | int


@dataclass(frozen=True)
class Value:
    """A value in a graph under construction. Plain numbers beside it become constants of its type."""

    graph: Graph
    name: str
    dtype: DTypeLike
    shape: tuple[str | int, ...] | None = None  # which only the inputs and outputs of a whole model need

    def __add__(self, other: Value | Number) -> Value:
        return self.graph.node("Add", self, self._like(other))

    def __mul__(self, other: Value | Number) -> Value:
        return self.graph.node("Mul", self, self._like(other))

    def __truediv__(self, other: Number) -> Value:
        return self.graph.node("Div", self, self._like(other))

    def __floordiv__(self, other: int) -> Value:
        """Of non-negative integers."""
        return self.graph.node("Div", self, self._like(other))

    def __mod__(self, other: int) -> Value:
        return self.graph.node("Mod", self, self._like(other))

    def __and__(self, other: Value | int) -> Value:
        return self.graph.node("BitwiseAnd", self, self._like(other))

    def __xor__(self, other: Value | int) -> Value:
        return self.graph.node("BitwiseXor", self, self._like(other))

    def __rshift__(self, other: int) -> Value:
        return self.graph.node("BitShift", self, self._like(other), direction="RIGHT")

    def log(self) -> Value:
        return self.graph.node("Log", self)

    def sqrt(self) -> Value:
        return self.graph.node("Sqrt", self)

    def cos(self) -> Value:
        return self.graph.node("Cos", self)

    def sin(self) -> Value:
        return self.graph.node("Sin", self)

    def float(self) -> Value:
        return self.to(np.float32)

    def to(self, dtype: DTypeLike) -> Value:
        return self.graph.node("Cast", self, dtype=dtype, to=tensor_type(dtype))

    def reshape(self, *shape: int) -> Value:
        return self.graph.node("Reshape", self, self.graph.constant(shape))

    def pick(self, index: Value | int, axis: int = 0) -> Value:
        """The slice at ``index`` of an axis, without that axis."""
        where = self.graph.constant(index) if isinstance(index, int) else index
        return self.graph.node("Gather", self, where, axis=axis)

    def within(self, graph: Graph) -> Value:
        """The same value as a graph inside sees it: what is calculated from it is written there."""
        return replace(self, graph=graph)

    def _like(self, other: Value | Number) -> Value:
        return other if isinstance(other, Value) else self.graph.constant(other, self.dtype)


@dataclass
class Graph:
    """The nodes of a graph so far. Graphs inside it, bodies of loops and branches, draw from the same names."""

    names: Iterator[int] = field(default_factory=count)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def inside(self) -> Graph:
        """An empty graph that may use this one's values."""
        return Graph(self.names)

    def value(self, dtype: DTypeLike, name: str = "", shape: tuple[str | int, ...] | None = None) -> Value:
        """A value that something else than `node` gives: an input, or one of several outputs."""
        return Value(self, name or f"robustsr_{next(self.names)}", dtype, shape)

    def constant(self, content: object, dtype: DTypeLike = np.int64) -> Value:
        return self.node("Constant", dtype=dtype, value=numpy_helper.from_array(np.array(content, dtype)))

    def node(
        self,
        kind: str,
        *inputs: Value,
        dtype: DTypeLike | None = None,
        name: str = "",
        **attributes: Any,  # noqa: ANN401 - ONNX has many kinds
    ) -> Value:
        """The output, of the first input's type unless ``dtype`` says another, of a new node."""
        made = self.value(inputs[0].dtype if dtype is None else dtype, name)
        self.write(kind, [value.name for value in inputs], [made], **attributes)
        return made

    def write(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[Value],
        **attributes: Any,  # noqa: ANN401
    ) -> None:
        """A new node that gives ``outputs``; an input named "" is left out."""
        self.nodes.append(helper.make_node(kind, inputs, [value.name for value in outputs], **attributes))

    def proto(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> onnx.GraphProto:
        """The graph."""
        return helper.make_graph(self.nodes, name, [_port(v) for v in inputs], [_port(v) for v in outputs])


def _port(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, tensor_type(value.dtype), value.shape)


def tensor_type(dtype: DTypeLike) -> int:
    """ONNX' number for a type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
