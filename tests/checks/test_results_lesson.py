"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math
import statistics

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from helpers import evaluation

# 12.1 ----------------------------------------------------------------------------------------------------------------


def matrix_root(a):
    values, vectors = torch.linalg.eigh(a)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_formula(m, a, n, b):
    root = matrix_root(a)
    return (m - n).square().sum() + (a + b - 2 * matrix_root(root @ b @ root)).trace()


def frechet_eigenvalues(m, a, n, b):
    m, a, n, b = (x.numpy() for x in (m, a, n, b))
    values = np.linalg.eigvals(a @ b)
    return float(((m - n) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.sqrt(np.maximum(values.real, 0)).sum())


def frechet_library(m, a, n, b):
    return evaluation.frechet_distance(evaluation.FeatureStatistics(m, a, 2), evaluation.FeatureStatistics(n, b, 2))


def frechet_wrong(cross=None, means=lambda m, n: (m - n).square().sum(), factor=2, last=lambda d: d):
    def distance(m, a, n, b):
        root = matrix_root(a)
        middle = matrix_root(root @ b @ root).trace() if cross is None else cross(a, b)
        return last(means(m, n) + a.trace() + b.trace() - factor * middle)

    return distance


WRONG_1 = {
    "root-taken": frechet_wrong(last=torch.sqrt),
    "mean-not-squared": frechet_wrong(means=lambda m, n: (m - n).norm()),
    "means-forgotten": frechet_wrong(means=lambda m, n: 0),
    "two-forgotten": frechet_wrong(factor=1),
    "product-not-rooted": frechet_wrong(lambda a, b: (a @ b).trace()),
    "root-of-each-element": frechet_wrong(lambda a, b: (a @ b).diagonal().clamp_min(0).sqrt().sum()),
    "root-of-each-element-inside": frechet_wrong(
        lambda a, b: (matrix_root(a) @ b @ matrix_root(a)).diagonal().clamp_min(0).sqrt().sum()
    ),
    "one-triangle-only": frechet_wrong(lambda a, b: torch.linalg.eigvalsh(a @ b).clamp_min(0).sqrt().sum()),
    "roots-multiplied": frechet_wrong(lambda a, b: (matrix_root(a) @ matrix_root(b)).trace()),
    "root-outside-the-trace": frechet_wrong(lambda a, b: (a @ b).trace().sqrt()),
    "diagonal-only": lambda m, a, n, b: (
        (m - n).square().sum() + (a.diagonal().sqrt() - b.diagonal().sqrt()).square().sum()
    ),
    "matrices-subtracted": lambda m, a, n, b: (m - n).square().sum() + (a - b).square().sum(),
}

# 12.2 ----------------------------------------------------------------------------------------------------------------


def limit_polyfit(sizes, distances):
    return np.polyfit(1 / np.array(sizes), distances, 1)[1]


def limit_two_points(sizes, distances):
    (n, y), (m, z) = sorted(zip(sizes, distances, strict=True))[:: len(sizes) - 1]
    return (m * z - n * y) / (m - n)


def limit_lstsq(sizes, distances):
    n = torch.tensor(sizes, dtype=torch.float64)
    design = torch.stack([torch.ones_like(n), 1 / n], 1)
    return torch.linalg.lstsq(design, torch.tensor(distances, dtype=torch.float64)[:, None]).solution[0]


WRONG_2 = {
    "line-in-n": lambda n, y: np.polyfit(n, y, 1)[1],
    "slope-for-intercept": lambda n, y: np.polyfit(1 / np.array(n), y, 1)[0],
    "line-in-the-root": lambda n, y: np.polyfit(np.array(n) ** -0.5, y, 1)[1],
    "line-in-the-logarithm": lambda n, y: np.polyfit(np.log(n), y, 1)[1],
    "largest-set": lambda n, y: y[int(np.argmax(n))],
    "mean-of-distances": lambda n, y: sum(y) / len(y),
}

# 12.3 ----------------------------------------------------------------------------------------------------------------


def radii(x, k):
    return torch.cdist(x, x).sort(dim=1).values[:, k]


def share(points, centres, radius):
    return (torch.cdist(points, centres) < radius).any(1).double().mean()


def neighbours_torch(real, samples, k):
    return share(samples, real, radii(real, k)), share(real, samples, radii(samples, k))


def neighbours_prdc(real, samples, k):
    return evaluation.precision_recall(real, samples, k)


def neighbours_sklearn(real, samples, k):
    def inside(points, centres):
        radius = NearestNeighbors(n_neighbors=k + 1).fit(centres).kneighbors(centres)[0][:, -1]
        distance = np.linalg.norm(points[:, None] - centres[None], axis=2)
        return float((distance <= radius).any(1).mean())

    real, samples = real.numpy(), samples.numpy()
    return [inside(samples, real), inside(real, samples)]


def own_balls(real, samples, k):
    between = torch.cdist(samples, real)
    own = (between < radii(samples, k)[:, None]).any(1).double().mean()
    return own, (between < radii(real, k)).any(0).double().mean()


def nearest_counted(real, samples, k):
    hit = torch.cdist(samples, real).argmin(1).unique()
    return share(samples, real, radii(real, k)), len(hit) / len(real)


def other_radii(closed):
    def measure(real, samples, k):
        between = torch.cdist(samples, real)
        of_real, of_samples = between.kthvalue(k, dim=0).values, between.kthvalue(k, dim=1).values[:, None]
        inside = torch.le if closed else torch.lt
        hits = inside(between, of_real).any(1), inside(between, of_samples).any(0)
        return tuple(hit.double().mean() for hit in hits)

    return measure


WRONG_3 = {
    "exchanged": lambda r, s, k: neighbours_torch(r, s, k)[::-1],
    "counts-itself": lambda r, s, k: neighbours_torch(r, s, k - 1),
    "balls-of-the-counted": own_balls,
    "coverage-for-recall": lambda r, s, k: (neighbours_torch(r, s, k)[0], own_balls(r, s, k)[1]),
    "one-radius-for-all": lambda r, s, k: (share(s, r, radii(r, k).mean()), share(r, s, radii(s, k).mean())),
    "radius-of-the-other-set": other_radii(closed=False),
    "closed-radius-of-the-other-set": other_radii(closed=True),
    "nearest-only": nearest_counted,
}

# 12.4 ----------------------------------------------------------------------------------------------------------------


def area_pairs(inside, outside):
    gap = outside[:, None] - inside
    return (gap.sign() / 2 + 0.5).mean()


def area_sklearn(inside, outside):
    truth = [0] * len(inside) + [1] * len(outside)
    return roc_auc_score(truth, torch.cat([inside, outside]).numpy())


def area_loop(inside, outside):
    wins = sum((o > i) + 0.5 * (o == i) for o in outside.tolist() for i in inside.tolist())
    return wins / (len(inside) * len(outside))


def best_threshold(inside, outside):
    return max(
        float(((outside > t).double().mean() + (inside <= t).double().mean()) / 2)
        for t in torch.cat([inside, outside]).unique()
    )


def area_of_places(inside, outside):
    all_of_them = torch.cat([inside, outside])
    shuffled = torch.randperm(len(all_of_them), generator=torch.Generator().manual_seed(0))
    place = torch.empty(len(all_of_them))
    place[shuffled[all_of_them[shuffled].argsort(stable=True)]] = torch.arange(len(all_of_them)) + 1.0
    m = len(outside)
    return (place[len(inside) :].sum() - m * (m + 1) / 2) / (len(inside) * m)


WRONG_4 = {
    "upside-down": lambda i, o: area_pairs(o, i),
    "not-a-share": lambda i, o: area_pairs(i, o) * len(i) * len(o),
    "divided-by-one-set": lambda i, o: (o[:, None] > i).sum() / len(o),
    "ties-lost": lambda i, o: (o[:, None] > i).double().mean(),
    "ties-won": lambda i, o: (o[:, None] >= i).double().mean(),
    "from-minus-one": lambda i, o: (o[:, None] - i).sign().mean(),
    "ties-in-order": area_of_places,
    "best-threshold": best_threshold,
    "compared-in-order": lambda i, o: (o[: min(len(i), len(o))] > i[: min(len(i), len(o))]).double().mean(),
    "means-compared": lambda i, o: float(o.mean() > i.mean()),
}

# 12.5 ----------------------------------------------------------------------------------------------------------------


def compare_statistics(first, second):
    error = statistics.variance(first) / len(first) + statistics.variance(second) / len(second)
    return statistics.mean(first) - statistics.mean(second), math.sqrt(error)


def compare_numpy(first, second):
    a, b = np.array(first), np.array(second)
    return np.array([a.mean() - b.mean(), np.hypot(a.std(ddof=1) / len(a) ** 0.5, b.std(ddof=1) / len(b) ** 0.5)])


def compare_torch(first, second):
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    return torch.stack([a.mean() - b.mean(), (a.var() / len(a) + b.var() / len(b)).sqrt()])


def compare_wrong(join=math.hypot, error=lambda x: np.std(x, ddof=1) / len(x) ** 0.5, sign=1, last=lambda e: e):
    def compare(first, second):
        return sign * (np.mean(first) - np.mean(second)), last(join(error(first), error(second)))

    return compare


def paired(first, second):
    gap = [a - b for a, b in zip(first, second, strict=False)]
    return statistics.mean(first) - statistics.mean(second), statistics.stdev(gap) / len(gap) ** 0.5


WRONG_5 = {
    "wrong-way-round": compare_wrong(sign=-1),
    "scatter-for-error": compare_wrong(error=lambda x: np.std(x, ddof=1)),
    "paired": paired,
    "divided-by-n": compare_wrong(error=lambda x: np.std(x, ddof=1) / len(x)),
    "biased-scatter": compare_wrong(error=lambda x: np.std(x) / len(x) ** 0.5),
    "errors-added": compare_wrong(join=lambda a, b: a + b),
    "errors-subtracted": compare_wrong(join=lambda a, b: abs(a**2 - b**2) ** 0.5),
    "variance-for-error": compare_wrong(last=lambda e: e**2),
    "one-error-only": compare_wrong(join=lambda a, b: a),
}

RIGHT = {
    "12.1": [frechet_formula, frechet_eigenvalues, frechet_library],
    "12.2": [limit_polyfit, limit_two_points, limit_lstsq],
    "12.3": [neighbours_torch, neighbours_prdc, neighbours_sklearn],
    "12.4": [area_pairs, area_sklearn, area_loop],
    "12.5": [compare_statistics, compare_numpy, compare_torch],
}
WRONG = {"12.1": WRONG_1, "12.2": WRONG_2, "12.3": WRONG_3, "12.4": WRONG_4, "12.5": WRONG_5}
