"""A form to separate a song in JupyterLab: choose, watch, cancel, listen. Used by `notebooks/live.ipynb`."""

import asyncio
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from flowsep.audio import inspect, write_audio
from flowsep.checkpoint import load_priors
from flowsep.files import FlowsepError, atomic_path, printable, safe_name
from flowsep.prior import Prior
from flowsep.search import config_for
from flowsep.separator import separate

from .data.tracks import Track
from .scores.metrics import sdr
from .show.player import StemPlayer

# MB that the server takes in one message; `make live` raises Jupyter's usual limit and tells it here
UPLOAD_MB = int(os.environ.get("FLOWSEP_UPLOAD_MB", "10"))
HINT = f"Uploads may have up to {UPLOAD_MB} MB. For a larger file, enter its path on the machine where Jupyter runs."
LOST = f"The page connected anew. Uploads of more than {UPLOAD_MB} MB end the connection and are lost: enter the path."
WRAPS = "flowsep-line"  # a Label cuts long lines off, and takes a $ in a name for the start of a formula
STYLE = f"<style>.{WRAPS}.widget-label {{white-space: normal; overflow-wrap: anywhere; height: auto}}</style>"


class CancelledError(Exception):
    """Ends a separation."""


def prior_sets(folder: str | Path) -> dict[str, Path]:
    """{label: folder} of the priors that a run of a profile left, the system `flowsep` first."""
    folder = Path(folder)
    places = [*sorted((folder / "systems" / "flowsep").glob("*/priors")), folder / "priors"]
    return {str(place.relative_to(folder)): place for place in places if any(place.glob("*.safetensors"))}


def facts(track: Track) -> str:
    """Name, length, sample rate, channels and size of a song, by the headers of its files."""
    files = track.files.get("mixture") or [path for part in track.parts for path in track.files[part]]
    rate, channels, samples = inspect(files[0])
    minutes, seconds = divmod(round(samples / rate), 60)
    size, kind = sum(path.stat().st_size for path in files) / 1e6, ("mono", "stereo")[channels - 1]
    return f"{printable(track.name)}, {minutes}:{seconds:02}, {rate / 1000:g} kHz, {kind}, {size:,.1f} MB"


class Upload(ipywidgets.FileUpload):
    """A button that calls `again` when a page has connected anew, as after a file that was too large.

    The server closes the connection, and nobody tells the kernel. But the page connects anew and asks for the state of
    each widget. By then its old button waits for an answer about the lost file, for ever.
    """

    again: Callable[[], None] | None = None

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
        if key is None and self.again:
            asyncio.get_running_loop().call_soon(self.again)  # later: ipywidgets is walking through all widgets
        return super().get_state(key, drop_defaults)


