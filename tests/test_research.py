"""The comparisons of the chapter "Beyond the paper": what they name exists, and the plain search is the package's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import write_hq_tree

from companion import load_dataset, load_profile, load_system
from companion.profile import DataConfig
from flowsep.config import FeatureConfig, GlowConfig, SeparationConfig
from flowsep.prior import Prior
from flowsep.search import config_for, separate_magnitude
from research import choices, material, searches, transformer
from research.__main__ import TOPICS, main
from research.priors import SETS
from research.songs import Excerpt
from research.trials import ideal_masks, studies

FEATURE, MODEL = FeatureConfig(sample_rate=8000, n_fft=64, hop=16), GlowConfig(bins=34, steps=2, hidden=8, layers=1)


@pytest.fixture
def priors():
    torch.manual_seed(0)
    made = {name: Prior(MODEL, FEATURE, name, {"training": {"noise": 0.3}}).eval() for name in ("low", "high")}
    for prior in made.values():
        with torch.no_grad():
            for parameter in prior.glow.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def test_the_plain_search_is_that_of_the_package(priors):
    magnitude = torch.rand(33, 21, generator=torch.Generator().manual_seed(1))
    config = SeparationConfig.for_noisy_priors(
        alpha=0.0, modulus_floor=searches.SMOOTH, wiener=False, iterations=12, lr=0.03
    )
    expected = separate_magnitude(magnitude, priors, config)
    estimates = searches.descend(magnitude, priors, iterations=12)
    for name in priors:
        torch.testing.assert_close(estimates[name], expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", [searches.kl, searches.squares, searches.powers, searches.phases])
def test_every_loss_falls(priors, loss):
    magnitude = 2 + torch.rand(33, 20, generator=torch.Generator().manual_seed(1))
    search, values = searches.Search(magnitude, priors, loss), []
    for _ in range(15):
        search.step(0.02)
        values.append(loss(search.x * search.audible, search.estimates * search.audible).item())
    assert values[-1] < values[0] and np.isfinite(values).all()


@pytest.mark.parametrize("search", [searches.restarts, searches.from_shares])
def test_other_starts_give_estimates_of_all_sources(priors, search):
    estimates = search(torch.rand(33, 20), priors)
    assert set(estimates) == set(priors)
    assert all(x.shape == (33, 20) and x.isfinite().all() for x in estimates.values())


def test_the_default_follows_the_noise_of_the_priors(priors):
    assert config_for(priors) == SeparationConfig.for_noisy_priors()
    priors["low"].provenance = {}  # as of the research code's checkpoints
    assert config_for(priors, iterations=3) == SeparationConfig(iterations=3)


def test_every_trial_names_priors_and_a_search_that_there_are():
    trials = list(studies())
    assert len({(trial.study, trial.label) for trial in trials}) == len(trials)
    for trial in trials:
        assert set(trial.sets) <= set(SETS) and (trial.config is None) != (trial.search == "")
        assert not trial.search or callable(getattr(searches, trial.search))
        assert not trial.options.get("loss") or callable(getattr(searches, trial.options["loss"]))


def test_the_references_own_masks_sum_to_the_mixture_and_separate_tones():
    time = np.arange(44100) / 44100
    stems = {name: np.tile(0.3 * np.sin(2 * np.pi * pitch * time), (2, 1)) for name, pitch in (("a", 300), ("b", 3000))}
    song = Excerpt("tones", {name: stem.astype(np.float32) for name, stem in stems.items()}, 44100)
    stems = ideal_masks(song, 2048, 512, 1)
    np.testing.assert_allclose(sum(stems.values()), song.mixture, atol=1e-5)
    assert min(song.score(stems).values()) > 25


def test_an_unknown_topic_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "trails"])
    error = capsys.readouterr().err
    assert "invalid choice: 'trails'" in error and all(name in error for name in TOPICS)


def test_choices_change_one_thing_and_shorten_every_training(tmp_path):
    profile = load_profile("musdb18-7s")
    for name, trials in choices.TRIALS.items():
        assert len(trials) == (6 if name == "flowsep" else 3), name
        for changes in trials:
            options = choices.merged(profile.systems[name], changes)
            shorter, own = choices.shortened(name, options, profile, 0.1)
            load_system(name, shorter, sources=profile.sources)
            parts = (shorter, shorter.get("prior", {}), *(m["training"] for m in shorter.get("members", ())))
            steps = [part["steps"] for part in parts if "steps" in part]
            steps += [own.training.steps] if name == "instglow" else []
            assert bool(steps) == (name not in ("nmf", "hpss")) and all(step <= 400 for step in steps)
    path, key = tmp_path / "rows.csv", {"system": "nmf", "share": 0.25}
    assert not choices.has_row(path, key)
    choices.add_row(path, key | {"mean": 1.0})
    choices.add_row(path, {"system": "hpss", "share": 0.25, "mean": 2.0})
    assert choices.has_row(path, key) and not choices.has_row(path, key | {"share": 0.5})
    dataset = load_dataset_of_songs(tmp_path / "songs")
    few = material.fewer(dataset, 2)
    assert [len(few.subset(name)) for name in ("train", "valid", "test")] == [2, 1, 1]
    assert {t.name for t in few.subset("valid")} == {t.name for t in dataset.subset("valid")}


def load_dataset_of_songs(root):
    write_hq_tree(root, train=4, test=1)
    return load_dataset(DataConfig(kind="musdb18hq", root=str(root), valid_tracks=1), 0)


def test_the_transformers_density_has_the_jacobian_of_its_map():
    torch.manual_seed(0)
    block = transformer.Block(directions=6, layers=1, backwards=True).double()
    torch.nn.init.normal_(block.end.weight, std=0.3)
    x, noise = torch.randn(1, 5, 6, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: block(x, noise)[0].flatten(), x).reshape(30, 30)
    torch.testing.assert_close(block(x, noise)[1][0], torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("kind", [transformer.GAUSSIAN, replace(transformer.PRINCIPAL, directions=3)])
def test_a_density_without_steps_is_the_gaussian_of_its_frames(kind, monkeypatch):
    monkeypatch.setattr(transformer, "BINS", 8)
    torch.manual_seed(0)
    frames = torch.randn(4000, 8) @ torch.randn(8, 8)
    density = transformer.Density(kind, frames.T.unsqueeze(0))
    gaussian = torch.distributions.MultivariateNormal(frames.mean(0), torch.cov(frames.T) + 0.25 * torch.eye(8))
    expected = gaussian.log_prob(frames[:6]).sum()
    torch.testing.assert_close(
        density(frames[:6].T.unsqueeze(0), torch.tensor([0.5]))[0], expected, rtol=1e-4, atol=0.01
    )
