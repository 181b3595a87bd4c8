"""Names and numbers as the tables write them."""

import html
import re

NAMES = {  # any other system by its name in the profile
    "conv_tasnet": "Conv-TasNet",
    "demucs_v2": "Demucs v2",
    "demucs_v2_pretrained": "Demucs v2, published weights",
    "gan_prior": "GAN priors",
    "hpss": "HPSS",
    "ideal_ratio_mask": "ideal ratio mask",
    "instglow": "InstGlow",
    "mean_spectra": "mean spectra",
    "multichannel_wiener": "multichannel Wiener filter",
    "nmf": "NMF",
    "open_unmix": "Open-Unmix",
    "open_unmix_pretrained": "Open-Unmix, published weights",
    "open_unmix_random": "Open-Unmix, random mixes",
    "wave_u_net": "Wave-U-Net",
}


def written(system: str) -> str:
    """The name of a system for readers."""
    return NAMES.get(system, system)


def prefixed(number: float) -> str:
    """266 M, 1.62 M, 20.1 k, 641."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.0f}"


def digits(number: float) -> str:
    """12,345, or two digits below 99.5: 9.3, 0.021; <0.001 for less."""
    if 0 < number < 0.001:
        return "<0.001"
    return f"{number:,.0f}" if number >= 99.5 else f"{number:.2g}"


def plain(text: str) -> str:
    """`text` escaped for a line of Markdown or a cell of a table: no markup, no mathematics, no link."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
    # an underscore within a word is no markup
    return re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", html.escape(text, quote=False))
