from robustsr_ui.scenes import grid

from robustsr.report import Column, Row, Table


def test_headers_say_what_was_measured_and_not_twice_of_what():
    outputs = [Column("PSNR", "output", None, 2), Column("LPIPS", "output", None, 4)]
    head, rows = grid(Table("Outputs", outputs, [Row.of("attacked", [30.123, None], section="psnr")]))
    assert head == ["", "PSNR", "LPIPS"] and rows == [["psnr, attacked", "30.12", "n/a"]]
    assert grid(Table("Measured", [Column("s", "time", None, 2)], [Row.of("bicubic", [0.5])]))[0] == ["", "time s"]
