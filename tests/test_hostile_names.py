"""Hostile names of tracks, stems, systems and files: none leaves its folder, overwrites another or becomes markup."""

import functools
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from helpers import RATE, make_stems, write_track
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from companion import load_profile
from companion.data.excerpts import keep_excerpt, load_excerpt
from companion.data.tracks import load_references
from companion.graph.cli import main as companion
from companion.scores.estimates import find_systems
from companion.scores.evaluate import COLUMNS, read_scores, write_scores
from companion.scores.museval_json import read_museval
from companion.show.player import StemPlayer
from companion.show.slider import PictureSlider
from companion.tables import plain, table_html, table_markdown
from flowsep import FlowsepError
from flowsep.cli import main
from flowsep.files import MAX_NAME, atomic_path, safe_name, write_text

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
# the same examples at every run, and no deadline, since a machine that is busy is no bug
FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=25,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PATHS = ["../", "..", "/", "\\", ".", " ", "x" * 300, "𝄞" * 90, "ä", "a\u0308", "-0123abcd"]
UNSEEN = ["\0", "\n", "\r", "\x1b[31m", "\x9b", "\u202e", "\u2028", "\ud800"]
HTML = ["<script>alert(1)</script>", "</script>", "<img src=x onerror=alert(1)>", '"', "'", "&", "&lt;"]
MARKDOWN = ["`", "|", "*", "_", "[x](javascript:alert(1))", "![](x)", "$x$", "${x}", "{{", "~~", ":::", "# "]
PARTS = st.sampled_from(PATHS + UNSEEN + HTML + MARKDOWN)
NAMES = st.one_of(st.text(max_size=20), st.lists(PARTS, min_size=1, max_size=5).map("".join))
TOLD = NAMES.map(lambda name: name.encode(errors="replace").decode())  # as a page or a score file may hold it


# ---- names of files


@settings(FUZZ, max_examples=300)
@given(name=NAMES)
def test_a_name_becomes_one_harmless_component_of_a_path(name):
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= MAX_NAME and safe == safe.strip() and safe.isprintable()
    assert not safe.startswith(".") and not safe.endswith(".")
    assert not set(safe) & set("/\\\0<>:\"'|?*`$;!~#%{}[]")
    assert (Path("/out") / f"{safe}.flac").resolve().parent == Path("/out")
    assert html.escape(safe.replace("&", "")) == safe.replace("&", "")


@settings(FUZZ, max_examples=300)
@given(one=NAMES, two=NAMES)
@example("a?", "a*")
@example("it's", "it’s")
@example("a?", safe_name("a?"))
@example("x" * 200, "x" * 201)
def test_two_names_never_share_a_file(one, two):
    assert (safe_name(one) == safe_name(two)) == (one == two)


def test_common_names_stay_readable():
    for name in ("Actions - One Minute Smile", "AM Contra - Heart Peripheral", "Ünïcode 音楽", "a+b, (live) & more"):
        assert safe_name(name) == name
    assert safe_name("Actions - Devil's Words") == "Actions - Devil’s Words"


