"""SDR and SI-SDR against their definitions and against museval."""

import math
import time
import tracemalloc

import museval
import numpy as np
import pytest

from companion.scores.metrics import both_sdr, bss_eval, frame_sdr, sdr, si_sdr, silent_frames


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("level", [-10.0, 0.0, 6.5, 40.0])
def test_noise_of_known_level_gives_that_sdr(rng, level):
    reference, noise = rng.standard_normal((2, 2, 5000))
    noise *= np.linalg.norm(reference) / np.linalg.norm(noise) * 10 ** (-level / 20)
    assert sdr(reference, reference + noise) == pytest.approx(level, abs=1e-9)


def test_scaling_both_changes_nothing_and_scaling_the_estimate_does(rng):
    reference = rng.standard_normal(1000)
    estimate = reference + 0.1 * rng.standard_normal(1000)
    assert sdr(8 * reference, 8 * estimate) == pytest.approx(sdr(reference, estimate), abs=1e-9)
    assert sdr(reference, 0.5 * reference) == pytest.approx(20 * math.log10(2))
    assert sdr(reference, 0 * reference) == 0
    assert sdr(reference, reference) == math.inf
    assert math.isnan(sdr(0 * reference, estimate))


def test_frames_are_scored_one_by_one(rng):
    reference = rng.standard_normal((2, 1050))
    estimate = reference.copy()
    estimate[:, 100:200] *= 0.9
    values = sdr(reference, estimate, window=100)
    assert values.shape == (10,)  # the last 50 samples fill no frame
    assert values[1] == pytest.approx(20) and np.isinf(np.delete(values, 1)).all()
    assert sdr(reference, estimate, window=5000).shape == (1,)
    assert sdr(reference, estimate, window=100, hop=50).shape == (20,)


@pytest.mark.parametrize(
    ("shape", "window", "hop"),
    [
        ((2, 2, 4100), 1000, 1000),  # a last frame that is not full
        ((4, 1, 4000), 1000, 1000),
        ((2, 1, 3999), 1000, 500),
        ((3, 1, 700), 1000, 1000),  # shorter than one frame
        ((2, 2, 1000), 1000, 1000),
    ],
)
def test_equals_museval(rng, shape, window, hop):
    references = rng.standard_normal(shape)
    estimates = references + rng.uniform(0.05, 1, (shape[0], 1, 1)) * rng.standard_normal(shape)
    transposed = references.swapaxes(1, 2), estimates.swapaxes(1, 2)
    theirs = museval.evaluate(*transposed, win=window, hop=hop)[0]
    ours = frame_sdr(references, estimates, window, hop)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    for reference, estimate, row in zip(references, estimates, theirs, strict=True):
        np.testing.assert_allclose(sdr(reference, estimate, window=window, hop=hop), row, rtol=0, atol=1e-9)


def test_silence_blanks_a_frame_for_all_sources_as_in_museval(rng):
    references = rng.standard_normal((2, 2, 5000))
    estimates = references + 0.2 * rng.standard_normal(references.shape)
    references[1, :, 1000:2000] = 0
    estimates[0, :, 3000:4000] = 0
    references[0, 1, 4000:] = -references[0, 0, 4000:]  # museval takes channels that cancel for silence
    theirs = museval.metrics.bss_eval(references.swapaxes(1, 2), estimates.swapaxes(1, 2), window=1000, hop=1000)[0]
    ours = frame_sdr(references, estimates, 1000)
    assert np.isnan(ours).all(axis=0).tolist() == [False, True, False, True, True]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9, equal_nan=True)


def test_a_hundred_times_faster_than_museval_and_equal_to_it(rng):
    references = 0.1 * rng.standard_normal((2, 2, 3 * 44_100))
    estimates = references + 0.02 * rng.standard_normal(references.shape)
    stacked = references.swapaxes(1, 2), estimates.swapaxes(1, 2)
    start = time.process_time()
    theirs = museval.evaluate(*stacked, win=44_100, hop=44_100)[0]
    middle = time.process_time()
    ours = frame_sdr(references, estimates, 44_100)
    end = time.process_time()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert middle - start > 100 * (end - middle)


@pytest.mark.parametrize("samples", [10_000, 40_000, 100_500])  # less than a frame, a part of one left over, blocks
def test_both_kinds_of_sdr_from_one_reading(rng, samples):
    reference = rng.standard_normal((2, samples)).astype(np.float32)
    estimate = 0.7 * reference + np.float32(0.3) * rng.standard_normal((2, samples)).astype(np.float32)
    for window in (30_000, None):
        frames, whole = both_sdr(reference, estimate, window)
        np.testing.assert_array_equal(frames, np.atleast_1d(sdr(reference, estimate, window=window)))
        assert whole == pytest.approx(si_sdr(reference, estimate), abs=1e-12)
        in_turn = both_sdr(np.asfortranarray(reference), np.asfortranarray(estimate), window)
        np.testing.assert_allclose(np.hstack(in_turn), np.hstack((frames, whole)), rtol=0, atol=1e-12)


def test_silent_frames_are_those_that_frame_sdr_leaves_out(rng):
    references = rng.standard_normal((2, 2, 5000))
    estimates = references.copy()
    estimates[1, :, 1000:2000] = 0
    references[0, 0, 2000:3000] = 0  # the other channel sounds
    estimates[1, :, 4500:] = 0
    assert silent_frames(references, estimates, 1000).tolist() == [False, True, False, False, False]


