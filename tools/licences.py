"""Write LICENCES.md, the licences of the packages of requirements.lock: `python tools/licences.py`.

From the metadata of the installed packages; a test holds the file against them.
"""

import re
from importlib import metadata
from pathlib import Path

from flowsep.files import FlowsepError, write_text

ROOT = Path(__file__).parent.parent
COPYLEFT = re.compile(r"GPL|GNU|MPL|Mozilla|EUPL|CDDL|Eclipse|CeCILL|CC.BY.SA", re.IGNORECASE)
# the use of each package with a word of COPYLEFT; an unlisted one stops the tool until someone has looked at it
NOTES = {
    "certifi": "MPL 2.0: the certificates of authorities, for downloads",
    "docutils": "GPL 3 for its Emacs mode alone, which pip does not install; the rest is public domain, PSF, BSD",
    "fqdn": "MPL 2.0: asked for by the schemas of Jupyter's events",
    "hypothesis": "MPL 2.0: for the tests alone",
    "pathspec": "MPL 2.0: which files mypy checks; for the tests alone",
    "soxr": "LGPL 2.1 or later: changes sampling rates; loaded as a library that can be replaced",
    "tqdm": "MPL 2.0 and MIT: bars of progress",
}
HEAD = """# Licences of the packages

flowsep is under the MIT licence (LICENSE) and holds no code of these packages, which pip installs beside it. The table
below has each package's licence by its metadata: the named licence and, if any, the classifier; where the two differ,
both stand as they are. Made by `python tools/licences.py` from requirements.lock.

## Copyleft

None of these is changed here. Whoever redistributes one, for instance in a container image, must meet the terms of its
licence.

{copyleft}

Some wheels carry libraries with licence files of their own, which are not in these lines: the wheel of soundfile holds
libsndfile (LGPL 2.1), the wheels of numpy and scipy GCC's runtime for Fortran, the wheels of torch and scikit-learn
GCC's runtime for OpenMP (GPL 3 with GCC's runtime exception). For a GPU pip also installs CUDA packages for torch,
which are not in the lock and are under NVIDIA's terms. The programs that flowsep calls (ffmpeg, fluidsynth, git, a
browser) come from the system, under their own licences.

The built book carries two packages that npm installs by package-lock.json, for the page *Separate*: onnxruntime-web
(MIT, Microsoft; its notices of third parties are in the package) and fft.js (MIT, Fedor Indutny).

## Sounds

The chapter *A real song, taken apart* plays six seconds of *Falcon 69* by The Easton Ellises, CC BY-NC-SA 3.0, which
the package stempeg carries, and what separators make of them, adaptations under the same licence. The page *Separate*
has the same six seconds as its example, and the build takes them from that package. No other recording lies in this
repository; `book/cite.md` says where the synthesised sounds come from.

## All

| package | version | licence | classifier |
|---|---|---|---|
{rows}
"""


def pinned() -> dict[str, str]:
    """Name -> version of every line of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def licence_of(name: str, version: str) -> tuple[str, str]:
    """(licence, classifiers) of an installed package, either of them '' if it names none.

    The licence is the metadata's License-Expression or one line of its License, or else, where there is no classifier
    either, the title of the package's licence file. FlowsepError if no licence is
    named, or another version is installed.
    """
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise FlowsepError(f"{name}: not installed; run make env") from error
    if package.version.split("+")[0] != version:  # torch appends + and the kind of build
        raise FlowsepError(f"{name}: {package.version} is installed, requirements.lock has {version}; run make env")
    about = package.metadata
    names = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    classifiers = ", ".join(line for line in names if line != "OSI Approved")
    licence = about.get("License-Expression") or about.get("License") or ""
    if "\n" in licence or licence == "UNKNOWN" or licence.startswith("Copyright"):  # a whole text, or no name of one
        licence = ""
    if not licence and not classifiers:
        files = [path for path in package.files or [] if re.match("LICEN[CS]E", path.name)]
        title = files[0].read_text().strip().splitlines()[0].strip() if files else ""
        licence = title if re.search("licen[cs]e", title, re.IGNORECASE) else ""
    if not licence and not classifiers:
        raise FlowsepError(f"{name}: neither its metadata nor its files name a licence; look for it, or do without")
    return licence, classifiers


def page() -> str:
    """LICENCES.md. FlowsepError as from `licence_of`, and if `NOTES` lists other packages than those with copyleft."""
    licences = {name: (version, *licence_of(name, version)) for name, version in pinned().items()}
    copyleft = {name for name, (_, *words) in licences.items() if COPYLEFT.search(" ".join(words))}
    if wrong := copyleft ^ set(NOTES):
        raise FlowsepError(f"{', '.join(sorted(wrong))}: copyleft by the metadata or by NOTES here, not by both")
    notes = "\n".join(f"- {name}: {NOTES[name]}" for name in sorted(NOTES))
    rows = "\n".join(f"| {' | '.join((name, *words))} |" for name, words in licences.items())
    return HEAD.format(copyleft=notes, rows=rows)


if __name__ == "__main__":
    write_text(ROOT / "LICENCES.md", page())
