"""The table of networks of equal params: each is as large as they allow, and is trained twice."""

from pathlib import Path

import numpy as np
import pytest

from docs import char_lm_table
from docs.char_lm_table import NETWORKS, STEP, count, largest


@pytest.mark.long
@pytest.mark.parametrize(
    "network",
    [NETWORKS[0], *(pytest.param(each, marks=pytest.mark.long) for each in NETWORKS[1:])],
    ids=lambda each: f"{each.cell}-{each.layers}",
)
def test_a_network_is_the_largest_with_so_many_params(
    network: char_lm_table.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(char_lm_table, "DATA", "pydoc")
    size = largest(network, 150_000)
    assert count(network, size) <= 150_000 < count(network, size + STEP)


def test_params_that_no_network_is_small_enough_for_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(char_lm_table, "DATA", "pydoc")
    with pytest.raises(SystemExit, match=r"error: --parameters: expected at least .*, got 10"):
        char_lm_table.main(["--parameters=10"])


@pytest.mark.long
def test_both_tables_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 100)
    monkeypatch.setattr(char_lm_table, "NETWORKS", NETWORKS[:2])
    monkeypatch.setattr(char_lm_table, "COMMON", {"text": str(text), "batch_size": 4, "window": 16})
    flags = ["--parameters=9000", "--epochs=1", "--minutes=0.001", f"--folder={tmp_path / 'runs'}"]
    char_lm_table.main(flags)
    out = capfd.readouterr().out
    assert "1 epochs each" in out
    assert "About 0.001 minutes each" in out
    assert out.count("| `elman` x 1 | ") == 2
    cells = [line.split("|")[6:10] for line in out.splitlines() if line.startswith("| `")]
    halves, all_of_it = np.array(cells, float)[:, :2], np.array(cells, float)[:, 2]
    np.testing.assert_allclose(all_of_it, halves.mean(1), atol=2e-3)  # of nearly equal lengths
    assert len(list((tmp_path / "runs").iterdir())) == 2  # no run was made twice
