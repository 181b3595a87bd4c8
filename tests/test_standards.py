"""The files that archives and journals read: each by its own tool where there is one, and against the project."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from cffconvert import Citation
from codecheck import text
from crate import write_crate
from rocrate.rocrate import ROCrate

from companion.tables import load_scores

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_citation_is_valid_and_of_this_version():
    citation = Citation((ROOT / "CITATION.cff").read_text("utf-8"))
    citation.validate()
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (about["version"], about["license"]) == (PROJECT["version"], PROJECT["license"])
    assert about["preferred-citation"]["doi"] in (ROOT / "book" / "cite.md").read_text("utf-8")
    broken = Citation((ROOT / "CITATION.cff").read_text("utf-8").replace("license: MIT", "license: mine"))
    with pytest.raises(jsonschema.ValidationError):
        broken.validate()


def test_codemeta_says_what_the_project_file_says():
    about = json.loads((ROOT / "codemeta.json").read_text("utf-8"))
    assert (about["name"], about["version"]) == (PROJECT["name"], PROJECT["version"])
    assert about["license"].endswith(PROJECT["license"])
    assert about["softwareRequirements"] == [re.split(r"[<>=]", name)[0] for name in PROJECT["dependencies"]]
    assert (ROOT / about["readme"]).is_file()


def test_the_codecheck_manifest_is_of_the_committed_results():
    written = (ROOT / "codecheck.yml").read_text("utf-8")
    assert written == text(ROOT), "run python tools/codecheck.py"
    assert written.startswith("---\n")
    content = yaml.safe_load(written)
    files = [item["file"] for item in content["manifest"]]
    assert all((ROOT / file).is_file() for file in files)
    assert all("Made by: " in item["comment"] for item in content["manifest"])
    tables = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("results/demo/table-*.csv")}
    pictures = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("results/demo/book/media/*.webp")}
    assert tables and pictures and tables | pictures <= set(files)
    assert content["paper"]["title"] and all(author["name"] for author in content["paper"]["authors"])


def test_the_crate_leads_from_each_table_to_run_settings_checkpoints_and_songs(tmp_path):
    demo = ROOT / "results" / "demo"
    shutil.copytree(demo / "scores", tmp_path / "scores")
    shutil.copy(ROOT / "configs" / "demo.yaml", tmp_path)
    for path in demo.glob("table-*"):
        shutil.copy(path, tmp_path)
    scores = load_scores(demo)
    write_crate(tmp_path, "demo", scores)
    crate = ROCrate(tmp_path)
    tables = [entity for entity in crate.get_entities() if entity.id.startswith("table-")]
    assert {table.id for table in tables} == {path.name for path in demo.glob("table-*")}
    runs = {run["result"].id: run for run in crate.root_dataset["mentions"]}
    for table in tables:
        assert {file.id for file in table["isBasedOn"]} == {f"scores/{name}.csv" for name in set(scores.system)}
    for system, rows in scores.groupby("system"):
        run, facts = runs[f"scores/{system}.csv"], rows.iloc[0]
        assert run["instrument"]["version"] == facts.git_commit
        behind = {entity.type: [] for entity in run["object"]}
        for entity in run["object"]:
            behind[entity.type].append(entity)
        assert behind["File"][0].id == "demo.yaml" and behind["Dataset"][0]["identifier"] == facts.data_hash
        digests = {part.rpartition(":")[2] for part in str(facts.checkpoint).split()}
        assert {entity["identifier"] for entity in behind.get("CreativeWork", [])} == digests
        assert facts.config_hash in run["description"] and facts.code in run["description"]


def test_binder_and_docker_install_what_make_env_does():
    script = (ROOT / "tools" / "env.sh").read_text("utf-8")
    wanted = set(re.findall(r"^  \[[^\]]+\]=(\S+)$", script, re.MULTILINE))
    wanted |= set(re.findall(r"\[\w+\]=(\w+)", script))
    packages = set((ROOT / "binder" / "apt.txt").read_text().split())
    assert packages == wanted | {"make"}
    assert "make env" in (ROOT / "binder" / "postBuild").read_text()
    steps = (ROOT / "Dockerfile").read_text()
    assert (
        "RUN make env" in steps and f"FROM python:{(ROOT / 'binder' / 'runtime.txt').read_text().strip()[7:]}" in steps
    )


def test_a_checklist_names_files_that_are_there():
    page = (ROOT / "book" / "checklists.md").read_text("utf-8")
    missing = {"content/", "paper.md", "paper.bib"}  # which the page says are not there
    names = set(re.findall(r"`([\w./]+(?:\.(?:lock|yml|cff|md|bib|py)|/))`", page)) - missing
    names |= {name for name in ("LICENSE",) if f"`{name}`" in page}
    assert len(names) > 8
    for name in names - {"_toc.yml"}:
        assert (ROOT / name).exists(), name
