"""Published weights: they sit in the right networks, no file runs code, and without network the rows say so."""

import hashlib
import io
import re
import urllib.error
import urllib.request

import numpy as np
import pytest
import soxr
import torch
from helpers import RATE, make_stems, write_hq_tree

from companion.data.tracks import load_dataset
from companion.graph.steps import score_system
from companion.profile import PRETRAINED, DataConfig, load_profile
from companion.systems import SYSTEMS, library, load_system, pretrained
from companion.systems.open_unmix import umx
from companion.tables import load_scores, table, table_markdown, written
from flowsep.files import FlowsepError

FOUR = pretrained.SOURCES
BLOCK = "measured here with published weights, tiny (musdb18hq)"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def asked(hub, monkeypatch):
    """The addresses that were asked for; there is no network."""
    addresses = []

    def no_network(url, timeout):
        addresses.append(url)
        raise urllib.error.URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return addresses


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Four songs of MUSDB18-HQ, two of them to test, and a project to score them in."""
    for folder in ("configs", "notebooks"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    root = write_hq_tree(tmp_path / "hq", train=2, test=2, seconds=1.0)
    return load_dataset(DataConfig(kind="musdb18hq", root=str(root), valid_tracks=1), 0)


@pytest.fixture
def demucs(hub, monkeypatch):
    """A tiny network; its weights lie in the hub's folder under the names that version 2 gave them."""
    network = load_system("demucs_v2", {"width": 4, "depth": 2}, sources=FOUR).build().eval()
    older, data = re.compile(r"(coder\.\d+)\.3\."), io.BytesIO()
    torch.save({older.sub(r"\1.2.", name): value for name, value in network.state_dict().items()}, data)
    monkeypatch.setattr(pretrained, "DEMUCS", f"v3.0/demucs-{hashlib.sha256(data.getvalue()).hexdigest()[:8]}.th")
    (hub / pretrained.DEMUCS.rpartition("/")[2]).write_bytes(data.getvalue())
    return network


@pytest.fixture
def umxhq(hub, monkeypatch):
    """Random weights in the four files that the library asks for, all of them the same and of other hashes."""
    monkeypatch.setattr(pretrained, "_check", lambda path, name: None)
    umx("model")
    model = library("openunmix").umxhq_spec(targets=["vocals"], pretrained=False)["vocals"].eval()
    torch.save(model.state_dict() | {"sample_rate": torch.tensor(RATE)}, hub / "vocals-b62c91ce.pth")
    for name in ("drums-9619578f", "bass-8d85a5bd", "other-b52fbbf7"):
        (hub / f"{name}.pth").symlink_to(hub / "vocals-b62c91ce.pth")
    return model


def song(seconds=0.5):
    return sum(make_stems(5, seconds).values())


def test_the_profile_adds_their_rows():
    assert load_profile({"name": "x"}).systems == {"instglow": {}}
    given = {"mixture": {}, "open_unmix_pretrained": {"segment_seconds": 20}}
    profile = load_profile({"name": "x", "pretrained": True, "systems": given})
    assert profile.systems == given | {"demucs_v2_pretrained": {}}
    assert load_profile(profile.model_dump()) == profile
    for name in PRETRAINED:
        system = load_system(name, profile.systems[name], sources=FOUR)
        assert name in SYSTEMS and system.supervision == "mixtures" and system.kind == "measured, published weights"
    assert system.options.segment_seconds == 20


def test_demucs_separates_as_version_2_is_used(demucs):
    """The song is scaled as a whole, mean and deviation of its mono sum, whatever the segments are."""
    mixture = song() + 0.01
    system = load_system("demucs_v2_pretrained", sources=FOUR)
    found = system.separate(mixture, RATE)
    mono = mixture.mean(axis=0)
    with torch.inference_mode():
        expected = demucs(torch.from_numpy((mixture - mono.mean()) / mono.std()).unsqueeze(0))[0]
    for source, estimate in zip(FOUR, expected.numpy(), strict=True):
        np.testing.assert_allclose(found[source], estimate * mono.std() + mono.mean(), atol=1e-5)
    assert [path.name for path in system.checkpoints()] == [pretrained.DEMUCS.rpartition("/")[2]]
    assert system.costs()["parameters"] == sum(value.numel() for value in demucs.state_dict().values())
    assert not any(np.any(audio) for audio in system.separate(0 * mixture, RATE).values())


