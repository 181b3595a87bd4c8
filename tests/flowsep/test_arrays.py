"""Whatever array people have is separated as its samples say, or refused with the reason."""

import numpy as np
import pytest
import torch

import flowsep
from flowsep import FlowsepError, SeparationConfig, Separator
from flowsep.arrays import as_channels

QUICK = SeparationConfig(iterations=2)
AUDIO = (0.1 * np.random.default_rng(0).standard_normal((2, 6000))).astype(np.float32)


@pytest.fixture
def pair(tiny_prior):
    return {"vocals": tiny_prior(0), "bass": tiny_prior(1, "bass")}


FLOATS = {
    "float16": AUDIO.astype(np.float16),
    "float64": AUDIO.astype(np.float64),
    "big-endian": AUDIO.astype(">f4"),
    "reversed in time": AUDIO[:, ::-1],
    "of columns": np.asfortranarray(AUDIO),
    "read-only": np.frombuffer(AUDIO.tobytes(), np.float32).reshape(2, -1),
    "one channel": AUDIO[0],
    "tensor": torch.from_numpy(AUDIO),
    "tensor with a gradient": torch.from_numpy(AUDIO).requires_grad_(),
    "tensor in bfloat16": torch.from_numpy(AUDIO).bfloat16(),
    "tensor in float64": torch.from_numpy(AUDIO).double(),
    "transposed tensor": torch.from_numpy(AUDIO.T.copy()).T,
}


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_of_any_type_come_back_as_they_came(pair, kind):
    given = FLOATS[kind]
    is_tensor = isinstance(given, torch.Tensor)
    plain = given.detach().float().numpy() if is_tensor else given.astype(np.float32)
    expected = flowsep.separate(plain, pair, QUICK, 22050)
    for name, stem in flowsep.separate(given, pair, QUICK, 22050).items():
        assert type(stem) is type(given) and stem.dtype == given.dtype and stem.shape == given.shape
        if is_tensor:
            assert stem.device == given.device and not stem.requires_grad
            stem = stem.float().numpy()
        np.testing.assert_allclose(stem, expected[name], rtol=1e-2, atol=1e-6 if plain.dtype == given.dtype else 1e-3)


