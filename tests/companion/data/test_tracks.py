"""Tracks, data sets and training material: known content in, the same content out, or a clear error."""

import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
import torch
from helpers import BROKEN, ODD_NAME, RATE, SOURCES, damage, make_stems, write_hq_tree, write_packed_tree, write_track

from companion.band import toyband
from companion.data.crops import CropSampler, validation_crops
from companion.data.recordings import recordings
from companion.data.segments import solo_segments, whole_stems
from companion.data.tracks import Track, load_dataset
from companion.profile import DataConfig, PiecesConfig
from flowsep.config import FeatureConfig
from flowsep.files import FlowsepError, sha256


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
    dataset = load("musdb18hq", tmp_path)
    (a,) = dataset.subset("test")
    with pytest.raises(FlowsepError, match="test/a: no source 'vocals'; found bass, mixture"):
        a.stem("vocals")
    assert dataset.skipped == {"test/b": "it holds no audio files"}


def test_truncated_stem_mp4(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "copy")
    for subset in ("train", "test"):
        path = tmp_path / "copy" / subset / "song 0.stem.mp4"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for track in load("musdb18", tmp_path / "copy").tracks:
        with pytest.raises(FlowsepError, match=r"song 0\.stem\.mp4: truncated or damaged"):
            track.mixture()


def test_stem_mp4_with_another_number_of_streams(packed, tmp_path):
    song = packed / "test" / "song 0.stem.mp4"
    for folder, streams in (("train", (0, 1, 2, 3)), ("test", (0, 1, 2, 3, 4, 4))):
        maps = [option for stream in streams for option in ("-map", f"0:a:{stream}")]
        path = tmp_path / folder / "a.stem.mp4"
        path.parent.mkdir()
        subprocess.run(["ffmpeg", "-v", "error", "-i", song, *maps, "-c", "copy", "-f", "mp4", path], check=True)
    for track, found in zip(load("musdb18", tmp_path).tracks, (4, 6), strict=True):
        message = rf"a\.stem\.mp4: {found} audio stream\(s\); a stem file of MUSDB18 holds 5 \(mixture, drums"
        with pytest.raises(FlowsepError, match=message):
            track.stem("bass")
        with pytest.raises(FlowsepError, match=message):
            track.duration  # noqa: B018


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
        assert segment[:].dtype == np.asarray(segment).dtype == np.float32
        assert torch.equal(torch.tensor(segment), torch.from_numpy(expected))  # as a system of one's own may do
    count = len(read)
    again = solo_segments(dataset, "train", "bass", FeatureConfig())  # from the cache: nothing is decoded
    assert len(read) == count and all(np.array_equal(a, b) for a, b in zip(again, segments, strict=True))
    files = list((tmp_path / "cache").rglob("*"))
    assert {file.suffix for file in files if file.is_file()} == {".f32", ".json"}  # both tracks, and nothing half done
    assert len(solo_segments(dataset, "valid", "bass", FeatureConfig(sample_rate=16000))[0]) != len(segments[0])


def test_what_has_16_bits_takes_16_bits(tmp_path):
    """Stems at their own rate, and the paper's pieces, which are rounded; other values than these never change."""
    write_hq_tree(tmp_path / "hq", train=2, test=0, subtype="PCM_16")
    dataset = load("musdb18hq", tmp_path / "hq", valid_tracks=1)
    (track,) = dataset.subset("train")
    (stereo,) = whole_stems(dataset, "train", "bass", RATE)
    np.testing.assert_array_equal(stereo, track.stem("bass"))
    (solo,) = solo_segments(dataset, "train", "bass", FeatureConfig())
    np.testing.assert_array_equal(solo, soxr.resample(track.stem("bass").mean(axis=0), RATE, 22050, "HQ"))
    assert (stereo.stored.dtype, solo.stored.dtype) == (np.int16, np.float32)
    pieces = replace(dataset, pieces=PiecesConfig(seconds=(0.2, 0.2), shortest=0.1, valid_share=0.4))
    cut = solo_segments(pieces, "train", "bass", FeatureConfig())
    assert {piece.stored.dtype for piece in cut} == {np.dtype(np.int16)}
    whole = recordings("", ["loud"], lambda _: np.full((1, 9), 1.5, np.float32), 1, rounded=True)[0]
    np.testing.assert_array_equal(whole, np.full((1, 9), 1.5))  # nothing is clipped


