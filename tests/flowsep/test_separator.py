"""Separation: known answers, identities, any shape and rate in and out, clear errors."""

import importlib
import math

import numpy as np
import pytest
import torch
from fake_cuda import fake_card

import flowsep
from companion.scores import sdr
from flowsep import FeatureConfig, FlowsepError, GlowConfig, Prior, SeparationConfig, memory
from flowsep.fast.stacked import StackedFlows
from flowsep.machine import held_memory
from flowsep.search import kl_divergence, masks, named_ratio_masks, ratio_masks, separate_magnitude
from flowsep.separator import separate_with_masks
from flowsep.spectrogram import stft
from flowsep.stream import Cut, cut_for_masks

separate_module = importlib.import_module("flowsep.separator")  # as an attribute of flowsep, that name is the function
search_module = importlib.import_module("flowsep.search")
QUICK = SeparationConfig(iterations=3, device="cpu")


@pytest.fixture
def pair(tiny_prior):
    return {"vocals": tiny_prior(0, "vocals"), "bass": tiny_prior(1, "bass")}


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def band_prior(source, low, high):
    """A flow whose couplings are the identity: a Gaussian of scale 3 between two bins and of 0.003 elsewhere."""
    prior = Prior(GlowConfig(steps=1, hidden=4, layers=1, kernel=1), FeatureConfig(), source)
    norm, conv = prior.glow.layers[0], prior.glow.layers[1]
    scale = torch.full((514,), 0.003)
    scale[low:high] = 3.0
    with torch.no_grad():
        norm.logs.copy_(-torch.cat([scale, scale]).log().unsqueeze(1))  # of two frames
        norm.bias.fill_(-0.1)  # the mode is a little above zero: at exactly zero the mixture term has no slope
        conv.weight.copy_(torch.eye(4))
    return prior.eval()


def tones():
    n = np.arange(22050)
    low = (0.2 * np.sin(2 * np.pi * 40 * 22050 / 1024 * n / 22050)).astype(np.float32)
    high = (0.2 * np.sin(2 * np.pi * 200 * 22050 / 1024 * n / 22050)).astype(np.float32)
    return low, high


@pytest.mark.parametrize("space", ["z", "x"])
def test_two_tones_are_told_apart_by_the_priors_that_expect_them(space):
    low, high = tones()
    priors = {"low": band_prior("low", 0, 120), "high": band_prior("high", 120, 514)}
    config = SeparationConfig(space=space, alpha=0.001, iterations=60, lr=0.05)
    stems = flowsep.separate(low + high, priors, config, sample_rate=22050)
    assert sdr(low, stems["low"]) > 20
    assert sdr(high, stems["high"]) > 20


def test_kl_is_zero_only_where_both_agree():
    a = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    assert abs(kl_divergence(a, a)) < 1e-7
    assert kl_divergence(a, a + 0.1) > 0
    expected = 2.0 * math.log(2.0 / 0.5) - 2.0 + 0.5
    assert kl_divergence(torch.tensor([2.0]), torch.tensor([0.5])).item() == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(kl_divergence(torch.zeros(3), torch.tensor([0.0, 1e-9, 1.0])))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("shape", [(1, 9001), (2, 9000), (9001,)])
def test_stems_have_the_mixtures_shape_and_sum_to_it(pair, rate, shape):
    mixture = noise(*shape)
    stems = flowsep.separate(mixture, pair, QUICK, sample_rate=rate)
    assert list(stems) == ["vocals", "bass"]
    assert all(stem.shape == shape and stem.dtype == np.float32 for stem in stems.values())
    np.testing.assert_allclose(sum(stems.values()), mixture, atol=2e-7)
    assert all(np.abs(stem).max() > 0 for stem in stems.values())


def test_types_come_back_as_they_went_in(pair):
    mixture = noise(4000)
    from_numpy = flowsep.separate(mixture.astype(np.float64), pair, QUICK, sample_rate=22050)["bass"]
    from_torch = flowsep.separate(torch.from_numpy(mixture), pair, QUICK, sample_rate=22050)["bass"]
    assert from_numpy.dtype == np.float64
    assert isinstance(from_torch, torch.Tensor) and from_torch.dtype == torch.float32
    np.testing.assert_allclose(from_numpy, from_torch.numpy(), atol=1e-6)


