"""The typed profile: what a YAML file in configs/ may say, with defaults, and errors that name the key.

A profile file holds one key, `profile`, so that `papermill -f configs/demo.yaml` hands a notebook one parameter and
`snakemake --configfile configs/demo.yaml` reads the very same file.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_serializer,
    model_validator,
)

from .files import SAMPLE_RATES, FlowsepError, brief

# options that came later, at the values that leave all as it was: they are not written, so that the hashes and headers
# of older results stay what they are
NEUTRAL = {"exponent": 1.0, "refine": 0, "stereo": 0}
HOW_ONLY = ("devices", "recompute", "micro_batch")  # of a training: they change its speed or memory, not its result


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_key(cls, value: Any, handler: Any) -> Self:
        """Turn pydantic's report into one sentence with the offending key and the nearest valid one."""
        if isinstance(value, Mapping):
            for key, given in value.items():
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key)[:80], cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(cls.model_fields)}"
                    raise FlowsepError(f"unknown key {brief(key)} in {cls.__name__}; {hint}")
                if isinstance(given, bool) and cls.model_fields[key].annotation is not bool:
                    raise FlowsepError(f"key '{key}' in {cls.__name__} is no switch, found {given}")
        return handler(value)

    @model_serializer(mode="wrap")
    def _without_neutral(self, handler: Any) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key not in NEUTRAL or value != NEUTRAL[key]}


class FeatureConfig(Settings):
    """Magnitudes to the power of `exponent`: mono, centred Hann windows of `n_fft` samples; the paper's by default."""

    sample_rate: int = Field(22050, ge=SAMPLE_RATES[0], le=SAMPLE_RATES[1])
    n_fft: int = Field(1024, ge=2, le=2**16)
    hop: PositiveInt = 256
    # of the magnitudes that a prior models: 0.5, their square roots, lets it see quiet bins beside loud ones
    exponent: float = Field(1.0, gt=0, le=1)


class GlowConfig(Settings):
    """Sizes of one prior; the defaults are the paper's."""

    bins: PositiveInt = 514
    squeeze: PositiveInt = 2
    steps: PositiveInt = 12
    hidden: PositiveInt = 128
    layers: PositiveInt = 4
    kernel: PositiveInt = 5
    dilation_rate: PositiveInt = 1
    groups: PositiveInt = 4
    dropout: float = Field(0.05, ge=0, lt=1)
    sigmoid_scale: bool = False


class TrainingConfig(Settings):
    """How a prior is fitted; `steps` counts optimiser steps, so that a run is the same on any machine."""

    steps: PositiveInt = 400_000
    # passes through the segments, each drawn once in a pass; `train_source` of the companion turns them into `steps`
    epochs: PositiveInt | None = None
    batch: PositiveInt = 32
    crop_seconds: PositiveFloat = 3.0
    lr: PositiveFloat = 1e-4
    schedule: Literal["step", "cosine"] = "step"  # step: the paper's x0.3 every 80,000; cosine: warm-up, then to zero
    clip: PositiveFloat = 4.0  # norm of the gradient
    gain_db: float = Field(0.0, ge=0)  # crops are scaled by a uniform gain in [-gain_db, gain_db]
    silence_db: float = -50.0  # crops whose level lies below are left out (dB of full scale)
    # standard deviation of the Gaussian noise that is added to the magnitudes: the prior then models source plus noise,
    # and wastes no capacity on inaudible detail; the paper adds none
    noise: float = Field(0.0, ge=0)
    validate_every: PositiveInt = 2_000
    # auto: bf16-mixed on a GPU that computes it, else 32-true; tf32: 32-true with rounded factors on a GPU
    precision: Literal["auto", "32-true", "tf32", "bf16-mixed", "16-mixed"] = "auto"
    device: str = "auto"
    devices: PositiveInt = 1  # GPUs (or processes of a CPU) that share each batch of a prior, in equal parts
    recompute: bool = False  # activations are computed again on the way back: memory does not grow with depth
    # crops of a batch whose activations are in memory at once; auto: all on a CPU, as many as fit on a GPU. They learn
    # what the whole does, but for dropout and for Open-Unmix, whose layers normalise over them
    micro_batch: Literal["auto"] | PositiveInt = "auto"

    @model_validator(mode="after")
    def _in_equal_parts(self) -> Self:
        if self.batch % self.devices:
            raise ValueError(f"devices must divide batch = {self.batch}, found {self.devices}")
        return self


