"""The paper's pieces: silences go and nothing else, lengths are as configured, validation is disjoint and seeded."""

import numpy as np
import pytest
import soundfile as sf
from helpers import RATE, write_slakh_track
from hypothesis import given
from hypothesis import strategies as st

from companion import load_dataset
from companion.data.pieces import cut, held_out, remove_silences
from companion.data.segments import solo_segments
from companion.profile import DataConfig, PiecesConfig
from flowsep import FeatureConfig, FlowsepError

AT = 22_050
PIECES = PiecesConfig()


def tone(seconds, level_db=-20.0):
    return (10 ** (level_db / 20) * np.sqrt(2) * np.sin(0.3 * np.arange(round(seconds * AT)))).astype(np.float32)


def test_long_silences_are_removed_and_short_ones_stay():
    parts = [tone(2), tone(3, -60), tone(1.5), tone(0.9, -60), tone(1), tone(1.2, -60)]
    kept = remove_silences(np.concatenate(parts), AT, PIECES)
    expected = np.concatenate([parts[0], *parts[2:5]])  # the silences of 3 and 1.2 s are gone, the one of 0.9 s is not
    assert abs(len(kept) - len(expected)) <= 4 * 441  # but for the blocks of 20 ms in which sound and silence meet
    loud = np.abs(kept) > 10 ** (-45 / 20)
    assert loud.sum() == sum((np.abs(part) > 10 ** (-45 / 20)).sum() for part in parts)  # no sound is lost


def test_the_threshold_is_the_rms_of_a_block_and_silence_counts_to_the_end():
    for level, length in ((-49.9, 3 * AT), (-50.1, 0)):
        assert len(remove_silences(tone(3, level), AT, PIECES)) == length
    silence = np.zeros(AT, np.float32)  # exactly one second is not longer than one
    assert len(remove_silences(silence, AT, PIECES)) == AT
    assert len(remove_silences(np.zeros(AT + 1, np.float32), AT, PIECES)) == 0
    assert len(remove_silences(silence[:0], AT, PIECES)) == 0
    short = PiecesConfig(max_silence_seconds=0.5)
    assert len(remove_silences(np.concatenate([tone(1), silence]), AT, short)) == pytest.approx(AT, abs=441)


@given(st.integers(0, 60 * AT), st.integers(0, 9))
def test_pieces_lie_side_by_side_and_are_as_long_as_configured(samples, seed):
    pieces = cut(samples, AT, PIECES, seed)
    stops = [0, *(stop for _, stop in pieces)]
    assert [start for start, _ in pieces] == stops[:-1]  # nothing is lost between them,
    assert samples - stops[-1] < 3 * AT  # and at the end only a rest that is too short
    lengths = [stop - start for start, stop in pieces]
    assert all(7 * AT <= length <= 10 * AT for length in lengths[:-1])
    assert all(3 * AT <= length <= 10 * AT for length in lengths[-1:])
    assert cut(samples, AT, PIECES, seed) == pieces


def test_lengths_are_uniform():
    lengths = np.array([stop - start for start, stop in cut(20_000 * AT, AT, PIECES, 0)][:-1]) / AT
    assert np.histogram(lengths, 6, (7, 10))[0].min() > 0.8 * len(lengths) / 6


def test_at_least_one_piece_is_held_out():
    assert [held_out(n, 0.02, 0).sum() for n in (2, 10, 100, 1000)] == [1, 1, 2, 20]
    assert (held_out(50, 0.1, 1) == held_out(50, 0.1, 1)).all() and (held_out(50, 0.1, 1) != held_out(50, 0.1, 2)).any()


def test_settings_out_of_order_are_refused():
    for wrong in ({"seconds": (10, 7)}, {"shortest": 8}):
        with pytest.raises(ValueError, match="shortest <= seconds"):
            PiecesConfig(**wrong)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Three training songs of 40 s in which every bass sample is another one, with 2 s of silence in the middle."""
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    for k in range(3):
        folder = tmp_path / "songs" / "train" / f"song {k}"
        folder.mkdir(parents=True)
        bass = 2 + k + np.linspace(0, 1, 40 * AT)  # beyond full scale, where nothing is rounded
        bass[19 * AT : 21 * AT] = 0
        sf.write(folder / "bass.wav", bass, AT, "FLOAT")
    return lambda seed=0, **changes: load_dataset(
        DataConfig(kind="stems", root=str(tmp_path / "songs"), pieces=PiecesConfig(**changes)), seed
    )


def pieces_of(dataset, subset):
    return solo_segments(dataset, subset, "bass", FeatureConfig())


def test_training_and_validation_share_no_sample_and_lose_none(dataset):
    train, valid = (pieces_of(dataset(), subset) for subset in ("train", "valid"))
    assert len(valid) == 1 and len(train) >= 3 * 4 - 1  # 38 s are four to five pieces
    lengths = np.array([len(piece) for piece in train + valid]) / AT
    assert lengths.min() >= 3 and lengths.max() <= 10
    samples = np.concatenate(train + valid)
    assert len(np.unique(samples)) == len(samples)  # disjoint
    dropped = 3 * 38 * AT - len(samples)
    assert 0 <= dropped < 3 * 3 * AT  # but for rests shorter than 3 s
    assert len(dataset().subset("train")) == 3 and dataset().subset("valid") == []


def test_the_seed_decides_and_the_settings_are_part_of_the_cache(dataset, tmp_path):
    first, again, other = (pieces_of(dataset(seed), "train") for seed in (0, 0, 1))
    assert [len(a) for a in first] == [len(b) for b in again] != [len(c) for c in other]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(list((tmp_path / "cache").rglob("*.f32"))) == 3  # where to cut needs no new decoding
    longer = sum(map(len, pieces_of(dataset(max_silence_seconds=3, valid_share=0.2), "train")))
    assert len(list((tmp_path / "cache").rglob("*.f32"))) == 6 and longer > 0


def test_too_little_material(dataset):
    with pytest.raises(FlowsepError, match=r"3 tracks give 0 piece\(s\) of 'bass' of 50\.0 s or more; two are needed"):
        pieces_of(dataset(seconds=(50, 60), shortest=50), "train")
    with pytest.raises(FlowsepError, match="nothing is left for 'test'"):
        pieces_of(dataset(), "test")


def test_sources_of_several_stems_are_cut_and_follow_the_class(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    sums = write_slakh_track(tmp_path / "train" / "Track00001", seconds=20)
    config = {"kind": "slakh", "root": str(tmp_path), "pieces": PIECES}
    for classes in ({"Guitar": "one", "Bass": "two"}, {"Guitar": "two", "Bass": "one"}):  # same files, other sources
        dataset = load_dataset(DataConfig(**config, classes=classes), 0)
        pieces = [p for subset in ("train", "valid") for p in solo_segments(dataset, subset, "one", FeatureConfig())]
        kind = next(kind for kind, source in classes.items() if source == "one")
        power = np.mean(np.concatenate(pieces) ** 2)
        assert power == pytest.approx(np.mean(sums[kind] ** 2), rel=0.1)
        assert sums[kind].shape == (20 * RATE,)