def test_the_callback_sees_the_loss_fall(pair):
    seen = []
    config = SeparationConfig(iterations=8, chunk_seconds=0.5, overlap_seconds=0.1)
    flowsep.separate(noise(22050), pair, config, sample_rate=22050, callback=seen.append)
    chunks = seen[0]["chunks"]
    assert chunks > 1
    assert [(s["chunk"], s["iteration"]) for s in seen] == [(c, i) for c in range(chunks) for i in range(8)]
    assert set(seen[0]["estimates"]) == set(pair)
    for chunk in range(chunks):
        losses = [s["loss"].item() for s in seen if s["chunk"] == chunk]
        assert losses[-1] < losses[0]


def test_what_the_callback_is_told(pair, monkeypatch):
    """Of a song which chunk of how many, and estimates without the padding; of several chunks at once those of all."""
    config = SeparationConfig(iterations=2, chunk_seconds=1.5, overlap_seconds=0.5, device="cpu")
    common = {"iteration", "iterations", "loss", "estimates"}
    for batch, shapes in ((1, 5 * [(513, 130)]), (4, [(4, 513, 130), (513, 130)])):
        seen = []
        monkeypatch.setattr(separate_module, "within_memory", lambda *_, batch=batch: (config, batch))
        flowsep.separate(noise(5 * 22050), pair, config, sample_rate=22050, callback=seen.append)
        assert all(set(state) == common | {"chunk", "chunks", "batch"} for state in seen)
        assert all(state["iterations"] == 2 and state["chunks"] == 5 for state in seen)
        chunks = [(0, 4), (4, 1)] if batch == 4 else [(chunk, 1) for chunk in range(5)]
        assert [(state["chunk"], state["batch"]) for state in seen[::2]] == chunks
        assert sum(state["batch"] for state in seen) == 2 * 5  # so that a bar of chunks * iterations ends full
        for state, shape in zip(seen[::2], shapes, strict=True):
            assert state["loss"].shape == () and list(state["estimates"]) == ["vocals", "bass"]
            assert all(x.shape == shape for x in state["estimates"].values())


@pytest.mark.parametrize("shape", [(513, 7), (3, 513, 8)])
@pytest.mark.parametrize("wiener", [False, True])
def test_what_the_callback_of_a_magnitude_is_told(pair, shape, wiener):
    """The last estimates that it sees are those that are returned, or that the masks are made of."""
    seen = []
    config = QUICK.model_copy(update={"wiener": wiener})
    magnitude = torch.from_numpy(np.abs(noise(*shape)))
    estimates = separate_magnitude(magnitude, pair, config, seen.append)
    assert all(set(state) == {"iteration", "iterations", "loss", "estimates"} for state in seen)
    assert [state["iteration"] for state in seen] == [0, 1, 2]
    last = seen[-1]["estimates"]
    if wiener:
        stacked = ratio_masks(torch.stack([*last.values()], dim=-3), config.mask_power)
        last = {name: gain * magnitude for name, gain in zip(last, stacked.unbind(-3), strict=True)}
    for name in pair:
        assert seen[0]["estimates"][name].shape == estimates[name].shape == shape
        torch.testing.assert_close(estimates[name], last[name])


@pytest.mark.parametrize("wiener", [False, True])
def test_masks_are_made_once_for_each_batch_of_chunks(pair, monkeypatch, wiener):
    calls = []

    def counted(estimates, *rest):
        calls.append(len(estimates))
        return masks(estimates, *rest)

    monkeypatch.setattr(separate_module, "masks", counted)
    config = SeparationConfig(iterations=2, chunk_seconds=1.5, overlap_seconds=0.5, wiener=wiener, device="cpu")
    for batch, expected in ((1, [1, 1, 1, 1, 1]), (4, [4, 1])):
        calls.clear()
        monkeypatch.setattr(separate_module, "within_memory", lambda *_, batch=batch: (config, batch))
        flowsep.separate(noise(2, 5 * 22050), pair, config, sample_rate=22050, callback=lambda state: None)
        assert calls == expected


