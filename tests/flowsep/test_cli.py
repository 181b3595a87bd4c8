"""The command line: whole folders of stems or nothing, one clear line for a wrong input, the right exit status."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from helpers import RATE, make_stems, write_hq_tree, write_packed_tree

from flowsep import checkpoint, separator
from flowsep.checkpoint import load_prior, load_priors
from flowsep.cli import main
from flowsep.config import FeatureConfig, GlowConfig
from flowsep.files import whole_folder
from flowsep.prior import Prior

ODD_NAME = 'Jürgen\'s "<script>alert(1)<_script>" – Groß & Söhne'


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priors")
    for k, source in enumerate(("vocals", "bass")):
        torch.manual_seed(k)
        prior = Prior(GlowConfig(steps=2, hidden=8, layers=1, kernel=3), FeatureConfig(), source, {"by": "a test"})
        prior.save(folder / f"{source}.safetensors")
    return folder


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "in" / "song.wav"
    path.parent.mkdir()
    sf.write(path, sum(make_stems().values()).T, RATE, "FLOAT")
    return path


def separate(inputs, priors, out, *options):
    inputs = [inputs] if isinstance(inputs, Path) else inputs
    return main(["separate", *map(str, inputs), "--priors", str(priors), "--out", str(out), "--iterations=2", *options])


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_stems_have_the_input_s_name_rate_and_channels_and_sum_to_it(priors, tmp_path, capsys):
    mixture = sum(make_stems(channels=1).values())
    path = tmp_path / f"{ODD_NAME}.flac"
    sf.write(path, mixture.T, 48000, "PCM_24")
    assert separate(path, priors, tmp_path / "out") == 0
    assert files_below(tmp_path / "out") == [f"{ODD_NAME}/bass.wav", f"{ODD_NAME}/vocals.wav"]
    stems = [sf.read(tmp_path / "out" / ODD_NAME / f"{source}.wav", always_2d=True) for source in ("bass", "vocals")]
    assert {rate for _, rate in stems} == {48000}
    np.testing.assert_allclose(sum(stem for stem, _ in stems).T, mixture, atol=1e-6)
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out' / ODD_NAME}\n" and "2/2" in printed.err


def test_confidence_is_a_table_beside_the_stems(priors, song, tmp_path):
    assert separate(song, priors, tmp_path / "out", "--confidence") == 0
    assert files_below(tmp_path / "out") == ["song/bass.wav", "song/confidence.csv", "song/vocals.wav"]
    lines = (tmp_path / "out" / "song" / "confidence.csv").read_text().splitlines()
    assert lines[0] == "second,stem,level_db,expected_db,low_db,high_db"
    assert [line.split(",")[:2] for line in lines[1:]] == [["0", "bass"], ["0", "vocals"]]  # of half a second


def test_the_priors_of_the_repository_are_the_default(song, tmp_path, capsys, monkeypatch):
    command = ["separate", str(song), "--out", str(tmp_path / "out"), "--iterations=2"]
    assert main(command) == 0
    assert files_below(tmp_path / "out") == [f"song/{source}.wav" for source in ("bass", "drums", "other", "vocals")]
    assert str(checkpoint.SHIPPED) in capsys.readouterr().err
    assert sum(file.stat().st_size for file in checkpoint.SHIPPED.iterdir()) < 16e6
    assert {source: prior.source for source, prior in load_priors().items()} == {
        s: s for s in checkpoint.find_priors(checkpoint.SHIPPED)
    }
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "site-packages" / "results")  # installed without the clone
    assert main([*command, "--force"]) == 2
    assert "results: no such folder; the priors come with a clone" in capsys.readouterr().err


def test_mp3_in_flac_out(priors, song, tmp_path):
    path = tmp_path / "song with spaces.mp3"
    subprocess.run(["ffmpeg", "-v", "error", "-i", song, path], check=True)
    assert separate(path, priors, tmp_path / "out", "--format=flac") == 0
    info = sf.info(tmp_path / "out" / "song with spaces" / "vocals.flac")
    assert (info.samplerate, info.channels, info.subtype) == (RATE, 2, "PCM_24")


def test_some_of_the_priors(priors, song, tmp_path):
    assert separate(song, priors, tmp_path / "out", "--sources=vocals") == 0
    assert files_below(tmp_path / "out") == ["song/vocals.wav"]


def test_clipping_of_flac_is_told(priors, song, tmp_path, capsys):
    audio, rate = sf.read(song)
    sf.write(song, 30 * audio, rate, "FLOAT")
    assert separate(song, priors, tmp_path / "out", "--format=flac") == 0
    assert "samples of vocals were clipped; --format wav keeps them" in capsys.readouterr().err


def test_options_reach_the_separator(priors, song, tmp_path, monkeypatch):
    seen, limits = [], []

    class Fake:
        def __init__(self, priors, config, *, memory_limit):
            self.names, self.flows = tuple(priors), SimpleNamespace(device=torch.device("cpu"))
            seen.append(config)
            limits.append(memory_limit)

        def stream(self, blocks, sample_rate, callback, *, samples):
            assert (sample_rate, samples) == (RATE, RATE // 2)
            for block in blocks:
                yield 0, dict.fromkeys(self.names, block)

    monkeypatch.setattr(separator, "Separator", Fake)
    options = ["--alpha=0", "--space=z", "--no-wiener", "--device=cpu", "--seed=9"]
    assert separate(song, priors, tmp_path / "a", *options) == 0
    assert separate(song, priors, tmp_path / "b") == 0
    assert separate(song, priors, tmp_path / "c", "--paper", "--memory-limit=2GB") == 0
    first = {"iterations": 2, "alpha": 0.0, "space": "z", "wiener": False, "device": "cpu", "seed": 9}
    assert {key: getattr(seen[0], key) for key in first} == first
    assert seen[1] == type(seen[1])(iterations=2)  # what is not given stays at its default
    assert seen[2] == type(seen[2]).paper(iterations=2)
    assert limits == [None, None, 2 * 10**9]


def test_existing_output_needs_force(priors, song, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "song").mkdir(parents=True)
    (out / "song" / "vocals.wav").write_text("mine")
    (out / "song" / "diary.txt").write_text("mine too")
    assert separate(song, priors, out) == 2
    assert f"{out / 'song'}: already contains files; --force" in capsys.readouterr().err
    assert files_below(out) == ["song/diary.txt", "song/vocals.wav"]
    assert (out / "song" / "vocals.wav").read_text() == "mine"
    assert separate(song, priors, out, "--force") == 0
    assert files_below(out) == ["song/bass.wav", "song/diary.txt", "song/vocals.wav"]
    assert sf.info(out / "song" / "vocals.wav").frames == RATE // 2


def test_all_inputs_have_one_separator(priors, song, tmp_path, monkeypatch):
    made = []

    class Counted(separator.Separator):
        def __init__(self, *given, **options):
            made.append(given)
            super().__init__(*given, **options)

    monkeypatch.setattr(separator, "Separator", Counted)
    other = tmp_path / "in" / "other.wav"
    sf.write(other, sum(make_stems(seed=1).values()).T, RATE, "FLOAT")
    assert separate([song, other], priors, tmp_path / "out") == 0
    assert len(made) == 1 and len(files_below(tmp_path / "out")) == 4


def test_refused_before_any_work(priors, song, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(separator, "Separator", lambda *_, **__: pytest.fail("work began"))
    out = tmp_path / "out"
    other = tmp_path / "in" / "song.flac"
    sf.write(other, np.zeros(100), RATE)
    for arguments, message in [
        (([song, other], priors, out), "another input has the same name"),
        ((song, tmp_path / "nowhere", out), "nowhere: no such folder"),
        ((song, tmp_path / "in", out), "in: no priors there; expected <source>.safetensors or"),
        ((song, priors, out, "--sources=vocals,flute"), "has no prior of 'flute'; there: bass, vocals"),
        ((song, priors, out, "--iterations=0"), "--iterations 0: Input should be greater than 0"),
        ((song, priors, out, "--alpha=-1"), "--alpha -1.0: Input should be greater than or equal to 0"),
        ((song, priors, song), "song.wav: cannot write there"),  # a file where the folder should be
        ((song, priors, "/proc/flowsep"), "/proc/flowsep: cannot write there"),  # read-only, also for root
    ]:
        assert separate(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("flowsep: error: ") and message in error and error.count("\n") == 1
    assert not any(out.rglob("*.wav"))


@pytest.mark.parametrize("size", ["2 apples", "0", "-1GB", "GB"])
def test_no_memory_limit(priors, song, tmp_path, capsys, size):
    with pytest.raises(SystemExit):
        separate(song, priors, tmp_path / "out", f"--memory-limit={size}")
    assert "expected a size such as 2GB or 500MiB" in capsys.readouterr().err


def test_too_little_memory_tells_what_works(priors, song, tmp_path, capsys):
    assert separate(song, priors, tmp_path / "out", "--memory-limit=1MB", "--device=cpu") == 2
    told = capsys.readouterr().err
    assert "1 MB are too few for chunks of 2 s" in told and not list((tmp_path / "out").iterdir())
    least = int(told.split("the least is ")[1].split(" MB")[0]) + 60  # the process may have grown since
    mixture = sum(make_stems(seconds=20, channels=1).values())
    sf.write(song, mixture.T, RATE)
    assert separate(song, priors, tmp_path / "out", f"--memory-limit={least} MB", "--device=cpu") == 0
    assert int(capsys.readouterr().err.split("| ")[-1].split("/")[0]) >= 8  # steps, two a chunk of at most 6 s


def test_long_song_of_many_chunks(priors, tmp_path, capsys):
    mixture = sum(make_stems(seconds=50, channels=1).values())
    sf.write(tmp_path / "a.wav", mixture.T, RATE, "FLOAT")
    assert separate(tmp_path / "a.wav", priors, tmp_path / "out") == 0
    stems = [sf.read(tmp_path / "out" / "a" / f"{source}.wav")[0] for source in ("bass", "vocals")]
    np.testing.assert_allclose(sum(stems), mixture[0], atol=1e-6)
    assert "6/6" in capsys.readouterr().err


def test_output_folder_that_exists_but_cannot_be_written(priors, song, monkeypatch, capsys):
    monkeypatch.setattr(separator.Separator, "stream", lambda *_, **__: pytest.fail("work began"))
    assert separate(song, priors, "/proc") == 1  # it exists, and no one may make a folder in it
    assert "/proc: cannot write there" in capsys.readouterr().err


def test_goes_on_after_a_bad_input_and_names_it_at_the_end(priors, song, tmp_path, capsys):
    audio = np.full((RATE // 4, 2), 0.1)
    bad = {name: tmp_path / f"{name}.wav" for name in ("truncated", "nan", "six", "empty", "gone")}
    sf.write(bad["truncated"], audio, RATE)
    bad["truncated"].write_bytes(bad["truncated"].read_bytes()[:5000])
    sf.write(bad["nan"], np.where(audio == 0.1, np.nan, 0), RATE, "FLOAT")
    sf.write(bad["six"], np.repeat(audio, 3, axis=1), RATE)
    bad["empty"].touch()
    out = tmp_path / "out"
    assert separate([*bad.values(), song], priors, out) == 1
    assert files_below(out) == ["song/bass.wav", "song/vocals.wav"]
    error = capsys.readouterr().err
    for reason in ("truncated: its header", "NaN", "downmix to stereo first", "neither libsndfile nor", "no such file"):
        assert reason in error
    last = error.splitlines()[-1]
    assert last == f"flowsep: 5 of 6 inputs failed: {', '.join(map(str, bad.values()))}"


@pytest.mark.parametrize("seconds", [0.01, 0.5])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_short_and_silent_audio(priors, tmp_path, seconds, level):
    mixture = level * np.random.default_rng(0).standard_normal(round(seconds * RATE))
    sf.write(tmp_path / "a.wav", mixture, RATE, "FLOAT")
    assert separate(tmp_path / "a.wav", priors, tmp_path / "out") == 0
    stems = [sf.read(tmp_path / "out" / "a" / f"{source}.wav")[0] for source in ("bass", "vocals")]
    np.testing.assert_allclose(sum(stems), mixture, atol=1e-6)


def test_nothing_is_left_of_a_failed_or_interrupted_separation(priors, song, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(separator.Separator, "stream", interrupt)
    assert separate(song, priors, out) == 130
    assert "interrupted" in capsys.readouterr().err and list(out.iterdir()) == []
    stems = {source: np.zeros((2, 10), np.float32) for source in ("vocals", "bass")}
    monkeypatch.setattr(separator.Separator, "stream", lambda *_, **__: iter([(0, stems), interrupt]))
    with pytest.raises(TypeError):
        separate(song, priors, out)
    assert list(out.iterdir()) == []  # the first block was written, but is not there


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.", b"\xff" * 100])
def test_file_that_is_no_prior(priors, song, tmp_path, capsys, content):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "bass.safetensors").write_bytes(content)
    assert separate(song, folder, tmp_path / "out") == 2
    assert main(["info", str(folder / "bass.safetensors")]) == 2
    assert capsys.readouterr().err.count("bass.safetensors: not a whole .safetensors file") == 2


def test_info(priors, capsys):
    assert main(["info", str(priors / "bass.safetensors")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["source"] == "bass" and facts["model"]["steps"] == 2 and facts["provenance"] == {"by": "a test"}
    assert facts["feature"] == {"sample_rate": 22050, "n_fft": 1024, "hop": 256}
    assert facts["parameters"] > 1000
    assert main(["info", str(priors)]) == 0  # of all in the folder
    assert json.loads(capsys.readouterr().out)["bass"] == facts
    assert main(["info", str(priors / "flute.safetensors")]) == 2
    assert "flute.safetensors: no such prior" in capsys.readouterr().err


def test_convert_a_research_checkpoint(tmp_path, capsys):
    checkpoint = Path(__file__).parents[1] / "fixtures" / "instglow_small"
    assert main(["convert", str(checkpoint), str(tmp_path / "drums.safetensors")]) == 0
    assert main(["info", str(tmp_path / "drums.safetensors")]) == 0
    assert '"format": "research code"' in capsys.readouterr().out
    options = ["--epoch", "1000", "--source", "snare"]
    assert main(["convert", str(checkpoint), str(tmp_path / "b.safetensors"), *options]) == 0
    assert load_prior(tmp_path / "b.safetensors").source == "snare"
    assert main(["convert", str(checkpoint), str(tmp_path / "c.safetensors"), "--epoch", "3"]) == 2
    assert "no epoch 3; epochs there: 1000" in capsys.readouterr().err
    assert main(["convert", str(checkpoint), str(tmp_path / "b.safetensors")]) == 2
    assert "b.safetensors: exists already; --force" in capsys.readouterr().err
    assert load_prior(tmp_path / "b.safetensors").source == "snare"
    assert main(["convert", str(checkpoint), str(tmp_path / "b.safetensors"), "--force"]) == 0
    assert load_prior(tmp_path / "b.safetensors").source == "instglow_small"


def test_convert_refuses_what_is_no_checkpoint(tmp_path, capsys):
    assert main(["convert", str(tmp_path), str(tmp_path / "a.pth")]) == 2
    assert "a.pth: a prior's file name ends in .safetensors" in capsys.readouterr().err
    assert main(["convert", str(tmp_path), str(tmp_path / "a.safetensors")]) == 2
    assert "config.json: missing" in capsys.readouterr().err and files_below(tmp_path) == []


def test_help_and_no_command(capsys):
    for arguments, status in ((["--help"], 0), (["separate", "--help"], 0), ([], 2)):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == status
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("separate", "info", "convert", "--no-wiener"))


def test_a_folder_stands_for_its_songs(priors, song, tmp_path, capsys):
    sf.write(song.parent / "Other.FLAC", sf.read(song)[0], RATE)
    (song.parent / "notes.txt").write_text("no audio")
    (song.parent / ".hidden.wav").write_bytes(song.read_bytes())
    (song.parent / "folder.wav").mkdir()
    assert separate(song.parent, priors, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Other", "song"]
    (tmp_path / "nothing").mkdir()
    assert separate(tmp_path / "nothing", priors, tmp_path / "none") == 2
    assert "nothing: no songs in this folder" in capsys.readouterr().err


def test_musdb18_and_its_hq_go_to_the_folders_that_the_scorer_looks_for(priors, tmp_path, monkeypatch):
    """From the data sets as they are distributed to the rows of a table, through the command lines alone."""
    from companion.graph.cli import main as companion

    sources = {"vocals": "vocals", "accompaniment": "bass"}
    (tmp_path / "two").mkdir()
    for source, other in sources.items():
        shutil.copy(priors / f"{other}.safetensors", tmp_path / "two" / f"{source}.safetensors")
    for kind, write in (("musdb18", write_packed_tree), ("musdb18hq", write_hq_tree)):
        root = write(tmp_path / kind, train=1, test=2, seconds=1)
        test = root / "test"
        given = sorted(test.glob("*.stem.mp4")) or sorted(test.glob("*/mixture.wav"))
        assert separate(given, tmp_path / "two", tmp_path / kind / "estimates" / "mine") == 0
        profile = tmp_path / f"{kind}.yaml"
        data = {"kind": kind, "root": str(root), "valid_tracks": 1}
        profile.write_text(json.dumps({"profile": {"name": kind, "sources": [*sources], "data": data}}))
        out, estimates = tmp_path / kind / "scored", tmp_path / kind / "estimates"
        assert companion(["score", str(estimates), "--profile", str(profile), "--out", str(out)]) == 0
        rows = pd.read_csv(out / "scores" / "mine.csv")
        assert rows.track.nunique() == 2 and set(rows.status) <= {"ok", "silent"} and rows.value.notna().any()


def test_spaces_after_commas_and_control_characters_in_names(priors, song, tmp_path, capfd):
    odd = song.with_name("a\x1b]0;owned\x07\x1b[2J.wav")
    song.rename(odd)
    assert separate(odd, priors, tmp_path / "out", "--sources", "vocals, bass") == 0
    printed = capfd.readouterr()
    assert "\x1b" not in printed.out + printed.err.replace("\x1b[A", "") and "\\x1b]0;owned" in printed.out


def test_a_second_run_to_the_same_output_is_refused(priors, song, tmp_path, capsys):
    with whole_folder(tmp_path / "out" / "song"):
        assert separate(song, priors, tmp_path / "out") == 1
        assert "out/song: another run is writing to it" in capsys.readouterr().err
    assert separate(song, priors, tmp_path / "out", "--force") == 0
    assert files_below(tmp_path / "out") == ["song/bass.wav", "song/vocals.wav"]


def test_an_output_that_another_run_filled_meanwhile_is_left_alone(priors, song, tmp_path, monkeypatch, capsys):
    from flowsep import audio

    def late(path):
        (tmp_path / "out" / "song").mkdir(parents=True)
        (tmp_path / "out" / "song" / "bass.wav").write_text("of the other run")
        return stream(path)

    stream = audio.stream_audio
    monkeypatch.setattr(audio, "stream_audio", late)
    assert separate(song, priors, tmp_path / "out") == 1
    assert "already contains files" in capsys.readouterr().err
    assert (tmp_path / "out" / "song" / "bass.wav").read_text() == "of the other run"


def test_what_a_killed_run_left_is_cleared(priors, song, tmp_path):
    with contextlib.suppress(SystemExit), whole_folder(tmp_path / "out" / "song") as folder:
        (left := folder).joinpath("half.wav").write_text("half")
        raise SystemExit
    left.mkdir(exist_ok=True)
    (left / "half.wav").write_text("half")
    assert separate(song, priors, tmp_path / "out") == 0
    assert files_below(tmp_path / "out") == ["song/bass.wav", "song/vocals.wav"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), MemoryError("out of memory")])
def test_the_other_inputs_are_separated_after_one_that_was_too_large(
    priors, song, tmp_path, monkeypatch, capsys, error
):
    large = song.with_name("large.wav")
    large.write_bytes(song.read_bytes())
    stream, calls = separator.Separator.stream, []

    def first_fails(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise error
        return stream(self, *arguments, **options)

    monkeypatch.setattr(separator.Separator, "stream", first_fails)
    assert separate([large, song], priors, tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "large.wav: " in told and "--memory-limit makes shorter chunks" in told and "1 of 2 inputs failed" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["song"]


def test_sigterm_ends_as_ctrl_c_does(priors, song, tmp_path, monkeypatch, capsys):
    def terminated(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(separator.Separator, "stream", terminated)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert separate(song, priors, tmp_path / "out") == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "terminated" in capsys.readouterr().err and list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("singular", r"vocals\.safetensors: weight layers\.\d\.weight cannot be inverted"),
        ("hop", r"vocals\.safetensors: sample_rate 1000000, hop 16, .*: one second would take"),
    ],
)
def test_a_prior_that_could_not_separate_is_named(priors, song, tmp_path, capsys, change, told):
    shutil.copytree(priors, tmp_path / "bad")
    prior = load_prior(priors / "vocals.safetensors")
    if change == "singular":
        with torch.no_grad():
            for value in prior.glow.state_dict().values():
                value.zero_()
    else:
        prior.feature = FeatureConfig(sample_rate=1_000_000, hop=16, n_fft=1024)
    prior.save(tmp_path / "bad" / "vocals.safetensors")
    assert separate(song, tmp_path / "bad", tmp_path / "out") == 2
    assert re.search(told, capsys.readouterr().err)


def test_true_stems_beside_a_mixture_are_never_replaced(priors, song, tmp_path, monkeypatch, capsys):
    """A folder of MUSDB18-HQ, named as input and as output."""
    place = tmp_path / "hq" / "a song"
    place.mkdir(parents=True)
    song.rename(place / "mixture.wav")
    (place / "vocals.wav").write_text("the true stem")
    monkeypatch.chdir(place)
    for given, out in ((tmp_path / "hq", tmp_path / "hq"), (place / "mixture.wav", tmp_path / "hq"), (Path(), "..")):
        assert separate(given, priors, out, "--force") == 2
        assert "lies there; choose another --out, so that nothing is lost" in capsys.readouterr().err
    assert (place / "vocals.wav").read_text() == "the true stem"


def test_names_that_a_shell_gives_by_accident(priors, song, tmp_path, capsys):
    assert separate(song, priors, tmp_path / "out", "--sources", " vocals, ,vocals,") == 0
    assert files_below(tmp_path / "out") == ["song/vocals.wav"]
    odd = song.with_name("a\nflowsep: error: forged.wav")
    song.rename(odd)
    assert separate(odd, priors, tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "\nflowsep: error" not in printed.out + printed.err and "a\\nflowsep: error: forged" in printed.out
    assert separate(Path("x" * 5000), priors, tmp_path / "out") == 2
    assert "File name too long" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_costs_no_other_song(priors, song, tmp_path, monkeypatch, capsys):
    from flowsep import audio

    def guarded(path):
        if path.name == "song.wav":
            raise PermissionError(13, "Permission denied", str(path))
        return stream(path)

    stream = audio.stream_audio
    monkeypatch.setattr(audio, "stream_audio", guarded)
    other = song.with_name("other.wav")
    other.write_bytes(song.read_bytes())
    assert separate([song, other], priors, tmp_path / "out") == 1
    assert "Permission denied" in capsys.readouterr().err
    assert files_below(tmp_path / "out") == ["other/bass.wav", "other/vocals.wav"]
