"""Systems behind one call: registry, shapes, and what each must reach on sources that are easy to tell apart."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_stems, write_hq_tree

from companion import load_dataset, load_profile
from companion.data import segments as solo
from companion.data import tracks
from companion.profile import DataConfig, Profile
from companion.scores.metrics import sdr
from companion.systems import COSTS, SYSTEMS, System, load_system, total_costs
from companion.systems import priors as trained
from companion.systems.nmf import random_spectra
from flowsep import Prior, load_prior, separate
from flowsep.config import FeatureConfig, GlowConfig, SeparationConfig
from flowsep.files import FlowsepError
from flowsep.prior import parameters
from flowsep.weights import read_safetensors

ROOT = Path(__file__).parents[3]
RATE = 44_100
PAIR = ("bass", "drums")


def low_tones(seconds, rate, seed):
    """Notes of a bass: harmonics of tones between 60 and 200 Hz, a new one every quarter of a second."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    pitch = rng.uniform(60, 200, int(seconds * 4) + 1)[(time * 4).astype(int)]
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    return (0.1 * sum(np.sin(k * phase) / k for k in (1, 2, 3))).astype(np.float32)


def noise_bursts(seconds, rate, seed):
    """Hits of a drum: decaying noise without its lows, five a second."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    noise = np.diff(rng.standard_normal(len(time) + 1), n=1)
    return (0.1 * noise * np.exp(-15 * (time * 5 % 1) / 5)).astype(np.float32)


def stems_of(seconds=2.0, rate=RATE, seed=0):
    mono = {"bass": low_tones(seconds, rate, seed), "drums": noise_bursts(seconds, rate, seed + 1)}
    pan = {"bass": (1.0, 0.7), "drums": (0.5, 1.0)}
    return {name: np.outer(pan[name], audio).astype(np.float32) for name, audio in mono.items()}


@pytest.fixture
def stems():
    return stems_of(seed=100)


@pytest.fixture
def fitted(monkeypatch, tmp_path):
    """NMF fitted to the tones and the bursts, through `solo_segments` alone."""
    asked = []

    def segments(dataset, subset, source, feature):
        asked.append((subset, source))
        make = {"bass": low_tones, "drums": noise_bursts}[source]
        return [make(5.0, feature.sample_rate, seed) for seed in (1, 2)]

    monkeypatch.setattr(solo, "solo_segments", segments)
    system = load_system("nmf", {"components": 12, "frames": 400, "iterations": 60}, sources=PAIR)
    system.fit(None, Profile(name="tiny"), tmp_path)
    assert asked == [("train", "bass"), ("train", "drums")]
    return system


def test_costs_add_up_and_do_not_hide_what_is_not_said():
    one = {"parameters": 10, "training_seconds": 1.5, "training_memory_mib": 700.0, "step": 3}
    two = {"parameters": 5, "training_seconds": 2.5, "training_memory_mib": 900.0}
    assert total_costs([one, two]) == {"parameters": 15, "training_seconds": 4.0, "training_memory_mib": 900.0}
    unknown = total_costs([{"parameters": 5}, two])
    assert unknown["parameters"] == 10
    assert np.isnan([unknown["training_seconds"], unknown["training_memory_mib"]]).all()
    assert total_costs([]) == dict.fromkeys(COSTS, 0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_keeps_the_protocol(name):
    system = load_system(name, sources=PAIR)
    assert isinstance(system, System) and system.name == name
    assert system.supervision in ("solo", "mixtures", "random mixes", "oracle", "none")
    assert system.needs_references == (system.supervision == "oracle")
    if system.supervision in ("oracle", "none"):
        assert system.costs() == dict.fromkeys(COSTS, 0) and system.curves() == {}


def test_unknown_systems_and_options_are_told_with_the_nearest():
    with pytest.raises(
        FlowsepError, match=r"unknown system 'nfm'; did you mean 'nmf'\? valid: instglow, flowsep, nmf, "
    ):
        load_system("nfm", sources=PAIR)
    with pytest.raises(FlowsepError, match=r"'nmf': unknown option 'component'; did you mean 'components'\?"):
        load_system("nmf", {"component": 40}, sources=PAIR)
    with pytest.raises(FlowsepError, match=r"'instglow': unknown option 'iteration'; did you mean 'iterations'\?"):
        load_system("instglow", {"iteration": 3}, sources=PAIR)
    with pytest.raises(FlowsepError, match="'mixture': unknown option 'gain'; valid: none"):
        load_system("mixture", {"gain": 1}, sources=PAIR)
    with pytest.raises(FlowsepError, match=r"'nmf': components: .*greater than 0, found -1"):
        load_system("nmf", {"components": -1}, sources=PAIR)


def test_mixture_is_shared_out_evenly(stems):
    mixture = sum(stems.values())
    found = load_system("mixture", sources=("vocals", *PAIR)).separate(mixture, RATE)
    assert list(found) == ["vocals", *PAIR] and all(x.shape == mixture.shape for x in found.values())
    np.testing.assert_allclose(sum(found.values()), mixture, rtol=1e-6)


def test_ideal_ratio_mask_beats_the_mixture_by_far_and_sums_to_it(stems):
    mixture = sum(stems.values())
    oracle = load_system("ideal_ratio_mask", sources=PAIR)
    found = oracle.separate(mixture, RATE, references=stems)
    floor = load_system("mixture", sources=PAIR).separate(mixture, RATE)
    for source, reference in stems.items():
        assert found[source].shape == mixture.shape and found[source].dtype == np.float32
        assert sdr(reference, found[source]) > sdr(reference, floor[source]) + 8
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-6)  # the masks sum to one
    with pytest.raises(FlowsepError, match="no reference of 'bass'"):
        oracle.separate(mixture, RATE)
    with pytest.raises(FlowsepError, match="'bass' has shape"):
        oracle.separate(mixture, RATE, references={"bass": stems["bass"][:, 1:], "drums": stems["drums"]})


def test_ideal_ratio_mask_in_silence_is_silent():
    silence = np.zeros((2, RATE), np.float32)
    found = load_system("ideal_ratio_mask", sources=PAIR).separate(
        silence, RATE, references=dict.fromkeys(PAIR, silence)
    )
    assert all(np.isfinite(x).all() and not x.any() for x in found.values())


def test_nmf_tells_tones_from_bursts_of_another_seed(fitted, stems):
    mixture = sum(stems.values())
    found = fitted.separate(mixture, RATE)
    for source, reference in stems.items():
        assert found[source].shape == mixture.shape
        assert sdr(reference, found[source]) > 10
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-5)


def test_nmf_is_deterministic_and_survives_its_file(fitted, stems, tmp_path):
    mixture = sum(stems.values())
    again = load_system("nmf", {"components": 12, "frames": 400, "iterations": 60}, sources=PAIR)
    again.fit(None, Profile(name="tiny"), tmp_path / "again")
    (header, learnt), (_, relearnt) = (read_safetensors(*system.checkpoints()) for system in (fitted, again))
    assert set(learnt) == set(relearnt) == set(PAIR)  # of the header, the measured seconds and memory may differ
    assert all(torch.equal(learnt[source], relearnt[source]) for source in PAIR)
    assert header["provenance"] == fitted.costs() and fitted.costs()["parameters"] == 2 * 12 * 513
    assert fitted.costs()["training_memory_mib"] > 50 and fitted.curves() == {}
    loaded = load_system("nmf", sources=PAIR, folder=tmp_path)
    for source, estimate in loaded.separate(mixture, RATE).items():
        np.testing.assert_array_equal(estimate, fitted.separate(mixture, RATE)[source])


def test_nmf_without_its_file_says_so(fitted, priors, stems, tmp_path):
    mixture = sum(stems.values())
    for call in (lambda system: system.separate(mixture, RATE), System.costs):
        with pytest.raises(FlowsepError, match="not fitted"):
            call(load_system("nmf", sources=PAIR))
    with pytest.raises(FlowsepError, match=r"empty/nmf\.safetensors"):
        load_system("nmf", sources=PAIR, folder=tmp_path / "empty").separate(mixture, RATE)
    with pytest.raises(FlowsepError, match="no dictionary of 'piano'"):
        load_system("nmf", sources=("bass", "piano"), folder=tmp_path).separate(mixture, RATE)
    priors["bass"].save(tmp_path / "other" / "nmf.safetensors")
    with pytest.raises(FlowsepError, match="not a file of NMF dictionaries"):
        load_system("nmf", sources=PAIR, folder=tmp_path / "other").separate(mixture, RATE)
    file = tmp_path / "nmf.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FlowsepError, match=r"nmf\.safetensors"):
        load_system("nmf", sources=PAIR, folder=tmp_path).separate(mixture, RATE)


def test_nmf_refuses_to_learn_silence(monkeypatch, tmp_path):
    monkeypatch.setattr(solo, "solo_segments", lambda *_: [np.zeros(50_000, np.float32)])
    with pytest.raises(FlowsepError, match="'bass' is silent in all training tracks"):
        load_system("nmf", sources=PAIR).fit(None, Profile(name="tiny"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_random_spectra_are_those_of_audible_frames():
    time = np.arange(22_050) / 22_050
    tone = np.sin(2 * np.pi * 40 * 22_050 / 1024 * time).astype(np.float32)  # the middle of bin 40
    spectra = random_spectra([np.zeros(22_050, np.float32), tone, tone[:100]], 50, FeatureConfig(), seed=3)
    assert spectra.shape == (50, 513) and spectra.dtype == np.float32
    assert (spectra.argmax(axis=1) == 40).all()
    assert spectra[:, 40] == pytest.approx(256, rel=1e-3)  # a unit sine's share of a Hann window of 1024
    assert len(random_spectra([tone[:100]], 50, FeatureConfig(), seed=3)) == 0


@pytest.fixture
def priors():
    size = GlowConfig(steps=1, hidden=8, layers=1)
    return {source: Prior(size, FeatureConfig(), source) for source in PAIR}


def test_instglow_is_separate_with_the_priors_of_a_folder(priors, stems, tmp_path):
    mixture = sum(stems.values())[:, : RATE // 2]
    for source, prior in priors.items():
        prior.save(tmp_path / f"{source}.safetensors")
    options = {"iterations": 2, "wiener": True}
    system = load_system("instglow", options, sources=PAIR, priors=tmp_path)
    assert system.options == SeparationConfig.paper(**options)
    found = system.separate(mixture, RATE)
    expected = separate(mixture, {s: p.eval() for s, p in priors.items()}, SeparationConfig.paper(**options), RATE)
    for source in PAIR:
        np.testing.assert_array_equal(found[source], expected[source])
    assert [path.name for path in system.checkpoints()] == ["bass.safetensors", "drums.safetensors"]
    given = load_system("instglow", options, sources=PAIR, priors=priors)
    np.testing.assert_array_equal(given.separate(mixture, RATE)["bass"], expected["bass"])
    assert given.checkpoints() == []


def test_instglow_takes_research_checkpoints_as_they_are(stems, tmp_path):
    fixture = Path(__file__).parents[2] / "fixtures" / "instglow_small_sep"
    folder = tmp_path / "released"
    for source, name in zip(PAIR, ("source0", "source1"), strict=True):
        shutil.copytree(fixture / name, folder / source)
    mixture = sum(stems.values())[:, : RATE // 4]
    system = load_system("instglow", {"iterations": 2, "wiener": True}, sources=PAIR, priors=folder)
    expected = separate(mixture, {s: load_prior(folder / s) for s in PAIR}, system.options, RATE)
    np.testing.assert_array_equal(system.separate(mixture, RATE)["bass"], expected["bass"])
    assert [path.name for path in system.checkpoints()] == ["G_1000.pth", "G_1000.pth"]
    costs = system.costs()
    assert costs["parameters"] == 2 * parameters(load_prior(folder / "bass"))
    assert np.isnan([costs["training_seconds"], costs["training_memory_mib"]]).all()  # a checkpoint does not say
    Prior(GlowConfig(), FeatureConfig(), "bass").save(folder / "bass.safetensors")
    with pytest.raises(FlowsepError, match="two priors of 'bass', a file and a folder"):
        system.checkpoints()


def test_instglow_names_the_prior_that_is_missing(priors, stems, tmp_path):
    mixture = sum(stems.values())
    priors["bass"].save(tmp_path / "bass.safetensors")
    with pytest.raises(FlowsepError, match=r"no prior of 'drums' \(there: bass\); train it with notebooks/04"):
        load_system("instglow", sources=PAIR, priors=tmp_path).separate(mixture, RATE)
    with pytest.raises(FlowsepError, match="no priors given"):
        load_system("instglow", sources=PAIR).checkpoints()
    with pytest.raises(FlowsepError, match="no prior of 'drums'; given: bass"):
        load_system("instglow", sources=PAIR, priors={"bass": priors["bass"]}).separate(mixture, RATE)


def test_instglow_fits_one_prior_a_source(monkeypatch, tmp_path):
    makers = {"bass": low_tones, "drums": noise_bursts}
    monkeypatch.setattr(solo, "solo_segments", lambda _, subset, s, f: [makers[s](3.0, f.sample_rate, len(subset))])
    training = {"steps": 3, "batch": 2, "crop_seconds": 0.5, "validate_every": 3, "lr": 1e-3, "device": "cpu"}
    profile = Profile(name="tiny", model={"steps": 1, "hidden": 8, "layers": 1}, training=training)
    system = load_system("instglow", {"iterations": 1}, sources=PAIR)
    system.fit(SimpleNamespace(name="band", hash="abc"), profile, tmp_path)
    assert all(path.is_file() for path in system.checkpoints())
    costs = system.costs()
    assert costs["parameters"] == sum(parameters(load_prior(path)) for path in system.checkpoints())
    assert costs == total_costs(load_prior(path).provenance for path in system.checkpoints())
    curves = [pd.read_csv(tmp_path / "training" / source / "loss.csv").seconds.iloc[-1] for source in PAIR]
    assert costs["training_seconds"] == pytest.approx(sum(curves), abs=0.11) and costs["training_memory_mib"] > 50
    assert set(system.separate(np.ones((1, 4000), np.float32), 22_050)) == set(PAIR)


def test_flowsep_fits_every_member_to_solo_stems_alone(monkeypatch, tmp_path):
    """From the files of a data set: during the fit of a prior nothing is read but stems of its own source."""
    root = write_hq_tree(tmp_path / "songs", train=2, test=1, seconds=3.0)
    monkeypatch.setattr(tracks.Track, "mixture", lambda self: pytest.fail("a mixture was read in training"))
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    read, fits, of_stem, fit_prior = set(), [], tracks.Track._read, trained.fit_prior
    monkeypatch.setattr(tracks.Track, "_read", lambda self, source: read.add(source) or of_stem(self, source))

    def fit_alone(*arguments, **options):
        fits.append((options["source"], options["seed"], set(read), options["training"].noise))
        read.clear()
        prior = fit_prior(*arguments, **options)
        assert not read, "audio that is no segment was read in training"
        return prior

    monkeypatch.setattr(trained, "fit_prior", fit_alone)
    training = {"steps": 20, "batch": 2, "crop_seconds": 0.5, "validate_every": 5, "lr": 3e-3, "device": "cpu"}
    profile = Profile(name="tiny", model={"steps": 1, "hidden": 8, "layers": 1}, training=training)
    dataset = load_dataset(DataConfig(kind="musdb18hq", root=str(root), valid_tracks=1), profile.seed)
    longer = {
        "feature": {"sample_rate": 8000, "n_fft": 512, "hop": 128},
        "model": {"bins": 258, "hidden": 4},
        "training": {"noise": 0.01},
    }
    options = {"members": [{"training": {"noise": 0.2}}, longer], "iterations": 2}
    system = load_system("flowsep", options, sources=PAIR)
    with pytest.raises(FlowsepError, match="flowsep: not fitted"):
        system.checkpoints()
    system.fit(dataset, profile, tmp_path / "fitted")
    assert [(source, seed - profile.seed, noise) for source, seed, _, noise in fits] == [
        (source, member, noise) for member, noise in ((0, 0.2), (1, 0.01)) for source in PAIR
    ]
    assert [heard for _, _, heard, _ in fits] == [{"bass"}, {"drums"}] * 2
    files = system.checkpoints()
    assert len({path.read_bytes() for path in files}) == 4 and set(system.curves()) == set(PAIR)
    assert system.costs()["parameters"] == sum(parameters(load_prior(path)) for path in files)

    mixture = np.random.default_rng(0).standard_normal((2, 22_050)).astype(np.float32)
    stems = system.separate(mixture, RATE)
    config = SeparationConfig(**{**system.defaults, "iterations": 2})
    each = [
        separate(
            mixture, {s: load_prior(tmp_path / "fitted" / k / "priors" / f"{s}.safetensors") for s in PAIR}, config
        )
        for k in "01"
    ]
    for source in PAIR:
        np.testing.assert_allclose(stems[source], (each[0][source] + each[1][source]) / 2, atol=1e-6)
        assert np.abs(each[0][source] - each[1][source]).max() > 1e-3
    np.testing.assert_allclose(sum(stems.values()), mixture, atol=1e-5)
    second = load_prior(tmp_path / "fitted" / "1" / "priors" / "bass.safetensors")
    assert (second.feature.sample_rate, second.model.bins, second.model.hidden, second.model.steps) == (8000, 258, 4, 1)
    with pytest.raises(FlowsepError, match="unknown key 'nois' in TrainingConfig; did you mean 'noise'"):
        load_system("flowsep", {"members": [{"training": {"nois": 0.1}}]}, sources=PAIR)
    with pytest.raises(FlowsepError, match="members"):
        load_system("flowsep", {"members": []}, sources=PAIR)


def test_no_module_needs_an_optional_package():
    """Each is imported anew where none of the extra `baselines` can be; what is missing shows on use alone."""
    script = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(("demucs", "openunmix", "asteroid", "norbert", "torchaudio"))
import companion.systems as package
names = [module.name for module in pkgutil.iter_modules(package.__path__)]
for name in names:
    importlib.import_module(f"companion.systems.{name}")
for name in package.SYSTEMS:
    package.load_system(name, sources=("bass", "drums"))
print(*names)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {path.stem for path in (ROOT / "companion" / "systems").glob("[a-z]*.py")}


# --- systems of one's own --------------------------------------------------------------------------------------------

MEAN_SPECTRA = {"class": "notebooks/own_system.py:MeanSpectra"}
OWN = """
from dataclasses import dataclass
from pydantic import BaseModel
from companion.systems import System