def test_priors_are_prepared_once_for_many_songs(pair, tiny_prior, monkeypatch):
    made = []

    class Counted(StackedFlows):
        def __init__(self, flows, **options):
            made.append(len(flows))
            super().__init__(flows, **options)

    monkeypatch.setattr(search_module, "StackedFlows", Counted)
    config = SeparationConfig(iterations=2, chunk_seconds=0.6, overlap_seconds=0.2)
    separator = flowsep.Separator(pair, config)
    songs = [noise(2, 40000), noise(30000, seed=1)]
    together = [separator(song, 22050) for song in songs]
    list(separator.stream([songs[0]], 22050))
    assert made == [2] and separator.names == ("vocals", "bass")
    for song, stems in zip(songs, together, strict=True):  # and one song leaves nothing behind for the next
        alone = flowsep.separate(song, pair, config, sample_rate=22050)
        for name in pair:
            np.testing.assert_array_equal(stems[name], alone[name])
    made.clear()
    larger = tiny_prior(2, "drums", GlowConfig(steps=1, hidden=4, layers=1, kernel=1))
    flowsep.Separator(pair | {"drums": larger}, config)
    assert sorted(made) == [1, 2]  # one stack for each shape


def test_a_callback_that_raises_cancels(pair):
    def stop(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flowsep.separate(noise(4000), pair, QUICK, sample_rate=22050, callback=stop)


def test_chunks_leave_no_hole_and_no_bump():
    low, high = tones()
    priors = {"low": band_prior("low", 0, 120), "high": band_prior("high", 120, 514)}
    for seconds in (0.2, 0.45, 5.0):
        config = SeparationConfig(
            space="z", alpha=0, iterations=60, lr=0.05, chunk_seconds=seconds, overlap_seconds=0.1
        )
        stems = flowsep.separate(low + high, priors, config, sample_rate=22050)
        np.testing.assert_allclose(stems["low"] + stems["high"], low + high, atol=2e-7)
        assert sdr(low, stems["low"], window=2205).min() > 15


def local(magnitudes, _flows, _config, _callback):
    """A search whose estimates depend on eight frames to both sides, and on where pairs of frames begin."""
    weights = torch.rand(17, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.conv1d(magnitudes.flatten(0, 1).unsqueeze(1), weights.view(1, 1, -1), padding=8)
    even = torch.arange(magnitudes.shape[-1]) % 2
    first = (smooth.view(magnitudes.shape) - magnitudes).abs() * (1 + even)
    return torch.stack([first, magnitudes], dim=1)


def relative(actual, expected):
    return 20 * np.log10(max(np.linalg.norm(actual - expected), 1e-12) / np.linalg.norm(expected))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("seconds", [1.0, 3.17, 4.0, 4.011, 5.3])
def test_chunks_and_whole_agree_where_the_context_suffices(pair, monkeypatch, rate, seconds):
    """All else (resampling, transform, joints, the last chunk) makes no difference, whatever the rate and length."""
    monkeypatch.setattr(separate_module, "search", local)
    mixture = noise(2, round(seconds * rate))
    for wiener in (True, False):
        config = SeparationConfig(chunk_seconds=1.5, overlap_seconds=1.0, wiener=wiener)
        whole = flowsep.separate(mixture, pair, config.model_copy(update={"chunk_seconds": 60.0}), sample_rate=rate)
        chunked = flowsep.separate(mixture, pair, config, sample_rate=rate)
        assert all(relative(chunked[name], whole[name]) < -110 for name in pair)


@pytest.mark.parametrize("space", ["z", "x"])
def test_no_seam(pair, space):
    """Chunked and whole within 60 dB; the paper's kink and mean are 30 dB and more away from that."""
    mixture = noise(1, 5 * 22050)
    config = SeparationConfig(iterations=12, space=space, chunk_seconds=2.0, overlap_seconds=1.0)
    whole = flowsep.separate(mixture, pair, config.model_copy(update={"chunk_seconds": 60.0}), sample_rate=22050)
    chunked = flowsep.separate(mixture, pair, config, sample_rate=22050)
    assert all(relative(chunked[name], whole[name]) < -80 for name in pair)


def test_chunks_without_overlap_are_pieces_side_by_side(pair):
    """The paper's pieces: each is separated as if it were a song of its own."""
    mixture = noise(60000)
    config = SeparationConfig.paper(iterations=3, chunk_seconds=1.0)
    assert config.overlap_seconds == 0
    stems = flowsep.separate(mixture, pair, config, sample_rate=22050)
    pieces = [flowsep.separate(piece, pair, config, sample_rate=22050) for piece in np.split(mixture, [22050, 44100])]
    for name in pair:
        np.testing.assert_array_equal(stems[name], np.concatenate([piece[name] for piece in pieces]))


@pytest.mark.parametrize("rate", [22050, 48000])
def test_a_stream_is_the_whole_whatever_its_blocks(pair, rate):
    mixture = noise(2, 3 * rate + 77)
    mixture[:, rate : 2 * rate] = 0  # a chunk of silence within
    config = SeparationConfig(iterations=2, chunk_seconds=0.6, overlap_seconds=0.2)
    whole = flowsep.separate(mixture, pair, config, sample_rate=rate)
    seen = []
    blocks = np.split(mixture, [1, 2, 5000, 5000, 2 * rate], axis=1)
    stream = flowsep.Separator(pair, config).stream(blocks, rate, seen.append, samples=mixture.shape[1])
    starts, parts = zip(*stream, strict=True)
    lengths = [part["bass"].shape[1] for part in parts]
    assert list(starts) == list(np.cumsum([0, *lengths[:-1]])) and sum(lengths) == mixture.shape[1]
    for name in pair:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), whole[name])
    counts = {state["chunks"] for state in seen}
    assert len(counts) == 1 and max(state["chunk"] for state in seen) == counts.pop() - 1
    with pytest.raises(FlowsepError, match="NaN"):
        list(flowsep.Separator(pair, config).stream([mixture, mixture * np.nan], rate))
    with pytest.raises(FlowsepError, match="no samples"):
        list(flowsep.Separator(pair, config).stream([], rate))