def test_memory_does_not_grow_with_the_song(rng):
    reference, estimate = rng.standard_normal((2, 2, 1_000_000), np.float32)  # 8 MB each
    tracemalloc.start()
    frames, _ = both_sdr(reference, estimate, 44_100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(frames) == 22 and peak < 2e6


def test_float32_loses_nothing_that_shows(rng):
    reference = rng.standard_normal((2, 60_000)).astype(np.float32)
    estimate = reference + np.float32(0.01) * rng.standard_normal((2, 60_000)).astype(np.float32)
    exact = sdr(reference.astype(np.float64), estimate.astype(np.float64))
    assert sdr(reference, estimate) == pytest.approx(exact, abs=1e-9)


def test_si_sdr_ignores_scale_and_knows_the_right_angle(rng):
    reference, noise = rng.standard_normal((2, 4000))
    noise -= (noise @ reference) / (reference @ reference) * reference
    noise *= np.linalg.norm(reference) / np.linalg.norm(noise) / 10
    assert si_sdr(reference, reference + noise) == pytest.approx(20, abs=1e-9)
    assert si_sdr(reference, -3 * (reference + noise)) == pytest.approx(20, abs=1e-9)
    assert si_sdr(reference, 0 * reference) == -math.inf
    assert si_sdr(np.array([1.0, 2.0]), np.array([2.0, 4.0])) == math.inf
    assert math.isnan(si_sdr(0 * reference, reference))
    for level in (60, 100, 140):  # of an estimate at another scale: its error is a small difference
        faint = 3 * (reference + 10 ** (1 - level / 20) * noise)
        assert si_sdr(reference, faint) == pytest.approx(level, abs=1e-9 if level < 140 else 1e-7)
    assert si_sdr(reference[None], reference[None] + noise) == pytest.approx(20, abs=1e-9)


@pytest.mark.parametrize("metric", [sdr, si_sdr])
def test_bad_audio_is_named(metric):
    good = np.ones((2, 10))
    with pytest.raises(ValueError, match=r"reference has shape \(2, 10\), estimate \(2, 9\)"):
        metric(good, good[:, :9])
    for bad in (np.nan, np.inf):
        broken = good.copy()
        broken[1, 3] = bad
        with pytest.raises(ValueError, match="reference holds NaN or Inf"):
            metric(broken, good)
        with pytest.raises(ValueError, match="estimate holds NaN or Inf"):
            metric(good, broken)
    with pytest.raises(ValueError, match="reference holds no samples"):
        metric(good[:, :0], good[:, :0])


def test_bad_frames_are_named():
    with pytest.raises(ValueError, match="window and hop must be at least 1"):
        sdr(np.ones(10), np.ones(10), window=0)
    with pytest.raises(ValueError, match=r"expected the same \(channels, samples\) of each"):
        frame_sdr(np.ones((2, 10)), np.ones((2, 10)), 5)
    with pytest.raises(ValueError, match="expected the same"):
        frame_sdr([np.ones((2, 10)), np.ones((2, 9))], [np.ones((2, 10)), np.ones((2, 9))], 5)
    with pytest.raises(ValueError, match="2 references and 1 estimates"):
        frame_sdr(np.ones((2, 1, 10)), np.ones((1, 1, 10)), 5)


@pytest.mark.parametrize(
    ("estimate", "kind"),
    [
        (lambda own, other, noise: own + 0.1 * other, "SIR"),
        (lambda own, other, noise: own + 0.1 * noise, "SAR"),
        (lambda own, other, noise: 0.9 * own, "ISR"),
    ],
)
def test_bss_eval_names_the_kind_of_an_error_of_20_db(rng, estimate, kind):
    own, other, noise = rng.standard_normal((3, 1, 40_000))
    actual = bss_eval([own, other], [estimate(own, other, noise), other])
    assert {name: values.shape for name, values in actual.items()} == dict.fromkeys(
        ("SDR", "ISR", "SIR", "SAR"), (2, 1)
    )
    assert actual["SDR"][0, 0] == pytest.approx(20, abs=0.2) and actual[kind][0, 0] == pytest.approx(20, abs=0.3)
    assert all(actual[name][0, 0] > 30 for name in {"ISR", "SIR", "SAR"} - {kind})


def test_bss_eval_has_the_frames_and_silences_of_frame_sdr(rng):
    references = rng.standard_normal((2, 2, 3500))
    references[1, :, 1000:2000] = 0
    estimates = references + 0.1 * rng.standard_normal(references.shape)
    actual = bss_eval(references, estimates, 1000)
    np.testing.assert_allclose(actual["SDR"], frame_sdr(references, estimates, 1000), atol=1e-9)
    assert all(np.isnan(values).tolist() == [[False, True, False]] * 2 for values in actual.values())
    estimates[0, 1] = -estimates[0, 0]  # what museval takes for silence from end to end, and refuses
    assert all(
        np.isnan(values).all() and values.shape == (2, 3) for values in bss_eval(references, estimates, 1000).values()
    )


def test_nothing_interferes_with_a_source_alone(rng):
    reference, noise = rng.standard_normal((2, 1, 8000))
    actual = bss_eval([reference], [reference + 0.1 * noise])
    assert np.isnan(actual["SIR"]).all() and np.isfinite(actual["SAR"]).all()
    with pytest.raises(ValueError, match="1 references and 2 estimates"):
        bss_eval([reference], [reference, noise])