class LiveSeparator:
    """A form for song, seconds, priors, iterations and weight of the prior, with a progress bar and a player.

    Show `form` as the value of a cell. The search runs in a thread beside the notebook; *Cancel* ends it at the next
    iteration. The line above the buttons tells which song *Separate* takes, whatever became of an upload or a path.

    Args:
        tracks: songs to choose from; a file may be uploaded instead, or named by its path.
        priors: {label: folder of priors}, as from `prior_sets`.
        folder: *Save* writes the stems to `<folder>/<song>/<stem>.flac`, or `<song> (2)/` where that is taken.
        sources: the first selection; by default all sources of a set of priors.
    Raises:
        FlowsepError: no priors.
    """

    def __init__(
        self, tracks: Sequence[Track], priors: Mapping[str, str | Path], folder: str | Path, sources: Sequence[str] = ()
    ):
        if not priors:
            raise FlowsepError("no priors to separate with; make the book of a profile, or name a folder of priors")
        self.tracks, self.folder = {track.name: track for track in tracks}, Path(folder)
        self.usual, self.stems = tuple(sources), {}  # type: tuple[str, ...], dict[str, Any]
        self.track, self._thread = None, None  # type: Track | None, threading.Thread | None
        self._cancel, self._loaded = threading.Event(), {}  # type: threading.Event, dict[str, Any]
        self._uploads = tempfile.TemporaryDirectory(prefix="flowsep-")
        lines = [ipywidgets.Label(text) for text in (HINT, "Separates nothing: choose a song", "")]
        self.hint, self.title, self.status = (line.add_class("mathjax_ignore").add_class(WRAPS) for line in lines)
        wide = {"style": {"description_width": "11em"}, "layout": ipywidgets.Layout(width="36em")}
        self.song = ipywidgets.Dropdown(options=[*self.tracks], description="Song", **wide)
        self.path = ipywidgets.Text(description="Path of a song", continuous_update=False, **wide)
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
        self.output = ipywidgets.Output()
        self.priors.observe(lambda _: self._choose_priors(), "value")
        self.path.observe(lambda _: self._take_path(), "value")
        self.path.on_msg(lambda *_: self._take_path())  # Enter, also on a path that has not changed
        self.go.on_click(lambda _: self.run())
        self.cancel.on_click(lambda _: self._cancel.set())
        self.save.on_click(lambda _: self._save())
        self._songs = ipywidgets.HBox([self.song])
        self._renew_upload()
        self._choose_priors()
        self.song.observe(self._pick, "value")
        if self.tracks:
            self._pick()
        style = ipywidgets.HTML(STYLE, layout={"display": "none"})
        buttons = ipywidgets.HBox([self.go, self.cancel, self.save])
        above = [style, self._songs, self.path, self.hint, self.start, self.seconds, self.priors, self.sources]
        below = [self.iterations, self.alpha, self.title, buttons, self.bar, self.status, self.output]
        self.form = ipywidgets.VBox([*above, *below])

    def run(self) -> None:
        """Start a separation, unless one runs already or no song is chosen."""
        if self._thread is not None and self._thread.is_alive():
            return
        if self.song.value is not None:
            self._pick()  # again: another file may lie there by now
        if self.track is None:
            return
        self._cancel.clear()
        self.go.disabled, self.cancel.disabled, self.save.disabled = True, False, True
        self.output.clear_output()
        self._thread = threading.Thread(target=self._work, args=[self.track], daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end of the separation, at most `seconds`."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _choose(self, label: str, make: Callable[[], Track]) -> None:
        """Choose the song that `make` gives, and list it by the label; choose none if it cannot be had or read."""
        self.track, self.hint.value = None, HINT
        try:
            track = make()
            self.title.value = f"Separates: {facts(track)}"
            self.track, self.tracks[label], self.path.value = track, track, ""
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a home of nobody
            self.title.value = f"Separates nothing: {self._why(error)}"
        self.song.unobserve(self._pick, "value")  # new options choose the first one
        self.song.options = tuple(self.tracks)
        self.song.value = label if self.track else None
        self.song.observe(self._pick, "value")

    def _pick(self, _: Any = None) -> None:
        self._choose(self.song.value, lambda: replace(self.tracks[self.song.value]))

    def _take_path(self) -> None:
        def named() -> Track:
            path = Path(text).expanduser().absolute()
            if path.is_dir():
                raise FlowsepError(f"{path}: is a folder; name a file in it")
            return Track(path.name, "", {"mixture": (path,)}, ())

        if text := self.path.value.strip():
            self._choose(f"{text} (path)", named)

    def _take_upload(self) -> None:
        def kept() -> Track:
            place = Path(self._uploads.name) / safe_name(file["name"])
            with atomic_path(place) as temporary:
                temporary.write_bytes(file["content"])
            return Track(file["name"], "", {"mixture": (place,)}, ())

        if self.upload.value:
            file = self.upload.value[0]
            self.upload.value = ()  # else every page that connects would be sent it
            self._choose(f"{printable(file['name'])} (uploaded)", kept)

    def _renew_upload(self) -> None:
        for old in self._songs.children[1:]:
            old.close()
            self.hint.value = LOST
        self.upload = Upload(accept="audio/*,.flac,.mp4", description="Upload a song", layout={"width": "auto"})
        self.upload.observe(lambda _: self._take_upload(), "value")
        self.upload.again = self._renew_upload
        self._songs.children = [self.song, self.upload]

    def _why(self, error: Exception) -> str:
        return printable(str(error)).replace(f"{self._uploads.name}/", "") or type(error).__name__

    def _choose_priors(self) -> None:
        flows = self._flows()
        config = config_for(flows)
        self.sources.options, self.sources.rows = tuple(flows), min(len(flows), 8)
        self.sources.value = tuple(source for source in flows if source in self.usual) or tuple(flows)
        self.iterations.value, self.alpha.value = config.iterations, config.alpha

    def _flows(self) -> dict[str, Prior]:
        place = Path(self.priors.value)
        if place not in self._loaded:
            self._loaded[place] = load_priors(place)
        return self._loaded[place]

    def _work(self, track: Track) -> None:
        try:
            self._separate(track)
        except CancelledError:
            self.status.value = f"cancelled after {self.bar.value} of {self.bar.max} iterations"
        except Exception as error:  # whatever it is: nobody sees what ends a thread
            self.status.value = f"not separated: {self._why(error)}"
        finally:
            self.go.disabled, self.cancel.disabled = False, True

    def _separate(self, track: Track) -> None:
        name, rate = printable(track.name), track.sample_rate
        self.status.value, self.bar.value = f"{name}: reading", 0
        mixture, truth = self._excerpt(track)
        flows = {source: self._flows()[source] for source in self.sources.value}
        config = config_for(flows, iterations=self.iterations.value, alpha=self.alpha.value)
        began = time.monotonic()

        def report(state: Mapping[str, Any]) -> None:
            if self._cancel.is_set():
                raise CancelledError
            done = state["chunk"] * state["iterations"] + (state["iteration"] + 1) * state["batch"]
            self.bar.max, self.bar.value = state["chunks"] * state["iterations"], done
            self.status.value = f"{name}: iteration {done} of {self.bar.max}, {time.monotonic() - began:.0f} s"

        stems = separate(mixture, flows, config, rate, report)
        self.status.value = f"{name}: {time.monotonic() - began:.1f} s for {mixture.shape[-1] / rate:.1f} s of music"
        known = {source: truth[source] for source in stems} if set(stems) <= set(truth) else {}
        scored = {source: sdr(audio, stems[source]) for source, audio in known.items()}
        scores = [f"{source} {value:.1f}" for source, value in scored.items() if np.isfinite(value)]
        self.stems, self._name, self._rate, self.save.disabled = stems, track.name, rate, False
        self.status.value += f"; SDR (dB): {', '.join(scores)}" if scores else ""
        systems = {"estimates": stems, "true stems": known} if known else {"estimates": stems}
        self.output.append_display_data(StemPlayer(systems, rate, title=name))

    def _excerpt(self, track: Track) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The chosen seconds of the mixture, and of the true stems if there are any."""
        audio, rate = track.mixture(), track.sample_rate
        truth = track.stems(source for source in self.sources.value if source in track.sources)
        length, start = audio.shape[-1] / rate, round(self.start.value * rate)
        if not 0 <= start < audio.shape[-1]:
            raise FlowsepError(f"the song lasts {length:.1f} s; found a start at {self.start.value:g} s")
        excerpt = np.s_[:, start : start + round(self.seconds.value * rate)]
        return audio[excerpt], {source: stem[excerpt] for source, stem in truth.items()}

    def _save(self) -> None:
        others = (f"{self._name} ({number})" for number in itertools.count(2))  # another song may have the same name
        places = (self.folder / safe_name(name) for name in itertools.chain([self._name], others))
        place = next(place for place in places if not place.exists())
        try:
            for source, audio in self.stems.items():
                write_audio(place / f"{safe_name(source)}.flac", audio, self._rate)
            self.status.value, self.save.disabled = f"saved in {place}", True
        except (OSError, ValueError) as error:
            shutil.rmtree(place, ignore_errors=True)
            self.status.value = f"not saved: {self._why(error)}"
