"""The prediction of a whole experiment: the graph that Snakemake gives, and the times of small graphs done by hand."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import operations, plan
from companion import load_profile
from companion.systems import load_system
from flowsep import FlowsepError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def committed():
    return pd.read_csv(ROOT / "results" / "scale.csv")


def graph(*needs: tuple[int, ...]) -> list[frozenset[int]]:
    return [frozenset(its) for its in needs]


def makespan(needs: list[frozenset[int]], seconds: list[float], workers: int) -> float:
    """With workers of one kind."""
    return plan.makespan(needs, seconds, ["core"] * len(needs), {"core": workers})


def test_a_chain_takes_its_sum_with_any_number_of_workers():
    needs, seconds = graph((), (0,), (1,)), [1.0, 2.0, 3.0]
    assert plan.longest(needs, seconds) == ([0, 1, 2], [6.0, 5.0, 3.0])
    assert [makespan(needs, seconds, workers) for workers in (1, 2, 64)] == [6.0] * 3


def test_jobs_of_two_kinds_wait_for_workers_of_their_own():
    """Two trainings on one GPU, one after the other, beside three jobs of a core each."""
    needs, seconds = graph((), (), (), (), (0, 1)), [4.0, 3.0, 2.0, 2.0, 1.0]
    kinds = ["gpu", "gpu", "core", "core", "core"]
    assert plan.makespan(needs, seconds, kinds, {"gpu": 1, "core": 1}) == 8.0
    assert plan.makespan(needs, seconds, kinds, {"gpu": 2, "core": 1}) == 5.0


def test_what_waits_for_one_job_is_shared_out():
    needs, seconds = graph((), *[(0,)] * 6, (1, 2, 3, 4, 5, 6)), [1.0, *[2.0] * 6, 0.5]
    spans = [makespan(needs, seconds, workers) for workers in (1, 2, 3, 4, 6, 64)]
    assert spans == [13.5, 7.5, 5.5, 5.5, 3.5, 3.5]


def test_the_longest_way_goes_first():
    """Three short jobs, then one whose chain decides: begun last it would end at 5, begun first at 4."""
    needs, seconds = graph((), (), (), (3,), ())[:3] + graph((), (3,)), [1.0, 1.0, 1.0, 1.0, 3.0]
    assert makespan(needs, seconds, 2) == 4.0


def test_no_schedule_beats_its_bounds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        needs = [frozenset(np.flatnonzero(rng.random(job) < 0.15).tolist()) for job in range(30)]
        seconds = rng.uniform(0.1, 5, 30).tolist()
        path, rest = plan.longest(needs, seconds)
        assert all(before in needs[job] for before, job in pairwise(path))
        length = sum(seconds[job] for job in path)
        assert length == pytest.approx(max(rest))
        assert makespan(needs, seconds, 1) == pytest.approx(sum(seconds))
        assert makespan(needs, seconds, 30) == pytest.approx(length)
        for workers in (2, 3, 5):
            span = makespan(needs, seconds, workers)
            most = sum(seconds) / workers + length * (1 - 1 / workers)  # Graham 1966
            assert max(length, sum(seconds) / workers) - 1e-9 <= span <= most + 1e-9


TEXT = """Job stats:
job       count
------  -------
total         3

[a date]
rule second:
    input: out/first.json, notebooks/x.ipynb
    output: out/second.csv, out/notebooks/x.ipynb
    jobid: 2
    wildcards: system=nmf, number=3
[a date]
rule third:
    input: out/second.csv
    output: out/third
    jobid: 0
[a date]
rule first:
    input: notebooks/y.ipynb
    output: out/first.json
    jobid: 1
