"""The graph that autograd records: read from ``grad_fn``, laid out by depth, drawn with Matplotlib.

A tensor that was computed from a tracked one holds its operation in ``grad_fn``. The operation's
``next_functions`` lead to the operations that made its inputs, one slot per input, and end at
``AccumulateGrad`` nodes, one per leaf, or at ``None`` where an input is not tracked.
:func:`trace_graph` copies that structure into plain data, :func:`flowing_gradients` adds what a
backward pass sends along each edge, and :func:`plot_graph` draws it: leaves on the left, outputs
on the right, arrows in the direction in which ``backward()`` walks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from torch import Tensor

from ._style import COLORS, new_figure

__all__ = ["AutogradGraph", "GraphEdge", "GraphNode", "flowing_gradients", "plot_graph", "trace_graph"]

_HALF_WIDTH, _HALF_HEIGHT = 0.355, 0.27  # of a box; columns and rows are 1 apart
_FACE = {"operation": "#D9EAF5", "leaf": "#CDEBDF", "constant": "#F2F2F2", "untracked": "#F2F2F2"}
_RIM = {"operation": "blue", "leaf": "green", "constant": "grey", "untracked": "grey"}


@dataclass(frozen=True)
class GraphNode:
    """One box of the picture.

    Attributes:
        operation: Class name of the ``grad_fn``, e.g. ``"MulBackward0"``; ``"AccumulateGrad"`` for a leaf;
            ``"not tracked"`` where autograd holds nothing.
        kind: ``"operation"``; ``"leaf"``; ``"constant"`` (an input that is not tracked) or ``"untracked"``
            (an output without a ``grad_fn``).
        name: Name of the tensor with its value when that is short, e.g. ``"x = 2"``, or ``None``.
        depth: Column: 0 for outputs, growing towards the leaves.
    """

    operation: str
    kind: Literal["operation", "leaf", "constant", "untracked"]
    name: str | None
    depth: int


@dataclass(frozen=True)
class GraphEdge:
    """From an operation to the maker of its input number ``slot``; both ends are indices into the nodes."""

    source: int
    target: int
    slot: int


@dataclass(frozen=True)
class AutogradGraph:
    """Nodes, consumers before what they consume, and edges."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]


def trace_graph(
    outputs: Tensor | Sequence[Tensor], names: Mapping[str, Tensor] | None = None, *, constants: bool = False
) -> AutogradGraph:
    """Copy the graph behind one or more tensors into plain data. Nothing is computed and nothing is freed.

    Args:
        outputs: Where to start. A tensor that is not tracked becomes a node of kind ``"untracked"``.
        names: Names for tensors, e.g. ``{"x": x, "y": y}``; with the value, up to three elements.
        constants: Whether inputs that are not tracked, numbers among them, get nodes of their own.

    Returns:
        The graph; a node that is used several times stands in it once.

    Raises:
        TypeError: If an output is not a tensor.
        ValueError: If there is no output.

    >>> x = torch.tensor(2.0, requires_grad=True)
    >>> [(n.operation, n.name, n.depth) for n in trace_graph(x * x, {"x": x}).nodes]
    [('MulBackward0', None, 0), ('AccumulateGrad', 'x = 2', 1)]
    """
    tensors = _as_tensors(outputs)
    labels = _labels(names or {})
    functions = _consumers_first([_function(t) for t in tensors if t.requires_grad])
    depth = _depths(functions)
    index = {function: i for i, function in enumerate(functions)}
    nodes = [_node(function, labels, depth[function]) for function in functions]
    edges = []
    for function in functions:
        for slot, (parent, _) in enumerate(function.next_functions):
            if parent is None and constants:
                nodes.append(GraphNode("not tracked", "constant", None, depth[function] + 1))
                edges.append(GraphEdge(index[function], len(nodes) - 1, slot))
            elif parent is not None:
                edges.append(GraphEdge(index[function], index[parent], slot))
    for tensor in tensors:
        if not tensor.requires_grad:
            nodes.append(GraphNode("not tracked", "untracked", labels.get(id(tensor)), 0))
    return AutogradGraph(tuple(nodes), tuple(edges))


