"""The stem player: what it refuses, what it leaves alone, and how it behaves under a real mouse in a real browser."""

import base64
import contextlib
import functools
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import stempeg
from browser import launch, open_page

from companion.data.tracks import MUSDB_SOURCES, STREAMS, Track
from companion.scores import sdr
from companion.show.player import MP3_RATES, StemPlayer
from flowsep import confidence

RATE = 44100
CLICK = 0.25  # seconds: where the click trains have their first click
NASTY = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>\"'&`${hurt}"


def tone(frequency, seconds=4.0, level=0.2):
    return level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def clicks(rate=RATE, seconds=2.0, level=0.8):
    audio = np.zeros(int(seconds * rate), np.float32)
    audio[int(CLICK * rate) :: int(0.5 * rate)] = level
    return audio


def band(factor=1.0):
    return {name: factor * tone(f) for name, f in {"vocals": 440, "bass": 110, "drums": 880, "other": 330}.items()}


class Audios(HTMLParser):
    """The attributes of every `<audio>` tag, and the names of all tags."""

    def __init__(self, html):
        super().__init__()
        self.attributes, self.tags = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "audio":
            self.attributes.append(dict(attrs))


def audios(player):
    return Audios(player._repr_html_()).attributes


def decoded(audio):
    return soundfile.read(io.BytesIO(base64.b64decode(audio["src"].split(",", 1)[1])), always_2d=True)


# ---- what Python puts into the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ({}, "no stems"),
        ({"nmf": {}}, "no stems"),
        ({"bass": tone(100), "drums": tone(100)[:-1]}, "'drums' has 176399 samples, 'bass' has 176400"),
        ({"a": {"bass": tone(100)}, "b": {"bass": tone(100)[:-1]}}, "'bass' of system 'b' has 176399"),
        ({"a": {"bass": tone(100)}, "b": {"drums": tone(100)}}, r"system 'b' has the stems \['drums'\]"),
        ({"bass": np.array([0, np.nan])}, "'bass' holds NaN"),
        ({"bass": np.array([0, np.inf])}, "'bass' holds NaN or inf"),
    ],
)
def test_wrong_stems_are_named(systems, message):
    with pytest.raises(ValueError, match=message):
        StemPlayer(systems, RATE)


def test_levels_are_left_alone():
    quiet = {"bass": tone(100, level=0.01), "drums": tone(200, level=0.5)}
    player = StemPlayer(quiet, RATE, format="flac")
    assert player.scale == 1
    for audio, stem in zip(audios(player), quiet.values(), strict=True):
        np.testing.assert_allclose(decoded(audio)[0][:, 0], stem, atol=2**-15)
    assert "quieter" not in player._repr_html_()


@pytest.mark.parametrize(
    ("stems", "scale"),
    [
        ({"bass": tone(100, level=2.0), "drums": 0 * tone(100)}, 0.5),
        ({"bass": tone(100, level=0.8), "drums": tone(100, level=0.8)}, 1 / 1.6),  # each fits, their sum would clip
        ({"mixture": tone(100, level=0.8), "bass": tone(100, level=0.8)}, 1),  # a mixture is not heard beside its stems
        ({"nmf": {"bass": tone(100, level=0.5)}, "irm": {"bass": tone(100, level=4.0)}}, 0.25),  # one for all systems
    ],
)
def test_too_loud_stems_share_one_factor_and_the_page_says_so(stems, scale):
    player = StemPlayer(stems, RATE, format="flac")
    assert player.scale == pytest.approx(scale, rel=1e-4)
    peaks = [np.abs(decoded(audio)[0]).max() for audio in audios(player)]
    given = [np.abs(v).max() for s in stems.values() for v in (s.values() if isinstance(s, dict) else [s])]
    np.testing.assert_allclose(peaks, np.array(given) * scale, atol=2**-14)
    notice = re.search(r"data-note=\"([^\"]*)\"", player._repr_html_())[1]
    assert notice == (
        "" if scale == 1 else f"All stems are {-20 * np.log10(scale):.1f} dB quieter than the files, so none clips."
    )


def test_stereo_stays_stereo():
    stereo = {"bass": np.stack([tone(100), 0 * tone(100)])}
    actual, _ = decoded(audios(StemPlayer(stereo, RATE, format="flac"))[0])
    np.testing.assert_allclose(actual, stereo["bass"].T, atol=2**-15)


