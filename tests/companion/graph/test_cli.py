"""The command line of the experiment: it lists data, names what it cannot use, and exits with the right status."""

from pathlib import Path
from urllib.error import URLError

import musdb
from helpers import write_hq_tree, write_packed_tree, write_slakh_track

from companion.graph.cli import main


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_data_lists_tracks_and_names_unusable_ones(tmp_path, capsys):
    root = write_hq_tree(tmp_path / "hq", train=3, test=1)
    profile = tmp_path / "p.yaml"
    profile.write_text(f"profile: {{name: p, data: {{kind: musdb18hq, root: '{root}', valid_tracks: 1}}}}")
    assert main(["data", "--profile", str(profile)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0].startswith("musdb18hq ") and lines[-1] == "4 tracks, 0.0 minutes"
    assert [line.split()[0] for line in lines[1:5]].count("valid") == 1
    assert "44100 Hz  vocals, bass, drums, other" in lines[1]
    (root / "train" / "song 1" / "bass.wav").write_bytes(b"")
    assert main(["data", "--profile", str(profile)]) == 1
    printed = capsys.readouterr()
    assert "unusable" in printed.out and "1 of 4 tracks cannot be used: song 1" in printed.err


def test_data_without_the_data(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MUSDB_PATH", raising=False)
    profile = tmp_path / "p.yaml"
    profile.write_text("profile: {name: p, data: {kind: musdb18}}")
    assert main(["data", "--profile", str(profile)]) == 2
    assert "MUSDB_PATH is not set" in capsys.readouterr().err
    profile.write_text("profile: {name: p, data: {knd: musdb18}}")
    assert main(["data", "--profile", str(profile)]) == 2
    assert "unknown key 'knd' in DataConfig; did you mean 'kind'?" in capsys.readouterr().err


def test_data_counts_what_it_skips(tmp_path, capsys, monkeypatch):
    write_slakh_track(tmp_path / "train" / "Track00001")
    write_slakh_track(tmp_path / "train" / "Track00002", unrendered=("Bass",))
    monkeypatch.setenv("SLAKH_PATH", str(tmp_path))
    profile = tmp_path / "p.yaml"
    sources = "[bass, drums, guitar, piano]"
    profile.write_text(f"profile: {{name: p, sources: {sources}, data: {{kind: slakh, pieces: {{}}}}}}")
    assert main(["data", "--profile", str(profile)]) == 0
    printed = capsys.readouterr().out
    assert "skip   train/Track00002: no stem of bass was rendered\n1 tracks, 0.0 minutes, 1 skipped\n" in printed


def test_sample_of_musdb(tmp_path, capsys, monkeypatch):
    def download(self, **_):
        if not online:
            raise URLError("no route to host")
        write_packed_tree(Path(self.root), seconds=0.1)

    monkeypatch.setattr(musdb.DB, "download", download)
    online, folder = False, tmp_path / "new" / "sample"
    assert main(["data", "--musdb-sample", str(folder)]) == 2
    assert "was not downloaded (<urlopen error no route to host>); it needs the internet" in capsys.readouterr().err
    assert files_below(tmp_path) == [] and not folder.exists()
    online = True
    assert main(["data", "--musdb-sample", str(folder)]) == 0
    assert capsys.readouterr().out == f"2 songs; use them with MUSDB_PATH={folder}\n"
    assert files_below(folder) == ["test/song 0.stem.mp4", "train/song 0.stem.mp4"]
    assert main(["data", "--musdb-sample", str(folder)]) == 2
    assert "sample/train: is there already" in capsys.readouterr().err
