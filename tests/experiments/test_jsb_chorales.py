"""The chorales: their file, the probabilities of chords, a short training, and what it composes."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__
from experiments.data import chorales
from experiments.data.chorales import KEYS, LOWEST, NONE, VOICES
from experiments.figures.piano_roll import piano_roll
from experiments.harness.errors import UserError
from experiments.shared import chords, composing, music
from tests.experiments.small_data import data_folder

SMALL = ("--hidden_size=8", "--epochs=2", "--batch_size=4", "--steps_per_call=2")


# The file


def test_songs_are_sorted_keys_filled_up_with_none(tmp_path: Path) -> None:
    file = tmp_path / "songs.json"
    song = [[64, 60], [], [108, 21, 30, 31]]
    file.write_text(json.dumps({split: [song, song[:2]] for split in ("train", "valid", "test")}))
    found = chorales.read_songs(file)["valid"]
    assert found.lengths.tolist() == [3, 2]
    empty = [NONE] * 4
    assert found.pitches.tolist() == [
        [[39, 43, NONE, NONE], empty, [0, 9, 10, 87]],
        [[39, 43, NONE, NONE], empty, empty],
    ]


@pytest.mark.parametrize(
    ("song", "says"),
    [
        ("la la", "train, song 1: expected a list of two frames"),
        ([[60]], "train, song 1: expected a list of two frames"),
        ([[60], 60], "frame 1: expected up to 4 different MIDI numbers, got 60"),
        ([[60], [60.5]], "frame 1: expected up to 4 different"),
        ([[60], [True]], "frame 1: expected up to 4 different"),
        ([[60], [60, 60]], "frame 1: expected up to 4 different"),
        ([[60], [60, 61, 62, 63, 64]], "frame 1: expected up to 4 different"),
        ([[20], [60]], "frame 0: expected keys of a piano"),
        ([[60], [10**30]], "frame 1: expected keys of a piano"),
    ],
)
def test_a_song_that_is_none_is_named(song: Any, says: str, tmp_path: Path) -> None:
    file = tmp_path / "songs.json"
    good = [[60], [62]]
    file.write_text(json.dumps({"train": [good, song], "valid": [good], "test": [good]}))
    with pytest.raises(UserError, match=says):
        chorales.read_songs(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": 3}', "[" * 10**5, "\x00"])
def test_a_file_without_songs_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "songs.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"songs\.json"):
        chorales.read_songs(file)


# Probabilities


def chord_of(keys: tuple[int, ...]) -> list[int]:
    return [*keys, *[NONE] * (VOICES - len(keys))]


@pytest.mark.long
def test_the_joint_head_gives_all_chords_a_probability_of_one_together() -> None:
    """Over a piano whose upper keys cannot sound, so that all its chords can be listed."""
    few, rng = 7, np.random.default_rng(0)
    head = chords.joint(3, 5)
    params = head.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape), params)
    keys = np.arange(KEYS + 1)
    mute = (keys >= few) & (keys < KEYS)
    params["out"]["bias"] = jnp.where(mute, -1e9, params["out"]["bias"])
    sets = [c for n in range(VOICES + 1) for c in itertools.combinations(range(few), n)]
    pitches = jnp.array([chord_of(keys) for keys in sets])
    features = jnp.array([0.3, -1.0, 2.0])
    nats = head.nats(params, jnp.tile(features, (len(sets), 1)), pitches)
    p = np.exp(-np.asarray(nats, float))
    assert len(sets) == sum(math.comb(few, n) for n in range(VOICES + 1))
    assert p.sum() == pytest.approx(1, abs=1e-5)

    seeds = jax.random.split(jax.random.key(2), 20_000)
    draw = jax.vmap(lambda key: head.draw(params, features, key, 1.0))
    drawn, counts = np.unique(draw(seeds), axis=0, return_counts=True)
    shares = {tuple(chord): n / len(seeds) for chord, n in zip(drawn.tolist(), counts, strict=True)}
    assert shares.keys() <= {tuple(chord) for chord in pitches.tolist()}
    found = np.array([shares.get(tuple(chord), 0) for chord in pitches.tolist()])
    assert (np.abs(found - p) <= 5 * np.sqrt(p / len(seeds)) + 1e-4).all()


@pytest.mark.long
def test_a_key_sees_what_a_loop_over_the_sounding_keys_finds() -> None:
    rng = np.random.default_rng(0)
    sounding = np.sort(rng.choice(KEYS, size=(5, VOICES), replace=False), axis=1)
    sounding[0] = [0, 1, KEYS - 2, KEYS - 1]
    found = np.asarray(chords.around(chords.roll(jnp.asarray(sounding))))
    expected = np.zeros((5, KEYS, chords.SEEN))
    for chord, row in zip(sounding, expected, strict=True):
        for key, seen in enumerate(row):
            for other in chord.tolist():
                if abs(other - key) <= chords.REACH:
                    seen[other - key + chords.REACH] = 1
                seen[2 * chords.REACH + 1 + (other - key) % 12] += 1
                seen[-3] += other < key
                seen[-2] += other > key
            seen[-1] = 2 * key / (KEYS - 1) - 1
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_chord_that_is_shifted_is_seen_the_same() -> None:
    """Apart from the place, which comes last."""
    chord = jnp.array([30, 37, 45, 50])
    seen = [chords.around(chords.roll(chord + shift)) for shift in (0, 12)]
    np.testing.assert_array_equal(seen[0][25:60, :-1], seen[1][37:72, :-1])


def test_the_independent_head_is_the_sum_of_binary_cross_entropies() -> None:
    rng = np.random.default_rng(0)
    head = chords.independent(6)
    params = jax.tree.map(lambda leaf: leaf + 0.3, head.init(jax.random.key(0)))
    xs = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
    sets = [(), (0,), (87,), (3, 50, 51), (1, 2, 3, 4)]
    pitches = jnp.array([chord_of(keys) for keys in sets])
    z = np.asarray(xs, float) @ np.asarray(params["kernel"], float) + np.asarray(
        params["bias"], float
    )
    p = 1 / (1 + np.exp(-z))
    for found, keys, row in zip(head.nats(params, xs, pitches), sets, p, strict=True):
        sounds = np.isin(np.arange(KEYS), keys)
        assert float(found) == pytest.approx(
            -np.log(np.where(sounds, row, 1 - row)).sum(), rel=1e-5
        )


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_of_more_keys_than_voices_the_likeliest_are_kept(temperature: float) -> None:
    head = chords.independent(KEYS, as_they_are=True)
    likely = {20: 60.0, 30: 95.0, 40: 70.0, 50: 80.0, 60: 50.0, 87: 90.0}  # all of them certain
    logits = np.full(KEYS, -90.0)
    logits[[*likely]] = [*likely.values()]
    xs = jnp.asarray(logits, jnp.float32)
    for seed in range(5):
        drawn = head.draw({}, xs, jax.random.key(seed), temperature)
        assert drawn.tolist() == [30, 40, 50, 87]
    few = jnp.where(xs > 85, xs, -90.0)
    assert head.draw({}, few, jax.random.key(0), temperature).tolist() == [30, 87, NONE, NONE]
    assert head.draw({}, few - 200, jax.random.key(0), 1.0).tolist() == [NONE] * VOICES


def test_keys_are_drawn_as_often_as_they_are_probable() -> None:
    head = chords.independent(KEYS, as_they_are=True)
    p = np.zeros(KEYS)
    p[[0, 40, 87]] = [0.2, 0.5, 0.9]
    xs = jnp.asarray(np.log(p + 1e-12) - np.log(1 - p), jnp.float32)
    drawn = jax.vmap(lambda key: head.draw({}, xs, key, 1.0))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    np.testing.assert_allclose(np.asarray(chords.roll(drawn)).mean(0), p, atol=5 * 0.5 / 141)


def test_frames_count_alike_or_songs_do_and_padding_does_not() -> None:
    nats = np.array([[1.0, 5.0], [2.0, 9e9], [6.0, np.inf]])  # [T - 1, B]
    batch = {"lengths": jnp.array([4, 2]), "mask": jnp.array([True, True])}
    found = chords.metrics(jnp.asarray(nats), batch)
    assert float(found["loss"].mean) == pytest.approx((1 + 2 + 6 + 5) / 4)
    assert float(found["song"].mean) == pytest.approx((3 + 5) / 2)
    without = chords.metrics(jnp.asarray(nats), batch | {"mask": jnp.array([True, False])})
    assert float(without["loss"].mean) == float(without["song"].mean) == 3


@pytest.mark.long
def test_a_song_is_shifted_as_a_whole() -> None:
    pitches = jnp.full((50, 3, VOICES), NONE).at[:, :, 0].set(40)
    moved = np.asarray(chords.transposed(jax.random.key(0), pitches, 2))
    assert set(np.unique(moved[..., 0])) == {38, 39, 40, 41, 42}
    assert (moved[..., 0] == moved[:, :1, 0]).all()
    assert (moved[..., 1:] == NONE).all()


@pytest.mark.long
def test_a_song_at_an_end_of_the_keyboard_is_shifted_so_far_as_its_keys_reach() -> None:
    """At both ends, near the upper one in one frame alone, over all keys, and without any."""
    songs = {
        (0, 12): [[0, 1, 2, 3], [5, NONE, NONE, NONE]],
        (-12, 0): [[80, 85, 86, 87], [40, NONE, NONE, NONE]],
        (-3, 1): [[3, NONE, NONE, NONE], [50, 86, NONE, NONE]],
        (0, 0): [[0, 87, NONE, NONE], [NONE] * 4],
        (-12, 12): [[40, 41, NONE, NONE], [42, NONE, NONE, NONE]],
    }
    many = 400
    for (down, up), song in songs.items():
        given = np.array(song)
        moved = np.asarray(
            chords.transposed(jax.random.key(0), jnp.tile(jnp.array(song), (many, 1, 1)), 12)
        )
        by = moved[:, 0, 0] - given[0, 0]
        assert {*by.tolist()} == {*range(down, up + 1)}
        expected = np.where(given == NONE, NONE, given + by[:, None, None])
        np.testing.assert_array_equal(moved, expected)
    silence = jnp.full((3, 2, VOICES), NONE)
    assert (chords.transposed(jax.random.key(0), silence, 12) == NONE).all()
    mixed = jnp.array([*songs.values()])
    moved = chords.transposed(jax.random.key(1), mixed, 12)
    assert ((moved >= 0) & (moved <= NONE)).all()
    assert ((moved == NONE) == (mixed == NONE)).all()


# Sound


def test_a_midi_file_holds_the_notes(tmp_path: Path) -> None:
    mido = pytest.importorskip("mido")
    midi = np.array([[60, -1], [60, 64], [62, 64], [-1, -1], [62, -1]])
    music.write_midi(tmp_path / "song.mid", midi, 120)
    now, heard = 0, []
    for message in mido.MidiFile(tmp_path / "song.mid"):
        now += message.time
        if not message.is_meta:
            heard.append((round(now, 3), message.type, message.note))
    assert sorted(heard) == [
        *((0, "note_on", 60), (0.5, "note_on", 64)),
        *((1, "note_off", 60), (1, "note_on", 62)),
        *((1.5, "note_off", 62), (1.5, "note_off", 64)),
        *((2, "note_on", 62), (2.5, "note_off", 62)),
    ]
    music.write_midi(tmp_path / "rests.mid", np.array([[60], [-1], [-1], [-1]]), 60)
    assert mido.MidiFile(tmp_path / "rests.mid").length == pytest.approx(4)


def test_a_note_sounds_at_its_frequency() -> None:
    samples = music.sound_of(np.array([[69], [69]]), 60)
    assert np.abs(samples).max() == pytest.approx(0.9)
    spectrum = np.abs(np.fft.rfft(samples[: 2 * music.RATE]))
    assert spectrum.argmax() / 2 == pytest.approx(440, abs=1)


def test_silence_is_drawn_and_played() -> None:
    silence = np.full((3, 2), -1)
    assert not music.sound_of(silence, 60).any()
    piano_roll("nothing", silence, cost=np.full(3, np.nan)).canvas.draw()


# Training


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(data_folder(tmp_path / "data")))
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize(
    ("head", "view"), [("independent", "chord"), ("joint", "chord"), ("independent", "key")]
)
def test_it_trains_and_composes(
    head: str, view: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = folder / "run"
    command = ["jsb_chorales", f"--head={head}", f"--view={view}", *SMALL, f"--workdir={run}"]
    assert __main__.main(command) == 0
    result = json.loads((run / "result.json").read_text())
    assert 0 < result["test_loss"] < KEYS
    assert {file.name for file in (run / "figures").iterdir()} >= {
        *("learning_curves.png", "surprise.png", "continuation.png", "continuation_played.wav"),
        *("data.csv", "padding.csv"),
    }
    pytest.importorskip("mido")
    flags = [f"--midi={folder / 'song.mid'}", "--given=2", "--frames=5"]
    assert __main__.main(["compose", str(run), *flags]) == 0
    assert "2 quarter notes by Bach, then 5 of its own" in capfd.readouterr().out
    assert (folder / "song.mid").read_bytes().startswith(b"MThd")
    for wrong in (
        ["--song=99"],
        ["--temperature=0"],
        [f"--midi={folder / 'no' / 'x.mid'}"],
        ["--midi=a.txt"],
    ):
        assert __main__.main(["compose", str(run), *flags, *wrong]) == 2
        assert capfd.readouterr().err.startswith(f"error: {wrong[0].split('=')[0]}")


@pytest.mark.long
def test_a_cell_that_looks_ahead_is_refused(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = folder / "cells.py"
    file.write_text(
        "from recurrent import bidirectional, gru\n"
        "def both(i, h): return bidirectional(gru(i, h), gru(i, h))\n"
    )
    arguments = ["jsb_chorales", f"--cell={file}:both", f"--workdir={folder / 'run'}"]
    assert __main__.main(arguments) == 2
    assert "looks ahead" in capfd.readouterr().err


@pytest.mark.long
def test_what_is_composed_follows_what_is_given() -> None:
    from experiments.jsb_chorales import Config, network

    net = network(Config(hidden_size=8, head="joint"))
    params = {"model": net.model.init(jax.random.key(0)), "head": net.head.init(jax.random.key(1))}
    begun = np.array([chord_of((39, 43)), chord_of(())])

    def song(seed: int) -> np.ndarray:
        return composing.continued(net, params, begun, 6, temperature=1.0, seed=seed)

    assert song(0)[:2].tolist() == [[39 + LOWEST, 43 + LOWEST, -1, -1], [-1] * 4]
    assert song(0).shape == (8, VOICES)
    np.testing.assert_array_equal(song(0), song(0))
    assert (song(0) != song(1)).any()