def test_stems_come_while_the_song_is_still_read(pair):
    taken = []

    def blocks():
        for k in range(40):
            taken.append(k)
            yield noise(1, 22050, seed=k)

    config = SeparationConfig(iterations=1, chunk_seconds=2.0, overlap_seconds=0.5)
    start, stems = next(flowsep.Separator(pair, config).stream(blocks(), 22050))
    assert start == 0 and stems["bass"].shape[1] > 22050 and len(taken) <= 3


def test_several_chunks_at_once(pair, monkeypatch):
    """A batch changes neither stems nor order; a shorter last piece is a batch of its own."""
    shapes = []

    def watched(magnitudes, *rest):
        shapes.append(magnitudes.shape)
        return local(magnitudes, *rest)

    monkeypatch.setattr(separate_module, "search", watched)
    mixture = noise(5 * 22050)
    for overlap, expected in ((0.5, [(4, 130), (1, 130)]), (0.0, [(3, 130), (1, 44)])):
        config = SeparationConfig(chunk_seconds=1.5, overlap_seconds=overlap)
        alone = flowsep.separate(mixture, pair, config, sample_rate=22050)
        shapes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(separate_module, "within_memory", lambda _, __, config: (config, 4))
            together = flowsep.separate(mixture, pair, config, sample_rate=22050)
        assert [(shape[0], shape[2]) for shape in shapes] == expected
        for name in pair:
            np.testing.assert_allclose(together[name], alone[name], atol=1e-6)


def test_memory_limit_shortens_chunks_and_says_what_is_too_little(pair):
    need, fit = memory.bytes_of_separation, memory.within_memory
    assert need(pair, 10.0, batch=3) == pytest.approx(30 * need(pair, 1.0), rel=1e-6)
    config = SeparationConfig(device="cpu")
    held = held_memory() + memory.SPARE
    second = need(pair, 1.0) + memory.AUDIO
    chosen, batch = fit(round(held + 8 * second), pair, config)
    assert 7 < chosen.chunk_seconds < 9 and batch == 1
    assert fit(2**40, pair, config) == (config, 1) == fit(None, pair, config)
    with pytest.raises(FlowsepError, match=r"memory limit: 50 MB are too few for chunks of 2 s; the least is \d+ MB"):
        flowsep.separate(noise(4000), pair, config, memory_limit=50_000_000)
    with pytest.raises(FlowsepError, match="too few for chunks of 60 s"):  # independent pieces stay as they are
        fit(round(held + 8 * second), pair, SeparationConfig.paper(device="cpu"))


