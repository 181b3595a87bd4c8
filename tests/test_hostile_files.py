"""Forged and damaged files of every kind that is read: an error that names them, no code run, no memory filled.

`FUZZ` draws the same examples at every run (derandomize), so that a failure here is a failure everywhere, and knows no
deadline, since a machine that is busy is no bug.
"""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from helpers import RATE
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from companion import load_profile, load_system
from companion.data.slakh import stem_files
from companion.profile import Profile
from companion.scores.evaluate import COLUMNS, read_scores, write_scores
from companion.scores.museval_json import read_museval
from companion.tables.published import PUBLISHED, load_published
from flowsep import FlowsepError, files, load_prior, weights
from flowsep.audio import inspect, read_audio
from flowsep.checkpoint import find_priors
from flowsep.cli import main
from flowsep.files import MAX_HEADER, MAX_TABLE, MAX_YAML
from flowsep.weights import read_header, read_safetensors, save_safetensors

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
CONFIGS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.yaml"))}
FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FEW = settings(FUZZ, max_examples=20)  # of what takes more than a few milliseconds


class Payload:
    """What a pickle may hold: unpickled without care, it makes the file that it is given."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_the_book_tells_the_limits_of_now():
    page = (ROOT / "book" / "differences.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| ([\d, to]+) \|", page, re.MULTILINE))
    limits = {}
    for name, value in (vars(files) | vars(weights)).items():
        if name.startswith("MAX_") or name == "SAMPLE_RATES":
            limits[name] = " to ".join(f"{number:,}" for number in (value if isinstance(value, tuple) else (value,)))
    assert told == limits


# ---- profiles

ODD = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 10**30, -(10**30), 1e308, float("nan"), float("inf"), "", "12", "1e-4"]),
    st.sampled_from(["../x", "/etc/passwd", "a\nb", "\x1b[31m", "x" * 5000, "$(touch canary)", "-p", "a b", "\u202e"]),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def places(content, path=()):
    """All keys and indices of a nested value, as paths."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(content, path, value):
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def refused(path: Path, call, *arguments) -> str:
    """The message of the FlowsepError that `call` raises, which names the file; '' where it raises nothing."""
    try:
        call(*arguments)
    except FlowsepError as error:
        assert path.name in str(error), error
        assert len(str(error)) < 3000
        return str(error)
    return ""


@FEW
@given(data=st.data())
def test_a_profile_with_other_values_loads_or_is_refused(tmp_path, data):
    content = yaml.safe_load(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))])
    where = list(places(content["profile"]))
    for place in data.draw(st.lists(st.sampled_from(where), min_size=1, max_size=3)):
        try:
            put(content["profile"], place, data.draw(ODD))
        except (TypeError, KeyError, IndexError):  # an earlier change took this place away
            continue
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    if not refused(path, load_profile, path):
        profile = load_profile(path)
        assert len(profile.hash) == 12
        for name in (*profile.sources, *profile.systems):
            assert (tmp_path / name).parent == tmp_path and name.isprintable() and " " not in name


PIECES = [b"[", b"{", b"&a ", b"*a", b"!!python/name:os.system ", b"!!binary ", b"\0", b"\xff", b": ", b"- ", b"<<: "]
PIECES += [b"? ", b"|\n", b"\n", b"99999", b".inf"]


@FEW
@given(data=st.data())
def test_a_profile_of_other_bytes_loads_or_is_refused(tmp_path, data):
    text = bytearray(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))].encode())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(text)))
        text[start : start + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from(PIECES))
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    if not refused(path, load_profile, path):
        assert isinstance(load_profile(path), Profile)


