"""The GAN prior: its parts against closed forms, then training, resumption and separation at tiny sizes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import SOURCES, write_hq_tree

from companion import Profile, load_dataset
from companion.data import segments, tracks
from companion.profile import DataConfig
from companion.scores.metrics import sdr
from companion.systems import COSTS, load_system
from companion.systems.gan_prior import GanOptions, exclusion, mixture_loss, project, search
from companion.systems.specgan import Critic, Generator, SpecGANOptions, fit_gan, gradient_penalty
from flowsep import FlowsepError
from flowsep.prior import parameters
from flowsep.weights import read_safetensors

RATE = 4000
TINY = {"sample_rate": RATE, "depth": 2, "channels": 4, "latent": 4, "steps": 80, "critic_steps": 2, "batch": 8}
TINY |= {"lr": 2e-3}
PROFILE = Profile(name="tiny", training={"validate_every": 10})
BANDS = {"bass": (150, 500), "vocals": (900, 1500)}


def notes(source, seconds, rate, seed):
    """Sines within the band of a source, four a second, each of a level of its own, in faint noise."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    which = (4 * time).astype(int)
    pitch, level = rng.uniform(*BANDS[source], which[-1] + 1)[which], rng.uniform(0.1, 0.3, which[-1] + 1)[which]
    noise = 0.002 * rng.standard_normal(len(time))
    return (level * np.sin(2 * np.pi * np.cumsum(pitch) / rate) + noise).astype(np.float32)


@pytest.fixture
def solo(monkeypatch):
    """Solo recordings without a data set."""
    seeds = {"train": 1, "valid": 2}
    clips = lambda _, subset, source, feature: [notes(source, 6, feature.sample_rate, seeds[subset])]  # noqa: E731
    monkeypatch.setattr(segments, "solo_segments", clips)
    return SimpleNamespace(name="notes", hash="abc")


def test_penalty_of_a_linear_critic_is_its_closed_form():
    """grad (w x + b) = w wherever one looks, so that the penalty is (|w| - 1)^2."""
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))
    torch.manual_seed(0)
    real, fake, share = torch.randn(3, 8, 8), torch.randn(3, 8, 8), torch.rand(3, 1, 1)
    penalty = gradient_penalty(critic, real, fake, share)
    weight = critic[1].weight
    assert penalty.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-5)
    penalty.backward()  # of the weights: 2 (1 - 1 / |w|) w
    torch.testing.assert_close(weight.grad, (2 * (1 - 1 / weight.norm()) * weight).detach())


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_shapes_ranges_and_sizes(depth):
    options = SpecGANOptions(depth=depth, channels=2)
    torch.manual_seed(0)
    generator, critic = Generator(options), Critic(options)
    image = generator(20 * torch.randn(3, 100))
    assert image.shape == (3, options.side, options.side) and image.abs().max() <= 1
    assert critic(image).shape == (3,)
    assert options.feature.n_fft == 2 * options.side == 2 * options.feature.hop
    if depth == 5:  # SpecGAN's own
        assert (options.side, options.feature.n_fft) == (128, 256)
        widths = [layer.out_channels for layer in Generator(SpecGANOptions()).layers]
        assert widths == [512, 256, 128, 64, 1]


def test_images_and_magnitudes_are_inverse_within_three_deviations():
    generator = Generator(SpecGANOptions(depth=2))
    magnitude = torch.rand(50, 16, 16) + torch.arange(16).unsqueeze(1)
    generator.measure(magnitude)
    image = generator.image(magnitude)
    assert image.abs().max() <= 1
    assert image.mean(dim=(0, 2)).abs().max() < 0.05  # of each bin, but for what was clipped
    generator.forward = lambda image: image
    inside = image.abs() < 1
    torch.testing.assert_close(generator.magnitude(image)[inside], magnitude[inside], rtol=1e-4, atol=1e-5)


def test_projection_keeps_the_inside_and_brings_the_outside_to_the_boundary():
    latents = torch.tensor([[0.3, -0.9, 1.0], [-1.7, 0.2, 40.0]])
    expected = torch.tensor([[0.3, -0.9, 1.0], [-1.0, 0.2, 1.0]])
    torch.testing.assert_close(project(latents, 1.0), expected, rtol=0, atol=0)


def test_the_search_never_leaves_the_box():
    """A mixture far louder than any prior can be pulls the latents outwards at every step."""
    options = GanOptions(prior=TINY, iterations=40, lr=0.5, bound=0.7)
    torch.manual_seed(1)
    generators = [Generator(options.prior) for _ in range(2)]
    seen = []
    for generator in generators:
        generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().max().item()))
    found = search(1e3 * torch.rand(3, 16, 16), generators, options)
    assert found.shape == (3, 2, 16, 16) and torch.isfinite(found).all()
    assert max(seen) == pytest.approx(0.7) and len(seen) == 2 * 41


