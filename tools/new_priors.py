"""Guitar and piano for the page Separate: `python tools/new_priors.py`, 10 minutes of one core.

The priors are trained as those that come with a clone, on solo stems of the embedded band, and go to
results/demo/new-priors/ in half precision, beside a card with what they learnt from and what they lose in fewer bits.
"""

import copy
import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from hero import PROFILE
from ship_priors import Shipped, settings_of

from companion.data.tracks import Dataset, load_dataset
from companion.profile import Profile, load_profile
from companion.provenance import git_state
from companion.scores.evaluate import evaluate_system
from companion.systems.our_flow import MemberOptions
from companion.systems.priors import held_out_clips, train_source
from companion.tables import aggregate
from flowsep import Prior, load_prior, load_priors
from flowsep.checkpoint import SHIPPED
from flowsep.fast.symbols import in_eight_bits
from flowsep.files import FlowsepError, atomic_path, write_text
from flowsep.prior import parameters
from flowsep.search import config_for
from flowsep.train import add_noise, magnitudes

BAND, SOURCES = "demo", ("guitar", "piano")
FOLDER = SHIPPED.parents[1] / BAND / "new-priors"
WITHIN = "other"  # the source of the shipped priors that holds them
CARD = """# Guitar and piano for the page Separate

Two Glow priors that the page loads when a reader ticks them. They have the feature, the sizes and the training of the
[four that come with the clone](../../{profile}/flowsep-priors/README.md), with {parameters:.1f} million numbers of 16
bits each. They learnt from solo recordings alone: guitar and piano in {songs} songs of `{data}`, {seconds:.0f} s of one
core in all. This project composes and plays that band, so the weights are under the project's licence.

{table}

*nll* is the negative log-likelihood of solo clips of the band's test songs, in nats per element, with the noise of the
training; smaller is better. *SDR* is in dB by convention sisec18, the median over the {tracks} test songs in which both
play, after {iterations} iterations of the four priors of real songs and these two, as the page has them. In the first
row the four work alone, and guitar, piano and the rest get an equal share of *{within}*; an equal share is hard to beat
by SDR, as the chapter on a new source shows. `scores.csv` has these rows, with the commit.

What they cannot do: they learnt from SoundFonts, so a recorded guitar or piano is strange to them. The prior of
*{within}* has heard both in real songs, and takes a part of them.

| setting | value |
|---|---|
{settings}
"""


class Shared:
    """What the four priors alone say of the new sources: equal shares of `WITHIN`, one for the rest."""

    needs_references = False

    def __init__(self, system: Shipped):
        self.system = system

    def separate(self, mixture: Any, sample_rate: int, references: Any = None) -> Any:
        """See `companion.systems.System.separate`."""
        stems = self.system.separate(mixture, sample_rate)
        return stems | dict.fromkeys(SOURCES, stems[WITHIN] / (len(SOURCES) + 1))


def main() -> None:
    """Train the priors, write them, `scores.csv` and the card."""
    band, recipe = load_profile(BAND), load_profile(PROFILE)
    member = MemberOptions(**recipe.systems["flowsep"]["members"][0])
    dataset, target = load_dataset(band.data, band.seed), FOLDER
    own = {source: member.profile(band, source, band.seed) for source in SOURCES}
    work = band.folder / "systems" / FOLDER.name
    trained = {source: train_source(dataset, source, own[source], work) for source in SOURCES}
    for source, prior in trained.items():
        prior.save(target / f"{source}.safetensors", half=True)
    half = {source: load_prior(target / f"{source}.safetensors") for source in SOURCES}
    eight = {source: rounded(prior) for source, prior in half.items()}
    sets = {"none": {}, "32 bits": trained, "16 bits, as they lie here": half, "8 bits, as the page has them": eight}
    iterations = recipe.systems["flowsep"]["iterations"]
    rows = [scored(dataset, own, name, priors, iterations) for name, priors in sets.items()]
    frame = pd.DataFrame(rows).assign(**git_state())
    with atomic_path(target / "scores.csv") as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    write_text(target / "README.md", card(half, frame))


def rounded(prior: Prior) -> Prior:
    """The prior whose coupling nets have the 8 bits of `flowsep export --bits 8`."""
    prior = copy.deepcopy(prior)
    with torch.no_grad():
        for name, weight in prior.glow.named_parameters():
            if ".net." in name and weight.ndim == 3:
                q, scale = in_eight_bits(weight.flatten(1))
                weight.copy_((scale * q).view_as(weight))
    return prior


def scored(
    dataset: Dataset, own: Mapping[str, Profile], name: str, priors: Mapping[str, Prior], iterations: int
) -> dict[str, Any]:
    """Likelihoods and SDR of the new sources by one set of weights."""
    shipped = load_priors()
    shipped = {source: shipped[source] for source in load_profile(PROFILE).sources} | dict(priors)
    system: Any = Shipped(shipped, config_for(shipped, iterations=iterations, refine=0, stereo=0))
    facts = dict.fromkeys(("variant", "checkpoint"), "") | {"system": "flowsep", "kind": "measured", "profile": BAND}
    settings = {"provenance": facts | {"data": dataset.name}, "conventions": ("sisec18",), "metrics": ("SDR",)}
    songs = [track for track in dataset.subset("test") if set(SOURCES) <= set(track.files)]
    frame = evaluate_system(system if priors else Shared(system), songs, sources=SOURCES, **settings)
    medians = aggregate(frame, "sisec18").set_index("stem")["median"]
    row: dict[str, Any] = {"weights": name, "songs": len(songs), "iterations": iterations}
    for source, prior in priors.items():
        clips = torch.from_numpy(held_out_clips(dataset, source, own[source]))
        torch.manual_seed(own[source].seed)
        with torch.no_grad():
            row[f"{source} nll"] = round(prior.nll(add_noise(magnitudes(clips, prior.feature), prior.noise)).item(), 4)
    return row | {f"{source} SDR": round(medians[source], 3) for source in SOURCES}


def card(priors: Mapping[str, Prior], frame: pd.DataFrame) -> str:
    """The text of the card."""
    shown = frame[["weights", *(f"{source} {what}" for what in ("nll", "SDR") for source in SOURCES)]]
    lines = ["| " + " | ".join(shown.columns) + " |", "|---|" + "---:|" * (len(shown.columns) - 1)]
    for name, *values in shown.itertuples(index=False):
        lines.append(f"| {name} | " + " | ".join("–" if pd.isna(x) else f"{x:.3f}" for x in values) + " |")
    first = next(iter(priors.values()))
    return CARD.format(
        profile=PROFILE,
        parameters=parameters(first) / 1e6,
        songs=first.provenance["train_segments"],
        data=first.provenance["data"],
        seconds=sum(prior.provenance["training_seconds"] for prior in priors.values()),
        table="\n".join(lines),
        tracks=frame["songs"].iloc[0],
        iterations=frame["iterations"].iloc[0],
        within=WITHIN,
        settings=settings_of(first),
    )


if __name__ == "__main__":
    try:
        main()
    except (FlowsepError, OSError) as error:
        sys.exit(f"new_priors: {error}")
