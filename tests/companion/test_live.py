"""The form that separates in JupyterLab: every control does what it says, and an interruption ends cleanly.

`tests/test_lab.py` drives it in a real JupyterLab.
"""

import asyncio
import errno
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import RATE, make_stems, write_hq_tree

from companion import load_dataset
from companion.data.tracks import Track
from companion.live import HINT, LOST, LiveSeparator, facts, prior_sets
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
def song(tmp_path):
    """Writes a song, and gives its path."""

    def write(name="x.wav", seconds=1.0, rate=RATE, channels=2):
        audio = sum(make_stems(7, seconds * rate / RATE, channels).values())
        sf.write(tmp_path / name, audio.T, rate)
        return tmp_path / name

    return write


@pytest.fixture
def form(tracks, sets, tmp_path):
    made = LiveSeparator(tracks, sets, tmp_path / "live")
    made.iterations.value = 3
    return made


def test_it_separates_and_shows_a_player(form, tracks, tmp_path):
    form.seconds.value, form.start.value = 1.0, 0.25
    form.go.click()
    form.wait(60)
    assert form.status.value.startswith("song 0: ") and "1.0 s of music; SDR (dB): bass" in form.status.value
    assert form.bar.value == form.bar.max == 3
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


def test_the_songs_of_the_list_are_told_and_separated(tmp_path, sets, monkeypatch):
    monkeypatch.setenv("MUSDB_PATH", str(write_hq_tree(tmp_path / "songs", test=2, seconds=1.5)))
    form = LiveSeparator(load_dataset(DataConfig(kind="musdb18hq"), 0).subset("test"), sets, tmp_path)
    assert form.title.value == "Separates: song 0, 0:02, 44.1 kHz, stereo, 0.5 MB"
    form.song.value = "song 1"
    assert form.title.value.startswith("Separates: song 1, ") and form.track.name == "song 1"
    assert separated(form, iterations=1) == "song 1"


def test_a_song_that_is_chosen_meanwhile_is_not_taken_for_the_one_that_runs(form, song):
    form.iterations.value = 300
    form.run()
    while not form.bar.value:
        time.sleep(0.01)
    form.path.value = str(song(name="other.wav"))
    assert form.title.value.startswith("Separates: other.wav, ")
    assert form.status.value.startswith("song 0: iteration ")
    form.cancel.click()
    form.wait(20)
    assert separated(form, iterations=1) == "other.wav"


def test_an_upload_is_told_chosen_and_separated_whatever_its_name(form, song, tmp_path):
    content = song(seconds=1.2).read_bytes()
    form.upload.value = (uploaded(content, "../<b>song</b>.wav"),)
    assert form.title.value == f"Separates: ../<b>song</b>.wav, 0:01, 44.1 kHz, stereo, {len(content) / 1e6:.1f} MB"
    assert form.song.value == "../<b>song</b>.wav (uploaded)"
    assert form.upload.value == ()  # not sent back to every page that connects
    assert separated(form) == "../&lt;b&gt;song&lt;/b&gt;.wav"
    page = form.output.outputs[0]["data"]["text/html"]
    assert "<b>song" not in page and "true stems" not in page and "SDR" not in form.status.value
    form.save.click()
    assert {path.parent.parent for path in (tmp_path / "live").glob("*/*")} == {tmp_path / "live"}
    form.song.value = "song 0"
    form.song.value = "../<b>song</b>.wav (uploaded)"  # stays on the list
    assert form.title.value.startswith("Separates: ../<b>song")


def test_a_second_upload_of_a_name_replaces_the_first(form, song):
    for seconds in (1.0, 3.0):
        form.upload.value = (uploaded(song(seconds=seconds).read_bytes(), "x.wav"),)
        assert form.title.value.startswith(f"Separates: x.wav, 0:0{seconds:.0f}, ")
    assert form.song.options == ("song 0", "x.wav (uploaded)")


