"""What the page Separate loads, beside it in the built site: scripts, runtime, graph, priors and one example.

The runtime is onnxruntime-web, which `make env` fetches by package-lock.json; the priors are those that come with the
repository, and guitar and piano, each in a file of its own; the example is the song of the first page.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import hero
import new_priors
import onnx
import soundfile

from companion import show
from companion.profile import load_profile
from companion.tables import plain, speed
from flowsep import load_priors
from flowsep.fast.graph import export_graph, facts
from flowsep.files import FlowsepError, write_text
from flowsep.search import config_for

FOLDER = "_separate"
BITS = 8  # of a weight: half the bytes; book/separate.md says what it costs
RUNTIME = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}


def place(site: Path, root: Path) -> None:
    """Write the folder into a built site. Raises FlowsepError where the packages of package-lock.json are missing."""
    target, packages = site / FOLDER, root / "node_modules"
    if not (packages / "onnxruntime-web").is_dir():
        raise FlowsepError(f"{packages}: no onnxruntime-web there, which the page Separate runs; call make env")
    target.mkdir(parents=True)
    for name in chain(*RUNTIME.values()):
        shutil.copy(packages / "onnxruntime-web" / "dist" / name, target)
    fft = (packages / "fft.js" / "lib" / "fft.js").read_text("utf-8")
    write_text(target / "fft.mjs", fft.replace("module.exports = FFT;", "export default FFT;"))
    for path in (root / "book" / "separate").iterdir():
        shutil.copy(path, target)
    write_text(target / "player.js", show.player.script())
    profile, shipped = load_profile(hero.PROFILE), load_priors()
    priors = {source: shipped[source] for source in profile.sources} | load_priors(new_priors.FOLDER)
    config = config_for(priors, iterations=profile.systems["flowsep"]["iterations"])
    export_graph(priors, config, target / "graph.onnx", bits=BITS)
    about = facts(priors, config) | {"ticked": profile.sources, "weights": apart(target / "graph.onnx", [*priors])}
    about |= {"times": 44_100 // about["sample_rate"]}
    about |= {"colors": {name: show.source_color(name) for name in (*priors, "mixture")}}
    about |= {"megabytes": sizes(target, profile.sources)}
    write_text(target / "facts.json", json.dumps(about))
    rate = hero.SONG.sample_rate
    mixture = hero.SONG.mixture()[:, rate // 10 :]  # the cut of the file left a click at its start
    soundfile.write(target / "example.flac", mixture.T, rate, "PCM_16")


def apart(path: Path, sources: Sequence[str]) -> dict[str, int]:
    """Move the weights of a graph into one file per prior, `<source>.bin`: {type of number: how many, in their order}.

    A page then loads the priors that a reader wants, and gives the graph their weights as inputs.
    """
    model = onnx.load(path)
    stored = {each.name: each for each in model.graph.initializer}
    rows = {name: onnx.numpy_helper.to_array(stored.pop(name)) for name in [*stored] if name.startswith("weights_")}
    rows = dict(sorted(rows.items(), key=lambda row: -row[1].itemsize))  # so that each begins at a multiple of its size
    for number, source in enumerate(sources):
        path.with_name(f"{source}.bin").write_bytes(b"".join(row[number].tobytes() for row in rows.values()))
    del model.graph.initializer[:]
    model.graph.initializer.extend(stored.values())
    path.write_bytes(model.SerializeToString(deterministic=True))
    return {name.removeprefix("weights_"): row.shape[1] for name, row in rows.items()}


def measured(benches: Mapping[str, Any]) -> str:
    """A sentence for each bench {device: content} with the topic `page`, in Markdown."""
    lines = []
    for device, bench in benches.items():
        rows = speed.figures(bench, "page.first", "page.total", "page.memory", "page.iteration", "page.share")
        if rows.empty:
            continue
        first, total, memory, ours, python, share = rows.value
        lines.append(
            f"On {plain(device)}, with ten seconds of music, four priors and WebAssembly on one core: {first:.1f} s"
            f" from the press to the first estimate, {total:.0f} s to the stems, {memory:.0f} MiB for the page's"
            f" process. One iteration takes {ours:.2f} s here and {python:.2f} s in Python on one thread: the page is"
            f" {share:.1f} times as fast."
        )
    return "\n\n".join(lines or ["Not measured yet: `python -m benchmarks --only page`."]) + "\n"


def sizes(folder: Path, ticked: Sequence[str]) -> dict[str, float]:
    """Megabytes that the first press loads, by WebAssembly and by WebGPU, and that each further prior adds."""

    def of(*names: str) -> float:
        return round(sum((folder / name).stat().st_size for name in names) / 1e6, 1)

    always = ("worker.mjs", "sound.mjs", "fft.mjs", "graph.onnx", *(f"{source}.bin" for source in ticked))
    return {build: of(*always, *files) for build, files in RUNTIME.items()} | {"prior": of(f"{ticked[0]}.bin")}
