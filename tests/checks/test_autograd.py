"""Right answers pass, in several styles; each typical mistake is called by its name."""

import contextlib
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from helpers.checks import autograd

# 6.1 -----------------------------------------------------------------------------------------------------------------

FIVE = {"a": 3.0, "b": 12.0, "c": 2.0, "d": 22.0, "e": 2.0}
FIVE_TENSORS = {key: torch.tensor([value]) for key, value in FIVE.items()}

# 6.2 -----------------------------------------------------------------------------------------------------------------


def differences_loop(f, x, h):
    gradient = torch.zeros(x.shape, dtype=x.dtype)
    for i in range(x.numel()):
        step = torch.zeros(x.shape, dtype=x.dtype)
        step.view(-1)[i] = h
        gradient.view(-1)[i] = (f(x + step) - f(x - step)) / (2 * h)
    return gradient


def differences_in_place(f, x, h):
    x, results = x.clone(), []
    for index in itertools.product(*map(range, x.shape)):
        old = x[index].item()
        x[index] = old + h
        high = f(x).item()
        x[index] = old - h
        low = f(x).item()
        x[index] = old
        results.append((high - low) / h / 2)
    return np.array(results).reshape(tuple(x.shape))


def quotients(f, x, ahead, behind, divisor):
    units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    return torch.stack([(f(x + ahead * u) - f(x + behind * u)) / divisor for u in units]).reshape(x.shape)


def differences_of_rows(f, x, h):
    gradient = torch.zeros_like(x)
    for i in range(len(x)):
        step = torch.zeros_like(x)
        step[i] = h
        gradient[i] = (f(x + step) - f(x - step)) / (2 * h)
    return gradient


def differences_by_row(f, x, h):
    return differences_of_rows(f, x, h).reshape(len(x), -1)[:, 0]


def differences_in_order_only(f, x, h):
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x)
        step.view(-1)[i] = h
        gradient.view(-1)[i] = (f(x + step) - f(x - step)) / (2 * h)
    return gradient


def differences_in_a_copy(f, x, h):
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x)
        step.reshape(-1)[i] = h
        gradient.reshape(-1)[i] = (f(x + step) - f(x - step)) / (2 * h)
    return gradient


def differences_that_change_x(f, x, h):
    result = differences_loop(f, x, h)
    x.view(-1)[0] += h
    return result


def differences_rounded(f, x, h):
    return differences_loop(f, x.float(), h)


def differences_put_back_by_adding(f, x, h):
    gradient = torch.zeros(x.shape, dtype=x.dtype)
    for index in itertools.product(*map(range, x.shape)):
        x[index] += h
        high = f(x)
        x[index] -= 2 * h
        gradient[index] = (high - f(x)) / (2 * h)
        x[index] += h
    return gradient


def exact(f, x, h):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


# 6.3 -----------------------------------------------------------------------------------------------------------------


def vjp_products(matrix, x, v):
    return matrix.T @ ((1 - torch.tanh(matrix @ x) ** 2) * v)


def vjp_numpy(matrix, x, v):
    a, x, v = matrix.numpy(), x.numpy(), v.numpy()
    return (v / np.cosh(a @ x) ** 2) @ a


def vjp_rows(matrix, x, v):
    """A weighted sum of the rows of A: no product with the transpose, and no Jacobian either."""
    u_bar = v / torch.cosh(matrix.mv(x)).square()
    return sum(weight * row for weight, row in zip(u_bar, matrix, strict=True))


def vjp_einsum(matrix, x, v):
    return torch.einsum("i,i,ij->j", 1 - torch.tanh(matrix @ x) ** 2, v, matrix)


def vjp_lists(matrix, x, v):
    rows, columns = matrix.shape
    y = [math.tanh(sum(float(matrix[i, j] * x[j]) for j in range(columns))) for i in range(rows)]
    return [sum((1 - y[i] ** 2) * float(v[i] * matrix[i, j]) for i in range(rows)) for j in range(columns)]


def vjp_jacobian(matrix, x, v):
    return v @ ((1 - torch.tanh(matrix @ x) ** 2)[:, None] * matrix)


def vjp_jacobian_transposed(matrix, x, v):
    return (matrix.T * (1 - torch.tanh(matrix @ x) ** 2)) @ v


def vjp_autograd(matrix, x, v):
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(torch.tanh(matrix @ x), x, v)[0]