def test_a_gpu_gets_whole_chunks_as_many_as_fit(pair, tmp_path, monkeypatch):
    """80 % of what is free, found out once; never shorter ones."""
    monkeypatch.setattr(memory, "choose_device", lambda _: torch.device("cuda:0"))
    config = SeparationConfig()
    chunk, held = memory.bytes_of_separation(pair, config.chunk_seconds), memory.bytes_of_weights(pair)
    for chunks in (1, 5, 16):
        fake_card(monkeypatch, tmp_path, lambda n=chunks: (held + (n + 0.5) * chunk) / 0.8)
        assert memory.within_memory(None, pair, config) == (config, chunks)
    fake_card(monkeypatch, tmp_path, lambda: held + chunk)
    with pytest.raises(FlowsepError, match=r"for chunks of 20 s; .* lower `chunk_seconds`, or set `recompute: true`"):
        memory.within_memory(None, pair, config)


def test_out_of_memory_halves_the_batch_of_chunks(pair, monkeypatch):
    most, seen = 2, []

    def small(target, *rest):
        seen.append(len(target))
        if len(target) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search_module.search(target, *rest)

    config, mixture = QUICK.model_copy(update={"chunk_seconds": 1.0, "overlap_seconds": 0.0}), noise(6 * 22050)
    monkeypatch.setattr(separate_module, "within_memory", lambda _, __, config: (config, 6))
    expected = flowsep.separate(mixture, pair, config, sample_rate=22050)
    monkeypatch.setattr(separate_module, "search", small)
    separator = flowsep.Separator(pair, config)
    stems = separator(mixture, 22050)
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1] and separator.batch == 1
    for name in pair:
        np.testing.assert_allclose(stems[name], expected[name], atol=1e-6)
    most = 0
    with pytest.raises(FlowsepError, match="a chunk of 1 s takes more memory than the GPU has left; lower `chunk_sec"):
        separator(mixture, 22050)


def test_same_seed_same_stems_and_the_seed_matters_with_noise(pair):
    magnitude = stft(torch.from_numpy(noise(8000))).abs()

    def run(seed):
        return separate_magnitude(magnitude, pair, SeparationConfig(iterations=4, sigma=0.1, seed=seed))["bass"]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_map_pulls_the_latents_towards_the_prior(pair):
    """With a heavy prior in z space the estimates stay near G(0), with none they explain the mixture."""
    magnitude = 3 * stft(torch.from_numpy(noise(8000))).abs()
    at_mode = {name: prior.decode(torch.zeros(1, 514, 32))[0][0, :513] for name, prior in pair.items()}
    distances = []
    for alpha in (0.0, 1e4):
        config = SeparationConfig(space="z", alpha=alpha, iterations=30, lr=0.05, wiener=False)
        estimates = separate_magnitude(magnitude[:, :32], pair, config)
        distances.append(sum((estimates[name] - at_mode[name]).norm() for name in pair))
    assert distances[1] < 0.5 * distances[0]


def test_precision_and_the_caller_modules(pair):
    magnitude = stft(torch.from_numpy(noise(8000))).abs()
    single = separate_magnitude(magnitude, pair, QUICK)["bass"]
    double = separate_magnitude(magnitude, pair, QUICK.model_copy(update={"precision": "64-true"}))["bass"]
    first = QUICK.model_copy(update={"iterations": 1})  # later ones depend on the sign of gradients about zero
    once, half = (
        separate_magnitude(magnitude, pair, first.model_copy(update={"precision": precision}))["bass"]
        for precision in ("32-true", "bf16-mixed")
    )
    assert single.dtype == double.dtype == half.dtype == torch.float32
    assert (single - double).norm() < 3e-2 * single.norm()  # rounding grows where estimates cross zero
    assert 0 < (once - half).norm() < 0.1 * once.norm()
    assert all(p.requires_grad and p.dtype == torch.float32 for prior in pair.values() for p in prior.parameters())