def flowing_gradients(output: Tensor, seed: Tensor | None = None) -> dict[GraphEdge, Tensor]:
    """What one backward pass sends along each edge of ``trace_graph(output)``. No ``.grad`` changes; the graph is kept.

    Args:
        output: A tracked tensor that was computed from others.
        seed: Gradient of the output's shape that starts the pass; ``None`` means 1, for outputs with one element.

    Returns:
        The gradient on every edge: the vector–Jacobian product of the operation with what arrived at it.

    Raises:
        TypeError: If the output is not a tensor.
        ValueError: If the output is a leaf or not tracked, or a seed is missing.

    >>> x = torch.tensor(2.0, requires_grad=True)
    >>> [float(g) for g in flowing_gradients(x**2 + 3 * x).values()]
    [1.0, 1.0, 3.0, 4.0]
    """
    (output,) = _as_tensors(output)
    if output.grad_fn is None:
        raise ValueError("expected a tensor with a grad_fn, got a leaf or a tensor that is not tracked")
    if seed is None and output.numel() != 1:
        raise ValueError(f"an output of shape {tuple(output.shape)} needs a seed of that shape")
    functions = _consumers_first([output.grad_fn])
    index = {function: i for i, function in enumerate(functions)}
    flow: dict[GraphEdge, Tensor] = {}

    def recorder(function: Any) -> Any:
        def record(grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor | None, ...]) -> None:
            for slot, ((parent, _), gradient) in enumerate(zip(function.next_functions, grad_inputs, strict=True)):
                if parent is not None and gradient is not None:
                    flow[GraphEdge(index[function], index[parent], slot)] = gradient.detach().clone()

        return record

    handles = [f.register_hook(recorder(f)) for f in functions if not hasattr(f, "variable")]
    leaves = [f.variable for f in functions if hasattr(f, "variable")]
    try:
        torch.autograd.grad(output, leaves, grad_outputs=seed, retain_graph=True)
    finally:
        for handle in handles:
            handle.remove()
    return flow


