"""What the jobs of a whole experiment are made of: steps and seconds of every system of MUSDB18's profile, at its size.

`tools/plan.py` multiplies them by the profile's steps and songs. A step grows with the sound that it sees, so each is
measured for two amounts of it, small ones on a CPU, where the published batches would take minutes and much memory.
"""

import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import write_packed_tree
from lightning_fabric import Fabric
from torch import Tensor, nn

from flowsep.baselines import load_system
from flowsep.baselines.gan_prior import search
from flowsep.baselines.specgan import Generator, fit_gan
from flowsep.baselines.supervised import Supervised
from flowsep.config import DataConfig, FeatureConfig, GlowConfig, TrainingConfig, load_profile
from flowsep.data import load_dataset
from flowsep.likelihood import Likelihood
from flowsep.machine import keep_freed_memory
from flowsep.prior import Prior
from flowsep.spectrogram import pad_features
from flowsep.train import EDGE, crop_samples, magnitudes, start_fabric

from .harness import Clock, Context, Figure, figure, interleave_loops, threads, wall_clock
from .training import Crops

PROFILE = "musdb18"
TINY = {  # for trying the bench
    "conv_tasnet": {"filters": 8, "bottleneck": 8, "hidden": 8, "blocks": 2, "repeats": 1},
    "demucs_v2": {"width": 4, "depth": 2},
    "open_unmix": {"hidden": 8, "layers": 1},
    "wave_u_net": {"levels": 3, "filters": 4, "crop_seconds": 0.2},
    "gan_prior": {"prior": {"depth": 2, "channels": 4, "steps": 20000, "batch": 4}},
}
WHOLE = ("wave_u_net", "open_unmix")  # take whole crops and more of them, not longer ones


def processor_clock(function: Callable[[], Any]) -> float:
    """Processor seconds of one call, those of its child processes included: what else runs here does not count."""

    def spent() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(part.ru_utime + part.ru_stime for part in used)

    start = spent()
    function()
    return spent() - start


def run(context: Context) -> list[Figure]:
    """One thread on a CPU, by its processor's clock; on a GPU by the wall's, which training waits for as well."""
    keep_freed_memory()  # as a training does
    clock = wall_clock if context.device == "cuda" else processor_clock
    profile = load_profile(PROFILE)
    with threads(1 if context.device == "cpu" else context.thread_counts[0]):
        rows = [*prior(context, clock), *decoding(context, clock)]
        for name, options in profile.systems.items():
            system = load_system(name, options | (TINY.get(name, {}) if context.quick else {}), sources=profile.sources)
            if isinstance(system, Supervised) and name != "open_unmix_random":  # which is the network of open_unmix
                rows += network(context, clock, system)
            elif name == "gan_prior":
                rows += gan(context, clock, system)
    return rows


def sizes(context: Context) -> tuple[int, int]:
    """How many samples, and how many steps in each."""
    return (1, 1) if context.quick else (5, 20) if context.device == "cuda" else (2, 1)


def step(system: str, seconds: list[float], sound: float, batch: int) -> Figure:
    what = "one step of training that sees so many seconds of sound"
    return figure("scale.step", what, seconds, "s", system=system, sound=round(sound, 3), batch=batch)


def timed(loop: Callable[[int], Any], context: Context, clock: Clock) -> list[float]:
    """Seconds a step of a loop that is told how many to make, after one that counts for nothing."""
    rounds, steps = sizes(context)
    loop(1)
    return [clock(lambda: loop(steps)) / steps for _ in range(rounds)]