def test_mono_is_heard_twice_and_other_rates_are_resampled(demucs):
    mixture = song(1.0)
    system = load_system("demucs_v2_pretrained", sources=("vocals", "bass"))
    mono = system.separate(mixture[:1], RATE)
    both = system.separate(np.repeat(mixture[:1], 2, axis=0), RATE)
    assert list(mono) == ["vocals", "bass"] and mono["bass"].shape == (1, RATE) and mono["bass"].dtype == np.float32
    np.testing.assert_allclose(mono["bass"][0], both["bass"].mean(axis=0), atol=1e-6)
    slow = soxr.resample(mixture.T, RATE, 22_050).T
    found = system.separate(slow, 22_050)["bass"]
    again = system.separate(soxr.resample(slow.T, 22_050, RATE).T, RATE)["bass"]
    assert found.shape == (2, 22_050)
    np.testing.assert_allclose(found, soxr.resample(again.T, RATE, 22_050).T, atol=1e-3)


def test_an_accompaniment_is_the_sum_and_other_sources_are_lacking(demucs, asked):
    mixture = song()
    every = load_system("demucs_v2_pretrained", sources=FOUR).separate(mixture, RATE)
    found = load_system("demucs_v2_pretrained", sources=("vocals", "accompaniment")).separate(mixture, RATE)
    np.testing.assert_allclose(found["accompaniment"], every["drums"] + every["bass"] + every["other"], atol=1e-6)
    assert list(load_system("demucs_v2_pretrained", sources=("bass", "guitar")).separate(mixture, RATE)) == ["bass"]
    nothing = load_system("open_unmix_pretrained", sources=("guitar", "piano"))
    nothing.fit(None, None, None)
    assert nothing.unavailable.endswith("separates drums, bass, other, vocals, not guitar, piano") and not asked


def test_open_unmix_is_the_librarys_separator(umxhq):
    mixture = song()
    system = load_system("open_unmix_pretrained", sources=FOUR)
    found = system.separate(mixture, RATE)
    separator = umx("model").Separator(dict.fromkeys(FOUR, umxhq), niter=1, n_fft=4096, n_hop=1024, nb_channels=2)
    with torch.inference_mode():
        expected = separator.eval()(torch.from_numpy(mixture).unsqueeze(0))[0].numpy()
    for source, estimate in zip(FOUR, expected, strict=True):
        np.testing.assert_allclose(found[source], estimate, atol=1e-5)
    order = ["drums-9619578f.pth", "bass-8d85a5bd.pth", "other-b52fbbf7.pth", "vocals-b62c91ce.pth"]
    assert [path.name for path in system.checkpoints()] == order
    assert library("openunmix").torch is torch  # the library itself was left as it was


def test_missing_weights_are_refused(umxhq, demucs, hub):
    state = torch.load(hub / "vocals-b62c91ce.pth")
    del state["fc2.weight"]
    torch.save(state, hub / "vocals-b62c91ce.pth")
    with pytest.raises(FlowsepError, match=r"open_unmix_pretrained: .*drums-9619578f\.pth: .* fc2\.weight is missing"):
        load_system("open_unmix_pretrained", sources=FOUR).separate(song(), RATE)
    (path,) = hub.glob("demucs-*.th")
    state = torch.load(path)
    del state["lstm.linear.bias"]
    torch.save(state, path)
    with pytest.raises(FlowsepError, match=r"not the weights of Demucs v2 .*lstm\.linear\.bias"):
        load_system("demucs_v2_pretrained", sources=FOUR).separate(song(), RATE)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_file_runs_code(umxhq, hub, tmp_path):
    torch.save({"fc1.weight": Evil(tmp_path / "owned")}, hub / "vocals-b62c91ce.pth")
    with pytest.raises(FlowsepError, match="not a plain state dict"):
        load_system("open_unmix_pretrained", sources=FOUR).separate(song(), RATE)
    assert not (tmp_path / "owned").exists()
    with torch.serialization.safe_globals([open]):  # the file would do it if it were let
        torch.load(hub / "vocals-b62c91ce.pth", weights_only=False)
    assert (tmp_path / "owned").exists()