def plot_graph(
    outputs: Tensor | Sequence[Tensor],
    names: Mapping[str, Tensor] | None = None,
    *,
    constants: bool = False,
    flow: bool = False,
    seed: Tensor | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the graph behind one or more tensors, for graphs of a few dozen nodes.

    Leaves are green boxes with square corners, operations blue and rounded, what is not tracked grey and dashed.

    Args:
        outputs: As for :func:`trace_graph`.
        names: As for :func:`trace_graph`.
        constants: As for :func:`trace_graph`.
        flow: Whether to write on each edge the gradient that a backward pass sends along it (one output only).
        seed: Starts that pass, as for :func:`flowing_gradients`.
        ax: Axes to draw into; a new figure by default.
        title: Title of the axes.

    Returns:
        The figure that was drawn into.

    Raises:
        TypeError: If an output is not a tensor.
        ValueError: If there is no output, or ``flow`` cannot be had (see :func:`flowing_gradients`).
    """
    graph = trace_graph(outputs, names, constants=constants)
    gradients = {}
    if flow:
        if len(_as_tensors(outputs)) != 1:
            raise ValueError("flow=True needs exactly one output")
        gradients = flowing_gradients(_as_tensors(outputs)[0], seed)
    places, routes = _layout(graph)
    columns = 1 + max(node.depth for node in graph.nodes)
    heights = [y for _, y in [*places, *(point for route in routes for point in route)]]
    low, high = min(heights) - 0.5, max(heights) + 0.5
    if ax is None:
        _, ax = new_figure(width=min(7.0, 1.9 * columns), height=0.3 + 0.75 * (high - low))
    elif high - low < 2:  # a single row in somebody's axes: keep its boxes flat
        low, high = low - (2 - high + low) / 2, high + (2 - high + low) / 2
    ax.set(xlim=(-columns + 0.5, 0.5), ylim=(low, high), xticks=[], yticks=[])
    ax.set_frame_on(False)
    ax.set_title(title or "")
    column_width = ax.get_position().width * ax.figure.get_figwidth() / columns  # inches
    small = min(1, column_width / 1.1)
    taken: list[Point] = []
    for edge, route in zip(graph.edges, routes, strict=True):
        constant = graph.nodes[edge.target].kind == "constant"
        _draw_edge(ax, route, dashed=constant)
        if edge in gradients:
            text = _short(gradients[edge])
            taken.append(_label_place(route, text, routes, taken))
            _write_gradient(ax, taken[-1], text, (9 if len(text) <= 3 else 7.5) * small)
    for node, place in zip(graph.nodes, places, strict=True):
        _draw_node(ax, node, place, 8 * small)
    return ax.figure


def _as_tensors(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not tensors:
        raise ValueError("expected at least one output tensor, got none")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"expected tensors, got {type(tensor).__name__}")
    return tensors


def _function(tensor: Tensor) -> Any:
    """The node that a tracked tensor hangs on: its operation, or its accumulator if it is a leaf."""
    return tensor.grad_fn if tensor.grad_fn is not None else torch.autograd.graph.get_gradient_edge(tensor).node


def _labels(names: Mapping[str, Tensor]) -> dict[Any, str]:
    """Text by tensor (its id) and by operation."""
    labels: dict[Any, str] = {}
    for name, tensor in names.items():
        text = f"{name} = {_short(tensor)}" if tensor.numel() <= 3 else name
        labels[id(tensor)] = text
        if tensor.grad_fn is not None:
            labels[tensor.grad_fn] = f"{labels[tensor.grad_fn]}, {text}" if tensor.grad_fn in labels else text
    return labels


def _short(tensor: Tensor) -> str:
    numbers = [f"{number:.3g}".replace("-", "−") for number in tensor.detach().flatten().tolist()]
    if len(numbers) > 3:
        return "×".join(str(n) for n in tensor.shape)
    return numbers[0] if tensor.dim() == 0 else f"[{', '.join(numbers)}]"


def _consumers_first(roots: Sequence[Any]) -> list[Any]:
    """All reachable nodes, each before those it leads to (without recursion: chains can be long)."""
    finished: list[Any] = []
    seen: set[Any] = set()
    for root in reversed(roots):
        stack = [(root, False)]
        while stack:
            function, expanded = stack.pop()
            if expanded:
                finished.append(function)
            elif function not in seen:
                seen.add(function)
                stack.append((function, True))
                stack.extend((parent, False) for parent, _ in function.next_functions if parent is not None)
    return finished[::-1]


def _depths(functions: Sequence[Any]) -> dict[Any, int]:
    """Longest distance from an output; leaves share the last column."""
    depth = dict.fromkeys(functions, 0)
    for function in functions:
        for parent, _ in function.next_functions:
            if parent is not None:
                depth[parent] = max(depth[parent], depth[function] + 1)
    last = max(depth.values(), default=0)
    return {f: last if hasattr(f, "variable") else d for f, d in depth.items()}


def _node(function: Any, labels: Mapping[Any, str], depth: int) -> GraphNode:
    if hasattr(function, "variable"):
        return GraphNode("AccumulateGrad", "leaf", labels.get(id(function.variable)), depth)
    return GraphNode(type(function).__name__, "operation", labels.get(function), depth)


Point = tuple[float, float]


def _layout(graph: AutogradGraph) -> tuple[list[Point], list[list[Point]]]:
    """A place for every node and a route of points for every edge, from its source's left to its target's right.

    An edge over several columns gets a stop of its own in each column between, so that it passes no box.
    """
    columns: dict[int, list[int]] = defaultdict(list)
    depth = [node.depth for node in graph.nodes]
    for item, d in enumerate(depth):
        columns[d].append(item)
    chains = []
    for edge in graph.edges:
        chain = [edge.source]
        for d in range(depth[edge.source] + 1, depth[edge.target]):
            columns[d].append(len(depth))
            chain.append(len(depth))
            depth.append(d)
        chains.append([*chain, edge.target])
    rows = _rows(columns, chains)
    out_ports, in_ports = _ports(graph.edges, chains, rows)
    routes = []
    for i, chain in enumerate(chains):
        start = (-depth[chain[0]] - _HALF_WIDTH, rows[chain[0]] + out_ports[i])
        end = (-depth[chain[-1]] + _HALF_WIDTH, rows[chain[-1]] + in_ports[i])
        routes.append([start, *((-float(depth[stop]), rows[stop]) for stop in chain[1:-1]), end])
    return [(-float(depth[i]), rows[i]) for i in range(len(graph.nodes))], routes


def _rows(columns: Mapping[int, list[int]], chains: Sequence[list[int]]) -> dict[int, float]:
    """Vertical places: columns centred, each ordered by the mean place of its neighbours (a few sweeps).

    A last sweep goes from the leaves to the outputs and looks back only, so that arrows which have to cross do so
    far from the leaves, where gradients are collected; it is dropped if it adds crossings.
    """
    near: dict[int, list[int]] = defaultdict(list)
    for chain in chains:
        for left, right in pairwise(chain):
            near[left].append(right)
            near[right].append(left)
    rows: dict[int, float] = {}

    def place(column: list[int]) -> None:
        for i, item in enumerate(column):
            rows[item] = (len(column) - 1) / 2 - i

    for column in columns.values():
        place(column)
    for sweep in range(6):
        for d in sorted(columns, reverse=bool(sweep % 2)):
            if columns[d]:
                mean = {i: sum(rows[n] for n in near[i]) / max(len(near[i]), 1) for i in columns[d]}
                columns[d].sort(key=lambda item: -mean[item])
                place(columns[d])
    before = dict(rows)
    for d in sorted(columns, reverse=True):
        deeper = {i: [rows[n] for n in near[i] if n in columns.get(d + 1, ())] for i in columns[d]}
        mean = {i: sum(behind) / len(behind) if behind else rows[i] for i, behind in deeper.items()}
        columns[d].sort(key=lambda item: (-mean[item], -rows[item]))
        place(columns[d])
    return rows if _crossings(columns, chains, rows) <= _crossings(columns, chains, before) else before


def _crossings(columns: Mapping[int, list[int]], chains: Sequence[list[int]], rows: Mapping[int, float]) -> int:
    """How many pairs of arrows swap sides between two neighbouring columns."""
    column = {item: d for d, items in columns.items() for item in items}
    gaps: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for chain in chains:
        for left, right in pairwise(chain):
            gaps[column[left]].append((rows[left], rows[right]))
    return sum((a - c) * (b - d) < 0 for arrows in gaps.values() for (a, b), (c, d) in combinations(arrows, 2))


def _ports(
    edges: Sequence[GraphEdge], chains: Sequence[list[int]], rows: Mapping[int, float]
) -> tuple[list[float], list[float]]:
    """Where edges meet their boxes: spread over the side, in the order of where they lead."""
    out_ports, in_ports = [0.0] * len(edges), [0.0] * len(edges)
    for ports, end, neighbour in ((out_ports, 0, 1), (in_ports, -1, -2)):
        groups: dict[int, list[int]] = defaultdict(list)
        for i, chain in enumerate(chains):
            groups[chain[end]].append(i)
        for group in groups.values():
            group.sort(key=lambda i: (-rows[chains[i][neighbour]], edges[i].slot))
            for k, i in enumerate(group):
                ports[i] = 0.6 * _HALF_HEIGHT * (len(group) - 1 - 2 * k) / max(len(group) - 1, 1)
    return out_ports, in_ports


def _draw_node(ax: Axes, node: GraphNode, place: Point, size: float) -> None:
    x, y = place
    dashed = node.kind in ("constant", "untracked")
    half_height = 0.62 * _HALF_HEIGHT if dashed and not node.name else _HALF_HEIGHT
    ax.add_patch(
        FancyBboxPatch(
            (x - _HALF_WIDTH, y - half_height),
            2 * _HALF_WIDTH,
            2 * half_height,
            boxstyle="square,pad=0" if node.kind == "leaf" else "round,pad=0,rounding_size=0.1",
            facecolor=_FACE[node.kind],
            edgecolor=COLORS[_RIM[node.kind]],
            linewidth=1.6 if node.kind == "leaf" else 1.0,
            linestyle="--" if dashed else "-",
            zorder=2,
        )
    )
    offset = 0.11 if node.name else 0.0
    text = "None" if node.kind == "constant" else node.operation
    if node.name:
        ax.text(x, y + offset, node.name, ha="center", va="center", fontsize=1.2 * size, weight="bold", zorder=3)
    ax.text(x, y - offset, text, ha="center", va="center", fontsize=size, color="#333333", zorder=3)


def _draw_edge(ax: Axes, route: Sequence[Point], *, dashed: bool) -> None:
    """A smooth arrow through the points, level at each of them."""
    vertices, codes = [route[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(route):
        middle = (x0 + x1) / 2
        vertices += [(middle, y0), (middle, y1), (x1, y1)]
        codes += [Path.CURVE4] * 3
    ax.add_patch(
        FancyArrowPatch(
            path=Path(vertices, codes),
            arrowstyle="-|>",
            mutation_scale=9,
            color=COLORS["grey"],
            linewidth=1.1,
            linestyle="--" if dashed else "-",
            zorder=1,
        )
    )


def _along(route: Sequence[Point], s: float) -> Point:
    """The point at parameter ``s`` of the first part of an arrow, a curve that is level at both ends."""
    (x0, y0), (x1, y1) = route[0], route[1]
    along = 1.5 * s * (1 - s) + s**3  # the control points share the middle
    return x0 + along * (x1 - x0), y0 + s * s * (3 - 2 * s) * (y1 - y0)


def _label_place(route: Sequence[Point], text: str, routes: Sequence[Sequence[Point]], taken: Sequence[Point]) -> Point:
    """A third of the way (long text: nearly half) along the arrow, or else clear of other arrows and numbers."""
    half_width, half_height = 0.03 + 0.03 * len(text), 0.13
    strokes = [
        _along(other[i:], k / 20)
        for other in routes
        if other is not route
        for i in range(len(other) - 1)
        for k in range(21)
    ]

    def clearance(place: Point) -> float:
        def distance(point: Point, scale: float) -> float:
            return max(abs(point[0] - place[0]) / half_width, abs(point[1] - place[1]) / half_height) / scale

        return min([distance(p, 1) for p in strokes] + [distance(p, 2) for p in taken], default=2.0)

    preferred = (0.35, 0.25, 0.45, 0.15, 0.55, 0.65) if len(text) <= 3 else (0.44, 0.36, 0.56)  # long: off the boxes
    candidates = [_along(route, s) for s in preferred]
    return next((place for place in candidates if clearance(place) > 1), max(candidates, key=clearance))


def _write_gradient(ax: Axes, place: Point, text: str, size: float) -> None:
    style = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"}
    ax.text(
        *place,
        text,
        ha="center",
        va="center",
        fontsize=size,
        color=COLORS["vermilion"],
        weight="bold",
        bbox=style,
        zorder=4,
    )
