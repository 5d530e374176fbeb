"""Intervals cover what they say, equal models stay tied, and the numbers are those of scipy and statsmodels."""

import ast
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from recbole_llm.leaderboard import statistics as st
from tests.leaderboard import fake

CASES = 1000


def test_it_imports_nothing_of_the_package():
    tree = ast.parse(Path(st.__file__).read_text())
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in names if name and name.startswith("recbole")]


def test_values_from_ranks():
    rank = np.array([1, 2, 3, 11])
    assert st.ranking_values(rank, "hit@2").tolist() == [1, 1, 0, 0]
    assert st.ranking_values(rank, "mrr@3").tolist() == pytest.approx([1, 1 / 2, 1 / 3, 0])
    assert st.ranking_values(rank, "ndcg@10").tolist() == pytest.approx([1, 1 / np.log2(3), 0.5, 0])
    with pytest.raises(ValueError, match="recall@5"):
        st.ranking_values(rank, "recall@5")


def test_resampling_is_scipys_bootstrap_in_distribution_and_pairs_the_columns():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(200, 2))
    samples = st.resampled_means(values, np.ones((200, 1)), 20_000, 1)
    reference = stats.bootstrap((values[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=2)
    interval = st.percentile_interval(samples[:, 0])
    assert interval == pytest.approx(tuple(reference.confidence_interval), abs=0.01)
    assert samples[:, 0].std() == pytest.approx(reference.standard_error, rel=0.03)
    same = st.resampled_means(np.repeat(values[:, :1], 2, axis=1), np.ones((200, 1)), 100, 1)
    assert (same[:, 0] == same[:, 1]).all()
    assert np.corrcoef(samples.T)[0, 1] == pytest.approx(np.corrcoef(values.T)[0, 1], abs=0.03)


def test_users_with_more_rows_weigh_more_and_move_together():
    sums, weights = np.array([[3.0], [0.0]]), np.array([[3.0], [1.0]])
    samples = st.resampled_means(sums, weights, 500, 0)
    assert set(np.round(samples[:, 0], 4)) == {0.0, 0.75, 1.0}


def test_blocks_do_not_change_the_samples(monkeypatch):
    values, ones = np.random.default_rng(0).random((50, 3)), np.ones((50, 1))
    whole = st.resampled_means(values, ones, 300, 5)
    monkeypatch.setattr(st, "_BLOCK", 50 * 7)
    np.testing.assert_allclose(whole, st.resampled_means(values, ones, 300, 5), rtol=1e-12)


def test_wilson_is_the_closed_form():
    n, hits, z = 122, 61, stats.norm.ppf(0.975)
    p = hits / n
    centre, reach = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / 4 / n**2) / (1 + z * z / n),
    )
    assert st.wilson_interval(hits, n) == pytest.approx((centre - reach, centre + reach))


def test_exact_mcnemar_is_a_binomial_test_of_the_discordant_rows():
    a, b = np.zeros(95), np.zeros(95)
    a[:17], b[:3], b[40:45] = 1, 1, 1  # 14 rows where only a is right, 5 where only b is
    assert st.mcnemar_p(a, b) == pytest.approx(stats.binomtest(14, 19).pvalue)
    assert st.mcnemar_p(a, a) == 1.0


def test_a_gain_of_twelve_in_ninety_five_is_where_significance_starts():
    """design.md, section 12: with no row lost, fewer than six discordant rows never reach p < .05."""
    a = np.zeros(95)
    for gained, significant in ((5, False), (6, True)):
        b = a.copy()
        b[:gained] = 1
        assert (st.mcnemar_p(a, b) < 0.05) == significant


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_cover_the_truth_in_93_to_97_percent_of_1000_cases(seeds):
    """Users are easy or hard for good: the truth is the mean over the population that users are drawn from."""
    rng = np.random.default_rng(seeds)
    population = np.clip(rng.beta(2, 2.5, size=200_000), 0, 1)  # a user's chance of a hit
    truth, n, covered = population.mean(), 300, []
    for case in range(CASES):
        chance = rng.choice(population, n)
        hits = (rng.random((seeds, n)) < chance).mean(0)
        if seeds == 1:
            low, high = st.wilson_interval(hits.sum(), n)
        else:
            low, high = st.percentile_interval(st.resampled_means(hits[:, None], np.ones((n, 1)), 1000, case)[:, 0])
        covered.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_ndcg_intervals_cover_the_truth():
    rng = np.random.default_rng(3)
    truth = st.ranking_values(fake.ranks(rng, 500_000, 1.2), "ndcg@10").mean()
    covered = []
    for case in range(CASES):
        values = st.ranking_values(fake.ranks(rng, 300, 1.2), "ndcg@10")
        low, high = st.percentile_interval(st.resampled_means(values[:, None], np.ones((300, 1)), 1000, case)[:, 0])
        covered.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("test", ["bootstrap", "mcnemar"])