def test_a_download_is_whole_and_has_its_hash(hub, monkeypatch):
    content = b"weights"
    url = f"https://example.org/files/net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    for sent in (content[:-1], content):
        monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout, sent=sent: io.BytesIO(sent))
        if sent == content:
            assert pretrained.fetch(url).read_bytes() == content
        else:
            with pytest.raises(FlowsepError, match=r"net-\w{8}\.pth: its SHA-256 begins with"):
                pretrained.fetch(url)
            assert not list(hub.iterdir())
    pretrained.fetch(url).write_bytes(b"changed")  # the file that is there counts, but not if it is another
    with pytest.raises(FlowsepError, match="delete it and get it anew"):
        pretrained.fetch(url)


def test_without_network_the_row_says_why_it_is_empty(dataset, asked, hub, capsys):
    profile = load_profile({"name": "tiny", "pretrained": True, "systems": {"mixture": {}}})
    for name in profile.systems:
        score_system(profile, dataset, name, progress=False)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(asked) == 2  # one attempt and one line for each system, not one for each song
    assert asked[1].endswith("drums-9619578f.pth")
    cure = f"run once with network, or put drums-9619578f.pth into {hub}"
    why = "its weights could not be downloaded (urlopen error [Errno -3] Temporary failure in name resolution)"
    assert told[1] == f"open_unmix_pretrained: {why}; {cure}"

    scores = load_scores(profile.folder)
    rows = scores[scores.system == "open_unmix_pretrained"]
    assert set(rows.status) == {"failed"} and set(rows.reason) == {told[1]} and set(rows.checkpoint) == {""}
    assert set(rows.track) == {"song 0", "song 1"} and set(rows.stem) == set(FOUR)
    assert (profile.folder / "audio" / "open_unmix_pretrained").is_dir()
    found = table(scores, convention="sisec18", sources=profile.sources)
    assert list(found.index) == [
        ("measured here, tiny (musdb18hq)", "mixture"),
        *((BLOCK, written(name)) for name in PRETRAINED),
    ]
    assert found.loc[BLOCK, ["parameters", "training (s)", *profile.sources]].isna().all(axis=None)
    assert table_markdown(scores, convention="sisec18", sources=profile.sources).count("(2 failed)") == 2


def test_with_weights_the_rows_are_measured_in_a_block_of_their_own(dataset, demucs):
    systems = {"mixture": {}, "demucs_v2_pretrained": {"overlap_seconds": 0.1, "segment_seconds": 0.3}}
    profile = load_profile({"name": "tiny", "sources": ["vocals", "accompaniment"], "systems": systems})
    for name in profile.systems:
        frame = score_system(profile, dataset, name, progress=False)
    assert set(frame.status) == {"ok"} and set(frame.kind) == {"measured, published weights"}
    assert (frame.parameters > 0).all() and frame.training_seconds.isna().all()  # nobody knows what it took
    assert frame.checkpoint.str.fullmatch(r"demucs-(\w{8})\.th:\1\w{4}").all()
    found = table(load_scores(profile.folder), convention="sisec18", sources=profile.sources)
    assert found.loc[(BLOCK, "Demucs v2, published weights"), list(profile.sources)].notna().all()
