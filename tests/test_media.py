"""Pictures and sounds of a notebook, lifted out and put back; chapters that are kept for a book without training."""

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from companion import show
from flowsep.files import FlowsepError

TOOLS = Path(__file__).parent.parent / "tools"
SOUND = bytes(range(256)) * 4
NASTY = 'a "b" <script>alert(1)</script>'


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


DRAWN = Image.linear_gradient("L").resize((40, 30)).convert("RGB")


def png() -> bytes:
    buffer = io.BytesIO()
    DRAWN.save(buffer, "PNG")
    return buffer.getvalue()


def notebook(alt: str | None = None) -> nbformat.NotebookNode:
    """A chapter with a picture, and twice the same sound."""
    audio = f'<audio src="data:audio/mpeg;base64,{base64.b64encode(SOUND).decode()}"></audio>'
    about = {"image/png": {"alt": alt}} if alt else {}
    data = {"image/png": base64.b64encode(png()).decode(), "text/plain": "<Figure>"}
    drawn = new_output("display_data", data, metadata=about)
    heard = new_output("display_data", {"text/html": audio + audio, "text/plain": "<Player>"})
    cells = [new_markdown_cell("# Title\n\n## The loss"), new_code_cell("draw()", outputs=[drawn, heard])]
    return new_notebook(cells=cells)


def pages(made) -> list[str]:
    return [output["data"]["text/html"] for output in made.cells[1].outputs]


def test_what_is_taken_is_small_and_put_back_whole():
    import media

    made = notebook()
    taken = media.take(made)
    sound = f"{hashlib.sha256(SOUND).hexdigest()[:16]}.mp3"
    assert taken[sound] == SOUND and len(taken) == 2 == len(media.names(made))
    picture, heard = pages(made)
    assert "base64" not in picture + heard and heard.count(f"media:{sound}") == 2
    assert 'width="40" height="30"' in picture and 'alt="Figure of the section “The loss”."' in picture
    nbformat.validate(made)
    whole = nbformat.from_dict(made)
    media.whole(whole, taken)
    actual = media.DATA.findall("".join(pages(whole)))
    assert [kind for kind, _ in actual] == ["image/webp", "audio/mpeg", "audio/mpeg"]
    assert base64.b64decode(actual[1][1]) == SOUND
    with Image.open(io.BytesIO(base64.b64decode(actual[0][1]))) as shown:
        assert shown.convert("RGB").tobytes() == DRAWN.tobytes()  # a small picture: nothing is lost
    assert media.take(whole) == taken  # and once more, to the byte


def test_on_a_page_pictures_and_sounds_are_files_and_each_sound_a_script_for_pages_on_disk():
    import media

    made = notebook()
    taken = media.take(made)
    files = media.place(made, taken, "../_media")
    picture, heard = pages(made)
    assert "base64" not in picture + heard and files.items() > taken.items()
    image, sound = sorted(taken, key=lambda name: name.endswith(".mp3"))
    assert f'src="../_media/{image}"' in picture and heard.count(f'src="../_media/{sound}"') == 2
    assert files.keys() - taken.keys() == {f"{sound}.js"}
    assert base64.b64decode(re.search(r'= "(.*)";$', files[f"{sound}.js"].decode())[1]) == SOUND


def test_a_caption_in_the_metadata_of_a_cell_stands_below_its_picture():
    import media

    made = notebook()
    made.cells[1].metadata["caption"] = NASTY
    media.take(made)
    media.caption(made)
    picture, heard = pages(made)
    caption = 'a "b" &lt;script&gt;alert(1)&lt;/script&gt;'
    assert picture.startswith('<figure class="flowsep-figure"><img ')
    assert picture.endswith(f"<figcaption>{caption}</figcaption></figure>") and "figure" not in heard


def test_the_text_of_a_picture_is_escaped():
    import media

    made = notebook(alt=NASTY)
    media.take(made)
    assert "<script>" not in pages(made)[0] and "a &quot;b&quot; &lt;script&gt;" in pages(made)[0]


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results" / "x"
    (folder / "scores").mkdir(parents=True)
    (folder / "scores" / "nmf.csv").write_text("a,b\n1,2\n")
    (folder / "data.json").write_text('{"name": "toyband"}')
    return folder


def test_chapters_of_songs_that_nobody_may_hand_on_are_kept_without_sounds(results):
    import kept
    import media

    stems = {"bass": np.sin(np.arange(8000) / 20)}
    silent, free = (
        show.StemPlayer(stems, 8000, title="T", licence=licence)._repr_html_() for licence in ("", "CC <BY>")
    )
    outputs = [new_output("display_data", {"text/html": page}) for page in (silent + "<p>after</p>", free)]
    made = new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("show()", outputs=outputs)])
    stored = media.take(made)
    (results / "data.json").write_text('{"name": "musdb18-7s"}')
    kept.keep(results, {"01_data": made}, stored)
    text = (results / "book" / "01_data.ipynb").read_text()
    assert "MUSDB18's licence lets nobody hand on its songs" in text and "make book PROFILE=x" in text
    assert "<p>after</p>" in text and "CC &lt;BY&gt;" in text
    sounds = [path for path in (results / "book" / "media").iterdir() if path.suffix in (".mp3", ".flac")]
    assert len(sounds) == 1 and sounds[0].name in text  # its licence is on the page


def test_kept_chapters_hold_each_sound_once_and_know_their_scores(results):
    import kept
    import media

    one, two = notebook(), notebook()
    stored = media.take(one) | media.take(two)
    names = ["05_separate_a", "05_separate_b"]
    kept.keep(results, {"01_old": one}, stored)
    kept.keep(results, dict(zip(names, (one, two), strict=True)) | {"06_results": one}, stored)
    # what tables make is made again with each build, and what was there before is gone
    chapters = {path.stem: nbformat.read(path, as_version=4) for path in (results / "book").glob("*.ipynb")}
    assert sorted(chapters) == names and all(media.names(notebook) == set(stored) for notebook in chapters.values())
    assert {path.name: path.read_bytes() for path in (results / "book" / "media").iterdir()} == stored
    assert json.loads((results / "book" / "kept.json").read_text())["scores"] == kept.hash_of_scores(results)
    (results / "scores" / "nmf.csv").write_text("a,b\n1,3\n")
    with pytest.raises(FlowsepError, match=r"of other scores than .*make book keep PROFILE=x"):
        kept.unpack(results, results)


def test_without_kept_chapters_it_is_said_how_to_make_them(results):
    import kept

    with pytest.raises(FlowsepError, match=r"no kept chapters; make the book and keep it: make book keep PROFILE=x"):
        kept.unpack(results, results)