def test_terms_of_the_loss_have_their_known_values():
    torch.manual_seed(0)
    sources = torch.rand(2, 3, 16, 16)
    mixture = sources.sum(dim=1)
    none = dict.fromkeys(("spectral", "ratio", "inclusion", "exclusion"), 0.0)
    loss = lambda x, y, **weights: mixture_loss(x, y, GanOptions(**(none | weights)))  # noqa: E731
    assert loss(mixture, sources, spectral=1).abs().max() < 1e-3
    torch.testing.assert_close(loss(mixture, sources, ratio=1), torch.full((2,), 16.0))  # one a frame
    assert (loss(mixture, 2 * sources, ratio=1) < 16).all() and (loss(mixture, 2 * sources, spectral=1) > 1).all()
    far = (torch.log1p((2 * mixture) ** 2) - torch.log1p(mixture**2)).sum(dim=(1, 2))
    torch.testing.assert_close(loss(mixture, 2 * sources, spectral=1), far * (1 + 1 / 4 + 1 / 16))  # all of one sign
    one = loss(mixture, sources, inclusion=1)
    torch.testing.assert_close(one, -exclusion(torch.log1p(mixture**2), torch.log1p(mixture**2), 3))
    assert loss(mixture, sources[:, :1], exclusion=1).abs().max() == 0  # alone, nothing is to shun


def test_edges_in_the_same_places_count_and_others_do_not():
    image = torch.zeros(1, 16, 16)
    image[0, 4, :], other = 1.0, torch.zeros(1, 16, 16)
    other[0, 12, :] = 1.0
    assert exclusion(image, image, 1) > 10 * exclusion(image, other, 1)
    torch.testing.assert_close(exclusion(image, 5 * image, 1), exclusion(image, image, 1))  # one scale for both


