"""The form that separates in JupyterLab: every control does what it says, and an interruption ends cleanly."""

import time
from datetime import UTC, datetime

import numpy as np
import pytest
import soundfile as sf
from helpers import RATE, make_stems, write_hq_tree

from companion import load_dataset
from companion.live import UPLOADED, LiveSeparator, prior_sets
from companion.profile import DataConfig
from flowsep import FlowsepError


@pytest.fixture
def tracks(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSDB_PATH", str(write_hq_tree(tmp_path / "songs", seconds=1.5)))
    return load_dataset(DataConfig(kind="musdb18hq"), 0).subset("test")


@pytest.fixture
def sets(tmp_path, tiny_prior):
    for source in ("vocals", "bass", "drums", "other"):
        tiny_prior(len(source), source).save(tmp_path / "results" / "priors" / f"{source}.safetensors")
    return prior_sets(tmp_path / "results")


@pytest.fixture
def form(tracks, sets, tmp_path):
    made = LiveSeparator(tracks, sets, tmp_path / "live")
    made.iterations.value = 3
    return made


def test_it_separates_and_shows_a_player(form, tracks, tmp_path):
    form.seconds.value, form.start.value = 1.0, 0.25
    form.go.click()
    form.wait(60)
    assert "1.0 s of music; SDR (dB): bass" in form.status.value and form.bar.value == form.bar.max == 3
    assert {name: stem.shape for name, stem in form.stems.items()} == dict.fromkeys(form.stems, (2, RATE))
    (shown,) = form.output.outputs
    assert "flowsep-player" in shown["data"]["text/html"] and 'data-system="true stems"' in shown["data"]["text/html"]
    assert form.cancel.disabled and not form.go.disabled
    part = tracks[0].mixture()[:, RATE // 4 : RATE // 4 + RATE]
    assert np.allclose(sum(form.stems.values()), part, atol=1e-4)
    form.save.click()
    assert sorted(path.name for path in (tmp_path / "live").glob("*/*")) == [
        "bass.flac",
        "drums.flac",
        "other.flac",
        "vocals.flac",
    ]
    assert form.status.value.startswith("saved in ")


def test_fewer_sources_and_other_settings_reach_the_search(form):
    form.sources.value, form.alpha.value = ("vocals", "drums"), 0.5
    form.run()
    form.wait(60)
    assert set(form.stems) == {"vocals", "drums"}


def test_the_profile_s_sources_are_chosen_at_first(tracks, sets, tmp_path):
    made = LiveSeparator(tracks, sets, tmp_path, ("drums", "harp"))
    assert made.sources.options == ("bass", "drums", "other", "vocals") and made.sources.value == ("drums",)


def test_cancelling_ends_within_an_iteration_and_leaves_the_form_usable(form):
    form.iterations.value, form.seconds.value = 300, 1.5
    form.run()
    form.run()  # a second press while it runs does nothing
    while not form.bar.value:
        time.sleep(0.01)
    form.cancel.click()
    form.wait(20)
    assert form.status.value.startswith("cancelled after ") and form.bar.value < 300
    assert not form.output.outputs and form.save.disabled and not form.go.disabled
    form.iterations.value = 2
    form.run()
    form.wait(60)
    assert len(form.output.outputs) == 1


def test_an_uploaded_file_is_read_whatever_its_name(form, tmp_path):
    sf.write(tmp_path / "x.wav", sum(make_stems(7, 1.0).values()).T, RATE)
    form.upload.value = (uploaded((tmp_path / "x.wav").read_bytes(), "../<b>song</b>.wav"),)
    assert form.song.value == UPLOADED
    form.run()
    form.wait(60)
    page = form.output.outputs[0]["data"]["text/html"]
    assert "<b>song" not in page and "true stems" not in page and "SDR" not in form.status.value
    form.save.click()
    assert {path.parent.parent for path in (tmp_path / "live").glob("*/*")} == {tmp_path / "live"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda form, path: setattr(form.song, "value", UPLOADED), "no file uploaded yet"),
        (lambda form, path: setattr(form.start, "value", 99.0), "the song lasts 1.5 s; found a start at 99 s"),
        (lambda form, path: setattr(form.upload, "value", (uploaded(b"no audio", "x.mp3"),)), "not audio"),
    ],
)
def test_what_cannot_be_separated_is_told(form, tmp_path, change, message):
    change(form, tmp_path)
    form.run()
    form.wait(30)
    assert form.status.value.startswith("not separated: ") and message in form.status.value
    assert not form.go.disabled and not form.output.outputs


def test_priors_are_found_and_missed(tmp_path, sets, tiny_prior, tracks):
    tiny_prior().save(tmp_path / "results" / "systems" / "flowsep" / "1" / "priors" / "vocals.safetensors")
    assert list(prior_sets(tmp_path / "results")) == ["systems/flowsep/1/priors", "priors"]
    with pytest.raises(FlowsepError, match="no priors to separate with"):
        LiveSeparator(tracks, prior_sets(tmp_path), tmp_path)


def uploaded(content: bytes, name: str) -> dict:
    """What `FileUpload` holds of a file."""
    return {
        "name": name,
        "type": "audio/wav",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": datetime.now(UTC),
    }