def test_decoding_says_how_many_songs_are_done_what_is_left_and_how_large_they_are(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # the bar is for terminals, not for chapters
    for _ in range(2):  # the second time all is there, and nothing is said
        recordings("bass", range(3), lambda _: np.zeros((1, 5_000_000), np.float32), 1, rounded=True)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert re.match(r"bass: 100%.* 3/3 \[\d\d:\d\d<\d\d:\d\d, .*song.*0\.03 GB\]\s*$", bar), bar


@pytest.mark.parametrize(("subtype", "kind"), [("PCM_16", ".i16"), ("FLOAT", ".f32")])
def test_a_stem_whose_channels_are_the_same_is_kept_once(subtype, kind, tmp_path):
    one = make_stems()["bass"][:1]
    for name, bass in {"mono": one, "twice": one.repeat(2, axis=0), "stereo": np.concatenate([one, -one])}.items():
        write_track(tmp_path / "hq" / "train" / name, make_stems() | {"bass": bass}, subtype=subtype)
    dataset = replace(load("musdb18hq", tmp_path / "hq"), valid_tracks=0)
    stems = whole_stems(dataset, "train", "bass", RATE)
    files = (tmp_path / "cache" / "segments").iterdir()
    whole = one.size * (2 if subtype == "PCM_16" else 4)
    sizes = sorted(("".join(file.suffixes), file.stat().st_size) for file in files)
    assert sizes == [(kind, 2 * whole), (f".mono{kind}", whole), (f".mono{kind}", whole)]
    from_cache = whole_stems(dataset, "train", "bass", RATE)
    for track, *kept in zip(dataset.subset("train"), stems, from_cache, strict=True):
        expected = np.broadcast_to(track.stem("bass"), (2, one.size))
        for stem in kept:
            np.testing.assert_array_equal(stem, expected)
            assert torch.equal(torch.tensor(stem), torch.tensor(expected))


def test_decoding_goes_on_where_it_was(tmp_path, monkeypatch):
    write_hq_tree(tmp_path / "hq", train=4, test=0)
    dataset, read = load("musdb18hq", tmp_path / "hq", valid_tracks=1), []
    original = Track._read

    def stopping(self, source):
        read.append(self.name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return original(self, source)

    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setattr(Track, "_read", stopping)
    with pytest.raises(KeyboardInterrupt):
        solo_segments(dataset, "train", "bass", FeatureConfig())
    assert len(solo_segments(dataset, "train", "bass", FeatureConfig())) == 3
    assert len(read) == 4 and read[2] == read[3]  # none of the first two is decoded again
    names = [path.name for path in (tmp_path / "cache" / "segments").iterdir()]
    assert len(names) == 3 and not any(name.startswith(".") for name in names)


def test_many_tracks_need_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    write_hq_tree(tmp_path, train=60, test=0, seconds=0.02)
    dataset = load("musdb18hq", tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, limits[1]))
    try:
        segments = solo_segments(dataset, "train", "bass", FeatureConfig())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(segments) == 58 and all(len(segment) == 441 for segment in segments)


def test_changed_stem_is_decoded_anew(tmp_path):
    write_hq_tree(tmp_path / "hq", train=1, test=1)
    dataset = load("musdb18hq", tmp_path / "hq")
    before = np.array(solo_segments(dataset, "test", "vocals", FeatureConfig())[0])
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
    for name in "abcd":
        write_track(tmp_path / "train" / name, make_stems())
    damage(tmp_path / "train" / "a" / "bass.wav", "nan")
    damage(tmp_path / "train" / "b" / "bass.wav", "truncated")
    dataset = load("musdb18hq", tmp_path, valid_tracks=1)
    held_out = dataset.subset("valid")[0].name
    bad = [name for name in "ab" if name != held_out]
    with pytest.raises(FlowsepError, match=rf"{len(bad)} of 3 tracks.*{bad[-1]}/bass\.wav"):
        solo_segments(dataset, "train", "bass", FeatureConfig())
    kept = [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(kept) == [".f32"] * (3 - len(bad)) + [".json"]  # the others need not be decoded again


def test_damaged_test_tracks_are_left_out_and_told(tmp_path, caplog):
    """They are rows with a reason in the scores; what prior chapters show of the test songs does without them."""
    for name in "abc":
        write_track(tmp_path / "test" / name, make_stems())
    damage(tmp_path / "test" / "a" / "bass.wav", "nan")
    assert len(solo_segments(load("musdb18hq", tmp_path), "test", "bass", FeatureConfig())) == 2
    assert "bass: 1 tracks left out" in caplog.text and "a/bass.wav: holds NaN" in caplog.text


def test_batches_depend_on_seed_and_step_alone():
    segments = [np.random.default_rng(k).uniform(-0.5, 0.5, 20000).astype(np.float32) for k in range(3)]
    options = {"batch": 4, "gain_db": 6.0}
    one, two = (CropSampler(segments, 3000, seed=5, **options) for _ in range(2))
    later = [one.batch(step) for step in range(5)]
    np.testing.assert_array_equal(two.batch(4), later[4])  # a resumed run, which never asked for 0..3
    assert later[4].shape == (4, 3000) and later[4].dtype == np.float32
    assert not np.array_equal(later[3], later[4])
    assert not np.array_equal(CropSampler(segments, 3000, seed=6, **options).batch(4), later[4])


@pytest.mark.parametrize(("batch", "length"), [(6, 301), (9, 300), (4, 1)])
def test_some_rows_of_a_batch_are_those_of_the_whole_batch(batch, length):
    """So that each of several processes draws its own share: odd and even numbers of 32-bit draws to be skipped."""
    segments = [np.random.default_rng(k).uniform(-0.5, 0.5, 5000).astype(np.float32) for k in range(3)]
    for in_turn in (False, True):
        sampler = CropSampler(segments, length, batch=batch, gain_db=6.0, in_turn=in_turn)
        for step in range(3):
            whole = sampler.batch(step)
            for first, last in ((0, 1), (0, batch), (1, 3), (batch - 1, batch)):
                np.testing.assert_array_equal(sampler.batch(step, slice(first, last)), whole[first:last])


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


def test_in_turn_every_segment_comes_once_in_a_pass():
    segments = [np.full(n, (k + 1) / 16, np.float32) for k, n in enumerate((3000, 9000, 400, 2000, 20000))]
    segments.insert(2, np.zeros(5000, np.float32))  # silent: never drawn
    sampler = CropSampler(segments, 2000, batch=4, in_turn=True, seed=3, dequantise=False)
    drawn = np.concatenate([sampler.batch(step) for step in range(5)])[:, 0] * 16  # 20 crops, 4 passes of 5
    passes = drawn.reshape(4, 5)
    assert (np.sort(passes) == np.arange(1, 6)).all() and len({tuple(order) for order in passes}) > 1
    again = CropSampler(segments, 2000, batch=4, in_turn=True, seed=3, dequantise=False).batch(3)
    np.testing.assert_array_equal(again[:, 0] * 16, drawn[12:16])
    ramp = [np.arange(1, 30001, dtype=np.float32)]
    starts = CropSampler(ramp, 2000, batch=500, in_turn=True, dequantise=False).batch(0)[:, 0]
    assert starts.min() < 1000 and starts.max() > 27000  # anywhere within the segment


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


@pytest.mark.parametrize("name", ["@eaDir", "#recycle", "__MACOSX", "lost+found"])
def test_what_systems_put_beside_songs_is_no_song(tmp_path, name):
    write_hq_tree(tmp_path, train=4)
    before = load("musdb18hq", tmp_path, valid_tracks=1)
    for subset in ("train", "test"):
        write_track(tmp_path / subset / name, make_stems(7))
    after = load("musdb18hq", tmp_path, valid_tracks=1)
    for subset in ("train", "valid", "test"):
        assert [t.name for t in before.subset(subset)] == [t.name for t in after.subset(subset)]
    assert after.skipped == {}


def test_a_stem_in_two_formats_leaves_its_song_out_and_says_so(tmp_path):
    write_hq_tree(tmp_path, train=2)
    sf.write(tmp_path / "train" / "song 1" / "bass.flac", make_stems(1)["bass"].T, RATE)
    dataset = load("musdb18hq", tmp_path, valid_tracks=1)
    assert dataset.skipped == {"train/song 1": "it holds bass twice (bass.flac, bass.wav); remove all but one"}
    assert [track.name for track in dataset.tracks if track.subset == "train"] == ["song 0"]


def test_the_hash_covers_content_and_reads_each_file_once(tmp_path, monkeypatch):
    from companion.data import tracks

    root, read = write_hq_tree(tmp_path / "hq"), []
    monkeypatch.setattr(tracks, "sha256", lambda path: read.append(path) or sha256(path))
    first = load("musdb18hq", root, valid_tracks=1).hash
    assert len(read) == len(set(read)) == 4 * 5
    assert load("musdb18hq", root, valid_tracks=1).hash == first and len(read) == 20
    path = root / "train" / "song 0" / "bass.wav"
    before, audio = path.read_bytes(), sf.read(path)[0]
    sf.write(path, 0.5 * audio, RATE, "FLOAT")  # other sound, equally long
    assert load("musdb18hq", root, valid_tracks=1).hash != first and len(read) == 21
    path.write_bytes(before)
    assert load("musdb18hq", root, valid_tracks=1).hash == first
