"""Flags that nothing would read are refused, in sweeps too."""

from pathlib import Path

import pytest

from experiments import __main__
from tests.experiments.small_data import data_folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["spoken_digits", "--held_out=3"], "--held_out: it goes with --split=speaker; leave"),
        (["digit_gan", "--cell=lstm"], "--cell: it goes with --generator=rows; leave it out"),
        (["digit_gan", "--nofeedback"], "--feedback: it goes with --generator=rows"),
        (["digit_gan", "--generator=rows", "--channels=8"], "it goes with --generator=conv"),
        (["recurrent_ppo", "--length=20"], "goes with --environment=memory_chain or t_maze"),
        (["recurrent_ppo", "--memory=none", "--cell=lstm"], "goes with --memory=recurrent"),
        (["time_series", "--data=m1_yearly", "--mixup=0.1"], "--data=JapaneseVowels"),
        (["sweep", "spoken_digits", "--sweep=held_out=0,1"], "goes with --split=speaker"),
        (["sweep", "time_series", "--data=m1_yearly", "--sweep=mixup=0,1"], "JapaneseVowels"),
    ],
)
def test_a_flag_without_effect_is_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(data_folder(tmp_path / "data")))
    assert __main__.main([*words, f"--workdir={tmp_path / 'run'}"]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: --")
    assert said in error