class SeparationConfig(Settings):
    """The optimiser in latent space (PAPER, section "Separation"): `alpha` = 0 is MLE, above 0 MAP.

    The defaults were chosen on the demo's validation songs, for priors without noise; `for_noisy_priors` holds
    the defaults for priors trained with noise, and `flowsep.search.config_for` chooses. What each is worth:
    `notebooks/11_ablations.ipynb` and `notebooks/14_beyond_the_paper.ipynb`.
    """

    space: Literal["z", "x"] = "x"
    alpha: float = Field(0.015, ge=0)
    iterations: PositiveInt = 24
    lr: PositiveFloat = 0.04
    lr_decay: float = Field(0.97, gt=0, le=1)  # the learning rate is multiplied by it ...
    lr_every: PositiveInt = 1  # ... after each so many iterations
    momentum: float = Field(0.0, ge=0, lt=1)  # Adam's first beta; with the paper's 0.9 the estimates overshoot
    # |s|, the magnitude of the sum of the estimates, is computed as sqrt(s^2 + modulus_floor^2), and the gradient has
    # the same scale for any length: chunks then agree with the whole song to 60 dB, to 50 dB at 0.03. The paper (0)
    # uses |s|, whose kink at zero lets tiny differences grow, and averages over all elements, so that Adam's epsilon
    # matters
    modulus_floor: float = Field(0.05, ge=0)
    sigma: float = Field(0.0, ge=0)  # standard deviation of the initial latents; 0: start at the prior's mode
    wiener: bool = True  # ratio mask of the estimates on the mixture, so that the stems sum to it
    nonnegative: bool = True  # negative estimates count as zero in that mask; the paper keeps their sign
    mask_power: PositiveFloat = 1.0  # of the estimates in that mask: 1 divides magnitudes, 2 powers
    # steps of `flowsep.refine` after the search, for priors trained with noise; they cost less than twice as much each
    refine: int = Field(0, ge=0)
    stereo: int = Field(0, ge=0)  # rounds of `flowsep.stereo.in_stereo`, which uses where sources are between channels
    seed: int = Field(0, ge=0, lt=2**32)  # of the initial latents, when sigma > 0, and of the noise of `refine`
    chunk_seconds: float = Field(20.0, gt=0, le=86_400)  # of the song that are separated together
    # overlap of neighbouring chunks: its middle half is cross-faded, its outer quarters are dropped; 0: separate pieces
    overlap_seconds: float = Field(1.0, ge=0)
    device: str = "auto"
    precision: Literal["32-true", "64-true", "tf32", "bf16-mixed"] = "32-true"  # as in training
    engine: Literal["stacked", "layers"] = "stacked"  # layers: slower, in the order of the research code
    recompute: bool = False  # activations are computed again from the outputs: memory does not grow with depth

    @classmethod
    def for_noisy_priors(cls, **changes: Any) -> Self:
        """For priors trained with noise (`TrainingConfig.noise`): more steps, a higher floor, sharper masks."""
        ours = {"iterations": 72, "lr": 0.02, "lr_decay": 0.98, "modulus_floor": 0.2, "mask_power": 1.5}
        return cls(**(ours | changes))

    @classmethod
    def for_compressed_priors(cls, **changes: Any) -> Self:
        """For priors of noisy, compressed magnitudes (`FeatureConfig.exponent`): a short search, refined, in stereo."""
        ours = {"iterations": 18, "modulus_floor": 0.2, "refine": 40, "stereo": 3}
        return cls(**(ours | changes))

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The paper's own setting: MLE in z space from z = 0, 150 Adam steps of 0.01, 60 s pieces, no Wiener mask."""
        paper = {
            "space": "z",
            "alpha": 0.0,
            "iterations": 150,
            "lr": 0.01,
            "lr_decay": 0.2,
            "lr_every": 800,
            "momentum": 0.9,
            "modulus_floor": 0.0,
            "sigma": 0.0,
            "wiener": False,
            "nonnegative": False,
        }
        return cls(**(paper | {"chunk_seconds": 60.0, "overlap_seconds": 0.0} | changes))