def _laughing(levels: int) -> str:
    lines = ["  name: x", "  systems:", "    a0: &a0 {k: [" + "x, " * 10 + "]}"]
    lines += [f"    a{i}: &a{i} {{k: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(["profile:", *lines])


FORGED = {  # text of a profile -> what the error says
    "nested lists": ("profile: " + "[" * 50_000, "more than 32 levels"),
    "nested mappings": ("profile: " + "{a: " * 15_000, "more than 32 levels"),
    "a billion laughs": (_laughing(10), "an alias"),
    "an alias": ("profile: {name: x, systems: {nmf: &a {hop: 1}, hpss: *a}}", "an alias, .* write the value out"),
    "a merge": ("profile: {name: x, systems: {nmf: &a {hop: 1}, hpss: {<<: *a}}}", "an alias"),
    "a circle": ("profile: {name: x, systems: {a: &b {c: *b}}}", "an alias"),
    "a tag": ('profile: !!python/object/apply:os.system ["touch canary"]', "could not determine a constructor"),
    "a key twice": ("profile: {name: x, seed: 1, seed: 2}", "key 'seed' twice"),
    "a key twice, deep": ("profile: {name: x, systems: {nmf: {hop: 1, hop: 2}}}", "key 'hop' twice"),
    "many digits": ("profile: {name: x, seed: " + "9" * 10_000 + "}", "Exceeds the limit"),
    "many hexadecimal digits": ("profile: {name: x, seed: 0x" + "f" * 50_000 + "}", "too large to be shown"),
    "no date": ("profile: {name: x, seed: 2020-99-99}", "month must be"),
    "NUL": ("profile: {name: 'a\0'}", "characters are not allowed"),
    "infinity": ("profile: {name: x, training: {lr: .inf}}", r"training\.lr: Input should be a finite number"),
    "no number": ("profile: {name: x, training: {silence_db: .nan}}", "finite number, found nan"),
    "a song of no length": ("profile: {name: x, data: {seconds: 0}}", r"data\.seconds: .* greater than or equal to 1"),
    "no songs": ("profile: {name: x, data: {train_tracks: 0}}", r"data\.train_tracks: .* greater than 0"),
    "a negative seed": ("profile: {name: x, seed: -1}", "seed: .* greater than or equal to 0"),
    "a switch for a number": ("profile: {name: x, seed: yes}", "'seed' in Profile is no switch, found True"),
    "a path for a source": ("profile: {name: x, sources: [../../x, y]}", "use letters, digits, _ and -"),
    "a command for a source": ("profile: {name: x, sources: ['a; touch canary']}", "use letters, digits, _ and -"),
    "one source twice": ("profile: {name: x, sources: [bass, Bass]}", "twice, or in small and capital letters"),
    "a path for a system": ("profile: {name: x, systems: {../x: {}}}", "use letters, digits, _ and -"),
    "no source": ("profile: {name: x, sources: []}", "at least 1 item"),
    "a long name": (f"profile: {{name: {'x' * 5000}}}", "at most 64 characters"),
    "megabytes": ("profile: {name: x}\n#" + "x" * MAX_YAML, "bytes; more than 65,536 are not read"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_profile_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    text, message = FORGED[kind]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FlowsepError, match=message) as error:
        load_profile(path)
    assert "mine.yaml" in str(error.value) and len(str(error.value)) < 1000
    assert not (tmp_path / "canary").exists()


# ---- checkpoints


def header_of(path: Path) -> tuple[dict, bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def with_header(path: Path, header: dict | bytes, content: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small prior."""
    from flowsep import FeatureConfig, GlowConfig, Prior

    path = tmp_path_factory.mktemp("prior") / "vocals.safetensors"
    sizes = GlowConfig(steps=2, hidden=8, layers=2, kernel=3, dropout=0.0)
    Prior(sizes, FeatureConfig(), "vocals", {"training": {"noise": 0.1}}).save(path)
    return path.read_bytes()


@FUZZ
@given(data=st.data())
def test_a_prior_of_other_bytes_loads_or_is_refused(tmp_path, whole, data):
    raw, length = bytearray(whole), int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, length + 16))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mine.safetensors"
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), length, 8, 3]))])
    refused(path, load_prior, path)


@FUZZ
@given(data=st.data())
def test_a_prior_that_says_other_things_of_itself_loads_or_is_refused(tmp_path, whole, data):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(whole)
    header, content = header_of(path)
    told = json.loads(header["__metadata__"]["flowsep"])
    for place in data.draw(st.lists(st.sampled_from(list(places(told))), min_size=1, max_size=2)):
        try:
            put(told, place, data.draw(st.one_of(ODD, st.sampled_from([2**31, 10**9, 10**18, 2.5, [], {}]))))
        except (TypeError, KeyError, IndexError):
            continue
    header["__metadata__"]["flowsep"] = json.dumps(told)
    with_header(path, header, content)
    if not refused(path, load_prior, path):
        assert load_prior(path).noise >= 0
    refused(path, lambda: main_or_raise(["info", str(path)]))


def main_or_raise(arguments: list[str]) -> None:
    """`flowsep ...`, whose exit status 2 is a FlowsepError that was told."""
    assert main(arguments) in (0, 2)


SIZES = [{"steps": 10**9}, {"hidden": 10**9}, {"bins": 10**12}, {"kernel": 10**9 + 1}, {"layers": 10**9}]
SIZES += [{"groups": 10**6}, {"squeeze": 10**15}, {"dilation_rate": 10**9}, {"hidden": 2**62, "bins": 2**62}]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes_are_held_against_the_file_before_memory_is_taken(tmp_path, whole, sizes):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(whole)
    header, tensors = read_safetensors(path)
    header["model"] |= sizes
    save_safetensors(path, tensors, header)
    tracemalloc.start()
    with pytest.raises(FlowsepError, match=r"mine\.safetensors"):
        load_prior(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "feature", [{"hop": 1, "n_fft": 1024}, {"n_fft": 65536}, {"sample_rate": 1}, {"n_fft": 10**12}]
)
def test_a_feature_that_would_fill_the_memory_is_refused(tmp_path, whole, feature):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(whole)
    header, tensors = read_safetensors(path)
    header["feature"] |= feature
    save_safetensors(path, tensors, header)
    with pytest.raises(FlowsepError, match=r"mine\.safetensors"):
        load_prior(path)


NETWORKS = [("open_unmix", {"hidden": 10**9}), ("open_unmix", {"hop": 1}), ("open_unmix", {"layers": 10**9})]
NETWORKS += [("conv_tasnet", {"hidden": 10**9}), ("conv_tasnet", {"repeats": 10**9}), ("wave_u_net", {"levels": 10**9})]
NETWORKS += [("wave_u_net", {"filters": 10**5}), ("demucs_v2", {"width": 10**5}), ("demucs_v2", {"depth": 12})]
NETWORKS += [("open_unmix", {"sample_rate": 10**9})]
SMALL = {
    "open_unmix": {"hidden": 8, "layers": 1, "n_fft": 512, "hop": 128},
    "conv_tasnet": {"filters": 8, "bottleneck": 8, "hidden": 8, "blocks": 2, "repeats": 1},
    "wave_u_net": {"levels": 2, "filters": 4},
    "demucs_v2": {"width": 4, "depth": 2},
}


@pytest.mark.parametrize(("name", "sizes"), NETWORKS, ids=str)
def test_a_network_of_other_sizes_than_its_file_takes_no_memory(tmp_path, name, sizes):
    from companion.systems.supervised import FORMAT, WHILE_SEPARATING
    from flowsep.machine import peak_memory

    system = load_system(name, SMALL[name], sources=["vocals", "drums"])
    path, options = tmp_path / f"{name}.safetensors", system.options.model_dump(exclude=set(WHILE_SEPARATING))
    for told, fits in ((options, True), (options | sizes, False)):
        header = {"format": FORMAT, "system": name, "sources": list(system.sources), "options": told}
        save_safetensors(path, system.build().state_dict(), header)
        again, before = load_system(name, SMALL[name], sources=system.sources, folder=tmp_path), peak_memory()
        if fits:
            again._load()
            continue
        with pytest.raises(FlowsepError, match=rf"{name}\.safetensors: (damaged header|misshaped|missing|surplus)"):
            again._load()
        assert peak_memory() < before + 200  # MiB


@pytest.mark.parametrize(
    "header", [{}, {"feature": {"n_fft": 2**16}}, {"feature": {"hop": 1}}, {"feature": 3}], ids=str
)
def test_dictionaries_of_another_spectrogram_are_refused(tmp_path, header):
    from companion.systems.nmf import FORMAT

    system = load_system("nmf", sources=["vocals", "drums"], folder=tmp_path)
    spectra = {source: torch.ones(3, 513) for source in system.sources}
    save_safetensors(tmp_path / "nmf.safetensors", spectra, {"format": FORMAT} | header)
    with pytest.raises(FlowsepError, match=r"nmf\.safetensors: (damaged header|its spectra and n_fft)"):
        system.separate(np.zeros((1, 22050), dtype="float32"), 22050)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool, torch.float8_e4m3fn])
def test_weights_are_plain_numbers(tmp_path, whole, dtype):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(whole)
    header, tensors = read_safetensors(path)
    first = min(tensors)
    save_safetensors(path, tensors | {first: torch.zeros(tensors[first].shape).to(dtype)}, header)
    with pytest.raises(FlowsepError, match="mistyped weight"):
        load_prior(path)


def test_a_forged_safetensors_file_is_refused(tmp_path, whole):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(whole)
    header, content = header_of(path)
    first, second = sorted(name for name in header if name != "__metadata__")[:2]
    same = header | {second: header[second] | {"data_offsets": header[first]["data_offsets"]}}
    beyond = header | {first: header[first] | {"data_offsets": [0, 10**12], "shape": [10**12 // 4]}}
    deep = header | {"__metadata__": {"flowsep": "[" * 200_000}}
    digits = header | {"__metadata__": {"flowsep": "9" * 10_000}}
    for forged in (same, beyond, deep, digits, b"[" * 100_000, b"{" + b'"a":{' * 50_000, b"\xff" * 50, {}):
        with_header(path, forged, content)
        with pytest.raises(FlowsepError, match=r"mine\.safetensors"):
            load_prior(path)
    for length in (2**64 - 1, 2**63, MAX_HEADER + 1, 10**9):
        with_header(path, header, content, length)
        with pytest.raises(FlowsepError, match=f"a header of {length:,} bytes, {MAX_HEADER:,} at most"):
            read_header(path)


def test_what_is_half_written_is_no_prior(tmp_path, whole):
    for name in (".vocals-1a2b.safetensors", "bass.safetensors", "...safetensors"):
        (tmp_path / name).write_bytes(whole)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "config.json").touch()
    assert list(find_priors(tmp_path)) == ["bass"]
    for place in (tmp_path / "bass.safetensors", tmp_path / "nowhere"):
        assert "no such folder; expected <source>.safetensors" in refused(place, find_priors, place)


def test_a_prior_whose_name_is_no_text_is_refused(tmp_path, whole):
    path = tmp_path / os.fsdecode(b"\xff.safetensors")
    path.write_bytes(whole)
    with pytest.raises(FlowsepError, match="not valid UTF-8"):
        load_prior(path)


@pytest.fixture(scope="module")
def research():
    """(config.json, state dict) of a folder of the research code, small and whole."""
    from flowsep.config import GlowConfig
    from flowsep.glow import Glow
    from flowsep.research_checkpoint import _their_name

    sizes = {"n_ipt_channels": 514, "sampling_rate": 22050, "filter_length": 1024, "hop_length": 256}
    model = {"n_sqz": 2, "n_blocks_dec": 2, "hidden_channels": 8, "n_block_layers": 1, "kernel_size_dec": 3,
             "dilation_rate": 1, "n_split": 4, "p_dropout_dec": 0.0}  # fmt: skip
    config = GlowConfig(steps=2, hidden=8, layers=1, kernel=3, dropout=0.0)
    state = {}
    for name, value in Glow(**config.model_dump()).state_dict().items():
        theirs = _their_name(name)
        if theirs.endswith((".logs", ".bias")) and ".net." not in name:
            state[theirs] = value[None]
        elif value.ndim == 3 and ".end." not in theirs:
            state |= {f"{theirs}_g": torch.ones(len(value), 1, 1), f"{theirs}_v": torch.ones_like(value)}
        else:
            state[theirs] = value
    return {"data": sizes, "model": model}, state


THEIRS = {  # our name of a size -> the research code's
    "steps": "n_blocks_dec",
    "hidden": "hidden_channels",
    "bins": "n_ipt_channels",
    "layers": "n_block_layers",
    "kernel": "kernel_size_dec",
    "groups": "n_split",
    "squeeze": "n_sqz",
    "dilation_rate": "dilation_rate",
}


def write_research(folder: Path, settings: dict, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    if isinstance(content, bytes):
        (folder / "G_1.pth").write_bytes(content)
    else:
        torch.save(content, folder / "G_1.pth")
    return folder


def convert(folder: Path) -> str:
    """What `flowsep convert` refuses it with; '' where it made a prior."""
    try:
        load_prior(folder)
    except FlowsepError as error:
        assert folder.name in str(error) and len(str(error)) < 1000
        return str(error)
    return ""


@FEW
@given(data=st.data())
def test_a_research_folder_with_other_settings_loads_or_is_refused(tmp_path, research, data):
    told, state = json.loads(json.dumps(research[0])), research[1]
    assert not convert(write_research(tmp_path / "vocals", told, {"model": state, "iteration": 3}))
    for place in data.draw(st.lists(st.sampled_from(list(places(told))), min_size=1, max_size=2)):
        try:
            put(told, place, data.draw(st.one_of(ODD, st.sampled_from([2**31, 10**9, 10**18, 2.5, [], {}]))))
        except (TypeError, KeyError, IndexError):
            continue
    convert(write_research(tmp_path / "vocals", told, {"model": state, "iteration": 3}))


@FEW
@given(data=st.data())
def test_a_checkpoint_of_other_bytes_loads_or_is_refused(tmp_path, research, data):
    buffer = io.BytesIO()
    torch.save({"model": research[1]}, buffer)
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 30))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    convert(write_research(tmp_path / "vocals", research[0], bytes(raw)))


def test_forged_checkpoints_run_nothing_and_fill_nothing(tmp_path, research):
    told, state = research
    canary, name = tmp_path / "canary", min(state)
    forged = [
        pickle.dumps(Payload(canary)),
        pickle.dumps({"model": Payload(canary)}),
        b"(S'touch canary'\nios\nsystem\n.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        {"model": {}},
        {"model": [state]},
        {"model": state | {name: 3}},
        {"model": state | {5: torch.zeros(1)}},
        {"model": state | {name: state[name].to_sparse()}},
        {"model": state | {name: state[name].to(torch.complex64)}},
        {"model": state | {name: torch.zeros(1).expand(10**6, 10**6)}},
        {"model": state | {name: state[name].to("meta")}},
    ]
    for number, content in enumerate(forged):
        folder = write_research(tmp_path / f"prior {number}", told, content)
        assert convert(folder), content
        assert main(["convert", str(folder), str(tmp_path / "out.safetensors")]) == 2
    for size in SIZES:
        sizes = {"data": dict(told["data"]), "model": dict(told["model"])}
        for key, value in size.items():
            sizes["data" if key == "bins" else "model"][THEIRS[key]] = value
        if size != {"dilation_rate": 10**9}:  # of a single layer it means nothing
            assert convert(write_research(tmp_path / "big", sizes, {"model": state}))
    assert not canary.exists() and not (tmp_path / "out.safetensors").exists() and not Path("canary").exists()


def test_an_archive_that_grows_is_not_unpacked(tmp_path, research):
    folder = write_research(tmp_path / "vocals", research[0], {"model": research[1]})
    path = folder / "G_1.pth"
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/999", bytes(50_000_000))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(FlowsepError, match="not written by torch: it would unpack to"):
        load_prior(folder)


# ---- scores


SCORES = sorted((ROOT / "results" / "demo" / "scores").glob("*.csv"))[0]
NUMBERS = ["nan", "inf", "-inf", "1e999", "9" * 400, "0x10", "1_0", "١"]
CELLS = st.one_of(st.sampled_from([*NUMBERS, "", "=cmd()", "NA", "\x00", "x" * 10_000]), st.text(max_size=10))


@FUZZ
@given(data=st.data())
def test_a_score_file_with_other_cells_is_read_or_refused(tmp_path, data):
    rows = [line.split(",") for line in SCORES.read_text(encoding="utf-8").splitlines()[:5]]
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.sampled_from(rows))
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(CELLS)
    path = tmp_path / "mine.csv"
    path.write_bytes("\n".join(",".join(row) for row in rows).encode(errors="surrogatepass"))
    if not refused(path, read_scores, path):
        assert list(read_scores(path)) == list(COLUMNS)


@FUZZ
@given(data=st.data())
def test_a_score_file_of_other_bytes_is_read_or_refused(tmp_path, data):
    raw = bytearray(b"\n".join(SCORES.read_bytes().splitlines()[:4]))
    for _ in range(data.draw(st.integers(1, 10))):
        start = data.draw(st.integers(0, len(raw)))
        piece = data.draw(st.sampled_from([b",", b'"', b"\n", b"\r", b"\0", b"\xff", b",,,,", b"\xef\xbb\xbf", b"nan"]))
        raw[start : start + data.draw(st.integers(0, 30))] = piece
    path = tmp_path / "mine.csv"
    path.write_bytes(raw)
    if not refused(path, read_scores, path):
        assert len(read_scores(path).columns) == len(COLUMNS)
    refused(path, load_published, path)


def test_tables_are_neither_archives_nor_shifted_nor_endless(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(",".join(PUBLISHED) + "\n" + ",".join(["x"] * (len(PUBLISHED) + 1)) + "\n")
    with pytest.raises(FlowsepError, match="more cells than its header"):
        load_published(path)
    packed = tmp_path / "scores.csv.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(SCORES, "scores.csv")
    with pytest.raises(FlowsepError, match=r"scores\.csv\.zip"):
        read_scores(packed)
    with path.open("wb") as file:
        file.truncate(MAX_TABLE + 1)  # takes no room on the disk
    with pytest.raises(FlowsepError, match="are not read"):
        read_scores(path)
    os.mkfifo(tmp_path / "pipe.csv")  # which would wait for a writer for ever
    with pytest.raises(FlowsepError, match="no such file"):
        read_scores(tmp_path / "pipe.csv")


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@FEW
@given(track=TEXTS, system=TEXTS)
def test_names_come_back_from_a_score_file_as_they_were(tmp_path, track, system):
    frame = read_scores(SCORES).head(2).assign(track=track, system=system)
    write_scores(frame, tmp_path / "mine.csv")
    back = read_scores(tmp_path / "mine.csv")
    for column, name in (("track", track), ("system", system)):
        assert back[column].tolist() == [re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", name)] * 2


MUSEVAL = {
    "targets": [
        {
            "name": "vocals",
            "frames": [
                {"time": t, "duration": 1.0, "metrics": dict.fromkeys(("SDR", "SIR", "ISR", "SAR"), 1.5)}
                for t in range(2)
            ],
        }
    ]
}


@FUZZ
@given(data=st.data())
def test_a_museval_file_with_other_values_is_read_or_refused(tmp_path, data):
    content = json.loads(json.dumps(MUSEVAL))
    for place in data.draw(st.lists(st.sampled_from(list(places(content))), min_size=1, max_size=3)):
        try:
            put(content, place, data.draw(st.one_of(ODD, st.sampled_from([10**400, [1, 2], {}, "\ud800"]))))
        except (TypeError, KeyError, IndexError):
            continue
    path = tmp_path / "scores" / "mine" / "test" / "song.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    if not refused(path, read_museval, tmp_path / "scores"):
        frame = read_museval(tmp_path / "scores")
        assert all(isinstance(name, str) for name in frame.get("stem", []))


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"targets":' * 50_000, "9" * 10_000, '"\\ud800"', "\xff", "null", "Infinity"]
)
def test_a_forged_museval_file_is_refused(tmp_path, text):
    path = tmp_path / "mine" / "test" / "song.json"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(FlowsepError, match=r"song\.json"):
        read_museval(tmp_path)


# ---- audio


def sound(path: Path, kind: str) -> Path:
    audio = 0.1 * np.random.default_rng(0).standard_normal((3000, 2))
    if kind in ("m4a", "mp4"):
        sf.write(path.with_suffix(".wav"), audio, RATE)
        command = ["ffmpeg", "-v", "error", "-y", "-i", str(path.with_suffix(".wav")), str(path)]
        subprocess.run(command, check=True)
    else:
        sf.write(path, audio, RATE)
    return path


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    return {
        kind: sound(folder / f"a.{kind}", kind).read_bytes()
        for kind in ("wav", "flac", "ogg", "aiff", "au", "mp3", "m4a")
    }


def hear(path: Path) -> None:
    """Read a file both ways: finite samples, one or two channels, or a FlowsepError that names it."""
    refused(path, inspect, path)
    if not refused(path, read_audio, path):
        audio, rate = read_audio(path)
        assert audio.ndim == 2 and 1 <= len(audio) <= 2 and np.isfinite(audio).all() and 1000 <= rate <= 1_000_000


@settings(FUZZ, max_examples=80)  # of five formats
@given(data=st.data())
def test_a_sound_with_other_bytes_is_read_or_refused(tmp_path, sounds, data):
    kind = data.draw(st.sampled_from(("wav", "flac", "ogg", "aiff", "au")))
    raw = bytearray(sounds[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, 120))] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    path = tmp_path / f"mine.{kind}"
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2, 60]))])
    hear(path)


@settings(FUZZ, max_examples=5)  # two processes each
@given(data=st.data())
def test_a_sound_for_ffmpeg_with_other_bytes_is_read_or_refused(tmp_path, sounds, data):
    kind = data.draw(st.sampled_from(("mp3", "m4a")))
    raw = bytearray(sounds[kind])
    for _ in range(data.draw(st.integers(1, 20))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"mine.{kind}"
    path.write_bytes(raw)
    hear(path)


def wav(
    rate: int = RATE, channels: int = 1, bits: int = 16, promised: int = 2000, held: int = 2000, kind: int = 1
) -> bytes:
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels % 65536, rate, rate * block % 2**32, block % 65536, bits)
    chunk = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", promised) + bytes(held)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WAVE" + chunk


PROMISES = {
    "no rate": ("wav", wav(rate=0)),
    "one sample a second": ("wav", wav(rate=1)),
    "2^31 samples a second": ("wav", wav(rate=2**31 - 1)),
    "no channels": ("wav", wav(channels=0)),
    "65535 channels": ("wav", wav(channels=65535)),
    "samples of no bits": ("wav", wav(bits=0)),
    "numbers that are none": ("wav", wav(bits=32, kind=3)[:-2000] + b"\xff" * 2000),
    "10^12 samples in RF64": (
        "wav",
        b"RF64\xff\xff\xff\xffWAVEds64"
        + struct.pack("<IQQQI", 28, 2 * 10**12, 2 * 10**12, 10**12, 0)
        + wav(promised=2**32 - 1)[12:],
    ),
    "10^12 samples in AU": ("au", b".snd" + struct.pack(">IIIII", 24, 2**32 - 2, 3, 44100, 2) + bytes(100)),
    "a playlist": ("m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.wav\n#EXT-X-ENDLIST\n"),
    "a list of files": ("txt", b"ffconcat version 1.0\nfile other.wav\n"),
    "raw samples": ("raw", bytes(4000)),
}


@pytest.mark.parametrize("kind", PROMISES)
def test_promises_of_a_header_are_not_believed(tmp_path, kind):
    suffix, raw = PROMISES[kind]
    (tmp_path / "other.wav").write_bytes(wav(held=20_000, promised=20_000))
    path = tmp_path / f"mine.{suffix}"
    path.write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(FlowsepError, match=r"mine\."):
        read_audio(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_small_file_does_not_become_a_large_sound(tmp_path, monkeypatch):
    sf.write(tmp_path / "mine.flac", np.zeros(RATE * 20), RATE)  # silence: a thousandth of its samples
    monkeypatch.setattr("flowsep.audio.MAX_SAMPLES", RATE * 10)
    with pytest.raises(FlowsepError, match=r"mine\.flac: more than 441,000 samples"):
        read_audio(tmp_path / "mine.flac")


def test_a_pipe_is_no_sound(tmp_path):
    os.mkfifo(tmp_path / "vocals.wav")  # which would wait for a writer for ever
    for call in (inspect, read_audio):
        with pytest.raises(FlowsepError, match="is a folder, a pipe or a device; save the sound as a file"):
            call(tmp_path / "vocals.wav")


# ---- Slakh's metadata


FORGED_METADATA = {
    "nested": ("stems: " + "[" * 50_000, "more than 32 levels"),  # libyaml's loader would end the process
    "aliases": ("a: &a [x]\nstems: {S00: *a}", "an alias"),
    "a path": ("stems: {../../x: {inst_class: Bass}}", r"stems/\.\./\.\./x\.flac \(bass\) is missing"),
    "a tag": ("stems: !!python/object/apply:os.system ['touch canary']", "could not determine a constructor"),
    "a list for a class": ("stems: {S00: {inst_class: [Bass]}}", "no stem of bass"),
    "digits": ("stems: {S00: {inst_class: " + "9" * 5000 + "}}", "Exceeds the limit"),
    "megabytes": ("stems: {}\n#" + "x" * MAX_YAML, "are not read"),
}


@pytest.mark.parametrize("kind", FORGED_METADATA)
def test_forged_metadata_of_slakh_is_refused(tmp_path, kind):
    text, message = FORGED_METADATA[kind]
    (tmp_path / "metadata.yaml").write_text(text)
    with pytest.raises(FlowsepError, match=message):
        stem_files(tmp_path, {"Bass": "bass"})
    assert not Path("canary").exists()