def test_a_song_named_by_its_path(form, song, tmp_path, monkeypatch):
    path = song(name="high.flac", rate=96000, seconds=2.0, channels=1)
    for base, text in ((tmp_path, "high.flac"), ("/", f" {path} "), ("/", "~/high.flac")):
        monkeypatch.chdir(base)
        monkeypatch.setenv("HOME", str(tmp_path))
        form.song.value = "song 0"
        form.path.value = text
        assert form.title.value.startswith("Separates: high.flac, 0:02, 96 kHz, mono, ")
        assert form.song.value == f"{text.strip()} (path)" and form.path.value == ""
    assert separated(form) == "high.flac"
    assert {stem.shape for stem in form.stems.values()} == {(1, 96000)}
    form.save.click()
    assert {sf.info(saved).samplerate for saved in (tmp_path / "live" / "high.flac").iterdir()} == {96000}


def missing(form, folder):
    form.path.value = str(folder / "none.wav")


def a_folder(form, folder):
    form.path.value = str(folder)


def no_home(form, folder):
    form.path.value = "~nobody-of-this-name/x.wav"


def no_audio(form, folder):
    (folder / "notes.wav").write_text("no audio")
    form.path.value = str(folder / "notes.wav")


def no_audio_uploaded(form, folder):
    form.upload.value = (uploaded(b"no audio", "x.mp3"),)


def no_room(form, folder):
    form._uploads.cleanup()
    Path(form._uploads.name).touch()
    form.upload.value = (uploaded(b"no audio", "x.mp3"),)


def vanished(form, folder):
    next(folder.glob("songs/test/*/mixture.wav")).unlink()
    form.song.value = "song 0"


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (missing, "/none.wav: no such file"),
        (a_folder, ": is a folder; name a file in it"),
        (no_home, "home directory"),
        (no_audio, "/notes.wav: truncated or damaged or not audio"),
        (no_audio_uploaded, ": x.mp3: truncated or damaged or not audio"),
        (no_room, ": x.mp3: cannot write there"),
        (vanished, "mixture.wav: no such file"),
    ],
)
def test_what_cannot_be_read_is_not_chosen_nor_anything_else(form, song, tmp_path, choose, message):
    form.path.value = str(song())  # which is the song until now
    choose(form, tmp_path)
    assert form.title.value.startswith("Separates nothing: ") and message in form.title.value
    assert form.song.value is None and form.track is None
    form.go.click()
    form.wait(30)
    assert not form.go.disabled and form.status.value == "" and not form.output.outputs
    form.song.value = f"{song()} (path)"
    assert form.title.value.startswith("Separates: x.wav, ")


def test_a_path_is_tried_again_when_enter_is_pressed_again(form, song, tmp_path):
    missing(form, tmp_path)
    assert form.path.value.endswith("none.wav")  # left to be mended
    song(name="none.wav")
    form.path._handle_custom_msg({"event": "submit"}, [])  # as the browser sends it
    assert form.title.value.startswith("Separates: none.wav, ") and form.path.value == ""


def test_without_songs_nothing_is_chosen(sets, tmp_path, song):
    form = LiveSeparator([], sets, tmp_path)
    assert form.title.value == "Separates nothing: choose a song" and form.song.value is None
    form.run()
    assert form.status.value == ""
    form.path.value = str(song())
    assert separated(form, iterations=1) == "x.wav"


def test_faults_of_a_separation_are_told(form, monkeypatch):
    form.start.value = 99.0
    form.run()
    form.wait(30)
    assert form.status.value == "not separated: the song lasts 1.5 s; found a start at 99 s"
    form.start.value = 0.0

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("companion.live.separate", full)
    form.run()
    form.wait(30)
    assert form.status.value == "not separated: MemoryError"
    assert not form.go.disabled and not form.output.outputs


