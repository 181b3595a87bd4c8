"""The paper's profiles as shipped, on miniature data sets in the real formats: only their sizes are made smaller."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers import copy_project, write_hq_tree, write_packed_tree, write_slakh_track
from reference.checkpoints import research_checkpoint

from companion.profile import PRETRAINED
from companion.scores.evaluate import read_scores
from companion.tables import plain, written
from flowsep import load_prior

ROOT = Path(__file__).parents[2]
SMALL = {
    "model": {"steps": 2, "hidden": 8, "kernel": 3, "layers": 1, "dropout": 0.0},
    "training": {"epochs": 4, "batch": 2, "lr": 0.003, "validate_every": 4},
    "listen_seconds": 2,
    "listen_tracks": 1,
}
NETWORK = {"sample_rate": 8000, "steps": 8, "batch": 2, "crop_seconds": 1.0}
SMALL_SYSTEMS = {
    "nmf": {"components": 4, "frames": 200, "iterations": 10, "activations": 5},
    "instglow": {"iterations": 2},
    "gan_prior": {"prior": {"depth": 2, "channels": 4, "latent": 8, "steps": 4, "batch": 4}, "iterations": 3},
    "demucs_v2": NETWORK | {"width": 4, "depth": 3},
    "conv_tasnet": NETWORK | {"filters": 16, "bottleneck": 8, "hidden": 16, "blocks": 2, "repeats": 1},
    "open_unmix": NETWORK | {"lr": 0.01, "hidden": 8, "layers": 1, "n_fft": 512, "hop": 256},
    "open_unmix_random": NETWORK | {"lr": 0.01, "hidden": 8, "layers": 1, "n_fft": 512, "hop": 256},
    "wave_u_net": NETWORK | {"levels": 4, "filters": 4},
}
ALL = (*SMALL_SYSTEMS, "mixture", "hpss", "ideal_ratio_mask", "multichannel_wiener")
FEW = ("instglow", "ideal_ratio_mask")
MEMBER = {
    "feature": {"n_fft": 4096, "hop": 1024, "exponent": 0.5},
    "model": {"bins": 2050},
    "training": {"noise": 0.3, "epochs": 4},
}
OURS = {"flowsep": {"iterations": 2, "refine": 2, "stereo": 1, "members": [MEMBER]}}
CASES = {  # profile -> (variable, changes of its data, systems; a notebook each, so all of them only once)
    "musdb18": ("MUSDB_PATH", {}, ALL),
    "musdb18-best": ("MUSDB_PATH", {}, (*OURS, *FEW)),
    "singing": ("MUSDB_PATH", {"kind": "musdb18hq"}, FEW),
    "slakh": ("SLAKH_PATH", {}, FEW),
}
SECONDS = 14  # of a song: always two pieces

pytestmark = [pytest.mark.chain, pytest.mark.slow]


def write_data(kind: str, root: Path) -> Path:
    """Two training songs and one to test; for Slakh two more that lack a source."""
    if kind.startswith("musdb18"):
        return write_packed_tree(root, train=2, test=1, seconds=SECONDS)
    if kind == "singing":
        return write_hq_tree(root, train=2, test=1, seconds=SECONDS, subtype="PCM_16")
    for number, subset in ((1, "train"), (2, "train"), (5, "validation"), (6, "test"), (7, "omitted")):
        write_slakh_track(root / subset / f"Track0000{number}", number, seconds=SECONDS)
    write_slakh_track(root / "train" / "Track00003", 3, unrendered=("Piano",))
    write_slakh_track(root / "test" / "Track00004", 4)
    (root / "test" / "Track00004" / "stems" / "S03.flac").unlink()
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("profiles") / "project")


def snakemake(tree: Path, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ("MUSDB_PATH", "SLAKH_PATH")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"FLOWSEP_DATA": str(tree / "cache")} | variables
    command = ["snakemake", "--configfile", f"configs/{name}.yaml", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["musdb18", "slakh"])
def test_missing_data_stop_it_before_any_work(tree, name):
    variable = CASES[name][0]
    done = snakemake(tree, name, "--dry-run", "book")
    told = done.stdout + done.stderr
    assert done.returncode != 0 and f"{variable} is not set; set {variable} to the folder of" in told
    assert "zenodo.org" in told and "Traceback" not in told
    assert not (tree / "results" / name).exists()


def test_no_gpu_stops_a_profile_for_one_before_any_work(tree):
    data = write_data("musdb18", tree / "data" / "no-gpu")
    done = snakemake(tree, "musdb18-quick", "results", MUSDB_PATH=str(data), CUDA_VISIBLE_DEVICES="")
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in told
    assert re.search(r"device: 'cuda' cannot be used here \(.*NVIDIA driver.*, torch \S+ for CUDA .*device: cpu", told)
    assert not (tree / "results" / "musdb18-quick" / "notebooks").exists()


def test_our_variant_of_a_profile_changes_the_flow_alone():
    paper, ours = (
        yaml.safe_load((ROOT / "configs" / f"{n}.yaml").read_text())["profile"] for n in ("musdb18", "musdb18-best")
    )
    assert {k: v for k, v in ours["systems"].items() if k not in ("instglow", "flowsep")} == {
        k: v for k, v in paper["systems"].items() if k != "instglow"
    }
    assert ours | {"name": "", "systems": 0} == paper | {"name": "", "systems": 0}
    assert all(MEMBER | {"training": member["training"]} == member for member in ours["systems"]["flowsep"]["members"])


@pytest.mark.parametrize("name", CASES)
def test_profile_runs_to_its_tables(tree, name):
    variable, changes, systems = CASES[name]
    shipped = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())["profile"]
    smaller = shipped | SMALL | {"data": shipped["data"] | changes | {"valid_tracks": 1}}  # of the networks
    smaller["training"] = shipped["training"] | SMALL["training"] | {"device": "auto"}
    more = set(OURS) if name == "musdb18-best" else set()
    assert set(shipped["systems"]) == set(ALL) - ({"hpss"} if name == "singing" else set()) | more  # which needs drums
    networks = [system for system, options in SMALL_SYSTEMS.items() if NETWORK.items() <= options.items()]
    assert all(shipped["systems"][system] == {"steps": 100_000} for system in networks)
    smaller["systems"] = {s: shipped["systems"][s] | (SMALL_SYSTEMS | OURS).get(s, {}) for s in systems}
    (tree / "configs" / f"{name}.yaml").write_text(yaml.safe_dump({"profile": smaller}))
    data = write_data(name, tree / "data" / name)
    done = snakemake(tree, name, "results", **{variable: str(data)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]

    results = tree / "results" / name
    scores = read_scores(sorted((results / "scores").glob("*.csv")))
    assert set(scores.system) == set(systems)
    assert set(scores.stem) == set(shipped["sources"]) and scores.track.nunique() == 1
    assert set(scores.status) == {"ok"} and scores.value.notna().all()
    for convention in shipped["evaluation"]["conventions"]:
        table = pd.read_csv(results / f"table-{convention}.csv").pivot(index="system", columns="stem", values="median")
        assert set(table.columns) == set(shipped["sources"]) and set(table.index) == set(systems)
        assert (table.loc["ideal_ratio_mask"] > 5).all()  # the references are those of the mixture
        markdown = (results / f"table-{convention}.md").read_text()
        shown = [re.split(r" \||\(", line.removeprefix("| "))[0].strip() for line in markdown.splitlines()]
        assert {plain(written(system)) for system in systems} <= {*shown} and "failed" not in markdown

    manifest = json.loads((results / "data.json").read_text())
    assert manifest["name"] == smaller["data"]["kind"]
    assert [track["split"] for track in manifest["tracks"]] == ["train", "train", "test"]
    skipped = {
        "train/Track00003": "no stem of piano was rendered",
        "test/Track00004": "stems/S03.flac (bass) is missing",
    }
    assert manifest["skipped"] == (skipped if name == "slakh" else {})
    for source in shipped["sources"]:
        facts = load_prior(results / "priors" / f"{source}.safetensors").provenance
        assert (facts["train_segments"], facts["valid_segments"]) == (3, 1)  # two pieces of each of two songs
        assert facts["training"]["steps"] == 4 * 2


def test_published_weights_that_cannot_be_had_stop_nothing(tree):
    """`pretrained: true` without network: two rows in a block of their own, empty, and the page of results says why."""
    shipped = yaml.safe_load((ROOT / "configs" / "singing.yaml").read_text())["profile"]
    changes = {"name": "offline", "pretrained": True, "systems": {"mixture": {}}}
    changes |= {"training": shipped["training"] | {"device": "cpu"}}
    smaller = shipped | changes | {"data": shipped["data"] | {"kind": "musdb18hq"}, "listen_seconds": 1}
    (tree / "configs" / "offline.yaml").write_text(yaml.safe_dump({"profile": smaller}))
    data = write_hq_tree(tree / "data" / "offline", train=1, test=2, seconds=3)
    nowhere = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "", "TORCH_HOME": str(tree / "torch")}
    target = "results/offline/notebooks/07_listen.ipynb"
    done = snakemake(tree, "offline", "results", target, MUSDB_PATH=str(data), **nowhere)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    scores = read_scores(sorted((tree / "results" / "offline" / "scores").glob("*.csv")))
    reasons = scores[scores.status == "failed"].groupby("system").reason.unique()
    assert list(reasons.index) == list(PRETRAINED)
    page = (tree / "results" / "offline" / "notebooks" / "06_results.ipynb").read_text()
    for name, (reason,) in reasons.items():
        assert reason.startswith(f"{name}: its weights could not be downloaded (") and reason in page
    markdown = (tree / "results" / "offline" / "table-paper.md").read_text()
    block = markdown.split("| *measured here with published weights, offline (musdb18hq)* |")[1]
    for name in PRETRAINED:
        assert f"| {written(name)} | mixtures | – | – | – | 0 (2 failed) | – | – | – |" in block


def test_released_checkpoints_are_scored_without_training(tree):
    """Folders of the research code and the songs are all that a table of the paper's own system needs."""
    shipped = yaml.safe_load((ROOT / "configs" / "singing.yaml").read_text())["profile"]
    smaller = shipped | {"name": "released", "data": shipped["data"] | {"kind": "musdb18hq"}}
    smaller["systems"] = {"instglow": shipped["systems"]["instglow"] | SMALL_SYSTEMS["instglow"]}
    (tree / "configs" / "released.yaml").write_text(yaml.safe_dump({"profile": smaller}))
    for seed, source in enumerate(shipped["sources"]):
        research_checkpoint(tree / "checkpoints" / source, seed, bins=514, epoch=1000)
    data = write_hq_tree(tree / "data" / "released", train=1, test=1, seconds=3)
    command = ["papermill", "notebooks/06_results.ipynb", "out.ipynb", "-f", "configs/released.yaml"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment["MUSDB_PATH"] = str(data)
    done = subprocess.run(
        [*command, "-p", "checkpoints", "checkpoints"], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    scores = read_scores(tree / "results" / "released" / "scores" / "instglow@checkpoints.csv")
    assert set(scores.stem) == {"vocals", "accompaniment"} and set(scores.status) == {"ok"}
    assert scores.checkpoint.str.fullmatch(r"G_1000\.pth:\w{12} G_1000\.pth:\w{12}").all()
    assert plain("InstGlow [checkpoints]") in (tree / "results" / "released" / "table-paper.md").read_text()
    assert "InstGlow" in (tree / "results" / "released" / "table-paper.md").read_text()  # the paper's, beside it
