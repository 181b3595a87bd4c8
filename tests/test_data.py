"""Tracks, data sets, training material and audio files: known content in, the same content out, or a clear error."""

import resource
import shutil
import subprocess

import numpy as np
import pytest
import soundfile as sf
import soxr
from helpers import RATE, SOURCES, make_stems, write_hq_tree, write_packed_tree, write_track

from flowsep import toyband
from flowsep.config import DataConfig, FeatureConfig
from flowsep.data import (
    CropSampler,
    Track,
    load_dataset,
    read_audio,
    solo_segments,
    validation_crops,
    write_audio,
)
from flowsep.files import FlowsepError

ODD_NAME = 'Jürgen\'s "<script>alert(1)</script>" – Groß & Söhne'.replace("/", "_")


@pytest.fixture(scope="session")
def hq(tmp_path_factory):
    return write_hq_tree(tmp_path_factory.mktemp("hq"))


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    return write_packed_tree(tmp_path_factory.mktemp("packed"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("MUSDB_PATH", raising=False)


def load(kind, root, seed=0, **options):
    return load_dataset(DataConfig(kind=kind, root=str(root), **options), seed)


def one_track(root, **options):
    return load("stems", root, valid_tracks=1, **options).subset("test")[0]


# --- data sets -------------------------------------------------------------------------------------------------


def test_hq_agrees_with_musdb(hq):
    import musdb

    mine, theirs = load("musdb18hq", hq, valid_tracks=1), musdb.DB(root=str(hq), is_wav=True)
    assert [(t.name, t.subset) for t in mine.tracks] == [(t.name, t.subset) for t in theirs.tracks]
    assert len(mine.tracks) == 4
    my_track, their_track = mine.tracks[-1], theirs.tracks[-1]
    assert my_track.sample_rate == their_track.rate == RATE
    assert my_track.duration == pytest.approx(0.5)
    for name in SOURCES:  # musdb reads 16 bits
        np.testing.assert_allclose(my_track.stem(name).T, their_track.sources[name].audio, atol=2 / 32768)


def test_packed_agrees_with_musdb_to_the_bit(packed):
    import musdb

    mine, theirs = load("musdb18", packed, valid_tracks=1), musdb.DB(root=str(packed))
    assert [(t.name, t.subset) for t in mine.tracks] == [(t.name, t.subset) for t in theirs.tracks]
    my_track, their_track = mine.tracks[0], theirs.tracks[0]
    assert my_track.sources == SOURCES
    assert my_track.duration == pytest.approx(their_track.duration, abs=0.05)
    np.testing.assert_array_equal(my_track.mixture().T, their_track.audio.astype(np.float32))
    for name in SOURCES:
        np.testing.assert_array_equal(my_track.stem(name).T, their_track.sources[name].audio.astype(np.float32))
    expected = make_stems(0)["bass"]
    assert np.corrcoef(my_track.stem("bass")[0, : expected.shape[1]], expected[0])[0, 1] > 0.95


def test_floats_come_back_exactly(hq):
    track = load("musdb18hq", hq).subset("test")[0]
    expected = make_stems(100)
    stems = track.stems()
    assert list(stems) == list(SOURCES)
    for name, audio in stems.items():
        assert audio.dtype == np.float32 and audio.shape == (2, RATE // 2)
        np.testing.assert_array_equal(audio, expected[name])
    np.testing.assert_allclose(track.mixture(), sum(expected.values()), atol=1e-7)
    others = expected["bass"] + expected["drums"] + expected["other"]
    np.testing.assert_allclose(track.stems(["accompaniment"])["accompaniment"], others, atol=1e-7)


def test_extra_stems_of_the_band_are_sources_but_not_parts(tmp_path):
    stems = make_stems()
    write_track(tmp_path / "test" / "a", stems)
    sf.write(tmp_path / "test" / "a" / "guitar.wav", stems["other"].T / 2, RATE, "FLOAT")
    track = load("toyband", tmp_path).subset("test")[0]
    assert track.parts == SOURCES and track.sources == (*SOURCES, "guitar")
    np.testing.assert_array_equal(track.stem("guitar"), stems["other"] / 2)
    others = stems["bass"] + stems["drums"] + stems["other"]
    np.testing.assert_allclose(track.stem("accompaniment"), others, atol=1e-7)


def test_folder_of_stems_in_mixed_formats_without_a_mixture(tmp_path):
    folder = tmp_path / "test" / ODD_NAME
    folder.mkdir(parents=True)
    stems = make_stems()
    sf.write(folder / "piano.flac", stems["other"].T, RATE, "PCM_24")
    sf.write(folder / "bass.AIFF", stems["bass"][0], RATE, "PCM_24")  # mono
    (folder / "notes.txt").write_text("no audio")
    (folder / "._bass.wav").write_text("what a Mac leaves behind")
    track = one_track(tmp_path)
    assert track.name == ODD_NAME and sorted(track.sources) == ["bass", "piano"]
    np.testing.assert_allclose(track.mixture(), stems["other"] + stems["bass"][:1], atol=2**-22)
    assert track.stem("bass").shape == track.stem("piano").shape


def test_accompaniment_as_a_file(tmp_path):
    stems = make_stems()
    pair = {"vocals": stems["vocals"], "accompaniment": stems["other"]}
    write_track(tmp_path / "test" / "pair", pair, mixture=False)
    write_track(tmp_path / "test" / "quartet", stems | {"accompaniment": stems["other"]}, mixture=False)
    two, four = load("stems", tmp_path).subset("test")
    np.testing.assert_allclose(two.mixture(), stems["vocals"] + stems["other"], atol=1e-7)
    np.testing.assert_allclose(four.mixture(), sum(stems.values()), atol=1e-7)  # not counted twice
    np.testing.assert_array_equal(two.stem("accompaniment"), stems["other"])


def test_subsets_are_disjoint_and_drawn_by_the_seed(tmp_path):
    write_hq_tree(tmp_path, train=8, test=2, seconds=0.02)
    names = {s: {t.name for t in load("musdb18hq", tmp_path, 1).subset(s)} for s in ("train", "valid")}
    assert len(names["valid"]) == 2 and len(names["train"]) == 6 and not names["train"] & names["valid"]
    again = load("musdb18hq", tmp_path, 1).subset("valid")
    assert {t.name for t in again} == names["valid"]
    draws = [frozenset(t.name for t in load("musdb18hq", tmp_path, seed).subset("valid")) for seed in range(10)]
    assert len(set(draws)) > 1
    few = load("musdb18hq", tmp_path, train_tracks=3, test_tracks=1)
    assert len(few.tracks) == 4 and len(few.subset("test")) == 1
    with pytest.raises(FlowsepError, match=r"nothing is left for 'train'.*valid_tracks = 2"):
        load("musdb18hq", tmp_path, train_tracks=2).subset("train")
    with pytest.raises(FlowsepError, match="unknown subset 'dev'"):
        few.subset("dev")


def test_hash_follows_names_sizes_and_manifest_but_not_the_place(tmp_path, hq):
    moved = tmp_path / "moved"
    shutil.copytree(hq, moved)
    first = load("musdb18hq", hq).hash
    assert load("musdb18hq", moved).hash == first and len(first) == 12
    (moved / "manifest.json").write_text("{}")
    second = load("musdb18hq", moved).hash
    (moved / "train" / "song 0").rename(moved / "train" / "song 00")
    third = load("musdb18hq", moved).hash
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("kind", ["musdb18", "musdb18hq"])
def test_musdb_path_unset_wrong_or_empty(kind, tmp_path, monkeypatch):
    with pytest.raises(FlowsepError, match=r"MUSDB_PATH is not set.*zenodo"):
        load_dataset(DataConfig(kind=kind), 0)
    monkeypatch.setenv("MUSDB_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(FlowsepError, match=r"nowhere: no such folder; set MUSDB_PATH.*zenodo"):
        load_dataset(DataConfig(kind=kind), 0)
    monkeypatch.setenv("MUSDB_PATH", str(tmp_path))
    with pytest.raises(FlowsepError, match=rf"no tracks of kind {kind} in there; expected train/<track>"):
        load_dataset(DataConfig(kind=kind), 0)


def test_musdb_path_is_used(hq, monkeypatch):
    monkeypatch.setenv("MUSDB_PATH", str(hq))
    assert len(load_dataset(DataConfig(kind="musdb18hq"), 0).tracks) == 4
    monkeypatch.setenv("MY_SONGS", str(hq))
    assert len(load("stems", "$MY_SONGS").tracks) == 4
    with pytest.raises(FlowsepError, match=r"\$NOT_SET_ANYWHERE/songs is not set; set data\.root"):
        load("stems", "$NOT_SET_ANYWHERE/songs")
    with pytest.raises(FlowsepError, match=r"data\.root is not set"):
        load_dataset(DataConfig(kind="stems"), 0)


def test_the_other_kind_of_musdb_is_recognised(hq, packed):
    with pytest.raises(FlowsepError, match=r"set data\.kind to musdb18hq"):
        load("musdb18", hq)
    with pytest.raises(FlowsepError, match=r"so set data\.kind to musdb18$"):
        load("musdb18hq", packed)


def test_packed_needs_ffmpeg(packed, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlowsepError, match="needs ffmpeg and ffprobe"):
        load("musdb18", packed)


def test_embedded_band_is_asked_for_what_the_profile_says(hq, monkeypatch):
    asked = []
    monkeypatch.setattr(toyband, "ensure_band", lambda **options: asked.append(options) or hq)
    dataset = load_dataset(DataConfig(kind="toyband", seconds=5, train_tracks=3), seed=7)
    assert asked == [{"seed": 7, "seconds": 5, "train": 3, "test": 8}] and dataset.name == "toyband"


# --- broken tracks ---------------------------------------------------------------------------------------------


def damage(path, how):
    """Replace a good wav file by a bad one."""
    audio, rate = sf.read(path, dtype="float32", always_2d=True)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "cut header":
        path.write_bytes(path.read_bytes()[:30])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("this is not audio")
    elif how in ("nan", "inf"):
        audio[len(audio) // 2, 0] = float(how)
        sf.write(path, audio, rate, "FLOAT")
    elif how == "no samples":
        for file in path.parent.iterdir():
            sf.write(file, audio[:0], rate, "FLOAT")
    elif how == "shorter":
        sf.write(path, audio[:-1], rate, "FLOAT")
    elif how == "other rate":
        sf.write(path, audio, 48000, "FLOAT")
    elif how == "six channels":
        sf.write(path, np.repeat(audio, 3, axis=1), rate, "FLOAT")


BROKEN = {
    "truncated": "truncated: its header promises",
    "cut header": "not audio, empty or damaged",
    "empty": "not audio, empty or damaged",
    "text": "not audio, empty or damaged",
    "nan": "NaN or infinite",
    "inf": "NaN or infinite",
    "no samples": "holds no samples",
    "shorter": "22049 samples at 44100 Hz, but .* has 22050",
    "other rate": "at 48000 Hz, but .* at 44100 Hz; all files of a track must be equally long",
    "six channels": "6 channels; downmix to stereo first",
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_stem_is_named_and_the_next_track_still_reads(tmp_path, how):
    write_track(tmp_path / "test" / "a", make_stems(1))
    write_track(tmp_path / "test" / "b", make_stems(2))
    damage(tmp_path / "test" / "a" / "vocals.wav", how)
    bad, good = load("musdb18hq", tmp_path).subset("test")  # listing does not read
    with pytest.raises(FlowsepError, match=rf"a/vocals\.wav: .*{BROKEN[how]}"):
        bad.stem("vocals")
    assert good.stem("vocals").shape == (2, RATE // 2)


def test_missing_stem_and_empty_folder(tmp_path):
    write_track(tmp_path / "test" / "a", {"bass": make_stems()["bass"]})
    (tmp_path / "test" / "b").mkdir()
    a, b = load("musdb18hq", tmp_path).subset("test")
    with pytest.raises(FlowsepError, match="test/a: no source 'vocals'; found bass, mixture"):
        a.stem("vocals")
    with pytest.raises(FlowsepError, match="test/b: no audio files"):
        b.mixture()


def test_truncated_stem_mp4(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "copy")
    for subset in ("train", "test"):
        path = tmp_path / "copy" / subset / "song 0.stem.mp4"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for track in load("musdb18", tmp_path / "copy").tracks:
        with pytest.raises(FlowsepError, match=r"song 0\.stem\.mp4: truncated or damaged"):
            track.mixture()


# --- training material -----------------------------------------------------------------------------------------


def test_solo_segments_are_resampled_mono_stems_and_no_mixture_is_read(hq, monkeypatch, tmp_path):
    monkeypatch.setattr(Track, "mixture", lambda self: pytest.fail("a mixture was read in training"))
    dataset = load("musdb18hq", hq, valid_tracks=1)
    read = []
    original = Track._read
    monkeypatch.setattr(Track, "_read", lambda self, source: read.append(source) or original(self, source))
    segments = solo_segments(dataset, "train", "bass", FeatureConfig())
    assert set(read) == {"bass"} and len(read) == len(segments) == 2
    for track, segment in zip(dataset.subset("train"), segments, strict=True):
        expected = soxr.resample(track.stem("bass").mean(axis=0), RATE, 22050, "HQ")
        np.testing.assert_array_equal(segment, expected)
        assert segment.dtype == np.float32 and isinstance(segment, np.memmap)
    count = len(read)
    again = solo_segments(dataset, "train", "bass", FeatureConfig())  # from the cache: nothing is decoded
    assert len(read) == count and all((a == b).all() for a, b in zip(again, segments, strict=True))
    files = list((tmp_path / "cache").rglob("*"))
    assert sum(file.suffix == ".npy" for file in files) == 2 and not any(f.name.startswith(".") for f in files)
    assert solo_segments(dataset, "valid", "bass", FeatureConfig(sample_rate=16000))[0].size != segments[0].size


def test_changed_stem_is_decoded_anew(tmp_path):
    write_hq_tree(tmp_path / "hq", train=1, test=1)
    dataset = load("musdb18hq", tmp_path / "hq")
    before = solo_segments(dataset, "test", "vocals", FeatureConfig())[0].copy()
    path = tmp_path / "hq" / "test" / "song 0" / "vocals.wav"
    audio, rate = sf.read(path, dtype="float32")
    sf.write(path, -audio, rate, "FLOAT")  # same size, other content
    after = solo_segments(load("musdb18hq", tmp_path / "hq"), "test", "vocals", FeatureConfig())[0]
    np.testing.assert_allclose(after, -before, atol=1e-6)


def test_solo_segments_accompaniment_and_missing_sources(tmp_path):
    write_track(tmp_path / "test" / "a", make_stems(1))
    stems = make_stems(2)
    write_track(tmp_path / "test" / "b", stems | {"guitar": stems["other"]})
    dataset = load("musdb18hq", tmp_path)
    assert len(solo_segments(dataset, "test", "guitar", FeatureConfig())) == 1
    expected = sum(make_stems(1)[s] for s in ("bass", "drums", "other")).mean(axis=0)
    accompaniment = solo_segments(dataset, "test", "accompaniment", FeatureConfig(sample_rate=RATE))
    np.testing.assert_allclose(accompaniment[0], expected, atol=1e-6)
    with pytest.raises(FlowsepError, match="no test track has the source 'flute'; sources there: bass, drums, guitar"):
        solo_segments(dataset, "test", "flute", FeatureConfig())


def test_all_damaged_training_tracks_are_named_at_the_end(tmp_path):
    for name in "abc":
        write_track(tmp_path / "test" / name, make_stems())
    damage(tmp_path / "test" / "a" / "bass.wav", "nan")
    damage(tmp_path / "test" / "b" / "bass.wav", "truncated")
    with pytest.raises(FlowsepError, match=r"2 of 3 tracks.*a/bass\.wav.*NaN.*b/bass\.wav.*truncated"):
        solo_segments(load("musdb18hq", tmp_path), "test", "bass", FeatureConfig())
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1  # c went on


def test_batches_depend_on_seed_and_step_alone():
    segments = [np.random.default_rng(k).uniform(-0.5, 0.5, 20000).astype(np.float32) for k in range(3)]
    options = {"batch": 4, "gain_db": 6.0}
    one, two = (CropSampler(segments, 3000, seed=5, **options) for _ in range(2))
    later = [one.batch(step) for step in range(5)]
    np.testing.assert_array_equal(two.batch(4), later[4])  # a resumed run, which never asked for 0..3
    assert later[4].shape == (4, 3000) and later[4].dtype == np.float32
    assert not np.array_equal(later[3], later[4])
    assert not np.array_equal(CropSampler(segments, 3000, seed=6, **options).batch(4), later[4])


def test_crops_are_drawn_by_duration_from_everywhere():
    lengths = (30000, 10000)
    segments = [(np.arange(n) + 1e5 * (k + 1)).astype(np.float32) for k, n in enumerate(lengths)]
    sampler = CropSampler(segments, 500, batch=4000, dequantise=False)
    crops = sampler.batch(0)
    assert (np.diff(crops, axis=1) == 1).all()  # every crop is a stretch of one segment
    which, starts = np.divmod(crops[:, 0], 1e5)
    assert (which == 1).mean() == pytest.approx(0.75, abs=0.03)
    assert starts[which == 1].min() < 200 and starts[which == 1].max() > 29300
    assert np.histogram(starts[which == 1], 10)[0].min() > 200  # 300 expected in each tenth
    assert len(np.unique(starts % 1024)) > 900  # not only on the grid


def test_silence_is_left_out():
    rng = np.random.default_rng(0)
    segment = np.zeros(50000, np.float32)
    segment[20000:25000] = 0.1 * rng.standard_normal(5000)
    crops = CropSampler([segment, np.zeros(9000, np.float32)], 2000, batch=500, dequantise=False).batch(0)
    level = 20 * np.log10(np.sqrt((crops.astype(np.float64) ** 2).mean(axis=1)))
    assert level.min() >= -50
    with pytest.raises(FlowsepError, match=r"flute: no crop of 2000 samples reaches -50\.0 dB"):
        CropSampler([np.zeros(9000, np.float32)], 2000, batch=1, source="flute")
    with pytest.raises(FlowsepError, match="flute: no crop"):
        CropSampler([], 2000, batch=1, source="flute")


def test_gain_and_dequantisation_noise():
    segment = np.full(8000, 0.25, np.float32)
    plain = CropSampler([segment], 1000, batch=400, gain_db=6.0, dequantise=False).batch(0)
    gains = 20 * np.log10(plain[:, 0] / 0.25)
    assert np.ptp(plain, axis=1).max() == 0  # one gain a crop
    assert -6 <= gains.min() < -5.5 and 5.5 < gains.max() <= 6
    noisy = CropSampler([segment], 1000, batch=400).batch(0)
    steps = (noisy.astype(np.float64) - 0.25) * 32768
    assert steps.min() >= 0 and steps.max() <= 1 and steps.mean() == pytest.approx(0.5, abs=0.01)


def test_short_pieces_are_padded():
    short = np.full(300, 0.5, np.float32)
    crops = CropSampler([short], 1000, batch=2, dequantise=False).batch(0)
    np.testing.assert_array_equal(crops, np.repeat(np.pad(short, (0, 700))[None], 2, axis=0))
    np.testing.assert_array_equal(validation_crops([short], 1000), np.pad(short, (0, 700))[None])


def test_validation_crops_lie_side_by_side():
    segment = np.arange(1, 3501, dtype=np.float32)
    silent = np.concatenate([np.zeros(1000), np.ones(1000)]).astype(np.float32)
    crops = validation_crops([segment, silent], 1000)
    np.testing.assert_array_equal(crops[:3].ravel(), segment[:3000])
    np.testing.assert_array_equal(crops[3:], np.ones((1, 1000)))
    with pytest.raises(FlowsepError, match="no crop"):
        validation_crops([np.zeros(5000, np.float32)], 1000)


# --- audio files -----------------------------------------------------------------------------------------------


def test_wav_and_flac_round_trip(tmp_path):
    audio = make_stems()["vocals"]
    assert write_audio(tmp_path / ODD_NAME / "a.wav", audio, 48000) == 0
    back, rate = read_audio(tmp_path / ODD_NAME / "a.wav")
    np.testing.assert_array_equal(back, audio)
    assert rate == 48000 and sf.info(tmp_path / ODD_NAME / "a.wav").subtype == "FLOAT"
    loud = audio * 20
    assert write_audio(tmp_path / "a.flac", loud[:1], RATE) == np.count_nonzero(np.abs(loud[0]) > 1) > 0
    back, _ = read_audio(tmp_path / "a.flac")
    np.testing.assert_allclose(back, np.clip(loud[:1], -1, 1), atol=2**-22)
    assert sf.info(tmp_path / "a.flac").subtype == "PCM_24"
    assert write_audio(tmp_path / "b.wav", loud, RATE) == 0  # float holds it
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav")[0], loud)


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus", "m4a", "wma", "mka"])
def test_compressed_formats(tmp_path, suffix):
    audio = make_stems(seconds=1)["vocals"]
    sf.write(tmp_path / "a.wav", audio.T, RATE)
    path = tmp_path / f"-y 'quoted' {ODD_NAME}: concat:b.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-b:a", "192k", f"file:{path}"], check=True)
    back, rate = read_audio(path)
    assert rate == (48000 if suffix == "opus" else RATE) and back.dtype == np.float32
    assert back.shape[0] == 2 and back.shape[1] == pytest.approx(rate, rel=0.06)
    assert np.std(back) == pytest.approx(np.std(audio), rel=0.1)


def test_mp3_with_no_length_in_its_header_is_read_to_the_end(tmp_path):
    rng = np.random.default_rng(0)
    audio = np.concatenate([rng.normal(0, 0.1, 2 * RATE), np.zeros(4 * RATE)])  # VBR: dense first, then cheap
    sf.write(tmp_path / "a.wav", audio, RATE)
    options = ["-q:a", "4", "-write_xing", "0"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *options, tmp_path / "a.mp3"], check=True)
    back, rate = read_audio(tmp_path / "a.mp3")
    assert back.shape[1] / rate == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize("how", [how for how in BROKEN if how not in ("shorter", "other rate")])
def test_broken_audio_file(tmp_path, how):
    path = tmp_path / "song.wav"
    sf.write(path, make_stems()["vocals"].T, RATE, "FLOAT")
    damage(path, how)
    reason = "neither libsndfile nor ffmpeg" if "not audio" in BROKEN[how] else BROKEN[how]
    with pytest.raises(FlowsepError, match=rf"song\.wav: .*{reason}"):
        read_audio(path)


@pytest.mark.parametrize("name", ["song.flac", "song.m4a"])
def test_truncated_flac_and_m4a(tmp_path, name):
    sf.write(tmp_path / "a.wav", make_stems(seconds=2)["vocals"].T, RATE)
    path = tmp_path / name
    options = ["-movflags", "faststart"] if name.endswith("m4a") else []
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *options, path], check=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(FlowsepError, match=rf"{name}: truncated"):
        read_audio(path)


def test_wav_from_a_pipe_has_no_length_and_is_read(tmp_path):
    sf.write(tmp_path / "a.wav", make_stems()["vocals"].T, RATE)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-f", "wav", "pipe:1"]
    (tmp_path / "b.wav").write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (tmp_path / "b.wav").read_bytes()[4:8] == b"\xff\xff\xff\xff"
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav")[0], read_audio(tmp_path / "a.wav")[0])


def test_missing_file_no_ffmpeg_and_six_channels_in_m4a(tmp_path, monkeypatch):
    with pytest.raises(FlowsepError, match=r"gone\.wav: no such file"):
        read_audio(tmp_path / "gone.wav")
    sf.write(tmp_path / "a.wav", np.zeros((RATE, 6)), RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / "a.m4a"], check=True)
    with pytest.raises(FlowsepError, match=r"a\.m4a: 6 channels; downmix to stereo first"):
        read_audio(tmp_path / "a.m4a")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlowsepError, match=r"a\.m4a: .*install ffmpeg"):
        read_audio(tmp_path / "a.m4a")


def test_writing_fails_whole(tmp_path):
    audio = make_stems()["vocals"]
    with pytest.raises(FlowsepError, match=r"cannot write '\.mp3'; use \.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", audio, RATE)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FlowsepError, match="cannot write there"):
        write_audio(tmp_path / "file" / "a.wav", audio, RATE)
    write_audio(tmp_path / "a.wav", audio, RATE)
    before = (tmp_path / "a.wav").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))  # stands in for a full disk
    try:
        with pytest.raises(FlowsepError, match=r"a\.wav: not written"):
            write_audio(tmp_path / "a.wav", np.ones((2, 100000), np.float32), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_wav_beyond_four_gigabytes_becomes_rf64(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(sf, "write", lambda *args, format: written.append(format))
    huge = np.broadcast_to(np.float32(0), (2, 2**29))  # 4 GiB of samples, held by one
    write_audio(tmp_path / "huge.wav", huge, RATE)
    write_audio(tmp_path / "small.wav", huge[:, :100], RATE)
    assert written == ["RF64", "WAV"]


def test_speed_moves_a_tone_within_its_bounds():
    tone = np.sin(2 * np.pi * 440 * np.arange(44_100) / 22_050).astype(np.float32)
    crops = CropSampler([tone], 8192, batch=32, speed=0.25, seed=1, dequantise=False).batch(0)
    peaks = np.abs(np.fft.rfft(crops * np.hanning(8192), axis=1)).argmax(axis=1) * 22_050 / 8192
    assert 440 / 1.26 < peaks.min() < 400 and 480 < peaks.max() < 440 * 1.26
    assert np.std(peaks) > 20
