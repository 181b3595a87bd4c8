"""SDR against iterations and against seconds, on the demo's test songs: the paper's steps and the package's."""

from typing import Any

import pandas as pd

import companion
import flowsep
from companion.profile import find_root, load_profile
from companion.studies.ablation import follow
from flowsep.checkpoint import find_priors
from flowsep.config import SeparationConfig
from flowsep.files import FlowsepError

from .harness import Context, Figure, figure, processors, threads

MARKS = (1, 2, 4, 6, 9, 12, 15, 18, 24, 30, 36, 50, 75, 100, 150)
SECONDS = 10.0  # of each song
NEAR = 0.1  # dB below the paper's steps that count as the same quality


def methods(context: Context) -> dict[str, SeparationConfig]:
    """The same objective by two step rules, and the package's own default, which adds the prior's weight."""
    demo = load_profile("demo").ablation
    configs = {
        "paper's steps": SeparationConfig.paper(),
        "steps without momentum": SeparationConfig.paper(**demo.base, iterations=max(demo.iterations)),
        "default (MAP)": SeparationConfig(),
    }
    return {name: config.model_copy(update={"device": context.device}) for name, config in configs.items()}


def run(context: Context) -> list[Figure]:
    """Curves of the mean SDR over songs and sources, with masks and without; at what share of the compute they meet."""
    profile = load_profile("smoke" if context.quick else "demo")
    folder = find_root() / profile.folder / "priors"
    if not folder.is_dir():
        raise FlowsepError(f"{folder}: no trained priors there; run `make results PROFILE={profile.name}` first")
    paths = find_priors(folder)
    priors = {source: flowsep.load_prior(paths[source]) for source in profile.sources}
    dataset = companion.load_dataset(profile.data, profile.seed)
    songs = dataset.subset("test")
    curves = []
    with threads(processors()):
        for name, config in methods(context).items():
            if context.quick:
                config = config.model_copy(update={"iterations": 3})
            for track in songs:
                rows = follow(track, priors, config, MARKS, 1.0 if context.quick else SECONDS)
                curves.append(pd.DataFrame(rows).assign(method=name, track=track.name))
    return figures(pd.concat(curves), songs=len(songs))


def figures(curves: pd.DataFrame, songs: int) -> list[Figure]:
    """Rows of `ablation.follow` with a column `method` -> the figures of this topic."""
    means = curves.groupby(["method", "masked", "iteration"], sort=False).agg(sdr=("sdr", "mean"))
    spent = curves.drop_duplicates(["method", "masked", "iteration", "track"])
    means["seconds"] = spent.groupby(["method", "masked", "iteration"]).seconds.sum()
    means = means.reset_index()
    rows = []
    for row in means.itertuples():
        told: dict[str, Any] = {"method": row.method, "iteration": row.iteration, "seconds": round(row.seconds, 2)}
        what = f"mean SDR of {songs} test songs and all sources, paper's convention"
        rows.append(figure("convergence.sdr", what, row.sdr, "dB", masked=row.masked, **told))
    for masked, part in means.groupby("masked"):
        goal = part[part.method == "paper's steps"].iloc[-1]
        for name, curve in part.groupby("method", sort=False):
            if name == goal.method:
                continue
            reached = curve[curve.sdr >= goal.sdr - NEAR]
            reference, settings = f"{goal.iteration} of the paper's steps", {"method": name, "masked": masked}
            what = f"iterations until the SDR is within {NEAR:g} dB, as a share"
            share = reached.iteration.min() / goal.iteration if len(reached) else float("nan")
            rows.append(figure("convergence.compute", what, share, "", reference=reference, **settings))
            what = f"SDR lost after all {curve.iteration.max()} iterations"
            lost = goal.sdr - curve.iloc[-1].sdr
            rows.append(figure("convergence.loss_of_sdr", what, lost, "dB", reference=reference, **settings))
    return rows