def track_called(name: str, seed: int) -> SimpleNamespace:
    stems = {source: audio[:, : RATE // 4] for source, audio in make_stems(seed).items()}
    return SimpleNamespace(name=name, sample_rate=RATE, stem=stems.__getitem__, stems=stems)


@pytest.mark.parametrize(
    "names", [("../../out", "..?..?out"), ("a?", "a*"), ("/etc/x", "\\etc\\x"), ("x" * 5000, "x" * 5001)]
)
def test_excerpts_stay_in_their_folder_and_overwrite_none(tmp_path, names):
    profile = load_profile({"name": "x", "listen_seconds": 0.2})
    place = tmp_path / "results" / "audio" / "references"
    for seed, name in enumerate(names):
        track = track_called(name, seed)
        keep_excerpt(profile, track, track.stems | {"../bass": track.stems["bass"]}, place)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 * 5 and all(path.parent.parent == place for path in files)
    heard = [load_excerpt(tmp_path / "results", "references", name) for name in names]
    assert not np.array_equal(heard[0]["vocals"], heard[1]["vocals"])


def test_inputs_called_by_dots_are_written_inside(tmp_path, monkeypatch, tiny_prior):
    """`...wav` has the stem `..`, which leads out of any folder."""
    monkeypatch.chdir(tmp_path)
    for source in ("bass", "drums"):
        tiny_prior(0, source).save(tmp_path / "priors" / f"{source}.safetensors")
    for name in ("...wav", "..wav", "-v.wav", "a\x1b[31m'\"<b>.wav"):
        audio = 0.1 * np.random.default_rng(0).standard_normal((4096, 1))
        sf.write(tmp_path / name, audio, 22050, format="WAV")  # soundfile knows no format of "...wav"
    (tmp_path / "deep" / "out").mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    names = ["./...wav", "./..wav", "./-v.wav", "./a\x1b[31m'\"<b>.wav"]
    assert main(["separate", *names, "--priors", "priors", "--out", "deep/out", "--iterations", "1"]) == 0
    made = {path.parent.name for path in (tmp_path / "deep" / "out").rglob("bass.wav")}
    assert made == {"...wav", "..wav", "-v", "a\x1b[31m'\"<b>"}
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before


def test_the_terminal_gets_no_commands(tmp_path, capsys):
    assert main(["info", str(tmp_path / "a\x1b]0;owned\x07\x9b.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "\\x1b]0;owned\\x07\\x9b" in told and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told)


# ---- links


def test_a_link_in_the_place_of_a_file_is_replaced_itself(tmp_path):
    (tmp_path / "secret").write_text("old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.csv").symlink_to(tmp_path / "secret")
    write_text(tmp_path / "out" / "scores.csv", "new")
    assert (tmp_path / "secret").read_text() == "old"
    assert (tmp_path / "out" / "scores.csv").read_text() == "new" and not (tmp_path / "out" / "scores.csv").is_symlink()


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(FlowsepError, match=r"a\.csv: cannot write there .*choose another name"):
        write_text(tmp_path / "a.csv", "x")
    with pytest.raises(FlowsepError, match="cannot write there"), atomic_path(tmp_path / ("x" * 300) / "b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_commands_do_not_write_through_links_in_their_output(tmp_path, capsys, tiny_prior):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    tiny_prior().save(tmp_path / "priors" / "vocals.safetensors")
    sf.write(tmp_path / "song.wav", np.zeros((4096, 1)), 22050)
    (out / "song").symlink_to(elsewhere)
    command = ["separate", str(tmp_path / "song.wav"), "--priors", str(tmp_path / "priors"), "--out", str(out)]
    assert main([*command, "--force"]) == 2 and "is a link" in capsys.readouterr().err
    write_track(tmp_path / "references" / "one", make_stems(0))
    write_track(tmp_path / "estimates" / "one", make_stems(1))
    (out / "scores").symlink_to(elsewhere)
    command = ["score", str(tmp_path / "estimates"), "--references", str(tmp_path / "references"), "--out", str(out)]
    assert companion([*command, "--force"]) == 2 and "is a link" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


def test_a_circle_of_links_is_no_data_set(tmp_path):
    root = tmp_path / "references"
    write_track(root / "one", make_stems(0))
    (root / "loop").symlink_to(root / "loop")
    (root / "again").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "one" / "guitar.wav").symlink_to(root / "one" / "guitar.wav")
    dataset = load_references(root)
    assert [track.name for track in dataset.tracks] == ["one"]
    with pytest.raises(FlowsepError, match=r"guitar\.wav: no such file"):
        dataset.tracks[0].stem("guitar")


def test_names_that_no_file_can_hold_are_told(tmp_path):
    root = tmp_path / "references"
    write_track(root / "one", make_stems(0))
    shutil.copytree(root / "one", tmp_path / "estimates" / "a\udcffb" / "one")
    with pytest.raises(FlowsepError, match="no estimates there"):
        find_systems(tmp_path / "estimates", load_references(root))
    for name in ("a\udcffb", "a\rb", "a\x1bb"):
        shutil.copytree(root / "one", root / name)
        with pytest.raises(FlowsepError, match="not UTF-8 or holds control characters; rename it"):
            load_references(root)
        shutil.rmtree(root / name)


# ---- pages


class Tags(HTMLParser):
    """What a page is made of: elements with the names of their attributes, apart from any text."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append(
            (tag, *(key for key, _ in attrs), *(v for k, v in attrs if k in ("href", "src") and "#" not in v))
        )

    def handle_endtag(self, tag):
        self.found.append((f"/{tag}",))

    def handle_comment(self, data):
        self.found.append(("comment",))

    def handle_decl(self, decl):
        self.found.append(("declaration",))


def tags(page: str) -> list[tuple[str, ...]]:
    return Tags(page).found


SOUND = np.sin(np.arange(800, dtype=np.float32) / 5)[None] / 4


@FUZZ
@given(system=TOLD, stem=TOLD, title=TOLD)
def test_the_player_shows_names_as_text(system, stem, title):
    def page(system, stem, title):
        stems = {stem: SOUND, f"{stem}2": SOUND}
        return StemPlayer({system: stems, f"{system}2": stems}, 8000, title=title, format="flac")._repr_html_()

    assert tags(page(system or "a", stem, title or "a")) == tags(page("a", "b", "c"))


@FUZZ
@given(label=TOLD, title=TOLD, system=TOLD)
def test_the_slider_shows_names_as_text(label, title, system):
    picture = Figure(figsize=(1, 1), dpi=20)

    def page(label, title, system):
        return PictureSlider([picture] * 2, [label, "b"], title, systems=[system, "b"])._repr_html_()

    assert tags(page(label, title or "a", system)) == tags(page("a", "b", "c"))


FIRST = sorted((ROOT / "results" / "demo" / "scores").glob("*.csv"))[0]


@functools.cache
def few_scores() -> pd.DataFrame:
    frame = read_scores(FIRST)
    return frame[(frame["convention"] == "sisec18") & (frame["metric"] == "SDR")].head(6)


def scores_of(**names: str) -> pd.DataFrame:
    frame = few_scores().assign(**names)
    return frame.assign(track=[f"{track}{number}" for number, track in enumerate(frame["track"])])  # no row twice


FACTS = ("system", "variant", "supervision", "profile", "data", "data_hash", "checkpoint", "config_hash", "git_commit",
         "device", "versions", "track")  # fmt: skip


@FUZZ
@given(names=st.lists(TOLD, min_size=len(FACTS), max_size=len(FACTS)), stem=TOLD)
def test_tables_show_names_as_text(names, stem):
    hostile = dict(zip(FACTS, (name or "a" for name in names), strict=True)) | {"stem": stem}
    harmless = dict.fromkeys(FACTS, "a") | {"stem": "b"}
    settings = {"convention": "sisec18"}
    page = table_html(scores_of(**hostile), sources=[stem], **settings)
    assert tags(page) == tags(table_html(scores_of(**harmless), sources=["b"], **settings))
    text = table_markdown(scores_of(**hostile), sources=[stem], **settings)
    assert shown(text) == shown(table_markdown(scores_of(**harmless), sources=["b"], **settings))


def shown(markdown: str) -> list[tuple[str, ...]]:
    """The elements that a reader of tables, strokes and links makes of a text, HTML in it included."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return tags(reader.render(markdown))


@settings(FUZZ, max_examples=200)
@given(name=TOLD)
def test_text_in_markdown_stays_text(name):
    page = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(f"| a |\n|---|\n| x{plain(name)}x |\n")
    )
    assert tags(page) == shown("| a |\n|---|\n| x |\n")
    cell = re.search(r"<td>(.*)</td>", page)[1]
    expected = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", f"x{name}x").strip()
    assert html.unescape(cell).split() == expected.split()
    assert "$" not in plain(name).replace("\\$", "")


@FUZZ
@given(names=st.lists(TOLD, min_size=len(FACTS), max_size=len(FACTS)), chapter=TOLD)
def test_the_status_page_shows_facts_as_text(tmp_path, monkeypatch, names, chapter):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from build_book import status_page

    def page(chapter, **facts):
        run = NotebookNode(duration=1.0, end_time="2026-11-27T12:00:00", parameters={"system": chapter})
        cells = [new_markdown_cell("# Separating the test songs\nand more")]
        notebook = NotebookNode(metadata=NotebookNode(papermill=run), cells=cells)
        write_scores(scores_of(**facts), tmp_path / "scores" / "a.csv")
        write_text(tmp_path / "tables.json", json.dumps({"made_of": {facts["system"]: facts["data_hash"]}}))
        return status_page(tmp_path, {f"05_separate_{chapter}": notebook})

    odd = ("code", "/code", "a")  # what is odd is not set as code, and a link leads to its chapter
    hostile = page(chapter or "a", **dict(zip(FACTS, (name or "a" for name in names), strict=True)))
    without = [row for row in shown(hostile) if row[0] not in odd]
    assert without == [row for row in shown(page("a", **dict.fromkeys(FACTS, "a"))) if row[0] not in odd]


@FUZZ
@given(name=TOLD, file=TOLD)
def test_a_chapter_shows_the_names_that_it_was_run_with_as_text(tmp_path, monkeypatch, name, file):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import build_book

    notebook = new_notebook(cells=[new_markdown_cell("# Training a prior\nand more")])
    about = NotebookNode(input_path="notebooks/04.ipynb", duration=1.0, parameters={"source": name})
    notebook.metadata.papermill = about
    files = [file]
    monkeypatch.setattr(build_book, "data_of", lambda chapter, results: files)

    def told():
        page = build_book.how_to_run({"04_train_prior_x": notebook}, tmp_path / "demo")
        return page, [row for row in shown(page.replace(":::", "")) if row[0] != "a"]

    try:
        page, rows = told()
    except FlowsepError:
        assert not name.isprintable() or "`" in name
        return
    about.parameters["source"], files[:] = "x", ["x"]
    assert rows == told()[1]
    assert len(re.findall(r"^:::", page, re.MULTILINE)) == 2


@settings(FUZZ, max_examples=3)  # three figures each
@given(name=TOLD)
@example("$\\frac$")
def test_pictures_show_names_as_text(name):
    from companion import show

    frame = pd.DataFrame(
        {"stem": "bass", "system": [name or "a", "b"], "kind": "none", "value": [1.0, 2.0], "rival": name}
    )
    for figure in (show.score_boxes(frame), show.ranked_boxes(frame), show.paired_differences(frame, name)):
        figure.canvas.draw()


def test_others_scores_reach_the_table_as_text(tmp_path):
    path = tmp_path / "<b>x" / "test" / "a | b.json"
    path.parent.mkdir(parents=True)
    metrics = '{"SDR": 1, "SIR": 1, "ISR": 1, "SAR": 1}'
    path.write_text(
        f'{{"targets": [{{"name": "vocals", "frames": [{{"time": 0, "duration": 1, "metrics": {metrics}}}]}}]}}'
    )
    frame = read_museval(tmp_path)
    assert list(frame) == list(COLUMNS)
    assert "<b>" not in table_html(frame, convention="sisec18", sources=["vocals"])
