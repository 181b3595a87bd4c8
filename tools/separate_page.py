"""What the page Separate loads, beside it in the built site: scripts, runtime, priors and one example.

The runtime is onnxruntime-web, which `make env` fetches by package-lock.json; the priors are those that come with the
repository; the example is the song of the first page.
"""

import json
import shutil
from pathlib import Path

import hero
import soundfile

from companion import show
from companion.profile import load_profile
from flowsep import load_priors
from flowsep.fast.graph import export_graph, facts
from flowsep.files import FlowsepError, write_text
from flowsep.search import config_for

FOLDER = "_separate"
BITS = 8  # of a weight: half the bytes; book/separate.md says what it costs
RUNTIME = [
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
]


def place(site: Path, root: Path) -> None:
    """Write the folder into a built site. Raises FlowsepError where the packages of package-lock.json are missing."""
    target, packages = site / FOLDER, root / "node_modules"
    if not (packages / "onnxruntime-web").is_dir():
        raise FlowsepError(f"{packages}: no onnxruntime-web there, which the page Separate runs; call make env")
    target.mkdir(parents=True)
    for name in RUNTIME:
        shutil.copy(packages / "onnxruntime-web" / "dist" / name, target)
    fft = (packages / "fft.js" / "lib" / "fft.js").read_text("utf-8")
    write_text(target / "fft.mjs", fft.replace("module.exports = FFT;", "export default FFT;"))
    for path in (root / "book" / "separate").iterdir():
        shutil.copy(path, target)
    write_text(target / "player.js", show.player.script())
    profile, shipped = load_profile(hero.PROFILE), load_priors()
    priors = {source: shipped[source] for source in profile.sources}
    config = config_for(priors, iterations=profile.systems["flowsep"]["iterations"])
    export_graph(priors, config, target / "graph.onnx", bits=BITS)
    colors = {name: show.source_color(name) for name in (*priors, "mixture")}
    about = facts(priors, config)
    about |= {"times": 44_100 // about["sample_rate"], "colors": colors}
    write_text(target / "facts.json", json.dumps(about))
    rate = hero.SONG.sample_rate
    mixture = hero.SONG.mixture()[:, rate // 10 :]  # the cut of the file left a click at its start
    soundfile.write(target / "example.flac", mixture.T, rate, "PCM_16")
