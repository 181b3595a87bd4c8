"""The embedded data set: its layout, its sums, its awkward songs, its melodies, and that a seed fixes every byte."""

import json
import subprocess
import sys
import threading
import time

import musdb
import numpy as np
import pytest
import soundfile

from companion.band import toyband
from companion.band.composer import LONG_PHRASE, SPECIAL, compose, compose_band
from companion.band.singer import BAND, RATE, Syllable, Voice, sing
from companion.band.toyband import STEMS, ensure_band, find_soundfont
from flowsep.files import FlowsepError, cache_folder, sha256

VOICES = [Voice(*fields) for fields in BAND.voices]
TINY = {"seed": 7, "seconds": 4, "train": 1, "test": 1}
TINY_LEVELS = {  # root mean square of each second of the tiny band, with FluidSynth 2.3.1
    "train": {
        "vocals": [2466, 2997, 2919, 1755],
        "bass": [2036, 2386, 2260, 1889],
        "drums": [2359, 1744, 1480, 1761],
        "other": [2468, 2552, 2452, 2494],
    },
    "test": {
        "vocals": [3556, 2935, 2008, 1967],
        "bass": [3004, 2311, 1584, 3370],
        "drums": [2873, 2609, 1998, 2115],
        "other": [2734, 2636, 2522, 2791],
    },
}


def read(path):
    return soundfile.read(path, dtype="int16", always_2d=True)[0].astype(int)


