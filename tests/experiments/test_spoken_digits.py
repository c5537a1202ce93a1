"""Spoken digits: strings of one speaker, noise, folds that leak nothing, and whole runs."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from experiments import __main__, spoken_digits
from experiments.data.recordings import Recordings
from experiments.harness.errors import UserError
from experiments.shared import listening, spoken
from experiments.shared.explain_sound import ExplainSound, chosen_sound
from recurrent.spectrograms import mel
from tests.experiments.small_data import data_folder

sounded, joined = jax.jit(spoken.sounded), jax.jit(spoken.joined_anew, static_argnums=2)


def numbered(speakers: int = 3, digits: int = 4, indices: int = 14) -> Recordings:
    """Recordings whose samples all have one value, which tells them apart."""
    keys = [(d, s, i) for d in range(digits) for s in range(speakers) for i in range(indices)]
    rng = np.random.default_rng(0)
    samples = [np.full(rng.integers(250, 400), 100 * (k + 1), np.int16) for k in range(len(keys))]
    classes, people, found = (np.array(each, np.int32) for each in zip(*keys, strict=True))
    return Recordings(samples, classes, people, found, ("ann", "bob", "cid")[:speakers])


def values(rows: dict[str, np.ndarray], chosen: Any = None) -> list[int]:
    """The values of the recordings in strings, those of chosen ones alone if they are given."""
    heads = rows["samples"][:, 0][slice(None) if chosen is None else chosen]
    return sorted(heads[heads > 0].tolist())


def all_of(found: Recordings, chosen: Any) -> list[int]:
    return sorted(int(each[0]) for each in found.some(chosen).samples)


@pytest.mark.parametrize("digits", [1, 3])
def test_the_official_split_takes_the_first_five_for_the_test(digits: int) -> None:
    found = numbered()
    data, speakers = spoken.splits_of(found, "official", digits, 0)
    assert values(data["test"]) == all_of(found, found.indices < 5)
    assert values(data["valid"]) == all_of(found, (found.indices >= 5) & (found.indices < 10))
    assert values(data["train"]) == all_of(found, found.indices >= 10)
    for rows in data.values():
        mask = jnp.ones(len(rows["ids"]), bool)
        for held_out in range(3):
            assert spoken.counted(rows | {"mask": mask}, {"held_out": held_out}).all()
    for row, speaker in enumerate(speakers):
        own = data["test"]["samples"][row, 0]
        assert {*found.speakers[own[own > 0] // 100 - 1].tolist()} == {speaker}
    longest = max(len(row) for row in spoken.dealt(found, digits, np.random.default_rng(0)))
    assert longest == digits


@pytest.mark.parametrize("held_out", range(3))
def test_no_string_of_who_is_held_out_counts_before_the_test(held_out: int) -> None:
    found = numbered()
    data, _ = spoken.splits_of(found, "speaker", 2, 0)
    counted = {
        name: np.asarray(
            spoken.counted(rows | {"mask": np.ones(len(rows["ids"]), bool)}, {"held_out": held_out})
        )
        for name, rows in data.items()
    }
    own = found.speakers == held_out
    assert values(data["test"], counted["test"]) == all_of(found, own)
    for name, chosen in (("train", found.indices >= 10), ("valid", found.indices < 10)):
        chosen &= (found.indices >= 5) & ~own
        assert values(data[name], counted[name]) == all_of(found, chosen)


@pytest.mark.parametrize("held_out", range(3))
def test_one_who_is_not_trained_on_may_choose_the_weights(held_out: int) -> None:
    found = numbered()
    data, _ = spoken.splits_of(found, "speaker", 1, 0, "unheard")
    judge, learner = (held_out + 1) % 3, (held_out + 2) % 3
    for name, speaker in (("train", learner), ("valid", judge), ("test", held_out)):
        rows = data[name]
        batch = rows | {"mask": np.arange(len(rows["ids"])) > 0}
        counts = np.asarray(spoken.counted(batch, {"held_out": held_out}))
        np.testing.assert_array_equal(counts, batch["mask"] & (rows["speakers"] == speaker))


@pytest.mark.long
def test_joined_strings_are_of_one_speaker_and_none_is_padding() -> None:
    found = numbered()
    rows = spoken.splits_of(found, "speaker", 1, 0)[0]["train"]
    mask = np.arange(len(rows["ids"])) % 5 != 0
    batch = {
        name: jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for name, x in rows.items()
    }
    batch["mask"] = jnp.asarray(mask)
    drawn = [jax.device_get(joined(jax.random.key(k), batch, 4)) for k in (0, 0, 1)]
    for each in drawn:
        heads = each["samples"][mask, 0]  # [S, N]
        assert heads.min() > 0
        places = heads // 100 - 1
        assert (found.speakers[places] == rows["speakers"][mask][:, None]).all()
        np.testing.assert_array_equal(found.classes[places], each["classes"][mask])
        lengths = np.array([len(x) for x in found.samples])
        np.testing.assert_array_equal(lengths[places], each["lengths"][mask])
        np.testing.assert_array_equal(heads[:, 0], rows["samples"][mask, 0, 0])
        assert {*each["counts"].tolist()} == {1, 2, 3, 4}
    jax.tree.map(np.testing.assert_array_equal, drawn[0], drawn[1])
    assert (drawn[0]["samples"] != drawn[2]["samples"]).any()


def test_strings_sound_like_their_recordings_with_silence_between() -> None:
    rows = spoken.splits_of(numbered(), "speaker", 3, 0)[0]["test"]
    sound, totals, speech = map(np.asarray, sounded(rows))
    for k, count in enumerate(rows["counts"]):
        parts = [np.zeros(rows["silences"][k, 0])]
        for n in range(count):
            parts.append(rows["samples"][k, : rows["lengths"][k, n], n] / 2**15)
            parts.append(np.zeros(rows["silences"][k, n + 1]))
        expected = np.concatenate(parts)
        assert totals[k] == len(expected)
        assert speech[k] == rows["lengths"][k, :count].sum()
        np.testing.assert_allclose(sound[k, : totals[k]], expected, atol=1e-6)
        assert not sound[k, totals[k] :].any()


def test_a_faster_digit_is_what_numpy_interpolates() -> None:
    rows = spoken.splits_of(numbered(), "speaker", 2, 0)[0]["test"]
    rng = np.random.default_rng(0)
    rows["samples"] = rng.integers(-9999, 9999, rows["samples"].shape).astype(np.int16)
    rates = rng.uniform(0.8, 1.25, rows["lengths"].shape).astype(np.float32)
    sound, totals, _ = map(np.asarray, sounded(rows, rates))
    for k, count in enumerate(rows["counts"]):
        start = rows["silences"][k, 0]
        for n in range(count):
            length = rows["lengths"][k, n]
            duration = int((length - 1) / rates[k, n]) + 1
            at = np.arange(duration) * rates[k, n]
            expected = np.interp(at, np.arange(length), rows["samples"][k, :length, n]) / 2**15
            np.testing.assert_allclose(sound[k, start : start + duration], expected, atol=1e-3)
            start += duration + rows["silences"][k, n + 1]
        assert totals[k] == start


def test_noise_has_the_power_that_the_ratio_says() -> None:
    """Of the speech: the silence around it does not count."""
    rng = np.random.default_rng(0)
    totals, speech = np.array([20000, 9000]), np.array([5000, 9000])
    places = np.arange(20000)
    real = places < totals[:, None]
    sound = 0.03 * rng.normal(size=(2, 20000)) * (places < speech[:, None])
    noise = rng.normal(size=(2, 20000))
    given = spoken.Sound(*map(jnp.asarray, (sound, totals, speech)))
    found = np.asarray(jax.jit(spoken.noisy)(given, jnp.array([10.0, -3.0]), noise))
    assert not found[~real].any()
    for k, ratio in enumerate((10, 0.501187)):
        clean = sound[k] / np.sqrt(np.square(sound[k]).sum() / totals[k])
        left = (found[k] - clean)[: totals[k]]
        spoken_power = np.square(clean).sum() / speech[k]
        assert spoken_power / np.square(left).mean() == pytest.approx(ratio, rel=0.05)


def test_training_hears_noise_as_loud_as_evaluation_will() -> None:
    """What the noise adds to the quietest frames shows, where nothing else is changed."""
    rows = spoken.splits_of(numbered(), "official", 1, 0)[0]["train"]
    rows = {name: jnp.asarray(each[:20]) for name, each in rows.items()}
    levels = []
    for snr in (0.0, 60.0):
        hparams = {"speed": 0.0, "warp": 0.0, "snr": snr}
        features, _ = jax.jit(spoken.distorted)(jax.random.key(0), rows, hparams)
        levels.append(np.quantile(np.asarray(features[:, :, :8]), 0.2))
    assert levels[0] > levels[1] + 0.5


@pytest.mark.long
def test_training_hears_formants_elsewhere_where_spectra_are_stretched() -> None:
    """The loudest band of a tone moves; in a few strings it is hidden."""
    rows = spoken.splits_of(numbered(), "official", 1, 0)[0]["train"]
    rows = {name: jnp.asarray(each[:40]) for name, each in rows.items()}
    tone = 9999 * np.sin(2 * np.pi * 1500 * np.arange(rows["samples"].shape[1]) / 8000)
    rows["samples"] = jnp.broadcast_to(tone.astype(np.int16)[:, None], rows["samples"].shape)
    band = mel(1500) / mel(4000) * (spoken.BANDS + 1) - 1
    moved = []
    for warp in (0.0, 0.2):
        hparams = {"speed": 0.0, "warp": warp, "snr": 60.0}
        features, _ = jax.jit(spoken.distorted)(jax.random.key(0), rows, hparams)
        moved.append(np.median(np.abs(np.asarray(features).max(2).argmax(1) - band)))
    assert moved[0] < 0.7
    assert 0.8 < moved[1] < 2


@pytest.mark.long
def test_only_recordings_of_the_one_held_out_are_explained_and_none_is_background() -> None:
    data = spoken.splits_of(numbered(), "speaker", 1, 0)[0]
    for held_out in range(3):
        test, train = (spoken.rows_that_count(data[name], held_out) for name in ("test", "train"))
        assert {*data["test"]["speakers"][test].tolist()} == {held_out}
        assert {*data["train"]["speakers"][train].tolist()} == {*range(3)} - {held_out}
    program: Any = SimpleNamespace(data=data)
    run: Any = SimpleNamespace(config=spoken_digits.Config(held_out=2), program=program)
    test = spoken.rows_that_count(data["test"], 2)
    _, title = chosen_sound(run, ExplainSound(index=3))
    assert title == f"test recording 3, '{data['test']['classes'][test[3], 0]}'"
    with pytest.raises(UserError, match=f"{len(test) - 1}"):
        chosen_sound(run, ExplainSound(index=len(test)))


def test_nobody_is_held_out_whom_there_are_no_recordings_of() -> None:
    spoken.check_people(["ann", "bob", "cid", "dan", "eve", "fay"])
    with pytest.raises(UserError, match=r"of 6 people, .* those of 2: ann, bob"):
        spoken.check_people(["ann", "bob"])


def test_what_a_string_sounds_like_does_not_depend_on_those_beside_it() -> None:
    """Neither its noise nor its features, though batches are cut to other lengths."""
    rows = spoken.splits_of(numbered(), "speaker", 2, 0)[0]["test"]
    rows = {name: x[:3] for name, x in rows.items()}
    hear = jax.jit(spoken.heard)
    narrow, frames = map(np.asarray, hear(rows, 10.0))
    wide = rows | {"samples": np.pad(rows["samples"], ((0, 0), (0, 700), (0, 0)))}
    found, same = map(np.asarray, hear(wide, 10.0))
    np.testing.assert_array_equal(frames, same)
    for k, count in enumerate(frames):
        np.testing.assert_allclose(found[k, :, :count], narrow[k, :, :count], atol=1e-3)
        assert not found[k, :, count:].any()


def test_stripes_lie_within_and_are_no_longer_than_allowed() -> None:
    sizes, longest = jnp.array([30, 12, 0]), jnp.array([8, 2, 0])
    stripe = jax.jit(spoken.stripe, static_argnums=3)
    keys = [jax.random.key(k) for k in range(100)]
    found = np.array([stripe(key, sizes, longest, 40) for key in keys])
    widths = found.sum(-1)
    assert widths.max(0).tolist() == [8, 2, 0]
    assert widths.min(0).tolist() == [0, 0, 0]
    assert (np.diff(found.astype(int), axis=-1) == 1).sum(-1).max() <= 1
    assert not found[:, 0, 30:].any()
    assert not found[:, 1, 12:].any()


def test_a_recording_of_a_user_is_trimmed_and_resampled_and_it_is_said(tmp_path: Path) -> None:
    tone = 0.4 * np.sin(2 * np.pi * 500 * np.arange(22050) / 22050)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([np.zeros(22050), tone, np.zeros(11025)]), 22050)
    sound, notes = listening.prepared(str(path))
    assert len(sound) == pytest.approx(8000 + 2 * 1200 + 600, abs=2 * 160)
    assert notes[0] == f"{path} has 22050 samples a second; resampled to 8000."
    assert re.fullmatch(r"The silence around the speech was cut off; 1\.3\d s are left\.", notes[1])
    silent = {"zero": np.zeros(8000), "constant": np.full(8000, 0.5)}
    for name, samples in silent.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 8000)
        with pytest.raises(UserError, match="nothing is to be heard"):
            listening.prepared(str(tmp_path / f"{name}.wav"))
    soundfile.write(tmp_path / "short.wav", tone[:100], 8000)
    with pytest.raises(UserError, match="is too short: 12 ms; expected at least 25 ms"):
        listening.prepared(str(tmp_path / "short.wav"))


@pytest.mark.parametrize(("size", "offset"), [(1e30, 0.0), (1e-7, 0.0), (0.01, 0.8), (1e-40, 0.0)])
def test_a_recording_is_the_same_in_any_unit_and_with_any_offset(
    tmp_path: Path, size: float, offset: float
) -> None:
    """Float files may have any; an offset of 0.8 under a faint voice hides where it begins."""
    tone = np.sin(2 * np.pi * 500 * np.arange(22050) / 22050)
    voice = np.concatenate([np.zeros(22050), tone, np.zeros(11025)])
    plain, other = tmp_path / "plain.wav", tmp_path / "other.wav"
    soundfile.write(plain, 0.5 * voice, 22050, subtype="FLOAT")
    soundfile.write(other, size * voice + offset, 22050, subtype="FLOAT")
    strips = []
    for path in (plain, other):
        sound, notes = listening.prepared(str(path))
        assert re.search(r"; 1\.3\d s are left\.$", notes[-1])
        strips.append(spoken.heard_alone(sound))
    np.testing.assert_allclose(*strips, atol=0.02)


def faint_ends(noise: float) -> np.ndarray:
    """A second of a vowel between two hisses 45 dB below it, each of 0.3 s, in a quiet room."""
    rng = np.random.default_rng(0)
    hiss = np.sqrt(2) * 10 ** (-45 / 20) * 0.5 * rng.normal(size=2400)
    vowel = 0.5 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)
    said = np.concatenate([np.zeros(16000), hiss, vowel, hiss, np.zeros(16000)])
    return said + noise * rng.normal(size=len(said))


@pytest.mark.parametrize("noise", [0.0, 1e-4, 5e-4])
def test_faint_consonants_at_the_ends_are_kept_and_the_silence_is_not(
    tmp_path: Path, noise: float
) -> None:
    soundfile.write(tmp_path / "six.wav", faint_ends(noise), 8000)
    sound, notes = listening.prepared(str(tmp_path / "six.wav"))
    assert len(sound) - 600 == pytest.approx(12800 + 2 * 1200, abs=2 * 160)
    assert notes[-1].startswith("The silence around the speech was cut off; 1.9")


def test_loud_noise_hides_where_speech_begins_so_that_all_is_kept(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "six.wav", faint_ends(0.1), 8000)
    sound, notes = listening.prepared(str(tmp_path / "six.wav"))
    assert (len(sound), notes) == (44800 + 600, [])


def test_a_click_before_quiet_speech_costs_none_of_it(tmp_path: Path) -> None:
    quiet = 0.02 * faint_ends(0.0)
    quiet[15000] = 0.99
    soundfile.write(tmp_path / "click.wav", quiet, 8000, subtype="FLOAT")
    sound, _ = listening.prepared(str(tmp_path / "click.wav"))
    assert len(sound) > 12000


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
def test_rounding_and_dither_are_no_speech(tmp_path: Path, subtype: str) -> None:
    step = 2.0 ** (1 - {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24}[subtype])
    dither = 0.25 + step * np.random.default_rng(0).integers(-1, 2, 8000)
    soundfile.write(tmp_path / "a.wav", dither, 8000, subtype=subtype)
    with pytest.raises(UserError, match="nothing is to be heard"):
        listening.prepared(str(tmp_path / "a.wav"))


def test_channels_that_cancel_each_other_are_read_by_the_first(tmp_path: Path) -> None:
    voice = 0.4 * np.sin(2 * np.pi * 500 * np.arange(8000) / 8000)
    soundfile.write(tmp_path / "mono.wav", voice, 8000)
    soundfile.write(tmp_path / "anti.wav", np.stack([voice, -voice], 1), 8000)
    sound, notes = listening.prepared(str(tmp_path / "anti.wav"))
    assert "they cancel each other, so the first is read" in notes[0]
    np.testing.assert_allclose(sound, listening.prepared(str(tmp_path / "mono.wav"))[0], atol=1e-3)


SMALL = ["--epochs=2", "--hidden_size=8", "--channels=2", "--batch_size=16"]


@pytest.mark.long
def test_it_trains_understands_and_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = data_folder(tmp_path / "data"), tmp_path / "run"
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(data))
    assert __main__.main(["spoken_digits", "--digits=2", *SMALL, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert 0 <= result["test_exact"] <= 1
    names = {file.name for file in (run / "figures").iterdir()}
    assert names >= {"alignment.png", "confusion_matrix.png", "speakers.csv", "decoding.csv"}
    assert any(name.startswith("misheard") for name in names)
    capsys.readouterr()
    wav = data / "fsdd" / "recordings" / "2_ann_0.wav"
    assert __main__.main(["predict", str(run), f"--wav={wav}", "--beam=3"]) == 0
    assert re.search(r"\(probability [01]\.\d{4}\)", capsys.readouterr().out)
    assert __main__.main(["predict", str(run)]) == 2
    assert "expected --wav=FILE" in capsys.readouterr().err


@pytest.mark.long
def test_the_folds_of_the_speakers_are_one_population(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(data_folder(tmp_path / "data")))
    flags = ["--split=speaker", *SMALL, "--sweep=held_out=0,1,2"]
    folder = tmp_path / "sweep"
    assert __main__.main(["sweep", "spoken_digits", *flags, f"--workdir={folder}"]) == 0
    rows = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    assert [row["held_out"] for row in rows] == [0, 1, 2]
    assert len({row["test_loss"] for row in rows}) == 3
    assert len([*(folder / "programs").iterdir()]) == 1
