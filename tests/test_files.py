import pytest

from robustsr.files import staged


def test_what_is_interrupted_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("before")
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as part:
        (part / "a").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "a"] and (tmp_path / "out" / "a").read_text() == "before"
