"""An RO-Crate of a profile's numbers: which run, configuration, checkpoints and songs each row of a table is of.

`tools/build_book.py` writes `ro-crate-metadata.json` beside the tables and scores that the site offers for download.
RO-Crate is JSON-LD that archives such as Zenodo and WorkflowHub read.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

NAME = "ro-crate-metadata.json"
TITLE = "Music Source Separation with Generative Flow: scores of the profile {}"
PAPER = "https://doi.org/10.1109/LSP.2022.3219355"


def write_crate(folder: Path, profile: str, scores: pd.DataFrame) -> Path:
    """Write the crate of the files that lie in `folder`.

    Args:
        folder: holds `table-*.*`, `scores/<system>.csv` and `<profile>.yaml`.
        profile: the name of the experiment.
        scores: all rows, of `companion.tables.load_scores`.
    """
    crate = ROCrate()
    crate.name = TITLE.format(profile)
    crate.description = "Each table is based on the score files; each score file is the result of one run per system."
    crate.license = "https://spdx.org/licenses/MIT"
    times = scores.time.astype(str)
    crate.root_dataset["datePublished"] = times.max()
    crate.root_dataset["citation"] = {"@id": PAPER}
    _add(crate, PAPER, "ScholarlyArticle", name="Music Source Separation with Generative Flow")
    config = crate.add_file(folder / f"{profile}.yaml", properties={"name": f"settings of the profile {profile}"})
    files = {}
    for system, rows in scores.groupby(scores.system + scores.variant.map(lambda name: f"@{name}" if name else "")):
        path = folder / "scores" / f"{system}.csv"
        if not path.is_file():
            continue
        facts = rows.iloc[0]
        about = {"name": f"scores of {system}", "encodingFormat": "text/csv"}
        files[system] = crate.add_file(path, f"scores/{path.name}", properties=about)
        songs = _add(crate, f"#data-{facts.data_hash}", "Dataset", name=facts.data, identifier=facts.data_hash)
        code = _add(
            crate,
            f"#code-{facts.git_commit}",
            "SoftwareApplication",
            name="flowsep",
            version=facts.git_commit,
            softwareRequirements=facts.versions,
        )
        learnt = [
            _add(crate, f"#checkpoint-{digest}", "CreativeWork", name=name, identifier=digest)
            for name, _, digest in (part.rpartition(":") for part in str(facts.checkpoint).split())
        ]
        _add(
            crate,
            f"#run-{system}",
            "CreateAction",
            name=f"{system}: separated and scored",
            instrument=code,
            object=[config, songs, *learnt],
            result=files[system],
            endTime=str(rows.time.max()),
            description=f"code {facts.code}, configuration {facts.config_hash}, seed {facts.seed}, {facts.device}",
        )
    for path in sorted(folder.glob("table-*.*")):
        table = crate.add_file(path, path.name, properties={"name": f"table, {path.stem.removeprefix('table-')}"})
        table["isBasedOn"] = [*files.values()]
    crate.root_dataset["mentions"] = [entity for entity in crate.contextual_entities if entity.id.startswith("#run-")]
    crate.metadata.write(folder)
    return folder / NAME


def _add(crate: ROCrate, identifier: str, kind: str, /, **facts: Any) -> ContextEntity:
    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **facts}))
