"""Audio files: what was written comes back, and what is broken is named."""

import os
import resource
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import BROKEN, ODD_NAME, RATE, damage, make_stems, write_packed_tree

from flowsep import audio as audio_module
from flowsep.audio import audio_writer, read_audio, stream_audio, write_audio
from flowsep.files import FlowsepError


def test_wav_and_flac_round_trip(tmp_path):
    audio = make_stems()["vocals"]
    assert write_audio(tmp_path / ODD_NAME / "a.wav", audio, 48000) == 0
    back, rate = read_audio(tmp_path / ODD_NAME / "a.wav")
    np.testing.assert_array_equal(back, audio)
    assert rate == 48000 and sf.info(tmp_path / ODD_NAME / "a.wav").subtype == "FLOAT"
    loud = audio * 20
    assert write_audio(tmp_path / "a.flac", loud[:1], RATE) == np.count_nonzero(np.abs(loud[0]) > 1) > 0
    back, _ = read_audio(tmp_path / "a.flac")
    np.testing.assert_allclose(back, np.clip(loud[:1], -1, 1), atol=2**-22)
    assert sf.info(tmp_path / "a.flac").subtype == "PCM_24"
    assert write_audio(tmp_path / "b.wav", loud, RATE) == 0  # float holds it
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav")[0], loud)


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus", "m4a", "wma", "mka"])
def test_compressed_formats(tmp_path, suffix):
    audio = make_stems(seconds=1)["vocals"]
    sf.write(tmp_path / "a.wav", audio.T, RATE)
    path = tmp_path / f"-y 'quoted' {ODD_NAME}: concat:b.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-b:a", "192k", f"file:{path}"], check=True)
    back, rate = read_audio(path)
    assert rate == (48000 if suffix == "opus" else RATE) and back.dtype == np.float32
    assert back.shape[0] == 2 and back.shape[1] == pytest.approx(rate, rel=0.06)
    assert np.std(back) == pytest.approx(np.std(audio), rel=0.1)


def test_mp3_with_no_length_in_its_header_is_read_to_the_end(tmp_path):
    rng = np.random.default_rng(0)
    audio = np.concatenate([rng.normal(0, 0.1, 2 * RATE), np.zeros(4 * RATE)])  # VBR: dense first, then cheap
    sf.write(tmp_path / "a.wav", audio, RATE)
    options = ["-q:a", "4", "-write_xing", "0"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *options, tmp_path / "a.mp3"], check=True)
    back, rate = read_audio(tmp_path / "a.mp3")
    assert back.shape[1] / rate == pytest.approx(6, abs=0.1)


def ffmpeg(*arguments) -> bytes:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


@pytest.mark.parametrize("name", ["song.wav", "song.mpeg", "song"])
def test_the_content_decides_and_not_the_name(tmp_path, name):
    """An MP3 without a length, whatever it is called, is counted as long as ffmpeg decodes it."""
    rng = np.random.default_rng(0)
    audio = np.concatenate([rng.normal(0, 0.1, 2 * RATE), np.zeros(4 * RATE)])
    sf.write(tmp_path / "a.flac", audio, RATE)
    ffmpeg("-i", tmp_path / "a.flac", "-q:a", "4", "-write_xing", "0", "-f", "mp3", tmp_path / name)
    back, rate = read_audio(tmp_path / name)
    assert back.shape[1] / rate == pytest.approx(6, abs=0.1)
    assert audio_module.inspect(tmp_path / name) == (rate, 1, back.shape[1])


def test_a_length_that_the_header_leaves_open_is_counted(tmp_path):
    sf.write(tmp_path / "a.wav", make_stems(seconds=1)["vocals"].T, RATE)
    (tmp_path / "open.flac").write_bytes(ffmpeg("-i", tmp_path / "a.wav", "-f", "flac", "-"))
    assert sf.info(tmp_path / "open.flac").frames > 2**62  # what the case is about
    back, _ = read_audio(tmp_path / "open.flac")
    np.testing.assert_allclose(back, read_audio(tmp_path / "a.wav")[0], atol=1e-7)
    assert audio_module.inspect(tmp_path / "open.flac") == (RATE, 2, RATE)