def training_loop(fabric: Fabric, network: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Callable[[int], None]:
    """steps -> that many of Adam's on `loss`, and waiting for the device, as `flowsep.train.optimise` makes them."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)
    wrapped, optimizer = fabric.setup(network, optimizer)

    def loop(steps: int) -> None:
        for _ in range(steps):
            value = loss(wrapped)
            optimizer.zero_grad()
            fabric.backward(value)
            fabric.clip_gradients(wrapped, optimizer, max_norm=4.0, error_if_nonfinite=False)
            optimizer.step()
        value.item()

    return loop


def prior(context: Context, clock: Clock) -> Iterator[Figure]:
    """The paper's flow on the profile's crops."""
    told = load_profile(PROFILE).training
    model = GlowConfig(steps=1, hidden=4, layers=1, kernel=1, dropout=0.0) if context.quick else GlowConfig()
    feature, fabric = FeatureConfig(), start_fabric(TrainingConfig(device=context.device))
    for batch in (1, 2) if context.device == "cpu" else (told.batch,):
        crops = torch.from_numpy(Crops(batch, crop_samples(told, feature)).batch(0)).to(fabric.device)
        torch.manual_seed(0)
        flow = Prior(model, feature, "bench").to(fabric.device)

        def spectra(crops: Tensor = crops) -> Tensor:
            return pad_features(magnitudes(crops, feature), model.bins, multiple=1)

        def loss(network: nn.Module, spectra: Callable[[], Tensor] = spectra) -> Tensor:
            x = spectra()
            return -network(x).mean() / x[0].numel()

        flow.glow.initialise(spectra())
        loop = training_loop(fabric, Likelihood(flow.glow, reversible=told.reversible).to(fabric.device), loss)
        yield step("prior", timed(loop, context, clock), batch * told.crop_seconds, batch)


def network(context: Context, clock: Clock, system: Supervised) -> Iterator[Figure]:
    """One of those that see mixtures: a step, and a song."""
    options, name = system.options, system.name
    torch.manual_seed(0)
    fabric = start_fabric(TrainingConfig(device=context.device))
    bare = system.build().to(fabric.device)
    whole = system.crop / options.sample_rate
    if context.device == "cuda":
        amounts = [(options.batch, system.crop)]
    else:
        amounts = [(n, system.crop) if name in WHOLE else (1, n * options.sample_rate) for n in (1, 2)]
    for batch, samples in amounts:
        noise = 0.1 * torch.randn(batch, len(system.sources), options.channels, samples)

        def loss(network: nn.Module, stems: Tensor = noise) -> Tensor:
            return system.loss(network, stems.to(fabric.device))

        sound = batch * samples / options.sample_rate
        loop = training_loop(fabric, bare, loss)
        yield step(name, timed(loop, context, clock), sound if samples != system.crop else batch * whole, batch)
    system.network = bare.eval()
    system.options = options.model_copy(update={"device": context.device})
    seconds = 2 if context.quick else 60 if context.device == "cuda" else 5
    mixture = 0.1 * np.random.default_rng(0).standard_normal((2, seconds * 44100)).astype(np.float32)

    def separate() -> None:
        with torch.no_grad():
            system.separate(mixture, 44100)

    taken = [clock(separate) / seconds for _ in range(sizes(context)[0])]
    yield figure("scale.separate", "seconds of computing a second of music", taken, "s/s", system=name)


def gan(context: Context, clock: Clock, system: Any) -> Iterator[Figure]:
    """The rival of solo recordings: a step (of the generator, after those of the critic) and the search in a song."""
    options = system.options.prior
    samples = (options.side + 2 * EDGE - 1) * options.feature.hop
    for batch in (1, 2) if context.device == "cpu" else (options.batch,):
        crops = Crops(batch, samples)

        def loop(steps: int, batch: int = batch, crops: Crops = crops) -> None:
            with tempfile.TemporaryDirectory() as folder:
                own = options.model_copy(update={"batch": batch, "steps": steps})
                fit_gan(
                    crops, crops.batch(0), source="bench", options=own, checkpoint=Path(folder) / "x",
                    work=Path(folder), every=steps, device=context.device,
                )  # fmt: skip

        image = options.side * options.feature.hop / options.sample_rate
        rounds, more = sizes(context)
        taken = interleave_loops({"": loop}, 1, 1 + more, rounds, clock, warmup=0)[""][0]  # its statistics cancel
        yield step("gan_prior", taken, batch * image, batch)
    torch.manual_seed(0)
    generators = [Generator(options).to(context.device).eval().requires_grad_(False) for _ in system.sources]
    segments = system.options.together if context.device == "cuda" else 2
    images = torch.rand(segments, options.side, options.side, device=context.device)

    def find(iterations: int) -> None:
        search(images, generators, system.options.model_copy(update={"iterations": iterations}))

    music = segments * options.side * options.feature.hop / options.sample_rate
    taken = [system.options.iterations * each / music for each in timed(find, context, clock)]
    yield figure("scale.separate", "seconds of computing a second of music", taken, "s/s", system="gan_prior")


def decoding(context: Context, clock: Clock) -> Iterator[Figure]:
    """Reading stems of the packed files of MUSDB18, as the job `cache` does; always on the CPU."""
    seconds = 1 if context.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        root = write_packed_tree(Path(folder), train=1, test=1, seconds=seconds)
        dataset = load_dataset(DataConfig(kind="musdb18", root=str(root), pieces=None, valid_tracks=1), 0)
        sources = ("vocals", "bass", "drums", "other")
        tracks = dataset.subset("test")

        def read() -> None:
            for track in tracks:
                for source in sources:
                    track.stem(source)

        taken = [clock(read) / seconds / len(sources) for _ in range(sizes(context)[0])]
    yield figure("scale.decode", "decoding a second of one packed stem", taken, "s/s")