class Settings(BaseModel):
    gain: float = 1.0

@dataclass
class Helper:
    gain: "float"

class Gain(System):
    supervision = "none"
    Options = Settings
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.called = self.name
    def separate(self, mixture, sample_rate, references=None):
        return {source: Helper(self.options.gain).gain * mixture for source in self.sources}

class Silent(System):
    pass

class Cheat(System):
    supervision, needs_references = "solo", True

number = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_a_class_in_a_file_is_a_system_under_the_name_of_the_profile(own, stems):
    system = load_system("louder-2", {"class": f"{own}:Gain", "gain": 2.0}, sources=PAIR)
    assert isinstance(system, System) and system.name == system.called == "louder-2"
    mixture = sum(stems.values())
    np.testing.assert_array_equal(system.separate(mixture, RATE)["drums"], 2 * mixture)
    assert system.costs() == dict.fromkeys(COSTS, 0)


def test_what_is_wrong_with_a_class_of_ones_own_is_named(own, monkeypatch):
    for name, place, message in (
        ("nmf", f"{own}:Gain", "'nmf': flowsep has a system of this name; call yours otherwise"),
        ("my system", f"{own}:Gain", "'my system': its name becomes part of file names; use letters, digits, _ and -"),
        ("../mine", f"{own}:Gain", "becomes part of file names"),
        ("-mine", f"{own}:Gain", "becomes part of file names"),
        ("references", f"{own}:Gain", "none of references"),
        ("mine", f"{own}", r"class: expected 'path/to/file\.py:ClassName', found '.*own\.py'"),
        ("mine", 3, r"expected 'path/to/file\.py:ClassName', found 3"),
        ("mine", "notebooks/nowhere.py:Gain", r"class: .*notebooks/nowhere\.py: no such file"),
        ("mine", f"{own}:Gian", r"own\.py: no class 'Gian' there"),
        ("mine", f"{own}:Helper", r"own\.py: Helper is not a subclass of System"),
        ("mine", f"{own}:number", "number is not a subclass of System"),
        ("mine", f"{own}:Silent", "'mine': supervision is None; valid: solo, random mixes, "),
        ("mine", f"{own}:Cheat", "needs_references is for supervision 'oracle' alone, found 'solo'"),
    ):
        with pytest.raises(FlowsepError, match=message):
            load_system(name, {"class": place}, sources=PAIR)
    with pytest.raises(FlowsepError, match=r"'mine': unknown option 'gian'; did you mean 'gain'\?"):
        load_system("mine", {"class": f"{own}:Gain", "gian": 2}, sources=PAIR)
    with pytest.raises(FlowsepError, match=r"unknown system 'mine'; .*; one of your own needs the option 'class'"):
        load_system("mine", {"gain": 2}, sources=PAIR)