def test_all_streams_of_a_chained_ogg_are_read(tmp_path):
    for k in range(2):
        sf.write(tmp_path / f"{k}.ogg", make_stems(k, seconds=1)["vocals"].T, RATE)
    path = tmp_path / "chained.ogg"
    path.write_bytes(b"".join((tmp_path / f"{k}.ogg").read_bytes() for k in range(2)))
    back, rate = read_audio(path)
    assert back.shape[1] / rate == pytest.approx(2, abs=0.05)
    assert audio_module.inspect(path)[2] == back.shape[1]


@pytest.mark.parametrize("bits", [16, 32])
def test_a_header_that_promises_a_part_of_what_the_file_holds_is_refused(tmp_path, bits):
    """32-bit sizes wrap at 4 GiB; here the file of 4 GiB and a minute is sparse and takes no room."""
    path, frame = tmp_path / "long.wav", 2 * bits // 8
    size = 2**32 + 60 * RATE * frame
    kind = {16: 1, 32: 3}[bits]
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", (36 + size) % 2**32) + b"WAVEfmt ")
        file.write(struct.pack("<IHHIIHH", 16, kind, 2, RATE, RATE * frame, frame, bits))
        file.write(b"data" + struct.pack("<I", size % 2**32))
        file.truncate(44 + size)
    with pytest.raises(FlowsepError, match=r"promises 60\.0 s in .* bytes, but it holds 4,.*RF64"), stream_audio(path):
        pass


def test_a_picture_after_the_samples_is_no_fault(tmp_path):
    path = tmp_path / "tagged.wav"
    audio = make_stems(seconds=1)["vocals"]
    sf.write(path, audio.T, RATE, "FLOAT")
    with path.open("ab") as file:
        file.write(b"id3 " + struct.pack("<I", 100_000) + bytes(100_000))
    np.testing.assert_array_equal(read_audio(path)[0], audio)


def wav(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    """A WAV file of a second of stereo, 16 bit, with `chunks` before the samples."""
    samples = (b"data", np.zeros((RATE, 2), "<i2").tobytes())
    shape = (b"fmt ", struct.pack("<HHIIHH", 1, 2, RATE, 4 * RATE, 4, 16))
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(held)) + held for name, held in (shape, *chunks, samples))
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def test_pictures_may_be_larger_than_the_sound(tmp_path):
    (tmp_path / "cover.wav").write_bytes(wav((b"JUNK", bytes(3_000_000))))
    assert read_audio(tmp_path / "cover.wav")[0].shape == (2, RATE)


def test_a_header_that_a_recorder_left_at_zero_is_read_on(tmp_path):
    head, samples = wav(size=0).split(b"data")
    (tmp_path / "crash.wav").write_bytes(head + b"data" + bytes(4) + samples[4:])
    assert sf.info(tmp_path / "crash.wav").frames == 0
    assert read_audio(tmp_path / "crash.wav")[0].shape == (2, RATE)
    assert audio_module.inspect(tmp_path / "crash.wav") == (RATE, 2, RATE)


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.wav")
    write_audio(path, make_stems()["vocals"], RATE)
    np.testing.assert_array_equal(read_audio(path)[0], make_stems()["vocals"])


def test_a_stem_file_of_musdb18_is_heard_as_its_mixture(tmp_path):
    folder = write_packed_tree(tmp_path, train=1, test=1, seconds=1)
    (path,) = (folder / "test").glob("*.stem.mp4")
    back, rate = read_audio(path)
    mixture, _ = audio_module.read_ffmpeg(Path(path), 0)
    np.testing.assert_array_equal(back, mixture)
    with stream_audio(path) as stream:
        assert (stream.sample_rate, stream.channels) == (rate, 2)


@pytest.mark.parametrize("how", [how for how in BROKEN if how not in ("shorter", "other rate")])
def test_broken_audio_file(tmp_path, how):
    path = tmp_path / "song.wav"
    sf.write(path, make_stems()["vocals"].T, RATE, "FLOAT")
    damage(path, how)
    reason = "neither libsndfile nor ffmpeg" if "not audio" in BROKEN[how] else BROKEN[how]
    with pytest.raises(FlowsepError, match=rf"song\.wav: .*{reason}"):
        read_audio(path)