def test_the_played_stems_are_close_to_the_scored_ones_and_sum_to_the_mixture():
    """As MP3: each stem at least 25 dB above its error, and the error of the sum 25 dB below the mixture."""
    files = dict.fromkeys(STREAMS, (Path(stempeg.example_stem_path()),))
    song = Track("Falcon 69", "test", files, MUSDB_SOURCES)
    inside = slice(RATE // 10, -RATE // 10)  # the cut of the file left a click at both ends
    player = StemPlayer({source: stem[:, inside] for source, stem in song.stems().items()}, song.sample_rate)
    stems = {source: player.scale * stem for source, stem in player.systems[""].items()}
    played = [decoded(audio)[0].T for audio in audios(player)]
    for stem, sound in zip(stems.values(), played, strict=True):
        assert sdr(stem, sound) >= 25
    assert sdr(sum(stems.values()), sum(played)) >= 25


@pytest.mark.parametrize("rate", [*MP3_RATES, 88200, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_keeps_length_and_position_at_every_rate(rate, channels):
    player = StemPlayer({"drums": np.tile(clicks(rate)[:-8], (channels, 1))}, rate)
    samples, stored = decoded(audios(player)[0])
    assert stored == min(rate, 48000)
    assert samples.shape == (round((2 * rate - 8) * stored / rate), channels)
    assert np.abs(samples[: stored // 2, 0]).argmax() == round(int(CLICK * rate) * stored / rate)


@pytest.mark.parametrize("samples", [1, 10, 441])
def test_tiny_and_silent_stems_make_a_page(samples):
    audio = audios(StemPlayer({"x": np.zeros(samples)}, RATE))[0]
    assert decoded(audio)[0].shape == (max(1, samples), 1)
    assert set(base64.b64decode(audio["data-peaks"])) == {0}


def test_waveforms_hold_peaks_and_rms_relative_to_the_loudest():
    audio = audios(StemPlayer({"bass": np.full(4000, 0.5), "drums": np.full(4000, 0.25)}, RATE))
    heights = [np.frombuffer(base64.b64decode(a["data-peaks"]), np.uint8) for a in audio]
    assert [len(h) for h in heights] == [1600, 1600]
    np.testing.assert_array_equal(heights[0], 255)
    np.testing.assert_array_equal(heights[1], round(255 * 0.5**0.6))


def test_presets_are_the_usual_ones():
    html = StemPlayer({"mixture": tone(50), **band()}, RATE)._repr_html_()
    presets = json.loads(re.search('data-presets="([^"]*)"', html)[1].replace("&quot;", '"'))
    stems = ["vocals", "bass", "drums", "other"]
    usual = {"all stems": stems, "mixture": ["mixture"], "without vocals": stems[1:], "bass and drums": stems[1:3]}
    assert presets == usual


def test_matched_levels_are_those_of_the_first_system():
    quiet, silent = {"bass": tone(100, level=0.1)}, {"bass": np.zeros(4 * RATE)}
    systems = {
        "first": {"bass": tone(100)},
        "quiet": quiet,
        "silent": silent,
        "faint": {"bass": tone(100, level=0.001)},
    }
    factors = [float(audio["data-match"]) for audio in audios(StemPlayer(systems, RATE))]
    assert factors == pytest.approx([1, 2, 1, 10 ** (12 / 20)], rel=1e-3)  # 0.2 to 0.1; silence stays; 12 dB at most


def test_lanes_of_estimates_tell_how_far_each_second_can_be_trusted():
    """Tones apart are certain, equal stems a coin's toss; the last half second counts, a silent stem has no number."""
    apart, equal = {"vocals": tone(440), "bass": tone(3000)}, dict.fromkeys(("vocals", "bass"), tone(440))
    silent = {"vocals": tone(440), "bass": 0 * tone(440)}
    player = StemPlayer({"true": apart, "a": apart, "b": equal, "c": silent}, RATE, confident=("a", "b", "c"))
    told = [[*map(float, audio.get("data-confidence", "").split())] for audio in audios(player)]
    assert [len(ratios) for ratios in told] == [0, 0] + [4] * 6
    assert min(told[2] + told[3]) > 20
    np.testing.assert_allclose(told[4] + told[5], 8 * [confidence.OFFSET], atol=0.06)
    assert np.isnan(told[7]).all()
    assert "each lane of a and b and c says how far" in player._repr_html_()
    short = {name: audio[: int(1.6 * RATE)] for name, audio in apart.items()}
    (first, _) = audios(StemPlayer(short, RATE, confident=("",)))
    assert len(first["data-confidence"].split()) == 2


@pytest.mark.browser
def test_the_strip_follows_the_system_and_the_zoom(page_with):
    apart, equal = {"vocals": tone(440), "bass": tone(3000)}, dict.fromkeys(("vocals", "bass"), tone(440))
    player = StemPlayer({"true": apart, "sure": apart, "unsure": equal}, RATE, confident=("sure", "unsure"))
    with page_with(player) as page:
        parts = "[...el.shadowRoot.querySelectorAll('.lane')[0].querySelectorAll('.strip i')]"
        assert at(page, f"{parts}.length") == 0
        at(page, "el.select('sure')")
        wait(page, f"{parts}.length === 4")
        assert at(page, f"{parts}.map((part) => part.style.opacity)") == ["1"] * 4
        assert at(page, f"{parts}.map((part) => part.style.left)") == ["0%", "25%", "50%", "75%"]
        at(page, "el.select('unsure')")
        wait(page, f"Number({parts}[0].style.opacity) < 0.1")


def test_names_are_never_markup():
    player = StemPlayer({NASTY: {NASTY: tone(100)}, "b": {NASTY: tone(100)}}, RATE, title=NASTY)
    parsed = Audios(player._repr_html_())
    assert sorted(set(parsed.tags)) == ["audio", "figcaption", "figure", "flowsep-player", "p", "script", "strong"]
    assert parsed.tags.count("script") == 1
    assert [audio["data-stem"] for audio in parsed.attributes] == [NASTY, NASTY]
    assert parsed.attributes[0]["data-system"] == NASTY


def test_the_page_is_light_and_asks_for_nothing():
    """Ten seconds of five stems like a band's: decaying harmonics, bursts of noise and a voice that pauses."""
    rng = np.random.default_rng(0)
    time = np.arange(10 * RATE) / RATE
    decay = np.exp(-6 * (time % 0.5))

    def notes(pitches, partials):
        pitch = np.asarray(pitches)[(time / 0.5).astype(int) % len(pitches)]
        return sum(np.sin(2 * np.pi * k * pitch * time) / k**1.5 for k in range(1, partials))

    stems = {
        "vocals": 0.2 * notes([440, 494, 523, 440], 20) * (time % 4 < 3),
        "bass": 0.3 * notes([55, 65, 73, 49], 12) * decay**0.3,
        "drums": 0.3 * rng.standard_normal(time.size) * decay**4,
        "other": 0.1 * (notes([220, 262, 294, 196], 15) + notes([330, 392, 440, 294], 15)) * decay**0.5,
    }
    html = StemPlayer({"mixture": sum(stems.values()), **stems}, RATE)._repr_html_()
    assert len(html) < 700_000
    assert html.count("<script") == html.count("</script") == 1
    assert set(re.findall(r"https?://[^\"'\s]+", html)) == {"http://www.w3.org/2000/svg"}


# ---- in the browser --------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>players</title>
<meta name="viewport" content="width=device-width"><style>:root {{ color-scheme: light dark }}</style>
<script>
  // What the browser's mixer was told and gave out: every start of a source, and the sound before the loudspeaker.
  window.starts = [];
  const start = AudioBufferSourceNode.prototype.start, connect = AudioNode.prototype.connect;
  AudioBufferSourceNode.prototype.start = function (when, offset) {{
    starts.push({{ when, offset, rate: this.context.sampleRate, length: this.buffer.length, context: this.context }});
    return start.call(this, when, offset);
  }};
  AudioNode.prototype.connect = function (target, ...rest) {{
    if (target === this.context.destination) {{
      window.tap ??= new AnalyserNode(this.context, {{ fftSize: 4096 }});
      connect.call(this, tap);
    }}
    return connect.call(this, target, ...rest);
  }};
  window.loudness = () => {{
    const now = new Float32Array(4096);
    tap.getFloatTimeDomainData(now);
    return Math.sqrt(now.reduce((sum, v) => sum + v * v, 0) / now.length);
  }};
</script>{}</html>"""


@pytest.fixture(scope="module")
def page_with():
    """A function that opens a page with players; afterwards there was no console error and no request to any host."""

    @contextlib.contextmanager
    def opened(*players, edit=str, **options):
        html = PAGE.format("<p>text</p>".join(map(rendered, players)))
        with open_page(edit(html), browser=browser, **options) as page:
            yield page
            assert page.console_errors == []
            assert page.requests == []

    rendered = functools.cache(StemPlayer._repr_html_)  # encoding a player's sound takes longer than opening its page
    with launch() as browser:
        yield opened


def at(page, expression, index=0):
    """A JavaScript expression about `el`, the player number `index`."""
    return page.evaluate(
        f"(() => {{ const el = document.querySelectorAll('flowsep-player')[{index}]; return {expression} }})()"
    )


def wait(page, condition, index=0):
    page.wait_for_function(
        f"(() => {{ const el = document.querySelectorAll('flowsep-player')[{index}]; return {condition} }})()"
    )


@pytest.fixture(scope="module")
def two():
    systems = {"reference": band(), "instglow": band(0.5), "nmf": band(0.25)}
    return StemPlayer(systems, RATE, title="First"), StemPlayer(band(), RATE, title="Second")


@pytest.mark.browser
def test_playing_with_a_mouse(two, page_with):
    with page_with(*two) as page:
        first, second = page.locator("flowsep-player").all()
        assert page.locator("audio:visible").count() == 0
        assert at(page, "[el.playing, el.currentTime, el.duration]") == [False, 0, 4]
        assert page.evaluate("starts.length") == 0  # nothing decoded, no context, before the first click

        first.get_by_role("button", name="Repeat").click()  # a slow machine may take longer than the song
        first.get_by_role("button", name="Play").click()
        wait(page, "el.currentTime > 0.3")
        assert at(page, "el.playing")
        assert page.evaluate("loudness()") > 0.05
        before = at(page, "el.currentTime")
        page.wait_for_timeout(500)
        assert 0.4 < (at(page, "el.currentTime") - before) % 4 < 3

        lane = first.locator(".lane").nth(1)
        box = lane.bounding_box()
        lane.click(position={"x": box["width"] / 2, "y": 10})
        assert 1.9 < at(page, "el.currentTime") < 3.5
        assert at(page, "el.playing")

        second.get_by_role("button", name="Play").click()
        wait(page, "el.playing && el.currentTime > 0.1", 1)
        assert not at(page, "el.playing")
        assert page.evaluate("new Set(starts.map((s) => s.context)).size") == 1

        second.get_by_role("button", name="Pause").click()
        held = at(page, "el.currentTime", 1)
        page.wait_for_timeout(300)
        assert at(page, "el.currentTime", 1) == held
        assert page.evaluate("loudness()") < 1e-4


@pytest.mark.browser
def test_solo_mute_and_gain(two, page_with):
    with page_with(two[0]) as page:

        def levels():
            return {name: round(value, 4) for name, value in at(page, "el.levels").items()}

        page.get_by_role("button", name="Play").click()
        wait(page, "el.currentTime > 0.1")
        page.get_by_role("button", name="Repeat").click()
        page.get_by_role("button", name="Mute bass").click()
        assert levels() == {"vocals": 1, "bass": 0, "drums": 1, "other": 1}
        page.get_by_role("button", name="Solo bass").click()
        assert levels() == {"vocals": 0, "bass": 1, "drums": 0, "other": 0}
        page.wait_for_timeout(300)
        assert page.evaluate("loudness()") == pytest.approx(
            0.2 / np.sqrt(2), rel=0.05
        )  # the bass alone, as it was given
        page.get_by_label("Gain of bass").fill("-20")
        assert levels()["bass"] == 0.1
        page.wait_for_timeout(300)
        assert page.evaluate("loudness()") == pytest.approx(0.02 / np.sqrt(2), rel=0.05)
        page.get_by_label("Gain of bass").fill("-30")
        assert levels()["bass"] == 0
        page.get_by_label("Gain of bass").dblclick()
        assert levels()["bass"] == 1
        assert page.get_by_role("button", name="Solo bass").get_attribute("aria-pressed") == "true"


@pytest.mark.browser
def test_a_mixture_starts_muted_and_solo_brings_it_back(page_with):
    with page_with(StemPlayer({"mixture": sum(band().values()), **band()}, RATE)) as page:
        assert at(page, "el.levels") == {"mixture": 0, "vocals": 1, "bass": 1, "drums": 1, "other": 1}
        page.get_by_role("button", name="Solo mixture").click()
        assert at(page, "el.levels") == {"mixture": 1, "vocals": 0, "bass": 0, "drums": 0, "other": 0}


@pytest.mark.browser
def test_systems_switch_at_the_same_playhead_on_the_same_frame(two, page_with):
    with page_with(two[0]) as page:
        page.get_by_role("button", name="Repeat").click()
        at(page, "el.seek(0.123456)")
        page.get_by_role("button", name="Play").click()
        wait(page, "el.currentTime > 0.4")
        for system in ("instglow", "nmf", "reference"):
            before = at(page, "el.currentTime")
            page.get_by_role("button", name=system, exact=True).click()
            wait(page, f"el.system === '{system}' && starts.length >= {4 if system == 'reference' else 8}")
            assert (at(page, "el.currentTime") - before) % 4 < 3
            assert at(page, "el.playing")
        page.wait_for_timeout(400)
        starts = page.evaluate("starts.map(({ context, ...start }) => start)")
        assert len(starts) == 12  # three systems of four stems, each started once
        rate, length = starts[0]["rate"], starts[0]["length"]
        zero = np.array([(s["when"] - s["offset"]) * rate for s in starts])  # the frame at which each one's time 0 lay
        np.testing.assert_allclose(zero, np.round(zero), atol=1e-5)
        assert len(set(np.round(zero).astype(int) % length)) == 1
        assert {s["length"] for s in starts} == {4 * rate}


@pytest.mark.browser
def test_stems_of_different_systems_cancel_to_the_frame(page_with):
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.1
    with page_with(StemPlayer({"plus": noise, "minus": -noise}, RATE, format="flac")) as page:
        page.get_by_role("button", name="Repeat").click()
        at(page, "el.seek(1.7)")
        page.get_by_role("button", name="Play").click()
        wait(page, "el.currentTime > 0.3 && el.currentTime < 1")  # the loop has passed its end
        assert page.evaluate("loudness()") < 1e-5
        page.get_by_role("button", name="Mute minus").click()
        page.wait_for_timeout(300)
        assert page.evaluate("loudness()") == pytest.approx(0.1, rel=0.2)


@pytest.mark.browser
def test_the_keyboard(two, page_with):
    with page_with(two[0]) as page:
        page.get_by_role("slider", name="Position").focus()
        page.keyboard.press("Space")
        wait(page, "el.playing && el.currentTime > 0.05")
        page.keyboard.press("Space")
        assert not at(page, "el.playing")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        assert at(page, "el.currentTime") == 1
        assert page.get_by_role("slider", name="Position").get_attribute("aria-valuetext") == "1.0 of 4.0 seconds"
        page.keyboard.press("End")
        assert at(page, "el.currentTime") == 4
        page.keyboard.press("2")
        page.keyboard.press("Shift+Digit3")
        assert page.get_by_role("button", name="Solo bass").get_attribute("aria-pressed") == "true"
        assert page.get_by_role("button", name="Mute drums").get_attribute("aria-pressed") == "true"
        page.keyboard.press("n")
        assert at(page, "el.system") == "instglow"
        page.get_by_label("Gain of bass").focus()
        page.keyboard.press("ArrowLeft")
        assert at(page, "el.currentTime") == 4  # the gain slider keeps its own arrows
        assert at(page, "el.levels.bass") == pytest.approx(10 ** (-1 / 20))


@pytest.mark.browser
def test_space_and_arrows_move_the_song_after_any_click(two, page_with):
    """A button that was clicked keeps the focus; Enter presses it again, Space does not."""
    with page_with(two[0]) as page:
        for name in ("Solo bass", "nmf", "Repeat"):
            button = page.get_by_role("button", name=name, exact=True)
            button.click()
            pressed = button.get_attribute("aria-pressed")
            page.keyboard.press("Space")
            wait(page, "el.playing && el.currentTime > 0.01")
            page.keyboard.press("Space")
            assert not at(page, "el.playing") and button.get_attribute("aria-pressed") == pressed == "true"
            page.keyboard.press("Home")
            page.keyboard.press("ArrowRight")
            assert at(page, "[el.currentTime, el.system]")[0] == 1
        page.get_by_role("button", name="Solo bass").focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("button", name="Solo bass").get_attribute("aria-pressed") == "false"


@pytest.mark.browser
def test_the_list_of_keys_opens_and_closes(two, page_with):
    with page_with(two[0]) as page:
        page.get_by_role("button", name="Keys").click()
        assert page.locator("flowsep-player .keys").is_visible()
        listed = " ".join(page.locator("flowsep-player .keys dt").all_inner_texts())
        assert all(key in listed for key in ("Space", "N", "E", "L", "V", "B", "?", "[ ]"))
        page.keyboard.press("?")
        assert not page.locator("flowsep-player .keys").is_visible()


@pytest.mark.browser
def test_one_volume_for_all_players(two, page_with):
    with page_with(*two) as page:
        page.locator("flowsep-player").nth(1).get_by_role("button", name="Repeat").click()
        page.locator("flowsep-player").nth(1).get_by_role("button", name="Play").click()
        wait(page, "el.currentTime > 0.1", 1)
        page.wait_for_timeout(300)
        loud = page.evaluate("loudness()")
        page.locator("flowsep-player").nth(0).get_by_label("Volume of all players").fill("0.5")
        page.wait_for_timeout(400)
        assert page.evaluate("loudness()") == pytest.approx(loud / 2, rel=0.05)
        assert page.locator("flowsep-player").nth(1).get_by_label("Volume of all players").input_value() == "0.5"


@pytest.mark.browser
def test_a_blind_test_names_its_systems_after_the_choice(two, page_with):
    """The true stems are no candidate, no name is shown before the choice, and the tally counts."""
    with page_with(two[0]) as page:
        page.get_by_role("button", name="Blind test").click()
        names = page.locator("flowsep-player .systems button").all_inner_texts()
        assert names == ["A", "B", "I prefer A", "I prefer B"]
        assert at(page, "el.system") in ("nmf", "instglow")
        for button in page.locator("flowsep-player .systems button").all():
            assert not {"nmf", "instglow"} & set((button.get_attribute("title") or "").split())
        before = at(page, "el.system")
        page.keyboard.press("n")
        assert {before, at(page, "el.system")} == {"nmf", "instglow"}
        chosen = at(page, "el._blind.B")
        page.get_by_role("button", name="I prefer B").click()
        told = page.locator("flowsep-player .status").inner_text()
        assert f"You preferred {chosen}; A was " in told and f"So far: {chosen} 1." in told
        page.get_by_role("button", name="I prefer A").click()
        assert " 2." in (told := page.locator("flowsep-player .status").inner_text()) or told.count(" 1") == 2
        page.get_by_role("button", name="Blind test").click()
        assert page.locator("flowsep-player .systems button").all_inner_texts() == at(page, "el.systems")


@pytest.mark.browser
def test_a_link_leads_to_system_and_moment_and_stems_are_saved(two, page_with, tmp_path):
    with page_with(*two) as page:
        page.get_by_role("button", name="nmf", exact=True).click()
        at(page, "el.seek(1.5)")
        page.locator("flowsep-player").nth(0).get_by_role("button", name="Copy link").click()
        address = page.evaluate("location.href")
        assert "player=0" in address and "system=nmf" in address and "t=1.5" in address
        at(page, "(el.seek(0), el.select('reference'), null)")
        page.evaluate("location.hash = ''")
        page.evaluate(f"location.hash = {json.dumps(address.partition('#')[2])}")
        wait(page, "el.system === 'nmf' && el.currentTime === 1.5")
        assert at(page, "el.currentTime", 1) == 0
        page.evaluate("location.hash = 'player=0&system=<b>&t=nonsense'")
        wait(page, "el.currentTime === 0 && el.system === 'nmf'")
        saved = []
        page.on("download", lambda download: saved.append(download))
        page.locator("flowsep-player").nth(0).get_by_role("button", name="Download").click()
        for _ in range(50):
            page.wait_for_timeout(100)
            if len(saved) == 4:
                break
        assert {d.suggested_filename for d in saved} == {f"First - nmf - {stem}.mp3" for stem in band()}
        saved[0].save_as(tmp_path / "stem.mp3")
        assert soundfile.info(tmp_path / "stem.mp3").duration == pytest.approx(4, abs=0.05)


@pytest.mark.browser
def test_a_dragged_part_is_repeated_sample_by_sample(two, page_with):
    """0.5 s of a song whose halves differ: only the part is ever heard, and its ends are on audio frames."""
    with page_with(two[0]) as page:
        lane = page.locator("flowsep-player .lane").first
        box = lane.bounding_box()
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.25, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.3, y)
        page.mouse.move(box["x"] + box["width"] * 0.375, y)
        assert page.locator("flowsep-player [data-region]").count() == 1  # framed while it is dragged
        page.mouse.up()
        assert at(page, "el.region") == pytest.approx([1.0, 1.5], abs=0.01)
        assert at(page, "el.currentTime") == at(page, "el.region[0]")
        page.get_by_role("button", name="Play").click()
        wait(page, "el.playing && el._voice")
        times = []
        for _ in range(12):
            page.wait_for_timeout(100)
            times.append(at(page, "el.currentTime"))
        assert all(0.98 <= t <= 1.52 for t in times) and np.any(np.diff(times) < 0)
        ends = page.evaluate(
            """[...document.querySelector('flowsep-player')._voice.nodes.values()].flat().map(({ source: s }) =>
              [s.loop, s.loopStart * s.context.sampleRate, s.loopEnd * s.context.sampleRate])"""
        )
        assert all(end == ends[0] and end[0] for end in ends)
        assert np.allclose(ends[0][1:], np.round(ends[0][1:]), atol=1e-6)
        page.get_by_role("slider", name="Position").focus()
        page.keyboard.press("Escape")
        assert at(page, "[el.region, el._loop]") == [None, False]
        wait(page, "!el.playing")  # it goes on to the end
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("[")
        assert at(page, "el.region") == [1, 4]
        page.keyboard.press("ArrowRight")
        page.keyboard.press("]")
        assert at(page, "el.region") == [1, 2]
        page.keyboard.press("ArrowRight")  # out of it
        assert at(page, "[el.region, el.currentTime]") == [None, 2]


@pytest.mark.browser
def test_zoom_follows_the_playhead_and_clicks_go_where_they_point(two, page_with):
    with page_with(two[0]) as page:
        at(page, "el.seek(2)")
        for _ in range(2):
            page.get_by_role("button", name="Zoom in").click()
        assert at(page, "el.view") == [1.5, 2.5]
        lane = page.locator("flowsep-player .lane").first
        box = lane.bounding_box()
        lane.click(position={"x": box["width"] * 0.75, "y": 10})
        assert at(page, "el.currentTime") == pytest.approx(2.25, abs=0.01)
        assert page.locator("flowsep-player .ruler span").first.text_content() == "1.6"  # every 0.2 s
        at(page, "el.seek(4)")
        assert at(page, "el.view") == [3, 4]
        page.get_by_role("slider", name="Position").focus()
        for key in "---":
            page.keyboard.press(key)
        assert at(page, "el.view") == [0, 4]
        assert page.get_by_role("button", name="Zoom out").is_disabled()


@pytest.mark.browser
def test_pan_presets_and_matched_levels(two, page_with):
    """Two stems panned apart: each side of the mixer holds its own; quieter systems are brought up on request."""
    with page_with(two[0]) as page:
        page.get_by_label("Preset").select_option("bass and drums")
        assert at(page, "el.levels") == {"vocals": 0, "bass": 1, "drums": 1, "other": 0}
        page.get_by_label("Pan of bass").fill("-1")
        page.get_by_label("Pan of drums").fill("1")
        assert page.get_by_label("Pan of drums").get_attribute("aria-valuetext") == "100 % right"
        page.get_by_role("button", name="Repeat").click()
        page.get_by_role("button", name="Play").click()
        wait(page, "el.currentTime > 0.1")
        sides = page.evaluate(
            """async () => {
              const { output } = document.querySelector('flowsep-player')._voice;
              const split = output.context.createChannelSplitter(2);
              const taps = [0, 1].map(() => new AnalyserNode(output.context, { fftSize: 8192 }));
              output.connect(split);
              taps.forEach((tap, c) => split.connect(tap, c));
              await new Promise((done) => setTimeout(done, 500));
              return taps.map((tap) => {
                const now = new Float32Array(8192);
                tap.getFloatTimeDomainData(now);
                return [...now];
              });
            }"""
        )
        rate = page.evaluate("starts[0].rate")
        for side, frequency in zip(sides, (110, 880), strict=True):
            spectrum = np.abs(np.fft.rfft(np.asarray(side) * np.hanning(8192)))
            assert spectrum.argmax() == pytest.approx(frequency * 8192 / rate, abs=1)
            assert np.sqrt(np.mean(np.square(side))) == pytest.approx(
                0.2 / np.sqrt(2), rel=0.05
            )  # no louder than before
        page.get_by_label("Preset").select_option("all stems")
        assert at(page, "el.levels") == dict.fromkeys(band(), 1)
        page.get_by_role("button", name="instglow", exact=True).click()
        page.get_by_role("button", name="Match levels").click()
        assert at(page, "el.levels.bass") == pytest.approx(2, rel=1e-3)
        page.wait_for_timeout(300)
        loud = [page.evaluate("loudness()")]
        page.get_by_role("button", name="reference", exact=True).click()
        page.wait_for_timeout(300)
        assert at(page, "el.levels.bass") == 1
        assert page.evaluate("loudness()") == pytest.approx(loud[0], rel=0.1)


@pytest.mark.browser
def test_spectrograms_show_where_the_tones_are(two, page_with):
    with page_with(two[0]) as page:
        assert page.locator("canvas").count() == 0
        page.get_by_role("button", name="Spectrograms").click()
        page.locator("flowsep-player canvas").nth(3).wait_for()
        rows = page.evaluate(
            """[...document.querySelector('flowsep-player').shadowRoot.querySelectorAll('canvas')].map((canvas) => {
              const { width, height } = canvas;
              const data = canvas.getContext('2d').getImageData(Math.floor(width / 2), 0, 1, height).data;
              const alpha = Array.from({ length: height }, (_, row) => data[4 * row + 3]);
              return [height - 1 - alpha.indexOf(Math.max(...alpha)), height];
            })"""
        )
        rate = page.evaluate(
            "el = document.querySelector('flowsep-player'), el._decoded.get('reference')[0].sampleRate"
        )
        for (row, height), frequency in zip(rows, (440, 110, 880, 330), strict=True):
            edges = 40 * (rate / 2 / 40) ** (np.array([row, row + 1]) / height)
            bin_width = rate / 1024
            assert edges[0] - 1.5 * bin_width < frequency < edges[1] + 1.5 * bin_width
        page.get_by_role("button", name="nmf", exact=True).click()
        wait(page, "el.shadowRoot.querySelectorAll('canvas').length === 4 && el._decoded.has('nmf')")
        page.keyboard.press("v")
        assert page.locator("flowsep-player canvas:visible").count() == 0


@pytest.mark.browser
def test_it_stops_at_the_end_or_repeats(page_with):
    with page_with(StemPlayer({"bass": tone(100, seconds=0.6)}, RATE)) as page:
        page.get_by_role("button", name="Play").click()
        wait(page, "el.playing")
        wait(page, "!el.playing")
        assert at(page, "el.currentTime") == 0
        page.get_by_role("button", name="Repeat").click()
        page.get_by_role("button", name="Play").click()
        page.wait_for_timeout(1000)
        assert at(page, "el.playing")
        page.get_by_role("button", name="Repeat").click()
        wait(page, "!el.playing")


@pytest.mark.browser
def test_mp3_decodes_sample_aligned_in_the_browser(page_with):
    """Click trains at three levels, beside noise: each click lies where it was put, in a context of the same rate."""
    noise = 0.01 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    stems = {"a": clicks(), "b": clicks(level=0.4) + noise, "c": clicks(level=0.6)}
    with page_with(StemPlayer({"x": stems, "y": stems}, RATE)) as page:
        lanes = page.evaluate(
            """async () => Promise.all([...document.querySelectorAll("audio")].map(async (audio) => {
              const bytes = Uint8Array.from(atob(audio.src.split(",")[1]), (c) => c.charCodeAt(0));
              const buffer = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytes.buffer);
              const values = buffer.getChannelData(0).subarray(0, 22050);
              let at = 0;
              values.forEach((v, i) => { if (Math.abs(v) > Math.abs(values[at])) at = i; });
              return { at, length: buffer.length };
            }))"""
        )
    offsets = [stem["at"] - int(CLICK * RATE) for stem in lanes]
    print("decoded offsets of the clicks, in frames:", offsets, "lengths:", [stem["length"] for stem in lanes])
    assert offsets == [0] * 6
    assert max(stem["length"] for stem in lanes) - min(stem["length"] for stem in lanes) == 0


@pytest.mark.browser
def test_without_scripts_the_plain_players_stand_there(two, page_with):
    with page_with(two[0], java_script=False) as page:
        assert page.locator("audio:visible").count() == 12
        assert page.get_by_text("instglow").is_visible()
        assert page.get_by_text("First").is_visible()


@pytest.mark.browser
def test_names_on_the_page_do_nothing(page_with):
    player = StemPlayer({NASTY: {NASTY: tone(100, 0.5)}, "b": {NASTY: tone(100, 0.5)}}, RATE, title=NASTY)
    with page_with(player) as page:
        page.get_by_role("button", name="Play").click()
        wait(page, "el.currentTime > 0.05")
        assert page.locator("flowsep-player .title").text_content() == NASTY
        assert page.locator("flowsep-player .name").text_content() == NASTY
        assert page.evaluate("window.hurt") is None
        assert page.locator("img").count() == 0


@pytest.mark.browser
def test_undecodable_sound_is_said_and_the_plain_players_return(page_with):
    def damage(html):
        return re.sub(r"(audio/mpeg;base64,)[^\"]*", r"\1AAAA", html)

    with page_with(StemPlayer({"bass": tone(100, 0.5)}, RATE), edit=damage) as page:
        page.get_by_role("button", name="Play").click()
        page.get_by_role("status").get_by_text("could not decode").wait_for()
        assert page.locator("audio:visible").count() == 1
        assert not at(page, "el.playing")


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(two, dark, page_with):
    long = StemPlayer({"a stem whose name is far too long for any telephone": tone(100)}, RATE, title="long" * 40)
    with page_with(two[0], long, width=390, height=800, dark=dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for button in page.locator("flowsep-player :is(button, select):visible").all():
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390
            assert min(box["width"], box["height"]) >= 24
        page.get_by_role("button", name="Play").first.click()
        wait(page, "el.currentTime > 0.1")
        ink = page.evaluate(
            "getComputedStyle(document.querySelector('flowsep-player').shadowRoot.querySelector('.now')).color"
        )
        assert ink == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