@pytest.mark.parametrize("name", ["demo", "smoke"])
def test_profiles_list_the_example(name):
    profile = load_profile(name)
    assert profile.systems["mean_spectra"] == MEAN_SPECTRA
    for system, options in profile.systems.items():
        assert load_system(system, options, sources=profile.sources).name == system


def test_the_example_tells_two_bands_apart_from_solo_recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(tracks.Track, "mixture", lambda self: pytest.fail("a mixture was read"))
    root = write_hq_tree(tmp_path / "songs", train=3, test=1)
    dataset = load_dataset(DataConfig(kind="musdb18hq", root=str(root), valid_tracks=1), seed=0)
    system = load_system("mean_spectra", MEAN_SPECTRA, sources=PAIR)
    system.fit(dataset, Profile(name="tiny"), tmp_path / "learnt")
    stems = {source: audio for source, audio in make_stems(50).items() if source in PAIR}
    mixture = sum(stems.values())
    again = load_system("mean_spectra", MEAN_SPECTRA, sources=PAIR, folder=tmp_path / "learnt")
    found = again.separate(mixture, RATE)
    for source, reference in stems.items():
        assert sdr(reference, found[source]) > sdr(reference, mixture / 2) + 8
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-5)
    costs = again.costs()
    assert costs["parameters"] == 2 * 513 and costs["training_seconds"] >= 0 and costs["training_memory_mib"] > 50


