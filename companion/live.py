"""A form to separate a song in JupyterLab: choose, watch, cancel, listen. Used by `notebooks/live.ipynb`."""

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from flowsep.audio import read_audio, write_audio
from flowsep.checkpoint import find_priors, load_prior
from flowsep.files import FlowsepError, safe_name
from flowsep.prior import Prior
from flowsep.search import config_for
from flowsep.separator import separate

from .data.tracks import Track
from .scores.metrics import sdr
from .show.player import StemPlayer

UPLOADED = "(the uploaded file)"


class CancelledError(Exception):
    """Ends a separation."""


def prior_sets(folder: str | Path) -> dict[str, Path]:
    """{label: folder} of the priors that a run of a profile left, the system `flowsep` first."""
    folder = Path(folder)
    places = [*sorted((folder / "systems" / "flowsep").glob("*/priors")), folder / "priors"]
    return {str(place.relative_to(folder)): place for place in places if any(place.glob("*.safetensors"))}


class LiveSeparator:
    """A form for song, seconds, priors, iterations and weight of the prior, with a progress bar and a player.

    Show `form` as the value of a cell. The search runs in a thread beside the notebook; *Cancel* ends it at the next
    iteration.

    Args:
        tracks: songs to choose from; a file may be uploaded instead.
        priors: {label: folder of priors}, as from `prior_sets`.
        folder: *Save* writes the stems to `<folder>/<song>/<stem>.flac`.
        sources: the first selection; by default all sources of a set of priors.
    Raises:
        FlowsepError: no priors.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        priors: Mapping[str, str | Path],
        folder: str | Path,
        sources: Sequence[str] = (),
    ):
        if not priors:
            raise FlowsepError("no priors to separate with; make the book of a profile, or name a folder of priors")
        self.tracks, self.folder = {track.name: track for track in tracks}, Path(folder)
        self.usual, self.stems = tuple(sources), {}  # type: tuple[str, ...], dict[str, Any]
        self._thread: threading.Thread | None = None
        self._cancel, self._loaded = threading.Event(), {}  # type: threading.Event, dict[str, Any]
        wide = {"style": {"description_width": "11em"}, "layout": ipywidgets.Layout(width="36em")}
        self.song = ipywidgets.Dropdown(options=[*self.tracks, UPLOADED], description="Song", **wide)
        self.upload = ipywidgets.FileUpload(accept="audio/*,.flac,.mp4", description="Upload a song")
        self.start = ipywidgets.FloatText(value=0.0, description="From second", **wide)
        self.seconds = ipywidgets.BoundedFloatText(value=6.0, min=1, max=600, description="Seconds", **wide)
        self.priors = ipywidgets.Dropdown(options=list(priors.items()), description="Priors", **wide)
        self.sources = ipywidgets.SelectMultiple(description="Sources", **wide)
        self.iterations = ipywidgets.IntSlider(min=1, max=300, description="Iterations", **wide)
        self.alpha = ipywidgets.BoundedFloatText(min=0, max=10, step=0.001, description="Weight of the prior", **wide)
        self.go = ipywidgets.Button(description="Separate", button_style="primary", icon="play")
        self.cancel = ipywidgets.Button(description="Cancel", icon="stop", disabled=True)
        self.save = ipywidgets.Button(description="Save", icon="save", disabled=True)
        self.bar = ipywidgets.IntProgress(layout=ipywidgets.Layout(width="36em"))
        self.status = ipywidgets.Label()
        self.output = ipywidgets.Output()
        self.priors.observe(lambda _: self._choose_priors(), "value")
        self.upload.observe(lambda _: setattr(self.song, "value", UPLOADED), "value")
        self.go.on_click(lambda _: self.run())
        self.cancel.on_click(lambda _: self._cancel.set())
        self.save.on_click(lambda _: self._save())
        self._choose_priors()
        settings = [self.start, self.seconds, self.priors, self.sources, self.iterations, self.alpha]
        buttons = ipywidgets.HBox([self.go, self.cancel, self.save])
        rows = [ipywidgets.HBox([self.song, self.upload]), *settings, buttons, self.bar, self.status, self.output]
        self.form = ipywidgets.VBox(rows)

    def run(self) -> None:
        """Start a separation, unless one runs already."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._cancel.clear()
        self.go.disabled, self.cancel.disabled, self.save.disabled = True, False, True
        self.output.clear_output()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end of the separation, at most `seconds`."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _choose_priors(self) -> None:
        flows = self._flows()
        config = config_for(flows)
        self.sources.options, self.sources.rows = tuple(flows), min(len(flows), 8)
        self.sources.value = tuple(source for source in flows if source in self.usual) or tuple(flows)
        self.iterations.value, self.alpha.value = config.iterations, config.alpha

    def _flows(self) -> dict[str, Prior]:
        place = Path(self.priors.value)
        if place not in self._loaded:
            self._loaded[place] = {source: load_prior(path) for source, path in find_priors(place).items()}
        return self._loaded[place]

    def _work(self) -> None:
        try:
            self._separate()
        except CancelledError:
            self.status.value = f"cancelled after {self.bar.value} of {self.bar.max} iterations"
        except (FlowsepError, ValueError, OSError) as error:  # faults of a song, a number or a folder
            self.status.value = f"not separated: {error}"
        finally:
            self.go.disabled, self.cancel.disabled = False, True

    def _separate(self) -> None:
        self.status.value, self.bar.value = "reading", 0
        name, rate, mixture, truth = self._chosen()
        flows = {source: self._flows()[source] for source in self.sources.value}
        config = config_for(flows, iterations=self.iterations.value, alpha=self.alpha.value)
        began = time.monotonic()

        def report(state: Mapping[str, Any]) -> None:
            if self._cancel.is_set():
                raise CancelledError
            done = state["chunk"] * state["iterations"] + (state["iteration"] + 1) * state["batch"]
            self.bar.max, self.bar.value = state["chunks"] * state["iterations"], done
            self.status.value = f"iteration {done} of {self.bar.max}, {time.monotonic() - began:.0f} s"

        stems = separate(mixture, flows, config, rate, report)
        took = time.monotonic() - began
        known = {source: truth[source] for source in stems} if set(stems) <= set(truth) else {}
        scored = {source: sdr(known[source], audio) for source, audio in stems.items() if source in known}
        scores = [f"{source} {value:.1f}" for source, value in scored.items() if np.isfinite(value)]
        self.stems = stems
        self._name, self._rate = name, rate
        self.status.value = f"{took:.1f} s for {mixture.shape[-1] / rate:.1f} s of music"
        if scores:
            self.status.value += f"; SDR (dB): {', '.join(scores)}"
        self.save.disabled = False
        systems = {"estimates": stems, "true stems": known} if known else {"estimates": stems}
        self.output.append_display_data(StemPlayer(systems, rate, title=name))

    def _chosen(self) -> tuple[str, int, np.ndarray, dict[str, np.ndarray]]:
        """(name, sample rate, chosen seconds of the mixture, and of the true stems if there are any)."""
        if self.song.value == UPLOADED:
            if not self.upload.value:
                raise FlowsepError("no file uploaded yet: press 'Upload a song', or choose one of the list")
            file = self.upload.value[0]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"song{Path(file['name']).suffix}"
                path.write_bytes(file["content"])
                audio, rate = read_audio(path)
            name, truth = file["name"], {}
        else:
            track = self.tracks[self.song.value]
            name, rate, audio = track.name, track.sample_rate, track.mixture()
            truth = track.stems(source for source in self.sources.value if source in track.sources)
        start = round(self.start.value * rate)
        if not 0 <= start < audio.shape[-1]:
            length = f"the song lasts {audio.shape[-1] / rate:.1f} s"
            raise FlowsepError(f"{length}; found a start at {self.start.value:g} s")
        excerpt = np.s_[:, start : start + round(self.seconds.value * rate)]
        return name, rate, audio[excerpt], {source: stem[excerpt] for source, stem in truth.items()}

    def _save(self) -> None:
        place = self.folder / safe_name(self._name)
        for source, audio in self.stems.items():
            write_audio(place / f"{safe_name(source)}.flac", audio, self._rate)
        self.status.value = f"saved in {place}"
