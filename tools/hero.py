"""What the first page shows: a real song, taken apart step by step. `python tools/hero.py` writes book/hero.html.

A build fills in the scripts. Pictures and sounds go to book/hero/, from where a build copies them beside the pages.

The song is Falcon 69 by The Easton Ellises (CC BY-NC-SA 3.0), which the package stempeg carries; the priors are those
that come with the repository. The sentence below the player is made from the table of the real songs.
"""

import shutil
from html import escape
from pathlib import Path

import kept
import media
import nbformat
import pandas as pd
import stempeg

from companion import show
from companion.data.tracks import MUSDB_SOURCES, STREAMS, Track
from companion.profile import find_root, load_profile
from companion.scores import sdr
from flowsep import Separator, load_priors
from flowsep.files import write_text
from flowsep.search import config_for

PROFILE = "musdb18-7s"
STEPS = (1, 6)  # of the search, before the whole separation
SECONDS, DPI = 4.5, 66  # of the song, and of the pictures: the page is to be light
SONG = Track("Falcon 69", "test", dict.fromkeys(STREAMS, (Path(stempeg.example_stem_path()),)), MUSDB_SOURCES)
LICENCE = "Falcon 69 by The Easton Ellises, CC BY-NC-SA 3.0; the estimates are adaptations under the same licence."


def main() -> None:
    """Separate the song and write the page's part."""
    config, priors = load_profile(PROFILE), load_priors()
    priors = {source: priors[source] for source in config.sources}
    rate = SONG.sample_rate
    inside = slice(rate // 10, rate // 10 + round(SECONDS * rate))  # the cut of the file left a click at its start
    truth = {source: stem[:, inside] for source, stem in SONG.stems(config.sources).items()}
    mixture = SONG.mixture()[:, inside]
    heard, feature = {}, next(iter(priors.values())).feature
    last = config.systems["flowsep"]["iterations"]
    for steps in STEPS:
        config_of_step = config_for(priors, iterations=steps, refine=0, stereo=0)
        heard[f"step {steps} of {last}"] = Separator(priors, config_of_step)(mixture, rate)
    heard["refined"] = Separator(priors, config_for(priors))(mixture, rate)
    show.use_style()
    pictures, labels = [], []
    top = max(show.magnitude(stem, rate, feature).max() for stem in truth.values())
    for name, stems in heard.items():
        sides = {"truth": truth, "estimate": stems}
        table = {s: {side: show.magnitude(of[s], rate, feature) for side, of in sides.items()} for s in config.sources}
        pictures.append(show.spectrogram_table(table, feature.sample_rate, feature.hop, top=top))
        pictures[-1].set_dpi(DPI)
        scores = ", ".join(f"{source} {sdr(truth[source], stems[source]):.1f}" for source in config.sources)
        labels.append(f"{name}; SDR in dB: {scores}")
    slider = show.PictureSlider(pictures, labels, systems=list(heard), first=len(pictures) - 1)
    sounds = dict(reversed(heard.items())) | {"true stems": truth}  # the first press plays separated stems
    player = show.StemPlayer(sounds, rate, title="Falcon 69", licence=LICENCE)
    parts = [slider._repr_html_(), player._repr_html_(), f"<p>{escape(sentence())}</p>", ""]
    output = nbformat.v4.new_output("display_data", {"text/html": "\n".join(parts)})
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    files = media.place(page, media.take(page), "_media")
    book = find_root() / "book"
    shutil.rmtree(book / "hero", ignore_errors=True)
    (book / "hero").mkdir()
    for name, data in files.items():
        if not name.endswith(".js"):  # which the build makes
            (book / "hero" / name).write_bytes(data)
    write_text(book / "hero.html", kept.without_scripts(page.cells[0].outputs[0]["data"]["text/html"]))


def sentence() -> str:
    """The result in one sentence, from the table."""
    rows = pd.read_csv(find_root() / "results" / PROFILE / "table-sisec18.csv", keep_default_na=False)
    rows = rows[rows.variant == ""].groupby("system")[["median", "training_seconds"]].mean()
    rows = rows.loc[["flowsep", "instglow", "open_unmix_random"]]
    ours, paper, mixes = rows["median"]
    least, most = round(rows.training_seconds.min() / 60), round(rows.training_seconds.max() / 60)
    return (
        f"On fifty songs that no system had heard, this project's flow reaches {ours:.1f} dB in the mean of the four"
        f" stems, the paper's {paper:.1f} dB, and a network trained on random mixes of the same solo recordings"
        f" {mixes:.1f} dB, each after {least} to {most} minutes of training on one CPU core."
    )


if __name__ == "__main__":
    main()