@pytest.fixture(scope="module")
def band(tmp_path_factory):
    """A training song and the four awkward test songs, 5 s each, all five SoundFonts among them, in their own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSEP_DATA", str(tmp_path_factory.mktemp("cache")))
        return ensure_band(seed=225, seconds=5, train=1, test=4)


@pytest.fixture(scope="module")
def manifest(band):
    return {track["name"]: track for track in json.loads((band / "manifest.json").read_text())["tracks"]}


def test_musdb_reads_the_band_and_its_stems_sum_to_the_mixture(band, manifest):
    assert len(musdb.DB(band, subsets="train", is_wav=True)) == 1
    tracks = musdb.DB(band, subsets="test", is_wav=True).tracks
    assert len(tracks) == 4
    for track in tracks:
        mixture, *stems = track.stems  # each look at them decodes all files anew
        assert track.rate == RATE and mixture.shape == (5 * RATE, 2)
        error = np.abs(sum(stems) - mixture).max()
        assert (error > 0.01) == (manifest[track.name]["special"] == "clipped mixture")


def test_every_file_is_as_the_manifest_says_and_sums_exactly(band, manifest):
    assert len(manifest) == 5
    for track in manifest.values():
        folder = band / track["split"] / track["name"]
        assert track["sha256"] == {path.name: sha256(path) for path in folder.iterdir()}
        assert soundfile.info(folder / "mixture.wav").subtype == "PCM_16"
        total, mixture = sum(read(folder / f"{name}.wav") for name in STEMS), read(folder / "mixture.wav")
        assert np.sum(total != mixture) == track["clipped_samples"]
        assert np.array_equal(np.clip(total, -(2**15), 2**15 - 1), mixture)
        assert np.abs(mixture).max() > 0.8 * 2**15


def test_even_songs_carry_guitar_and_piano_inside_other(band, manifest):
    for track in manifest.values():
        folder = band / track["split"] / track["name"]
        even = int(track["name"].split(" - ")[0][-2:]) % 2 == 1  # names count from 1
        assert (folder / "guitar.wav").exists() == (folder / "piano.wav").exists() == even
        if even and {part["stem"] for part in track["parts"]} <= {"guitar", "piano", "bass", "drums"}:
            both = read(folder / "guitar.wav") + read(folder / "piano.wav")
            assert np.array_equal(both, read(folder / "other.wav"))


def test_awkward_songs(band, manifest):
    special = {track["special"]: track for track in manifest.values() if track["special"]}
    assert set(special) == set(SPECIAL)
    audio = {name: {s: read(band / "test" / t["name"] / f"{s}.wav") for s in STEMS} for name, t in special.items()}
    for name, stems in audio.items():
        silent = {"silent drums": "drums", "no vocals": "vocals"}.get(name)
        assert {stem for stem in STEMS if not stems[stem].any()} == ({silent} if silent else set())
    assert special["clipped mixture"]["clipped_samples"] > 0.001 * 2 * 5 * RATE
    assert {name for name, track in special.items() if BAND.unseen_font in track["soundfonts"]} == {"unseen soundfont"}
    trained = {font for track in manifest.values() if track["split"] == "train" for font in track["soundfonts"]}
    assert not trained & set(special["unseen soundfont"]["soundfonts"])


def test_no_stem_is_drowned(band, manifest):
    def level(x):
        return 10 * np.log10(np.mean(np.square(x, dtype=float)))

    for track in manifest.values():
        folder = band / track["split"] / track["name"]
        mixture = level(read(folder / "mixture.wav"))
        for stem in STEMS:
            audio = read(folder / f"{stem}.wav")
            if audio.any():
                assert -20 < level(audio) - mixture < 2, (track["name"], stem)


def test_training_and_test_songs_share_no_seed_no_tempo_and_key_no_melody():
    songs = compose_band(seed=2022, seconds=30, train=24, test=8)
    train, test = songs["train"], songs["test"]
    assert not {song.seed for song in train} & {song.seed for song in test}
    assert not {(song.tempo, song.key) for song in train} & {(song.tempo, song.key) for song in test}
    assert len({song.name for song in train + test}) == 32
    melodies = [frozenset().union(*(song.phrases for song in part)) for part in (train, test)]
    assert not melodies[0] & melodies[1]
    assert min(len(melody) for melody in melodies) > 20 and all(len(p) >= LONG_PHRASE for m in melodies for p in m)
    assert {song.key for song in train} == set(BAND.keys)
    assert {song.mode for song in train} == {"major", "minor"}
    assert min(song.tempo for song in train) < 80 and max(song.tempo for song in train) > 150
    assert [song.special for song in test] == [None] * 4 + list(SPECIAL)
    programs = {part.program for song in train for part in song.parts if part.stem not in ("drums", "bass")}
    assert len(programs) >= 20


def test_another_seed_gives_other_songs():
    one, two = (compose(seed, 0, False, 20) for seed in (1, 2))
    assert one.parts != two.parts and one.phrases != two.phrases
    assert compose(1, 0, False, 20) == one


def test_a_taken_phrase_is_drawn_again():
    """The same test song composed beside training songs that sing its own phrases comes out different."""
    alone = compose_band(seed=1, seconds=20, train=0, test=1)["test"][0]
    again = compose(1, 0, True, 20, SPECIAL[0], alone.phrases)
    assert alone.phrases and not alone.phrases & again.phrases


@pytest.mark.slow
def test_same_seed_same_bytes(tmp_path, monkeypatch):
    """Generated twice in different processes, with one worker and with two."""
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "a"))
    root = ensure_band(**TINY)
    code = f"from companion.band import toyband; toyband.JOBS = 1; print(toyband.ensure_band(**{TINY!r}))"
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "b"))
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    first, second = ((root / "manifest.json").read_bytes(), (tmp_path / "b" / other / "manifest.json").read_bytes())
    assert first == second


def test_the_band_has_not_changed_silently(tmp_path, monkeypatch):
    """Its levels, not its bytes: a processor or library that rounds otherwise changes the last bit of some samples."""
    version = subprocess.run(["fluidsynth", "--version"], capture_output=True, text=True, check=True).stdout
    if "version 2.3.1" not in version:  # another release may play otherwise, and is no fault of the band
        return
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path))
    root = ensure_band(**TINY)
    for split, levels in TINY_LEVELS.items():
        (folder,) = (root / split).iterdir()
        for name, expected in levels.items():
            seconds = np.split(read(folder / f"{name}.wav"), TINY["seconds"])
            now = [np.sqrt(np.mean(np.square(second, dtype=float))) for second in seconds]
            assert now == pytest.approx(expected, rel=1e-3), (split, name)


def test_a_failure_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path))

    def fail_late(song, folder, seconds):
        folder.mkdir()
        if folder.parent.name == "test":
            raise FlowsepError("disk full")

    monkeypatch.setattr(toyband, "write_song", fail_late)
    with pytest.raises(FlowsepError, match="disk full"):
        ensure_band(**TINY)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_two_at_once_make_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path))
    made = []
    monkeypatch.setattr(toyband, "write_song", lambda song, *_: time.sleep(0.2) or made.append(song.name))
    threads = [threading.Thread(target=ensure_band, kwargs=TINY) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2 and (ensure_band(**TINY) / "manifest.json").is_file() and len(made) == 2


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "data"))
    assert cache_folder() == tmp_path / "data"
    monkeypatch.delenv("FLOWSEP_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "flowsep"


def test_missing_tools_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path))
    monkeypatch.setattr(toyband, "SOUND_FOLDERS", ())
    for font, package in BAND.packages.items():
        with pytest.raises(FlowsepError, match=f"{font}.*{package}.*FLOWSEP_SOUNDFONTS"):
            find_soundfont(font)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "FluidR3_GM.sf2").touch()
    monkeypatch.setenv("FLOWSEP_SOUNDFONTS", f"/nowhere:{tmp_path / 'own'}")
    assert find_soundfont("FluidR3_GM.sf2") == tmp_path / "own" / "FluidR3_GM.sf2"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FlowsepError, match="apt install fluidsynth; conda"):
        ensure_band(**TINY)


def test_an_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "file" / "cache"))
    with pytest.raises(FlowsepError, match=r"file/cache.*FLOWSEP_DATA"):
        ensure_band(**TINY)


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_the_singer_holds_the_pitch_and_moves_the_formants(voice):
    """Median period by autocorrelation against the written note; and /i/ lies higher than /u/ above 1.5 kHz."""
    pitch = voice.low + 8
    notes = [Syllable(0.8, 1.7, pitch, "m", "u", True), Syllable(1.8, 2.7, pitch, "s", "i")]
    audio = sing(notes, voice, 3.0, np.random.default_rng(0))
    assert np.abs(audio).max() == 1.0 and np.array_equal(audio, sing(notes, voice, 3.0, np.random.default_rng(0)))
    expected = RATE / (440 * 2 ** ((pitch - 69) / 12))
    periods = []
    for start in range(int(1.1 * RATE), int(1.6 * RATE), 1000):
        frame = audio[start : start + 4096] * np.hanning(4096)
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 8192)) ** 2)
        low, high = int(0.8 * expected), int(1.25 * expected) + 1
        periods.append(low + np.argmax(correlation[low:high]))
    assert abs(12 * np.log2(np.median(periods) / expected)) < 0.4

    def share_above(start, hertz=1500):
        power = np.abs(np.fft.rfft(audio[int(start * RATE) :][: RATE // 2])) ** 2
        return power[int(hertz / 2) :].sum() / power.sum()

    assert share_above(2.1) > 10 * share_above(1.1)
    assert np.abs(audio[: int(0.2 * RATE)]).max() < 1e-3, "silence before the breath"


def test_no_syllables_no_sound():
    assert not sing([], VOICES[0], 1.0, np.random.default_rng(0)).any()
