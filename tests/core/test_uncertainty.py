"""The cluster-robust error and the cluster bootstrap, against statsmodels and against exact values."""

from __future__ import annotations

import numpy as np
import pytest

from apex_ml.core.uncertainty import (
    Clusters,
    bootstrap_interval,
    bootstrap_means,
    bootstrap_rows,
    lower_bound,
)


def _sample(n: int, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values that are alike within a cluster, and the clusters, whose sizes differ."""
    random = np.random.default_rng(seed)
    entities = random.integers(0, clusters, n) ** 2 % clusters
    entities[:2] = 0, 1
    return random.normal(0.3, 1, n) + random.normal(0, 1, clusters)[entities], entities


@pytest.mark.parametrize(("n", "clusters"), [(6, 2), (50, 7), (1_000, 40), (5_000, 5_000), (20_000, 900)])
@pytest.mark.parametrize("seed", range(5))
def test_the_standard_error_is_that_of_statsmodels(n: int, clusters: int, seed: int) -> None:
    """A mean is a regression on a constant; statsmodels applies the factor g / (g - 1) · (n - 1) / (n - 1)."""
    import statsmodels.api as sm

    values, entities = _sample(n, clusters, seed)
    fitted = sm.OLS(values, np.ones(n)).fit(cov_type="cluster", cov_kwds={"groups": entities, "use_correction": True})
    ours = Clusters.of(values, entities)
    assert ours.mean == pytest.approx(fitted.params[0], rel=1e-9)
    assert ours.standard_error == pytest.approx(fitted.bse[0], rel=1e-9)


def test_without_entities_it_is_the_usual_standard_error() -> None:
    values, _ = _sample(300, 10, 1)
    assert Clusters.of(values, None).standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(300), rel=1e-12)
    assert Clusters.of(values, np.arange(300)).standard_error == pytest.approx(
        Clusters.of(values, None).standard_error, rel=1e-12
    )


def test_the_order_and_the_names_of_clusters_do_not_matter() -> None:
    values, entities = _sample(400, 30, 2)
    order = np.random.default_rng(3).permutation(400)
    names = np.array([f"client {e}" for e in entities])
    assert Clusters.of(values[order], names[order]).standard_error == pytest.approx(
        Clusters.of(values, entities).standard_error, rel=1e-12
    )


def test_repeated_orders_of_a_client_add_no_certainty() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=100), 10)
    alone = Clusters.of(values, np.arange(1000)).standard_error
    together = Clusters.of(values, np.repeat(np.arange(100), 10)).standard_error
    factor = np.sqrt((100 / 99) / (1000 / 999))  # the small-sample factor of 100 clusters over that of 1000
    assert together == pytest.approx(alone * np.sqrt(10) * factor, rel=1e-9)


def test_clusters_equal_a_manual_calculation() -> None:
    clusters = Clusters.of(np.array([1.0, 2.0, 6.0]), np.array(["a", "b", "a"]))
    assert clusters.mean == 3
    # cluster sums less the mean a order: 7 - 6 = 1 and 2 - 3 = -1
    assert clusters.standard_error == pytest.approx(np.sqrt(2 / 1 * 2) / 3)
    assert Clusters.of(np.array([1.0]), None).standard_error == float("inf")


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_bootstrap_and_normal_bounds_agree(level: float) -> None:
    random = np.random.default_rng(5)
    clusters = Clusters.of(random.normal(0, 0.05, 20_000), random.integers(0, 8_000, 20_000))
    bound = lower_bound(clusters, level, seed=1)
    assert bound.method == "bootstrap"
    normal = lower_bound(clusters, 1e-9, seed=1)
    assert normal.method == "normal" and normal.low < bound.low
    expected = clusters.mean - {0.05: 1.645, 0.01: 2.326}[level] * clusters.standard_error
    assert bound.low == pytest.approx(expected, abs=0.1 * clusters.standard_error)


def test_orders_that_are_alike_within_a_client_widen_the_bound() -> None:
    values = np.repeat(np.random.default_rng(2).normal(0, 1, 500), 10)
    alone = lower_bound(Clusters.of(values, None), 0.05, 1)
    together = lower_bound(Clusters.of(values, np.repeat(np.arange(500), 10)), 0.05, 1)
    assert together.mean == pytest.approx(alone.mean)
    assert (together.mean - together.low) / (alone.mean - alone.low) == pytest.approx(np.sqrt(10), rel=0.1)


def test_the_interval_by_clusters_is_wider_where_clusters_are_alike() -> None:
    random = np.random.default_rng(2)
    clusters = np.repeat(np.arange(100), 20)
    values = np.repeat(random.normal(0, 1, 100), 20)
    alone = bootstrap_interval(Clusters.of(values, np.arange(len(values))), seed=1)
    together = bootstrap_interval(Clusters.of(values, clusters), seed=1)
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])
    assert together[1] - together[0] == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.25)


@pytest.mark.parametrize("levels", [2, 10_000], ids=["equal clusters are drawn by number", "each cluster is drawn"])
def test_the_bootstrap_has_the_standard_error_and_repeats(levels: int) -> None:
    random = np.random.default_rng(4)
    values = random.integers(0, levels, 4_000).astype(float)
    clusters = Clusters.of(values, random.integers(0, 4_000, 4_000) if levels > 2 else None)
    means = bootstrap_means(clusters, seed=7)
    assert means.std() == pytest.approx(clusters.standard_error, rel=0.06)
    assert means.mean() == pytest.approx(clusters.mean, abs=0.1 * clusters.standard_error)
    assert np.array_equal(means, bootstrap_means(clusters, seed=7))


def test_resampled_rows_are_whole_clusters_and_give_the_same_spread() -> None:
    values, entities = _sample(2_000, 120, 5)
    sizes = {e: int((entities == e).sum()) for e in np.unique(entities)}
    means = []
    for rows in bootstrap_rows(entities, seed=1, resamples=400):
        drawn, counts = np.unique(rows, return_counts=True)
        assert len(set(counts[entities[drawn] == entities[drawn[0]]])) == 1  # every row of a cluster, equally often
        assert sum(entities[drawn] == entities[drawn[0]]) == sizes[entities[drawn[0]]]
        means.append(values[rows].mean())
    assert np.std(means) == pytest.approx(Clusters.of(values, entities).standard_error, rel=0.12)


def test_one_cluster_has_no_error_and_no_bound() -> None:
    clusters = Clusters.of(np.array([1.0, 2.0]), np.array(["a", "a"]))
    assert clusters.standard_error == float("inf")
    bound = lower_bound(clusters, 0.05, seed=1)
    assert (bound.mean, bound.low, bound.method) == (1.5, float("-inf"), "normal")