"""


def test_jobs_are_read_in_an_order_in_which_they_can_run():
    jobs = plan.read_jobs(TEXT)
    assert [job.name for job in jobs] == ["first", "second nmf 3", "third"]
    assert [job.needs for job in jobs] == graph((), (0,), (1,))


def test_words_that_changed_are_noticed():
    with pytest.raises(FlowsepError, match="3 jobs read, 4 counted by Snakemake"):
        plan.read_jobs(TEXT.replace("total         3", "total         4"))
    with pytest.raises(FlowsepError, match="jobs that wait for each other"):
        plan.read_jobs(TEXT.replace("input: notebooks/y.ipynb", "input: out/third"))


@pytest.mark.slow  # Snakemake reads the whole graph
@pytest.mark.parametrize("profile", plan.PROFILES)
def test_the_committed_prediction_is_of_the_graph_as_it_is_now(committed, profile):
    """Fails where rules, systems or dependencies were added since: run `make plan`."""
    jobs = plan.read_jobs(plan.dry_run(profile))
    figures = plan.Figures(load_profile(profile), ROOT)
    for device, rows in committed[committed.profile == profile].groupby("device"):
        told = rows[rows.quantity == "job"]
        figures.device = plan.DEVICES[device]
        now = {job.name: figures.cost(job).seconds for job in jobs}
        assert now == pytest.approx(dict(zip(told.name, told.value, strict=True)), rel=1e-3)
    with pytest.raises(FlowsepError, match="rule 'new': no way to tell what it takes"):
        figures.cost(plan.Job("new", {}, (), frozenset()))


def test_more_gpus_never_take_longer_and_none_beats_the_longest_path(committed):
    assert {*committed.profile} == {*plan.PROFILES}
    for _, rows in committed.groupby(["profile", "device"]):
        wall = rows[rows.quantity == "wall"].set_index("gpus").value
        assert [*wall.index] == [*plan.GPUS] and wall.is_monotonic_decreasing
        assert wall.min() >= rows[rows.quantity == "path"].value.iloc[0] * (1 - 1e-4)
        jobs = rows[rows.quantity == "job"]
        assert jobs[jobs.on_path == True].value.sum() == pytest.approx(  # noqa: E712  # a column of objects
            rows[rows.quantity == "path"].value.iloc[0], rel=1e-4
        )
        assert wall[1] >= jobs[jobs.kind == "gpu"].value.sum()


def test_the_quick_profile_takes_an_afternoon_on_a_gpu_of_24_gb(committed):
    rows = committed[(committed.profile == "musdb18-quick") & (committed.device == "RTX 4090")]
    assert 4 <= rows[(rows.quantity == "wall") & (rows.gpus == 1)].value.iloc[0] / 3600 <= 6
    assert not rows.bound.str.startswith("memory", na=False).any()


def test_a_step_is_bound_by_what_takes_longest():
    """By hand, of the counted operations: at a quarter of the peak of a fast GPU, a slow and a small one."""
    figures, steps = plan.Figures(load_profile("musdb18"), ROOT), {}
    for name, sheet in {"fast": plan.DEVICES["H200"], "slow": plan.Device(99, 50, 141)}.items():
        figures.device = sheet
        steps[name] = figures.step("wave_u_net")
    work = operations.network_step(figures.systems["wave_u_net"])
    assert steps["fast"] == (0.02, "feeding")
    assert steps["slow"] == (pytest.approx(work / (0.25 * 99e3)), "arithmetic")
    figures.device = plan.DEVICES["RTX 4090"]
    assert figures.step("conv_tasnet")[1] == "memory: 1 of 16 crops fit"


def test_operations_are_those_of_a_network_with_numbers_in_it():
    """Counted without content; a convolution by hand, twice each weight and sample, three times for a step."""
    options = {"filters": 8, "bottleneck": 8, "hidden": 8, "blocks": 2, "repeats": 1, "crop_seconds": 0.1, "batch": 2}
    system = load_system("conv_tasnet", options, sources=("vocals", "bass"))
    stems = torch.randn(1, 2, 2, system.crop)
    real = operations.counted(lambda: system.loss(system.build(), stems))
    assert operations.network_step(system) == pytest.approx(3 * 2 * real) and real > 0
    assert operations.network_second(system) == pytest.approx(real / 0.1, rel=1e-3)
    profile = load_profile("musdb18")
    weights = 12 * (514 * 128 + 4 * 128 * 256 * 5 + 3 * 128 * 256 + 128 * 128 + 128 * 1028)
    expected = 3 * 32 * (2 * weights + 12 * 2 * 4 * 1028) * 301e-9  # 602 frames of 7 s, two by two
    assert operations.prior_step(profile.model, profile.feature, profile.training) == pytest.approx(expected, rel=5e-3)