def vjp_backward(matrix, x, v):
    x = x.detach().requires_grad_()
    torch.tanh(matrix @ x).backward(v)
    return x.grad


def vjp_functional(matrix, x, v):
    return torch.autograd.functional.vjp(lambda x: torch.tanh(matrix @ x), x, v)[1]


def vjp_func(matrix, x, v):
    return torch.func.vjp(lambda x: torch.tanh(matrix @ x), x)[1](v)[0]


def vjp_jacrev(matrix, x, v):
    return v @ torch.func.jacrev(lambda x: torch.tanh(matrix @ x))(x)


def vjp_wrong(kind):
    def product(matrix, x, v):
        y = torch.tanh(matrix @ x)
        return {
            "slope-forgotten": lambda: matrix.T @ v,
            "slope-not-squared": lambda: matrix.T @ ((1 - y) * v),
            "slope-at-wrong-point": lambda: matrix.T @ ((1 - (matrix @ x) ** 2) * v),
            "value-for-slope": lambda: matrix.T @ (y * v),
            "slope-bracket": lambda: matrix.T @ ((1 - y) ** 2 * v),
            "slope-sign": lambda: matrix.T @ ((y**2 - 1) * v),
            "tanh-twice": lambda: matrix.T @ ((1 - torch.tanh(y) ** 2) * v),
            "v-ignored": lambda: matrix.T @ (1 - y**2),
            "jvp": lambda: (1 - y**2) * (matrix @ v),
            "not-transposed": lambda: matrix @ ((1 - y**2) * v),
            "shapes": lambda: matrix.T @ ((1 - y**2) * v) if len(x) == len(v) else matrix @ v,
        }[kind]()

    return product


VJP_MISTAKES = (
    "slope-forgotten",
    "slope-not-squared",
    "slope-at-wrong-point",
    "value-for-slope",
    "slope-bracket",
    "slope-sign",
    "tanh-twice",
    "v-ignored",
    "jvp",
    "not-transposed",
    "shapes",
)

# 6.4 -----------------------------------------------------------------------------------------------------------------


def accumulate_weighted(model, micro_batches):
    total = sum(len(x) for x, _ in micro_batches)
    model.zero_grad()
    for x, y in micro_batches:
        loss = nn.functional.mse_loss(model(x), y)
        (loss * len(x) / total).backward()


def accumulate_then_divide(model, micro_batches):
    for parameter in model.parameters():
        parameter.grad = None
    seen = 0
    for x, y in micro_batches:
        (model(x) - y).square().sum().backward()
        seen += len(x)
    for parameter in model.parameters():
        parameter.grad /= seen


def accumulate_with_seeds(model, micro_batches):
    """Keeps the losses, whose graphs have been freed; clears with zeros."""
    model.zero_grad(set_to_none=False)
    losses, total = [], sum(y.numel() for _, y in micro_batches)
    with torch.enable_grad():
        for x, y in micro_batches:
            losses.append(nn.functional.mse_loss(model(x), y, reduction="sum"))
            losses[-1].backward(torch.tensor(1 / total, dtype=torch.float64))


def accumulate_one_graph(model, micro_batches):
    model.zero_grad(set_to_none=False)
    torch.cat([(model(x) - y) ** 2 for x, y in micro_batches]).mean().backward()


def accumulate_summed_losses(model, micro_batches):
    model.zero_grad()
    total = sum(len(x) for x, _ in micro_batches)
    sum(nn.functional.mse_loss(model(x), y) * len(x) / total for x, y in micro_batches).backward()


def accumulate_joined(model, micro_batches):
    model.zero_grad()
    x, y = map(torch.cat, zip(*micro_batches, strict=True))
    nn.functional.mse_loss(model(x), y).backward()


def accumulate_forwards_first(model, micro_batches):
    model.zero_grad()
    total = sum(len(x) for x, _ in micro_batches)
    losses = [(model(x) - y).square().sum() / total for x, y in micro_batches]
    for loss in losses:
        loss.backward()


def accumulate_row_by_row(model, micro_batches):
    rows = [(x[i : i + 1], y[i : i + 1]) for x, y in micro_batches for i in range(len(x))]
    accumulate_weighted(model, rows)