# --- which systems a profile runs ------------------------------------------------------------------------------------

SYSTEMS_OF_ONE = {"mixture": {}, "instglow": {"lr": 0.03}, "nmf": {"components": 3}}


@pytest.mark.parametrize(
    ("baselines", "left"),
    [
        (None, ["mixture", "instglow", "nmf"]),
        ([], ["instglow"]),
        (["nmf"], ["instglow", "nmf"]),
        (("nmf", "mixture"), ["mixture", "instglow", "nmf"]),
    ],
)
def test_a_profile_runs_the_baselines_that_it_names(baselines, left):
    profile = load_profile({"name": "tiny", "systems": SYSTEMS_OF_ONE, "baselines": baselines})
    assert list(profile.systems) == left and profile.systems["instglow"] == {"lr": 0.03}
    assert load_profile(profile.model_dump(mode="json")) == profile


def test_baselines_that_a_profile_does_not_have_are_named(tmp_path):
    with pytest.raises(FlowsepError, match="baselines: nfm, hpss: not among `systems`, which are mixture, "):
        load_profile({"name": "tiny", "systems": SYSTEMS_OF_ONE, "baselines": ["nfm", "nmf", "hpss"]})
    with pytest.raises(FlowsepError, match=r"baselines: .*valid tuple, found 'nmf'"):
        load_profile({"name": "tiny", "systems": SYSTEMS_OF_ONE, "baselines": "nmf"})
    assert load_profile({"name": "tiny", "baselines": []}).systems == {"instglow": {}}