@pytest.mark.parametrize("name", ["song.flac", "song.m4a"])
def test_truncated_flac_and_m4a(tmp_path, name):
    sf.write(tmp_path / "a.wav", make_stems(seconds=2)["vocals"].T, RATE)
    path = tmp_path / name
    options = ["-movflags", "faststart"] if name.endswith("m4a") else []
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *options, path], check=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(FlowsepError, match=rf"{name}: truncated"):
        read_audio(path)


def test_wav_from_a_pipe_has_no_length_and_is_read(tmp_path):
    sf.write(tmp_path / "a.wav", make_stems()["vocals"].T, RATE)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-f", "wav", "pipe:1"]
    (tmp_path / "b.wav").write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (tmp_path / "b.wav").read_bytes()[4:8] == b"\xff\xff\xff\xff"
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav")[0], read_audio(tmp_path / "a.wav")[0])


def test_missing_file_no_ffmpeg_and_six_channels_in_m4a(tmp_path, monkeypatch):
    with pytest.raises(FlowsepError, match=r"gone\.wav: no such file"):
        read_audio(tmp_path / "gone.wav")
    sf.write(tmp_path / "a.wav", np.zeros((RATE, 6)), RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / "a.m4a"], check=True)
    with pytest.raises(FlowsepError, match=r"a\.m4a: 6 channels; downmix to stereo first"):
        read_audio(tmp_path / "a.m4a")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlowsepError, match=r"a\.m4a: .*install ffmpeg"):
        read_audio(tmp_path / "a.m4a")


def test_writing_fails_whole(tmp_path):
    audio = make_stems()["vocals"]
    with pytest.raises(FlowsepError, match=r"cannot write '\.mp3'; use \.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", audio, RATE)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FlowsepError, match="cannot write there"):
        write_audio(tmp_path / "file" / "a.wav", audio, RATE)
    write_audio(tmp_path / "a.wav", audio, RATE)
    before = (tmp_path / "a.wav").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))  # stands in for a full disk
    try:
        with pytest.raises(FlowsepError, match=r"a\.wav: not written"):
            write_audio(tmp_path / "a.wav", np.ones((2, 100000), np.float32), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a"])
def test_blocks_are_the_whole_file(tmp_path, monkeypatch, name):
    sf.write(tmp_path / "a.wav", make_stems(seconds=1)["vocals"].T, RATE)
    if name != "a.wav":
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / name], check=True)
    whole, rate = read_audio(tmp_path / name)
    monkeypatch.setattr(audio_module, "BLOCK", 1000)
    with stream_audio(tmp_path / name) as stream:
        blocks = list(stream.blocks)
    assert (stream.sample_rate, stream.channels) == (rate, len(whole)) and max(b.shape[1] for b in blocks) == 1000
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
    assert stream.samples == pytest.approx(whole.shape[1], abs=4096)
    with stream_audio(tmp_path / name) as stream:
        next(stream.blocks)  # nobody wants the rest: no process is left, and no pipe breaks


def test_writing_by_blocks(tmp_path):
    audio = 20 * make_stems()["vocals"]
    clipped = write_audio(tmp_path / "whole.flac", audio, RATE)
    with audio_writer(tmp_path / "blocks.flac", RATE, 2) as writer:
        for block in np.split(audio, [100, 100, 9000], axis=1):
            writer.write(block)
    assert writer.clipped == clipped > 0
    assert (tmp_path / "blocks.flac").read_bytes() == (tmp_path / "whole.flac").read_bytes()
    with pytest.raises(KeyError), audio_writer(tmp_path / "half.wav", RATE, 2) as writer:
        writer.write(audio)
        raise KeyError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocks.flac", "whole.flac"]


def test_long_wav_becomes_rf64(tmp_path):
    for samples, container in ((2**28, "RF64"), (1000, "WAV"), (None, "WAV")):
        with audio_writer(tmp_path / "a.wav", RATE, 2, samples) as writer:
            writer.write(np.ones((2, 10), np.float32))
        assert sf.info(tmp_path / "a.wav").format == container
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], np.ones((2, 10)))