@pytest.mark.parametrize(
    ("kind", "offset", "scale"),
    [("i1", 0, 2**7), ("u1", 2**7, 2**7), ("<i2", 0, 2**15), (">i2", 0, 2**15), ("u2", 2**15, 2**15), ("i4", 0, 2**31)],
)
def test_integers_are_scaled_by_their_full_range(kind, offset, scale):
    given = np.array([[-scale, 0, scale // 2, scale - 1]]).astype(np.int64) + offset
    expected = np.float32([[-1, 0, 0.5, (scale - 1) / scale]])
    np.testing.assert_array_equal(as_channels(given.astype(kind)), expected)
    if kind in ("i1", "u1", "<i2", "i4"):
        np.testing.assert_array_equal(as_channels(torch.from_numpy(given.astype(kind))), expected)


def test_stems_of_integers_are_floats_that_sum_to_the_scaled_mixture(pair):
    given = (AUDIO * 2**15).astype(np.int16)
    for mixture in (given, torch.from_numpy(given)):
        stems = flowsep.separate(mixture, pair, QUICK, 22050)
        assert all(type(stem) is type(mixture) for stem in stems.values())
        total = sum(np.asarray(stem) for stem in stems.values())
        assert total.dtype == np.float32
        np.testing.assert_allclose(total, given / 2**15, atol=1e-6)


@pytest.mark.parametrize("engine", ["stacked", "layers"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_caller_s_gradient_mode_changes_nothing(pair, mode, engine):
    config = SeparationConfig(iterations=3, engine=engine)
    plain = flowsep.separate(AUDIO, pair, config, 22050)
    with mode():
        stems = flowsep.separate(AUDIO, pair, config, 22050)
        inside = {name: flowsep.Prior(prior.model, prior.feature, name).eval() for name, prior in pair.items()}
        for name, prior in pair.items():
            inside[name].load_state_dict(prior.state_dict())
        again = flowsep.separate(torch.from_numpy(AUDIO), inside, config, 22050)
    for name, stem in plain.items():
        np.testing.assert_array_equal(stem, stems[name])
        np.testing.assert_array_equal(stem, again[name].numpy())


def test_magnitudes_keep_no_gradient(pair):
    magnitude = torch.rand(513, 8, requires_grad=True)
    stems = flowsep.separate_magnitude(magnitude, pair, QUICK)
    assert not any(stem.requires_grad for stem in stems.values())


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (np.zeros((2, 0), np.float32), "not empty, found shape"),
        (np.zeros((1, 2, 3), np.float32), r"found shape \(1, 2, 3\)"),
        (np.float32(0.5), r"found shape \(\)"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.array([0.0, np.inf], np.float32), "infinite"),
        (np.array([0.0, 1e300]), "infinite"),  # in single precision
        (AUDIO.T, r"6000 channels in shape \(6000, 2\).*transposed: mixture.T"),
        (torch.from_numpy(AUDIO).T, "transposed"),
        (AUDIO.astype(complex), "found complex128"),
        (AUDIO > 0, "found bool"),
        (np.array(["song.wav"]), "found <U8"),
        ("song.wav", "found <U8"),
        ([[0.0, 0.1], [0.0]], "expected an array of samples, found list"),
        (torch.empty(2, 8, device="meta"), "expected an array of samples, found Tensor"),
        (torch.eye(8).to_sparse(), "expected an array of samples, found Tensor"),
    ],
)
def test_what_is_no_audio_is_refused(pair, mixture, message):
    with np.errstate(over="ignore"), pytest.raises(FlowsepError, match=message):
        flowsep.separate(mixture, pair, QUICK)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 5, 10**9])
def test_no_sample_rate(pair, rate):
    with pytest.raises(FlowsepError, match="sample_rate: expected 1,000 to 1,000,000 Hz"):
        flowsep.separate(AUDIO, pair, QUICK, rate)
    with pytest.raises(FlowsepError, match="sample_rate"):
        Separator(pair, QUICK).stream([], rate)  # at once, not when it is read


def test_blocks_of_a_stream(pair):
    separator = Separator(pair, QUICK)
    whole = separator(AUDIO, 22050)["bass"]
    blocks = [AUDIO[:, :2000], AUDIO[:, :0], AUDIO[:, 2000:]]
    parts = [stems["bass"] for _, stems in separator.stream(blocks, 22050)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    with pytest.raises(FlowsepError, match="a block has 1 channels, those before it 2"):
        list(separator.stream([AUDIO, AUDIO[:1]], 22050))
    with pytest.raises(FlowsepError, match="mixture: holds no samples"):
        list(separator.stream([AUDIO[:, :0]], 22050))


@pytest.mark.parametrize("given", [32768 * AUDIO, 1e37 * AUDIO, (32768 * AUDIO).astype(np.int64)])
def test_values_of_integers_in_a_wider_type_are_refused(given):
    with pytest.raises(FlowsepError, match=r"expected floats with full scale 1.*found (a peak of|int64)"):
        as_channels(given)


@pytest.mark.parametrize("rate", ["44100", None, [44100], 44100j, True, AUDIO, float("nan")])
def test_a_rate_that_is_none_is_refused(pair, rate):
    with pytest.raises(FlowsepError, match="sample_rate: expected 1,000 to 1,000,000 Hz, found "):
        flowsep.separate(AUDIO, pair, QUICK, rate)


def test_a_rate_of_any_number_type(pair):
    for rate in (22050.0, np.int64(22050), np.float32(22050), torch.tensor(22050)):
        assert flowsep.separate(AUDIO, pair, QUICK, rate)["bass"].shape == AUDIO.shape