def accumulate_wrong(weight, zero_before=True, zero_inside=False):
    def accumulate(model, micro_batches):
        total = sum(len(x) for x, _ in micro_batches)
        if zero_before:
            model.zero_grad()
        for x, y in micro_batches:
            if zero_inside:
                model.zero_grad()
            (nn.functional.mse_loss(model(x), y) * weight(len(x), total, len(micro_batches))).backward()

    return accumulate


def accumulate_by_loss(loss_of):
    def accumulate(model, micro_batches):
        model.zero_grad()
        total = sum(len(x) for x, _ in micro_batches)
        for x, y in micro_batches:
            loss_of(model(x), y, len(x) / total).backward()

    return accumulate


def accumulate_with_step(model, micro_batches):
    accumulate_weighted(model, micro_batches)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


# 6.5 -----------------------------------------------------------------------------------------------------------------


def gradient_by_grad(network, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(network(x).sum(), x)[0]


def gradient_by_freezing(network, x):
    flags = [p.requires_grad for p in network.parameters()]
    network.requires_grad_(False)
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        y = network(x)
        y.backward(torch.ones_like(y))
    for p, flag in zip(network.parameters(), flags, strict=True):
        p.requires_grad_(flag)
    return x.grad


def gradient_into_x_only(network, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        network(x).sum().backward(inputs=[x])
    return x.grad


def gradient_in_a_tuple(network, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(network(x).sum(), x)


def gradient_not_summed(network, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(network(x), x)[0]


def gradient_by_vjp(network, x):
    with torch.enable_grad():
        y, pull = torch.func.vjp(network, x)
        return pull(torch.ones_like(y))[0].detach()


def gradient_left_frozen(network, x):
    network.requires_grad_(False)
    return gradient_by_grad(network, x)


def gradient_all_thawed(network, x):
    result = gradient_left_frozen(network, x)
    network.requires_grad_(True)
    return result


def gradient_by_backward(network, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        network(x).sum().backward()
    return x.grad


def gradient_on_callers_x(network, x):
    x.requires_grad_()
    return torch.autograd.grad(network(x).sum(), x)[0]


def gradient_then_zero_grad(network, x):
    result = gradient_by_backward(network, x)
    network.zero_grad()
    return result


def gradient_in_eval(network, x):
    network.eval()
    return gradient_by_grad(network, x)


def gradient_all_in_train(network, x):
    result = gradient_in_eval(network, x)
    network.train()
    return result


def gradient_with_leaked_switch(network, x):
    torch.set_grad_enabled(True)
    x = x.detach().requires_grad_()
    return torch.autograd.grad(network(x).sum(), x)[0]


def gradient_with_step(network, x):
    with torch.no_grad():
        network[-1].bias += 1.0
    return gradient_by_grad(network, x)


def gradient_of_overwritten_x(network, x):
    result = gradient_by_grad(network, x)
    x += 1
    return result


def gradient_with_grads_put_back(network, x):
    """backward() after all, with every mode, flag and .grad restored."""
    modes, kept = [m.training for m in network.modules()], [p.grad for p in network.parameters()]
    network.eval().zero_grad()
    result = gradient_by_backward(network, x)
    for module, mode in zip(network.modules(), modes, strict=True):
        module.training = mode
    for parameter, gradient in zip(network.parameters(), kept, strict=True):
        parameter.grad = gradient
    return result


def gradient_without_enable(network, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(network(x).sum(), x)[0]


def gradient_keeps_graph(network, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(network(x).sum(), x, create_graph=True)[0]


def gradient_with_cut(network, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(network(x.detach()).sum(), x)[0]


def gradient_from_features(network, x):
    x = x.detach().requires_grad_()
    with torch.no_grad():
        features = network[:-1](x)
    return torch.autograd.grad(network[-1](features).sum(), x)[0]


# 6.6 -----------------------------------------------------------------------------------------------------------------


class SortedByCreation:
    """Local slopes stored with the inputs; the order of the pass is the order of creation, backwards."""

    recording, clock = True, itertools.count()

    def __init__(self, data, requires_grad=False, inputs=()):
        self.data, self.grad, self.requires_grad, self.inputs = float(data), None, requires_grad, inputs
        self.born = next(self.clock)

    @property
    def is_leaf(self):
        return not self.inputs

    @classmethod
    def result(cls, data, *pairs):
        kept = tuple(p for p in pairs if p[0].requires_grad) if SortedByCreation.recording else ()
        return cls(data, bool(kept), kept)

    @classmethod
    def wrap(cls, other):
        return other if isinstance(other, SortedByCreation) else cls(other)

    def __add__(self, other):
        other = self.wrap(other)
        return self.result(self.data + other.data, (self, 1.0), (other, 1.0))

    def __mul__(self, other):
        other = self.wrap(other)
        return self.result(self.data * other.data, (self, other.data), (other, self.data))

    def __pow__(self, n):
        return self.result(self.data**n, (self, n * self.data ** (n - 1)))

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -self.wrap(other)

    def __truediv__(self, other):
        return self * self.wrap(other) ** -1

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other):
        return self.wrap(other) - self

    def __rtruediv__(self, other):
        return self.wrap(other) / self

    def backward(self, seed=1.0):
        if not self.requires_grad:
            raise RuntimeError("not tracked")
        nodes, todo = {self}, [self]
        while todo:
            for parent, _ in todo.pop().inputs:
                if parent not in nodes:
                    nodes.add(parent)
                    todo.append(parent)
        flow = dict.fromkeys(nodes, 0.0)
        flow[self] = seed
        for node in sorted(nodes, key=lambda n: -n.born):
            if node.is_leaf:
                node.grad = flow[node] + (node.grad or 0.0)
            for parent, slope in node.inputs:
                flow[parent] += flow[node] * slope

    def detach(self):
        return type(self)(self.data)

    def zero_grad(self):
        self.grad = None

    @staticmethod
    @contextlib.contextmanager
    def no_grad():
        old, SortedByCreation.recording = SortedByCreation.recording, False
        try:
            yield
        finally:
            SortedByCreation.recording = old


class Closures:
    """Backward steps as closures and a recursive depth-first order; every node has a working gradient."""

    tracking = True

    def __init__(self, data, requires_grad=False):
        self.data, self.requires_grad, self.grad = data, requires_grad, None
        self._work, self._parents, self._step = 0.0, [], lambda: None

    def is_leaf(self):
        return not self._parents

    def _make(self, data, parents, step):
        out = Closures(data)
        if Closures.tracking and any(p.requires_grad for p in parents):
            out.requires_grad, out._parents, out._step = True, parents, lambda: step(out._work)
        return out

    def __add__(self, other):
        other = other if isinstance(other, Closures) else Closures(other)

        def step(g):
            self._work += g
            other._work += g

        return self._make(self.data + other.data, [self, other], step)

    def __mul__(self, other):
        other = other if isinstance(other, Closures) else Closures(other)

        def step(g):
            self._work += g * other.data
            other._work += g * self.data

        return self._make(self.data * other.data, [self, other], step)

    def __pow__(self, n):
        def step(g):
            self._work += g * n * math.pow(self.data, n - 1)

        return self._make(math.pow(self.data, n), [self], step)

    __radd__ = lambda self, other: self + other  # noqa: E731
    __rmul__ = lambda self, other: self * other  # noqa: E731
    __neg__ = lambda self: self * -1  # noqa: E731
    __sub__ = lambda self, other: self + other * -1  # noqa: E731
    __rsub__ = lambda self, other: -self + other  # noqa: E731
    __truediv__ = lambda self, other: self * (Closures(1.0) * other) ** -1  # noqa: E731
    __rtruediv__ = lambda self, other: self**-1 * other  # noqa: E731

    def backward(self, gradient=1.0):
        if not self.requires_grad:
            raise RuntimeError("nothing to differentiate")
        order, seen = [], set()

        def visit(node):
            if id(node) not in seen:
                seen.add(id(node))
                for parent in node._parents:
                    visit(parent)
                order.append(node)

        visit(self)
        for node in order:
            node._work = 0.0
        self._work = gradient
        for node in reversed(order):
            node._step()
        for node in order:
            if node.requires_grad and node.is_leaf():
                node.grad = node._work if node.grad is None else node.grad + node._work

    def detach(self):
        return Closures(self.data)

    def zero_grad(self):
        self.grad = None

    @classmethod
    @contextlib.contextmanager
    def no_grad(cls):
        cls.tracking, before = False, cls.tracking
        try:
            yield
        finally:
            cls.tracking = before


def engine(**changed):
    """The first engine with some methods replaced."""
    return type("Value", (SortedByCreation,), changed)


def backward_by(spread):
    """A backward pass of one's own; ``spread(node, seed)`` does the work."""

    def backward(self, seed=1.0):
        if not self.requires_grad:
            raise RuntimeError("not tracked")
        spread(self, seed)

    return backward


def give(node, gradient):
    node.grad = (node.grad or 0.0) + gradient


def paths(node, gradient):
    if node.is_leaf:
        give(node, gradient)
    for parent, slope in node.inputs:
        paths(parent, gradient * slope)


def paths_on_a_stack(node, gradient):
    """The same without calls of Python functions."""
    walk = [(node, gradient)]
    while walk:
        node, gradient = walk.pop()
        if node.is_leaf:
            node.grad = (node.grad or 0.0) + gradient
        for parent, slope in node.inputs:
            walk.append((parent, gradient * slope))


def without_order(node, seed):
    """Passes on whatever has arrived, at the first visit."""
    flow, queue, seen = {node: seed}, [node], {node}
    while queue:
        node = queue.pop(0)
        for parent, slope in node.inputs:
            flow[parent] = flow.get(parent, 0.0) + flow[node] * slope
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    for node, gradient in flow.items():
        if node.is_leaf:
            give(node, gradient)


def in_order(node):
    nodes, todo = {node}, [node]
    while todo:
        for parent, _ in todo.pop().inputs:
            if parent not in nodes:
                nodes.add(parent)
                todo.append(parent)
    return sorted(nodes, key=lambda n: -n.born)


def stale(node, seed):
    """Every node keeps its gradient, and sends all of it on in each pass."""
    give(node, seed)
    for n in in_order(node):
        for parent, slope in n.inputs:
            give(parent, n.grad * slope)


def spread(assign=False, chain=True, seeded=True, fresh=False, ignore_seed=False):
    def work(node, seed):
        order = in_order(node)
        flow = dict.fromkeys(order, 0.0)
        flow[node] = (1.0 if ignore_seed else seed) if seeded else 0.0
        for n in order:
            if n.is_leaf:
                n.grad = flow[n] + (0.0 if fresh else n.grad or 0.0)
            for parent, slope in n.inputs:
                sent = flow[n] * slope if chain else slope
                flow[parent] = sent if assign else flow[parent] + sent

    return backward_by(work)


def mul_with(slopes):
    def multiply(self, other):
        other = self.wrap(other)
        first, second = slopes(self.data, other.data)
        return self.result(self.data * other.data, (self, first), (other, second))

    return multiply


def power_with(slope):
    return lambda self, n: self.result(self.data**n, (self, slope(self.data, n)))


def result_with(kept):
    @classmethod
    def result(cls, data, *pairs):
        return cls(data, *kept(pairs))

    return result


def tracked(pairs):
    return tuple(p for p in pairs if p[0].requires_grad)


class TrackedByDefault(SortedByCreation):
    def __init__(self, data, requires_grad=True, inputs=()):
        super().__init__(data, requires_grad, inputs)


class GradOfConstants(SortedByCreation):
    """Keeps constants in the graph, so that they collect gradients too."""

    @classmethod
    def result(cls, data, *pairs):
        on = SortedByCreation.recording and any(p[0].requires_grad for p in pairs)
        return cls(data, on, pairs if on else ())


class GradStartsAtZero(SortedByCreation):
    def __init__(self, data, requires_grad=False, inputs=()):
        super().__init__(data, requires_grad, inputs)
        self.grad = 0.0


class Stub:
    def __init__(self, data, requires_grad=False):
        raise NotImplementedError


def unfinished(self, n):
    raise NotImplementedError


def never_resets(self):
    pass


def zero_grad_to_zero(self):
    self.grad = 0.0


def grad_on_all(node, seed):
    """Right adjoints, but every node shows its own in .grad."""
    order = in_order(node)
    flow = dict.fromkeys(order, 0.0)
    flow[node] = seed
    for n in order:
        give(n, flow[n])
        for parent, slope in n.inputs:
            flow[parent] += flow[n] * slope


class OwnSwitch(SortedByCreation):
    """A switch of its own, so that a broken one does not stay on for the other engines."""

    on = True

    @classmethod
    def result(cls, data, *pairs):
        return super().result(data, *pairs) if OwnSwitch.on else cls(data)


class NotNested(OwnSwitch):
    @staticmethod
    @contextlib.contextmanager
    def no_grad():
        OwnSwitch.on = False
        try:
            yield
        finally:
            OwnSwitch.on = True


class NotAfterError(OwnSwitch):
    """Forgets the ``finally``; on the next engine's first leaf it starts afresh (so that it can be checked twice)."""

    @staticmethod
    @contextlib.contextmanager
    def no_grad():
        before, OwnSwitch.on = OwnSwitch.on, False
        try:
            yield
        except InterruptedError:
            NotAfterError.lost = True
            raise
        OwnSwitch.on = before

    def __init__(self, data, requires_grad=False, inputs=()):
        super().__init__(data, requires_grad, inputs)
        if requires_grad and not inputs and getattr(NotAfterError, "lost", False):
            OwnSwitch.on, NotAfterError.lost = True, False


class LeavesUntracked(SortedByCreation):
    """Asks the switch in the constructor, and so untracks leaves too."""

    def __init__(self, data, requires_grad=False, inputs=()):
        super().__init__(data, requires_grad and SortedByCreation.recording, inputs)


def lookup_fails(self, n):
    return {}[id(self)]


@contextlib.contextmanager
def useless_no_grad():
    yield


class NoGradStaysOn(SortedByCreation):
    """Records again one result too late (not never, so that the class can be checked twice)."""

    owed = 0

    @classmethod
    def result(cls, data, *pairs):
        if NoGradStaysOn.owed:
            NoGradStaysOn.owed -= 1
            return cls(data)
        return super().result(data, *pairs)

    @staticmethod
    @contextlib.contextmanager
    def no_grad():
        NoGradStaysOn.owed = 2
        yield


ENGINES = {
    "not-a-class": SortedByCreation(1.0),
    "unfinished": engine(__pow__=unfinished),
    "forward": engine(__add__=mul_with(lambda a, b: (b, a))),
    "seed-missing": engine(backward=spread(seeded=False)),
    "sum-rule": engine(
        __add__=lambda self, o: self.result(self.data + self.wrap(o).data, (self, 2.0), (self.wrap(o), 1.0))
    ),
    "product-rule": engine(__mul__=mul_with(lambda a, b: (a, b))),
    "power-rule": engine(__pow__=power_with(lambda x, n: n * x**n)),
    "missing-chain-factor": engine(backward=spread(chain=False)),
    "overwrites": engine(backward=spread(assign=True)),
    "wrong-order": engine(backward=backward_by(without_order)),
    "minus-sign": engine(__sub__=lambda self, o: self.result(self.data - self.wrap(o).data, (self, 1.0), (o, 1.0))),
    "quotient-rule": engine(
        __truediv__=lambda self, o: self.result(
            self.data / self.wrap(o).data, (self, 1 / self.wrap(o).data), (self.wrap(o), 1 / self.wrap(o).data ** 2)
        )
    ),
    "plain-numbers": engine(__radd__=lambda self, o: NotImplemented),
    "reflected-order": engine(__rsub__=lambda self, o: self - o),
    "tracked-by-default": TrackedByDefault,
    "flag-not-inherited": engine(result=result_with(lambda pairs: (True, tracked(pairs)))),
    "leaf-flag": engine(is_leaf=property(lambda self: self.requires_grad and not self.inputs)),
    "constant-grad": GradOfConstants,
    "grad-before-backward": GradStartsAtZero,
    "no-error": engine(backward=lambda self, seed=1.0: SortedByCreation.backward(self, seed) if self.inputs else None),
    "resets-by-itself": engine(backward=spread(fresh=True)),
    "zero-grad": engine(zero_grad=never_resets),
    "zero-not-none": engine(zero_grad=zero_grad_to_zero),
    "grad-on-non-leaf": engine(backward=backward_by(grad_on_all)),
    "leaf-untracked": LeavesUntracked,
    "no-grad-nested": NotNested,
    "no-grad-after-error": NotAfterError,
    "raised": engine(__pow__=lookup_fails),
    "stale-intermediates": engine(backward=backward_by(stale)),
    "seed-ignored": engine(backward=spread(ignore_seed=True)),
    "detach": engine(detach=lambda self: self),
    "records-under-no-grad": engine(no_grad=staticmethod(useless_no_grad)),
    "no-grad-stays-on": NoGradStaysOn,
    "exponential-paths": engine(backward=backward_by(paths)),
}

POWERS = {
    "half-right": lambda x, n: x ** (n - 1),
    "no exponent change": lambda x, n: n * x,
    "integer only": lambda x, n: abs(n) * x ** (n - 1),
}

# ---------------------------------------------------------------------------------------------------------------------

RIGHT = {
    "6.1": [FIVE, FIVE_TENSORS],
    "6.2": [differences_loop, differences_in_place],
    "6.3": [vjp_products, vjp_numpy, vjp_rows, vjp_einsum, vjp_lists],
    "6.4": [
        accumulate_weighted,
        accumulate_then_divide,
        accumulate_with_seeds,
        accumulate_by_loss(lambda made, y, share: share * (made.squeeze(1) - y.squeeze(1)).square().mean()),
    ],
    "6.5": [
        gradient_by_grad,
        gradient_by_freezing,
        gradient_into_x_only,
        gradient_by_vjp,
        gradient_with_grads_put_back,
    ],
    "6.6": [SortedByCreation, Closures],
}

WRONG = {
    "6.1": {
        "detach-ignored": {**FIVE, "a": 6},
        "detach-cuts-all": {**FIVE, "a": 0},
        "not-accumulated": {**FIVE, "b": 6},
        "mean-forgotten": {**FIVE, "c": 8},
        "weights-ignored": {**FIVE, "d": 17},
        "one-output-only": {**FIVE, "d": 12},
        "no-grad-ignored": {**FIVE, "e": 4},
        "no-grad-cuts-all": {**FIVE, "e": 0},
        "none-for-a-number": {**FIVE, "e": None},
        "unfinished": {**dict.fromkeys(FIVE, ...), "a": 3, "d": 22},
        "wrong-type": [3, 12, 2, 22, 2],
    },
    "6.2": {
        "forward-difference": lambda f, x, h: quotients(f, x, h, 0, h),
        "backward-difference": lambda f, x, h: quotients(f, x, 0, -h, h),
        "half-missing": lambda f, x, h: quotients(f, x, h, -h, h),
        "half-step": lambda f, x, h: quotients(f, x, h / 2, -h / 2, h),
        "order-swapped": lambda f, x, h: quotients(f, x, -h, h, 2 * h),
        "all-at-once": lambda f, x, h: (f(x + h) - f(x - h)) / (2 * h),
        "row-moved": differences_of_rows,
        "layout": differences_in_order_only,
        "copy-written": differences_in_a_copy,
        "h-ignored": lambda f, x, h: quotients(f, x, 0.1, -0.1, 0.2),
        "derivative-instead": exact,
        "input-changed": differences_that_change_x,
        "float32": differences_rounded,
    },
    "6.3": {name: vjp_wrong(name) for name in VJP_MISTAKES}
    | {"autograd-used": vjp_autograd, "jacobian-built": vjp_jacobian},
    "6.4": {
        "not-scaled": accumulate_wrong(lambda n, total, parts: 1),
        "equal-weights": accumulate_wrong(lambda n, total, parts: 1 / parts),
        "sum-of-squares": accumulate_wrong(lambda n, total, parts: n),
        "rows-forgotten": accumulate_wrong(lambda n, total, parts: 1 / total),
        "divided-twice": accumulate_wrong(lambda n, total, parts: 1 / n),
        "weight-upside-down": accumulate_wrong(lambda n, total, parts: total / n),
        "divided-by-parts": accumulate_wrong(lambda n, total, parts: n / parts),
        "scaled-twice": accumulate_wrong(lambda n, total, parts: n / total / parts),
        "rows-crossed": accumulate_by_loss(lambda made, y, share: share * (made.squeeze(1) - y).square().mean()),
        "zeroed-inside": accumulate_wrong(lambda n, total, parts: n / total, zero_inside=True),
        "stale-gradient": accumulate_wrong(lambda n, total, parts: n / total, zero_before=False),
        "model-changed": accumulate_with_step,
        "no-gradient": lambda model, micro_batches: None,
        "one-backward": accumulate_summed_losses,
        "joined-batch": accumulate_joined,
        "forwards-first": accumulate_forwards_first,
        "not-once-per-part": accumulate_row_by_row,
    },
    "6.5": {
        "flags-changed": gradient_left_frozen,
        "parameter-grads": gradient_by_backward,
        "old-gradients-lost": gradient_then_zero_grad,
        "mode-changed": gradient_in_eval,
        "parameters-changed": gradient_with_step,
        "switch-leaked": gradient_with_leaked_switch,
        "input-changed": gradient_on_callers_x,
        "fails-under-no-grad": gradient_without_enable,
        "graph-kept": gradient_keeps_graph,
        "input-cut": gradient_with_cut,
        "tuple-returned": gradient_in_a_tuple,
        "not-summed": gradient_not_summed,
        "sign": lambda network, x: -gradient_by_grad(network, x),
        "mean-for-sum": lambda network, x: gradient_by_grad(network, x) / len(x),
    },
    "6.6": ENGINES,
}

CHECKS = {
    "6.1": autograd.predictions,
    "6.2": autograd.central_difference,
    "6.3": autograd.vjp,
    "6.4": autograd.accumulation,
    "6.5": autograd.input_gradient,
    "6.6": autograd.engine,
}


def test_only_what_torch_made_is_said_to_be_watched():
    assert "and no Jacobian" in autograd.vjp(vjp_products).message
    assert "is not watched" in autograd.vjp(vjp_numpy).message


@pytest.mark.parametrize("slope", POWERS.values(), ids=POWERS)
def test_other_wrong_powers(slope):
    assert autograd.engine(engine(__pow__=power_with(slope))).mistake == "power-rule"


def test_other_ways_to_go_wrong():
    assert autograd.central_difference(lambda f, x, h: quotients(f, x, h, -h, 2 * h) * 0.9).mistake == "wrong-value"
    assert autograd.input_gradient(gradient_all_thawed).mistake == "flags-changed"
    assert autograd.input_gradient(gradient_from_features).mistake == "input-cut"
    assert autograd.accumulation(accumulate_wrong(lambda n, t, p: 1, zero_inside=True)).mistake == "zeroed-inside"
    assert autograd.engine(engine(__mul__=lambda self, o: o * self)).mistake == "endless"
    assert autograd.engine(engine(zero_grad=property(lambda self: 1 / 0))).mistake == "raised"
    assert autograd.central_difference(differences_by_row).mistake == "row-moved"
    assert "rounding only" in autograd.central_difference(differences_put_back_by_adding).message
    assert "rounding only" not in autograd.central_difference(differences_that_change_x).message
    crossed = accumulate_by_loss(lambda made, y, share: share * (made - y.squeeze(1)).square().mean())
    assert autograd.accumulation(crossed).mistake == "rows-crossed"
    assert autograd.central_difference(lambda f, x, h: quotients(f, x, 1e-5, -1e-5, 2e-5)).mistake == (
        "derivative-instead"
    )
    assert autograd.accumulation(accumulate_one_graph).mistake == "one-backward"
    assert autograd.input_gradient(gradient_all_in_train).mistake == "mode-changed"
    assert autograd.input_gradient(gradient_of_overwritten_x).mistake == "input-changed"
    assert autograd.vjp(vjp_jacobian_transposed).mistake == "jacobian-built"


@pytest.mark.parametrize("product", [vjp_backward, vjp_functional, vjp_func, vjp_jacrev])
def test_no_kind_of_autograd_passes_for_a_vjp_by_hand(product):
    assert autograd.vjp(product).mistake == "autograd-used"


def test_predictions_half_done():
    outcome = autograd.predictions({**dict.fromkeys(FIVE, ...), "a": 3, "d": 22})
    assert "2 of 5 are right" in outcome.message
    assert autograd.predictions({**dict.fromkeys(FIVE, ...), "b": 6}).mistake == "not-accumulated"


def test_an_error_in_an_engine_names_its_stage():
    assert autograd.engine(engine(__pow__=lookup_fails)).message.startswith("stage 9 of 17")


def test_the_recording_switch_is_put_back():
    autograd.input_gradient(gradient_with_leaked_switch)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("number", CHECKS)
def test_open(number):
    def stub(*_):
        raise NotImplementedError

    answers = {"6.1": dict.fromkeys(FIVE, ...), "6.6": Stub}
    assert CHECKS[number](answers.get(number, stub)).status == "open"
    assert CHECKS[number](...).status == "open"


def test_the_profiler_is_put_back():
    before = sys.getprofile()
    autograd.engine(SortedByCreation)
    assert sys.getprofile() is before


def test_paths_are_counted_however_they_are_walked():
    assert CHECKS["6.6"](engine(backward=backward_by(paths_on_a_stack))).mistake == "exponential-paths"
