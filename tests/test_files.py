import os

import pytest

from robustsr import files
from robustsr.files import atomic, staged
from robustsr.types import RobustSRError


@pytest.fixture
def calls(monkeypatch):
    """What the operating system is asked for, as it happens: fsync, or the name that a file gets."""
    asked = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def call(*arguments, name=name, real=real):
            asked.append(arguments[-1].name if name == "replace" else name)
            return real(*arguments)

        monkeypatch.setattr(files.os, name, call)
    return asked


def test_what_is_written_is_on_the_disk_before_and_after_it_has_its_name(tmp_path, calls):
    with atomic(tmp_path / "a") as part:
        part.write_text("x")
    assert calls == ["fsync", "a", "fsync"]


def test_files_move_to_a_folder_in_the_order_of_their_names(tmp_path, calls):
    """A cache of pictures is there once its table is."""
    with staged(tmp_path / "cache") as part:
        for name in ("table.json", "pixels.bin"):
            (part / name).write_text("x")
    assert calls == ["pixels.bin", "table.json"]


def test_what_is_interrupted_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("before")
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as part:
        (part / "a").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "a"] and (tmp_path / "out" / "a").read_text() == "before"


def test_a_file_that_another_program_holds_is_waited_for(tmp_path, monkeypatch):
    """On Windows: there a virus scanner may hold what was just written."""
    real, refusals = os.replace, [PermissionError(13, "held"), PermissionError(13, "held")]

    def replace(source, target):
        if refusals:
            raise refusals.pop()
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(RobustSRError, match="held"), atomic(tmp_path / "a") as part:
        part.write_text("a")
    monkeypatch.setattr(files, "PAUSES", (0.001, 0.001))
    refusals[:] = [PermissionError(13, "held")] * 2
    with atomic(tmp_path / "a") as part:
        part.write_text("a")
    assert (tmp_path / "a").read_text() == "a" and not refusals