def test_masks_sum_to_one_also_in_silence():
    gains = named_ratio_masks({"a": torch.tensor([[1.0, -1.0, 0.0]]), "b": torch.tensor([[3.0, 1.0, 0.0]])})
    torch.testing.assert_close(gains["a"] + gains["b"], torch.ones(1, 3))
    torch.testing.assert_close(gains["a"], torch.tensor([[0.25, 0.0, 0.5]]), atol=1e-7, rtol=0)
    powers = named_ratio_masks({"a": torch.tensor([[1.0, -1.0, 0.0]]), "b": torch.tensor([[3.0, 1.0, 0.0]])}, 2.0)
    torch.testing.assert_close(powers["a"], torch.tensor([[0.1, 0.0, 0.5]]), atol=1e-7, rtol=0)
    tiny = named_ratio_masks({"a": torch.full((1, 1), 1e-7), "b": torch.full((1, 1), 2e-7)}, 8.0)  # 1e-56 is no float
    torch.testing.assert_close(tiny["a"] * 257, torch.ones(1, 1))


def test_powers_of_estimates_in_the_masks(pair):
    x = torch.from_numpy(np.abs(noise(513, 20)))
    raw = flowsep.separate_magnitude(x, pair, QUICK.model_copy(update={"wiener": False}))
    masked = flowsep.separate_magnitude(x, pair, QUICK.model_copy(update={"wiener": True, "mask_power": 2.0}))
    for name, gain in named_ratio_masks(raw, 2.0).items():
        torch.testing.assert_close(masked[name], gain * x)


def test_silence_and_ten_milliseconds(pair):
    stems = flowsep.separate(np.zeros((2, 44100), np.float32), pair, QUICK)
    assert all(not stem.any() and stem.shape == (2, 44100) for stem in stems.values())
    mixture = noise(2, 441)
    stems = flowsep.separate(mixture, pair, QUICK)
    np.testing.assert_allclose(sum(stems.values()), mixture, atol=2e-7)


def test_bad_settings(pair, tiny_prior):
    with pytest.raises(FlowsepError, match="at least one"):
        flowsep.separate(noise(4000), {}, QUICK)
    other = Prior(pair["bass"].model, FeatureConfig(hop=512), "drums")
    with pytest.raises(FlowsepError, match=r"'drums' models .*hop=512"):
        flowsep.separate(noise(4000), pair | {"drums": other}, QUICK)
    with pytest.raises(FlowsepError, match="device: 'warp'"):
        flowsep.separate(noise(4000), pair, SeparationConfig(device="warp"))
    with pytest.raises(FlowsepError, match=r"diverged.*lower `lr`"):
        separate_magnitude(torch.ones(513, 4), pair, SeparationConfig(iterations=20, lr=1e30))


def test_masks_of_any_system_reach_the_top_of_the_spectrum():
    mixture = noise(2, 44100)

    def halves(magnitude):
        return {"a": 0.25 * magnitude, "b": 0.75 * magnitude}

    stems = separate_with_masks(mixture, 44100, halves, names=("a", "b"))
    np.testing.assert_allclose(stems["a"], 0.25 * mixture, atol=1e-6)
    np.testing.assert_allclose(stems["b"], 0.75 * mixture, atol=1e-6)


@pytest.mark.parametrize(("rate", "samples"), [(44100, 400_001), (22050, 200_000), (48000, 500_000)])
def test_masks_of_a_whole_song_are_applied_chunk_by_chunk(rate, samples, monkeypatch):
    """Masks that look at the whole song: chunks change rounding alone."""
    mixture = noise(2, samples)
    mixture[:, samples // 3 : 2 * samples // 3] = 0  # a chunk that is silent

    def halves(magnitude):
        assert magnitude.ndim == 2
        share = torch.linspace(0.1, 0.9, magnitude.shape[1]) * torch.linspace(0.2, 1, len(magnitude)).unsqueeze(1)
        return {"a": share * magnitude, "b": (magnitude.mean() - share * magnitude).clamp_min(0)}

    def stems(wiener):
        return separate_with_masks(mixture, rate, halves, names=("a", "b"), feature=feature, wiener=wiener)

    def of_one_chunk(feature, times):
        return Cut(length=2**30, step=2**30, hop=times * feature.hop)

    feature = FeatureConfig(n_fft=512, hop=128)
    assert cut_for_masks(feature, 1).count(samples) > 3
    parts = [stems(wiener) for wiener in (True, False)]
    monkeypatch.setattr(separate_module, "cut_for_masks", of_one_chunk)
    for some, whole in zip(parts, [stems(wiener) for wiener in (True, False)], strict=True):
        assert all(sdr(whole[name], some[name]) > 100 for name in "ab")