def test_equal_rows_are_told_apart_in_at_most_6_percent_of_tables(test):
    """Family-wise error of the Holm table: four equal models, six pairs, 1,000 tables."""
    rng = np.random.default_rng(11)
    wrong, n = 0, 300
    for case in range(CASES):
        common = rng.normal(0, 0.5, n)
        ranks = np.stack([fake.ranks(rng, n, 1.2, common=common) for _ in range(4)], axis=1)
        metric = "hit@1" if test == "mcnemar" else "ndcg@10"
        values = st.ranking_values(ranks, metric)
        samples = st.resampled_means(values, np.ones((n, 1)), 1000, case) if test == "bootstrap" else None
        p = []
        for a in range(4):
            for b in range(a + 1, 4):
                if test == "mcnemar":
                    p.append(st.mcnemar_p(values[:, a], values[:, b]))
                else:
                    p.append(st.bootstrap_p(samples[:, a] - samples[:, b], values[:, a].mean() - values[:, b].mean()))
        wrong += st.holm(np.array(p)).min() < 0.05
    assert wrong / CASES <= 0.06


def test_small_bootstrap_p_values_are_continued_by_the_normal_tail():
    samples = np.random.default_rng(0).normal(1.0, 0.1, 10_000)
    assert st.bootstrap_p(samples, 1.0) < 1e-15
    assert st.bootstrap_p(samples - 0.8, 0.2) == pytest.approx(2 * stats.norm.sf(2), rel=0.1)
    assert st.bootstrap_p(np.zeros(100), 0.0) == 1.0


@pytest.mark.parametrize(("units", "p"), [(1, 1.0), (3, 0.25), (6, 2 / 64)])
def test_users_who_all_differ_alike_have_the_sign_tests_p(units, p):
    assert st.bootstrap_p(np.full(10_000, 0.4), 0.4, units) == p
    ones = np.ones(units)
    assert p == pytest.approx(st.mcnemar_p(ones, 1 - ones))
    assert st.bootstrap_p(np.full(999, 0.4), 0.4, 10_000) == 1 / 1000


def test_holm_orders_and_caps():
    assert st.holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm(np.array([])).tolist() == []


def test_a_rank_counts_the_rows_that_are_significantly_better():
    values = np.array([0.5, 0.48, 0.40, 0.2])
    p = np.ones((4, 4))
    for a, b in ((0, 2), (0, 3), (1, 3), (2, 3)):
        p[a, b] = p[b, a] = 0.001
    differences = values[:, None] - values[None, :]
    assert st.shared_ranks(differences, p).tolist() == [1, 1, 2, 4]
    differences[0, 2], differences[2, 0] = -0.1, 0.1  # on the seeds that rows 0 and 2 share, 2 is the better one
    assert st.shared_ranks(differences, p).tolist() == [2, 1, 1, 4]


def test_the_detectable_difference_is_found_with_power_08():
    rng, n, sd = np.random.default_rng(5), 200, 0.4
    smallest = st.detectable_difference(sd, n)
    found = [stats.ttest_1samp(rng.normal(smallest, sd, n), 0).pvalue < 0.05 for _ in range(1000)]
    assert 0.77 <= np.mean(found) <= 0.83
    assert np.isnan(st.detectable_difference(0.0, 100))


def test_flatness_finds_a_position_that_is_favoured_and_lets_a_flat_one_be():
    rng = np.random.default_rng(4)
    totals = rng.multinomial(2000, np.ones(20) / 20)
    flat, tilted = rng.binomial(totals, 0.4), rng.binomial(totals, np.where(np.arange(20) == 0, 0.9, 0.4))
    assert st.flatness_p(flat, totals) > 0.01 > 1e-4 > st.flatness_p(tilted, totals)
    assert np.isnan(st.flatness_p(np.zeros(5), np.ones(5)))


def test_ten_rows_of_6000_users_take_seconds():
    values = np.random.default_rng(0).random((6000, 30))
    start = time.perf_counter()
    assert st.resampled_means(values, np.ones((6000, 1)), 1000, 0).shape == (1000, 30)
    assert time.perf_counter() - start < 10  # a tenth of the resamples of a real table
