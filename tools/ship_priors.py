"""The priors that come with a clone: `python tools/ship_priors.py [PROFILE]`, after a run of the profile.

The first set of `flowsep`'s priors goes to results/<profile>/flowsep-priors/ in half precision, beside a card with what
they learnt from, and their scores: on the validation songs in both precisions, and once on the test songs.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd

from companion.data.tracks import Dataset, load_dataset
from companion.profile import Profile, load_profile
from companion.provenance import git_state
from companion.scores.evaluate import evaluate_system
from companion.tables import aggregate
from flowsep import Prior, SeparationConfig, Separator, load_prior
from flowsep.files import FlowsepError, atomic_path, write_text
from flowsep.prior import parameters

NAME = "flowsep-priors"
CARD = """# The priors that come with the clone

One Glow prior per source, trained on solo recordings alone: {songs} songs of `{data}`, {seconds:.0f} s of one core in
all, {parameters:.1f} million numbers of 16 bits. `flowsep separate` uses them unless `--priors` names others.

MUSDB18 is for academic and non-commercial use, so these weights are for research only. They contain no audio.

{table}

SDR in dB by convention sisec18, medians over the songs, with the default settings. `{numbers}` has these rows, with the
commit. `--refine 0` leaves out the refinement, which takes most of the time.

What they cannot do: they know four sources and explain everything else as one of these. They learnt from seven seconds
of each song, up to {band:g} kHz; above, each stem gets the share that it has at the top of that band. They model the
level of each frequency and nothing else: phases count nowhere, and where a source stands between two channels is a
guess from the song itself. They often find a little of a source that is silent, and a quiet bass comes out too loud.

| setting | value |
|---|---|
{settings}
"""


class Shipped:
    """What `flowsep separate` does with a set of priors, as a system to be scored."""

    needs_references = False

    def __init__(self, priors: Mapping[str, Prior], config: SeparationConfig | None = None):
        self.separator = Separator(priors, config)

    def separate(self, mixture: Any, sample_rate: int, references: Any = None) -> Any:
        """See `companion.systems.System.separate`."""
        return self.separator(mixture, sample_rate)


def main(profile: Profile) -> None:
    """Write the priors, `flowsep-priors.csv` and the card."""
    dataset, target = load_dataset(profile.data, profile.seed), profile.folder / NAME
    trained = profile.folder / "systems" / "flowsep" / "0" / "priors"
    priors = {source: load_prior(trained / f"{source}.safetensors") for source in profile.sources}
    for source, prior in priors.items():
        prior.save(target / f"{source}.safetensors", half=True)
    half = {source: load_prior(target / f"{source}.safetensors") for source in priors}
    sets = {"32 bits": priors, "16 bits, as they lie here": half}
    rows = [scored(profile, dataset, "valid", name, own) for name, own in sets.items()]
    rows.append(scored(profile, dataset, "test", *list(sets.items())[-1]))
    frame = pd.DataFrame(rows).assign(**git_state())
    with atomic_path(profile.folder / f"{NAME}.csv") as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    write_text(target / "README.md", card(profile, dataset, priors, frame))


def scored(profile: Profile, dataset: Dataset, subset: str, name: str, priors: Mapping[str, Any]) -> dict[str, Any]:
    """Median SDR by source of a set of priors on the songs of a subset."""
    facts = dict.fromkeys(("variant", "checkpoint"), "")
    facts |= {"system": "flowsep", "kind": "measured", "profile": profile.name, "data": dataset.name}
    songs = dataset.subset(subset)
    settings = {"sources": profile.sources, "provenance": facts, "conventions": ("sisec18",), "metrics": ("SDR",)}
    medians = aggregate(evaluate_system(Shipped(priors), songs, **settings), "sisec18").set_index("stem")["median"]
    return {"songs": f"{len(songs)} {subset}", "weights": name, **medians.round(3), "mean": round(medians.mean(), 3)}


def card(profile: Profile, dataset: Dataset, priors: Mapping[str, Any], frame: pd.DataFrame) -> str:
    """The text of the card."""
    first = next(iter(priors.values()))
    shown = frame[["songs", "weights", *profile.sources, "mean"]]
    lines = ["| " + " | ".join(shown.columns) + " |", "|---|---|" + "---:|" * (len(shown.columns) - 2)]
    for row in shown.itertuples(index=False):
        lines.append("| " + " | ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row) + " |")
    return CARD.format(
        songs=len(dataset.subset("train")),
        data=dataset.name,
        seconds=sum(prior.provenance["training_seconds"] for prior in priors.values()),
        parameters=sum(map(parameters, priors.values())) / 1e6,
        table="\n".join(lines),
        numbers=f"{NAME}.csv",
        band=first.feature.sample_rate / 2000,
        settings=settings_of(first),
    )


def settings_of(prior: Prior) -> str:
    """Rows of a table in Markdown: feature, sizes and training of a prior."""
    groups = {"feature": prior.feature.model_dump(), "model": prior.model.model_dump()}
    groups["training"] = prior.provenance["training"]
    rows = [(f"{group}.{name}", value) for group, chosen in groups.items() for name, value in chosen.items()]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="ship_priors", description=__doc__.split("\n")[0])
    parser.add_argument("profile", nargs="?", default="musdb18-7s")
    try:
        main(load_profile(parser.parse_args().profile))
    except (FlowsepError, OSError) as error:
        sys.exit(f"ship_priors: {error}")
