"""The drawn graph is the recorded graph: nodes, edges, depths and flowing gradients against closed forms."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from helpers.plotting.graphs import _along, _label_place, _layout, flowing_gradients, plot_graph, trace_graph


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def leaf(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def polynomial():
    x = leaf(2.0)
    return x, x**2 + 3 * x


def tangle():
    """Edges of every span, a shared node and a doubled edge."""
    x, w = leaf(0.7), leaf(-1.3)
    a = x * x
    return (x, w), torch.sin(a * a + x * a + w) * w + x


def test_trace_reads_operations_leaves_and_names():
    x, y = polynomial()
    graph = trace_graph(y, {"x": x, "y": y})
    assert sorted((n.operation, n.kind, n.name, n.depth) for n in graph.nodes if n.kind == "operation" and n.name) == [
        ("AddBackward0", "operation", "y = 10", 0)
    ]
    by_operation = {n.operation: n for n in graph.nodes}
    assert set(by_operation) == {"AddBackward0", "PowBackward0", "MulBackward0", "AccumulateGrad"}
    assert (by_operation["AccumulateGrad"].kind, by_operation["AccumulateGrad"].name) == ("leaf", "x = 2")
    assert [by_operation[o].depth for o in ("PowBackward0", "MulBackward0", "AccumulateGrad")] == [1, 1, 2]
    ends = {(graph.nodes[e.source].operation, graph.nodes[e.target].operation, e.slot) for e in graph.edges}
    assert ends == {
        ("AddBackward0", "PowBackward0", 0),
        ("AddBackward0", "MulBackward0", 1),
        ("PowBackward0", "AccumulateGrad", 0),
        ("MulBackward0", "AccumulateGrad", 0),
    }


def test_constants_are_drawn_on_request_only():
    x, y = polynomial()
    assert all(n.kind != "constant" for n in trace_graph(y).nodes)
    graph = trace_graph(y, constants=True)
    assert [n.kind for n in graph.nodes].count("constant") == 1  # the 3 of 3x; the exponent is no tensor
    w = torch.tensor([1.0, 3.0])
    graph = trace_graph(w[0] * x**2 + w[1] * x, constants=True)
    assert [n.kind for n in graph.nodes].count("constant") == 2


def test_a_shared_node_stands_once_and_edges_lead_towards_the_leaves():
    (x, w), y = tangle()
    graph = trace_graph(y, {"x": x, "w": w})
    assert sorted(n.name for n in graph.nodes if n.kind == "leaf") == ["w = −1.3", "x = 0.7"]
    assert all(graph.nodes[e.source].depth < graph.nodes[e.target].depth for e in graph.edges)
    assert len({n.depth for n in graph.nodes if n.kind == "leaf"}) == 1
    doubled = [(e.source, e.target) for e in graph.edges]
    assert len(doubled) - len(set(doubled)) == 2  # both slots of x * x and of a * a


def test_several_outputs_and_untracked_ones():
    x = leaf(2.0)
    z = 3 * x
    w = 2 * z.detach()
    graph = trace_graph([z, w], {"z": z, "w": w})
    assert [(n.kind, n.name) for n in graph.nodes] == [("operation", "z = 6"), ("leaf", None), ("untracked", "w = 12")]
    assert [n.kind for n in trace_graph(x).nodes] == ["leaf"]
    assert [n.kind for n in trace_graph(torch.zeros(5)).nodes] == ["untracked"]


def test_names_of_large_and_unbound_tensors():
    x = torch.zeros(2, 5, requires_grad=True)
    first, second = x.unbind()
    graph = trace_graph(first.sum() + second.sum(), {"x": x, "first": first, "second": second})
    assert {n.name for n in graph.nodes if n.name} == {"x", "first, second"}


def test_long_chains_do_not_recurse():
    x = leaf(1.0)
    y = x
    for _ in range(5000):
        y = y + 1
    graph = trace_graph(y)
    assert len(graph.nodes) == 5001
    assert graph.nodes[-1].depth == 5000


def test_flow_is_the_chain_rule_and_leaves_no_trace():
    x, y = polynomial()
    graph, flow = trace_graph(y), flowing_gradients(y)
    assert set(flow) == set(graph.edges)
    into_x = [float(g) for e, g in flow.items() if graph.nodes[e.target].kind == "leaf"]
    assert sorted(into_x) == [3.0, 4.0]  # 3 and 2x
    assert x.grad is None
    y.backward()  # the graph was kept
    assert float(x.grad) == 7.0


def test_flow_into_the_leaves_adds_up_to_the_gradient():
    leaves, y = tangle()
    graph, flow = trace_graph(y, {"x": leaves[0], "w": leaves[1]}), flowing_gradients(y)
    for tensor, name, gradient in zip(leaves, ("x", "w"), torch.autograd.grad(y, leaves), strict=True):
        arrived = [g for e, g in flow.items() if (graph.nodes[e.target].name or "").startswith(f"{name} =")]
        torch.testing.assert_close(sum(arrived), gradient)
        assert tensor.grad is None


def test_flow_removes_its_hooks():
    _, y = polynomial()
    first = flowing_gradients(y)
    flowing_gradients(y, torch.tensor(10.0, dtype=torch.float64))
    assert [float(g) for g in first.values()] == [1.0, 1.0, 3.0, 4.0]


def test_flow_takes_a_seed_for_outputs_that_are_not_scalar():
    x = leaf([2.0])
    y = torch.cat([x**2, x])
    graph, flow = trace_graph(y), flowing_gradients(y, torch.tensor([4.0, 2.0], dtype=torch.float64))
    assert sum(float(g) for e, g in flow.items() if graph.nodes[e.target].kind == "leaf") == 18.0
    with pytest.raises(ValueError, match="seed"):
        flowing_gradients(y)


@pytest.mark.parametrize("output", [torch.ones(1), torch.ones(1, requires_grad=True)])
def test_flow_needs_an_operation(output):
    with pytest.raises(ValueError, match="grad_fn"):
        flowing_gradients(output)


def test_wrong_input():
    with pytest.raises(TypeError, match="float"):
        trace_graph(3.0)
    with pytest.raises(ValueError, match="at least one"):
        plot_graph([])
    with pytest.raises(ValueError, match="one output"):
        plot_graph([polynomial()[1], polynomial()[1]], flow=True)


def boxes(figure):
    return [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]


def test_figure_has_every_box_arrow_and_number():
    x, y = polynomial()
    figure = plot_graph(y, {"x": x, "y": y}, flow=True, title="Q6")
    (ax,) = figure.axes
    assert len(boxes(figure)) == 4
    assert len([p for p in ax.patches if isinstance(p, FancyArrowPatch)]) == 4
    words = [t.get_text() for t in ax.texts]
    assert {"x = 2", "y = 10", "PowBackward0", "AccumulateGrad"} <= set(words)
    assert sorted(w for w in words if w in "134") == ["1", "1", "3", "4"]
    assert ax.get_title() == "Q6"


def test_draws_into_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    _, y = polynomial()
    assert plot_graph(y, ax=right) is figure
    assert right.patches
    assert not left.patches


@pytest.mark.parametrize("make", [polynomial, tangle])
def test_boxes_do_not_overlap_and_arrows_pass_none(make):
    _, y = make()
    graph = trace_graph(y, constants=True)
    places, routes = _layout(graph)
    assert len(set(places)) == len(places)
    for edge, route in zip(graph.edges, routes, strict=True):
        inner = route[1:-1]
        assert len(inner) == graph.nodes[edge.target].depth - graph.nodes[edge.source].depth - 1
        assert not set(inner) & set(places)
        xs = [x for x, _ in route]
        assert xs == sorted(xs, reverse=True)


def weighted():
    """Two weights in one leaf: some arrows have to cross."""
    x, w = leaf(2.0), leaf([1.0, 3.0])
    return (x, w), w[0] * x**2 + w[1] * x


def test_arrows_that_must_cross_do_so_far_from_the_leaves():
    _, y = weighted()
    graph = trace_graph(y)
    _, routes = _layout(graph)
    last = max(node.depth for node in graph.nodes)
    ends = [(route[-2][1], route[-1][1]) for e, route in zip(graph.edges, routes, strict=True)]
    into_leaves = [end for e, end in zip(graph.edges, ends, strict=True) if graph.nodes[e.target].depth == last]
    assert len(into_leaves) == 4
    assert all((a - c) * (b - d) >= 0 for a, b in into_leaves for c, d in into_leaves)


def test_numbers_keep_clear_of_other_arrows():
    _, y = weighted()
    (ax,) = plot_graph(y, flow=True).axes
    numbers = [t for t in ax.texts if t.get_weight() == "bold"]
    _, routes = _layout(trace_graph(y))
    arrows = [
        torch.tensor([_along(route[i:], k / 60) for i in range(len(route) - 1) for k in range(61)]) for route in routes
    ]
    assert len(numbers) == len(arrows) == 9
    for text in numbers:
        place = torch.tensor(text.get_position())
        assert sum(bool((a - place).abs().amax(1).min() < 0.05) for a in arrows) == 1  # its own


def test_a_number_moves_along_its_arrow_when_another_one_crosses():
    route = [(0.0, 0.0), (-1.0, 0.0)]
    assert _label_place(route, "1", [route], []) == pytest.approx((-0.384125, 0.0))
    crossing = [(-0.38, 1.0), (-0.39, -1.0)]
    moved = _label_place(route, "1", [route, crossing], [])
    assert abs(moved[0] + 0.385) > 0.06