def test_tones_of_two_bands_are_told_apart_from_solo_recordings(solo, tmp_path):
    options = {"prior": TINY | {"steps": 20}, "iterations": 20}
    system = load_system("gan_prior", options, sources=tuple(BANDS))
    system.fit(solo, PROFILE, tmp_path)
    stems = {source: notes(source, 2.5, RATE, 3)[np.newaxis] for source in BANDS}
    mixture = sum(stems.values())
    found = system.separate(mixture, RATE)
    for source, reference in stems.items():
        assert sdr(reference, found[source]) > sdr(reference, mixture / 2) + 8
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-5)
    again = load_system("gan_prior", options, sources=tuple(BANDS), folder=tmp_path)
    np.testing.assert_array_equal(again.separate(mixture, RATE)["bass"], found["bass"])
    assert [path.name for path in again.checkpoints()] == ["bass.safetensors", "vocals.safetensors"]
    curve = pd.read_csv(tmp_path / "training" / "bass" / "loss.csv")
    assert list(curve.step) == [0, *sorted([*range(1, 21)] * 2)] and set(curve.split) == {"train", "valid"}
    assert list(curve.columns) == ["step", "split", "value", "seconds"]
    assert system.curves()["bass"] == tmp_path / "training" / "bass" / "loss.csv" and set(system.curves()) == set(BANDS)
    costs = system.costs()
    assert costs["parameters"] == 2 * parameters(Generator(SpecGANOptions(**TINY)))
    curves = [pd.read_csv(path).seconds.iloc[-1] for path in system.curves().values()]
    assert costs["training_seconds"] == pytest.approx(sum(curves), abs=0.11) and costs["training_memory_mib"] > 50
    stereo = system.separate(
        np.repeat(mixture[:, : RATE // 2], 2, axis=0), 44_100
    )  # another rate, shorter than an image
    assert stereo["bass"].shape == (2, RATE // 2)


class Material:
    """Batches of crops of one image each, made by a function of (rng, samples); with `stop`, no further ones."""

    def __init__(self, make, size=4, stop=None):
        self.make, self.size, self.stop = make, size, stop

    def batch(self, step):
        if step == self.stop:
            raise KeyboardInterrupt
        rng = np.random.default_rng([7, step])
        crops = np.stack([self.make(rng, (16 + 3) * 16) for _ in range(self.size)])
        return (crops + 0.003 * rng.standard_normal(crops.shape)).astype(np.float32)


def steady_tone(rng, samples):
    return 0.3 * np.sin(2 * np.pi * rng.integers(2, 15) * 125 * np.arange(samples) / RATE + rng.uniform(0, 6))


def one_click(rng, samples):
    return 4.0 * (np.arange(samples) == rng.integers(samples // 8, samples - samples // 8))


def fit(folder, make, stop=None, seed=5, every=1000, **changes):
    options = SpecGANOptions(**(TINY | changes))
    fit_gan(
        Material(make, options.batch, stop), Material(make).batch(10_000), source=make.__name__, options=options,
        checkpoint=folder / "prior.safetensors", work=folder, every=every, seed=seed, device="cpu",
    )  # fmt: skip
    generator = Generator(options)
    generator.load_state_dict(read_safetensors(folder / "prior.safetensors")[1])
    return generator.requires_grad_(False)


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    original = fit(whole, steady_tone, steps=8, every=3)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, steady_tone, steps=8, every=3, stop=11)  # within the sixth step, after the state of the third
    assert not (killed / "prior.safetensors").exists()
    fit(killed, steady_tone, steps=8, every=3)
    (header, tensors), (again, resumed) = (read_safetensors(run / "prior.safetensors") for run in (whole, killed))
    assert tensors.keys() == resumed.keys() and all(torch.equal(tensors[name], resumed[name]) for name in tensors)
    told = {*COSTS, "micro_batch"}  # measured, most of it, so not the same
    assert header.pop("provenance").keys() == again.pop("provenance").keys() == told
    assert header == again
    curves = [pd.read_csv(folder / "loss.csv").drop(columns="seconds") for folder in (whole, killed)]
    pd.testing.assert_frame_equal(*curves)
    other = fit(tmp_path / "other", steady_tone, steps=8, seed=6)
    assert not torch.equal(original.first.weight, other.first.weight)


def test_each_gan_learns_the_shape_of_its_material(tmp_path):
    """Tones last, clicks are broad: how fast images change in time, relative to frequency, tells them apart."""
    ratios = []
    for make in (steady_tone, one_click):
        generator = fit(tmp_path / make.__name__, make, channels=8, latent=8, lr=3e-3)
        with torch.no_grad():
            images = generator(2 * torch.rand(64, 8, generator=torch.Generator().manual_seed(0)) - 1)
        ratios.append((images.diff(dim=2).abs().mean() / images.diff(dim=1).abs().mean()).item())
    assert ratios[0] < 0.85 * ratios[1]  # both began with the same weights


def test_the_search_finds_the_sources_of_a_mixture_that_it_can_explain():
    options = GanOptions(prior=TINY | {"channels": 8}, iterations=150)
    torch.manual_seed(0)
    generators = [Generator(options.prior) for _ in range(2)]
    for parameter in (p for generator in generators for p in generator.requires_grad_(False).parameters()):
        parameter *= 2 if parameter.ndim > 1 else 1  # untrained outputs would hardly vary
    latents = 2 * torch.rand(5, 2, 4) - 1

    def decoded(z):
        return torch.stack([generator.magnitude(z[:, i]) for i, generator in enumerate(generators)], dim=1)

    truth, start = decoded(latents), decoded(0 * latents)
    found = search(truth.sum(dim=1), generators, options)
    for i in range(2):
        assert decibels(truth[:, i], found[:, i]) > 30 > decibels(truth[:, i], start[:, i]) + 20


def decibels(reference, estimate):
    return 10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()).item()


def test_the_loaders_open_solo_stems_only(monkeypatch, tmp_path):
    """Source-only supervision: neither the mixture nor another source's stem is read while a prior trains."""
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    dataset = load_dataset(DataConfig(kind="musdb18hq", root=str(write_hq_tree(tmp_path / "hq"))), seed=0)
    read, opened = tracks.Track._read, []

    def refuse(track):
        raise AssertionError(f"{track.name}: its mixture was opened")

    def watch(track, source):
        opened.append(source)
        return read(track, source)

    monkeypatch.setattr(tracks.Track, "mixture", refuse)
    monkeypatch.setattr(tracks.Track, "_read", watch)
    options = {"prior": TINY | {"steps": 1, "sample_rate": 16_000}}
    for source in SOURCES:
        opened.clear()
        load_system("gan_prior", options, sources=(source,)).fit(dataset, PROFILE, tmp_path / "fit")
        assert set(opened) == {source}


def test_what_is_wrong_is_named(solo, tmp_path):
    short = {"prior": TINY | {"steps": 1}}
    mixture = np.ones((1, 1000), np.float32)
    with pytest.raises(FlowsepError, match="gan_prior: not fitted"):
        load_system("gan_prior", short, sources=("bass",)).separate(mixture, RATE)
    with pytest.raises(FlowsepError, match=r"bass\.safetensors"):
        load_system("gan_prior", short, sources=("bass",), folder=tmp_path).separate(mixture, RATE)
    load_system("gan_prior", short, sources=("bass",)).fit(solo, PROFILE, tmp_path)
    with pytest.raises(FlowsepError, match=r"prior\.depth = 2, now 3; fit gan_prior anew"):
        load_system("gan_prior", {"prior": TINY | {"depth": 3}}, sources=("bass",), folder=tmp_path).separate(
            mixture, RATE
        )
    with pytest.raises(FlowsepError, match=r"'gan_prior': prior\.depht: .*found 3"):
        load_system("gan_prior", {"prior": {"depht": 3}}, sources=("bass",))
    with pytest.raises(FlowsepError, match=r"gan_prior: bass: training loss became .* by step 1; lower `prior\.lr`"):
        wild = {"prior": TINY | {"steps": 1, "lr": 1e18}}
        load_system("gan_prior", wild, sources=("bass",)).fit(solo, PROFILE, tmp_path / "wild")