def test_a_failed_save_is_told(form, tmp_path, monkeypatch):
    separated(form, iterations=1)
    (tmp_path / "live").touch()  # a file where the folder should be
    form.save.click()
    assert form.status.value.startswith(f"not saved: {tmp_path}/live/song 0/bass.flac: cannot write there")
    (tmp_path / "live").unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("soundfile.SoundFile.write", full)
        form.save.click()
    assert form.status.value.startswith("not saved: ") and "No space left on device" in form.status.value
    form.save.click()
    assert form.status.value == f"saved in {tmp_path}/live/song 0"


def test_songs_of_one_name_are_saved_beside_each_other(form, song, tmp_path):
    (tmp_path / "b").mkdir()
    for path in (song(seconds=1.0), song("b/x.wav", seconds=1.5)):
        form.path.value, form.iterations.value = str(path), 1
        form.go.click()
        form.wait(60)
        form.save.click()
        assert form.save.disabled  # once is enough
    assert form.status.value == f"saved in {tmp_path}/live/x.wav (2)"
    assert sorted(path.name for path in (tmp_path / "live").iterdir()) == ["x.wav", "x.wav (2)"]


def test_a_file_that_was_replaced_is_read_anew(form, song):
    form.path.value = str(song(rate=44100))
    separated(form, iterations=1)
    song(rate=22050, seconds=3.0)
    form.go.click()
    form.wait(60)
    assert form.title.value.startswith("Separates: x.wav, 0:03, 22.05 kHz")
    assert {stem.shape for stem in form.stems.values()} == {(2, 22050)}
    song().unlink()
    form.go.click()
    form.wait(60)
    assert form.title.value.startswith("Separates nothing: ") and form.track is None


def test_a_page_that_connects_anew_gets_a_new_button_and_word_of_the_upload(form, song):
    async def reconnect():
        form.upload.get_state()  # what a page asks for, see ipywidgets.Widget._handle_control_comm_msg
        form.upload.get_state()
        await asyncio.sleep(0)

    old, title = form.upload, form.title.value
    assert form.hint.value == HINT and "Uploads may have up to 10 MB" in HINT
    asyncio.run(reconnect())
    assert form.hint.value == LOST and form.title.value == title
    assert form.upload is not old and form.form.children[1].children == (form.song, form.upload)
    form.upload.value = (uploaded(song().read_bytes(), "x.wav"),)
    assert form.title.value.startswith("Separates: x.wav, ") and form.hint.value == HINT


def test_facts_of_a_track_without_a_mixture_and_with_an_odd_name(song):
    stems = {"bass": (song(name="bass.wav"),), "drums": (song(name="drums.wav"),)}
    track = Track("a\x1bb", "test", stems, ("bass", "drums"))
    size = 2 * stems["bass"][0].stat().st_size / 1e6
    assert facts(track) == rf"a\x1bb, 0:01, 44.1 kHz, stereo, {size:.1f} MB"


def test_priors_are_found_and_missed(tmp_path, sets, tiny_prior, tracks):
    tiny_prior().save(tmp_path / "results" / "systems" / "flowsep" / "1" / "priors" / "vocals.safetensors")
    assert list(prior_sets(tmp_path / "results")) == ["systems/flowsep/1/priors", "priors"]
    with pytest.raises(FlowsepError, match="no priors to separate with"):
        LiveSeparator(tracks, prior_sets(tmp_path), tmp_path)


def separated(form, iterations: int = 2) -> str:
    """Separate a second, and give the title of the player, as it is in the page."""
    form.iterations.value, form.seconds.value = iterations, 1.0
    form.go.click()
    form.wait(60)
    (shown,) = form.output.outputs
    return re.search(r'data-title="(.*?)"', shown["data"]["text/html"])[1]


def uploaded(content: bytes, name: str) -> dict:
    """What `FileUpload` holds of a file."""
    return {
        "name": name,
        "type": "audio/wav",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": datetime.now(UTC),
    }
