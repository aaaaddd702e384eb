import json
import os
from pathlib import Path

import pytest

from robustsr.files import append_line
from robustsr.jobs import Job, plan_jobs
from robustsr.manifest import Manifest, digest
from robustsr.naming import tails
from robustsr.remote import Url, state
from robustsr.types import RobustSRError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, and a way to put empty files there: planning opens none of them."""
    monkeypatch.chdir(tmp_path)

    def touch(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return touch


def ours(source, target, root=None):
    """Records a file as a result of robustsr."""
    source, target = Path(source), Path(target)
    root = Path(root) if root else target.parent
    Manifest.read(root).begin(source, target)


def names(jobs):
    return {str(job.source): os.path.relpath(job.target) for job in jobs}


def test_an_original_under_another_name_is_an_original(here):
    """As on a Mac, to which a.png and A.png are one file."""
    here("in/a.png", "out/other.png")
    os.link("in/a.png", "out/a.png")
    with pytest.raises(RobustSRError, match="would overwrite an input"):
        plan_jobs(["in"], "out")
    with pytest.raises(RobustSRError, match="is the input itself"):
        plan_jobs(["in/a.png"], "out/a.png")


def test_a_result_is_known_however_its_source_is_written(here):
    here("in/a.png", "out/a.png")
    ours("in/a.png", "out/a.png")
    os.link("in/a.png", "in/A.png")
    assert Manifest.read(Path("out")).made(Path("in/A.png"), Path("out/a.png"))
    assert not Manifest.read(Path("out")).made(Path("in/b.png"), Path("out/a.png"))


def test_a_folder_goes_to_a_folder_beside_it(here):
    here("pics/b.JPG", "pics/a.png", "pics/notes.txt", "pics/i.psd", "pics/.hidden.png", "pics/sub/c.png")
    for text in ("pics", "pics/"):
        jobs, warnings = plan_jobs([text], None)
        assert names(jobs) == {"pics/a.png": "pics_upscaled/a.png", "pics/b.JPG": "pics_upscaled/b.JPG"}
        assert warnings == [
            "pics: 2 files of other kinds left alone (1 .psd, 1 .txt)",
            "pics: 1 picture in folders below left alone: -r takes them too",
        ]


def test_recursive_keeps_the_tree(here):
    here("pics/a.png", "pics/x/y/b.webp")
    jobs, _ = plan_jobs(["pics"], "out", recursive=True)
    assert names(jobs) == {"pics/a.png": "out/a.png", "pics/x/y/b.webp": "out/x/y/b.webp"}
    assert {job.root for job in jobs} == {Path("out")}


def test_a_file_goes_beside_itself_with_a_label(here):
    here("pics/a.png")
    assert names(plan_jobs(["pics/a.png"], None, label="x2")[0]) == {"pics/a.png": "pics/a_x2.png"}
    assert names(plan_jobs(["pics/a.png"], None, suffix="_big", format="webp")[0]) == {"pics/a.png": "pics/a_big.webp"}


def test_a_file_can_go_to_a_named_file_or_a_folder(here):
    here("a.png", "there/x.png")
    assert plan_jobs(["a.png"], "b.jpg")[0] == [Job(Path("a.png"), Path("b.jpg"), Path("."))]
    assert names(plan_jobs(["a.png"], "there")[0]) == {"a.png": "there/a.png"}
    assert names(plan_jobs(["a.png"], "new")[0]) == {"a.png": "new/a.png"}
    with pytest.raises(RobustSRError, match=r"cannot write 'b.psd'"):
        plan_jobs(["a.png"], "b.psd")
    with pytest.raises(RobustSRError, match="is the input itself"):
        plan_jobs(["a.png"], "a.png")
    with pytest.raises(RobustSRError, match="contradict each other"):
        plan_jobs(["a.png"], "b.png", format="jpg")
    assert plan_jobs(["a.png"], "b.jpeg", format="jpg")[0][0].target == Path("b.jpeg")
    with pytest.raises(RobustSRError, match="a.png names one file"):
        plan_jobs(["there"], "a.png")
    with pytest.raises(RobustSRError, match="new.png names one file"):
        plan_jobs(["a.png", "there/x.png"], "new.png")


def test_originals_are_never_overwritten(here):
    here("pics/a.png")
    assert names(plan_jobs(["pics"], "pics")[0]) == {"pics/a.png": "pics/a_x4.png"}
    assert names(plan_jobs(["pics/a.png"], "pics")[0]) == {"pics/a.png": "pics/a_x4.png"}
    with pytest.raises(RobustSRError, match="would overwrite"):
        plan_jobs(["pics"], "pics", suffix="")


def test_patterns_are_expanded_for_shells_that_do_not(here):
    here("a1.png", "a2.jpg", "a3.txt", "b.png")
    assert names(plan_jobs(["a*"], "o")[0]) == {"a1.png": "o/a1.png", "a2.jpg": "o/a2.jpg"}
    here("odd[1].png")
    assert names(plan_jobs(["odd[1].png"], "o")[0]) == {"odd[1].png": "o/odd[1].png"}
    here("odd[2]/c.png")
    assert names(plan_jobs(["odd[2]/*.png"], "o")[0]) == {"odd[2]/c.png": "o/c.png"}


def test_jpegs_of_every_ending_are_read_and_written_as_jpg(here):
    here("p/a.jfif", "p/b.JPE", "p/c.gif")
    assert list(names(plan_jobs(["p"], "o")[0]).values()) == ["o/a.jpg", "o/b.jpg", "o/c.png"]


def test_a_slash_at_the_end_means_a_folder(here):
    here("a.png")
    for out in ("out.v2", "out.png"):
        assert names(plan_jobs(["a.png"], f"{out}/")[0]) == {"a.png": f"{out}/a.png"}


def test_inputs_that_would_share_an_output_keep_their_endings(here):
    here("p/a.png", "p/a.jpg", "p/b.png", "p/A.webp")
    jobs, warnings = plan_jobs(["p"], "o", format="png")
    assert names(jobs) == {
        "p/a.png": "o/a_png.png",
        "p/a.jpg": "o/a_jpg.png",
        "p/A.webp": "o/A_webp.png",
        "p/b.png": "o/b.png",
    }
    (warning,) = warnings
    assert warning.startswith("3 inputs would share a name") and warning.endswith("as in A_webp.png")


def test_one_that_was_made_keeps_its_name_when_a_rival_comes(here):
    here("p/a.png", "p/a.gif", "o/a.png")
    ours("p/a.png", "o/a.png")
    assert names(plan_jobs(["p"], "o")[0]) == {"p/a.png": "o/a.png", "p/a.gif": "o/a_gif.png"}


def test_endings_that_differ_by_case_only_stop_nothing(here):
    here("p/IMG_1.JPG", "p/IMG_1.jpg", "p/b.png")
    made = names(plan_jobs(["p"], "o")[0])
    assert len({target.casefold() for target in made.values()}) == 3 and made["p/b.png"] == "o/b.png"


def test_folders_whose_names_differ_by_case_only_stop_nothing(here):
    here("p/A/x.jpg", "p/a/x.jpg")
    assert names(plan_jobs(["p"], "o", recursive=True)[0]) == {"p/A/x.jpg": "o/A/x.jpg", "p/a/x.jpg": "o/a/x.jpg"}
    here("q/A/x.jpg", "q/a/x.jpg")  # a second run, when what the first made is there
    assert names(plan_jobs(["p"], "q", recursive=True)[0]) == {"p/A/x.jpg": "q/A/x.jpg", "p/a/x.jpg": "q/a/x.jpg"}


def test_input_folders_of_one_name_go_to_folders_of_their_own(here):
    here("2023/DCIM/x.jpg", "2024/DCIM/x.jpg", "other/x.jpg")
    made = names(plan_jobs(["2023/DCIM", "2024/DCIM", "other"], "o")[0])
    assert list(made.values()) == ["o/2023/DCIM/x.jpg", "o/2024/DCIM/x.jpg", "o/other/x.jpg"]
    here("2023/DCIM/DCIM/x.jpg")
    made = names(plan_jobs(["2023/DCIM", "2023/DCIM/DCIM"], "o")[0])
    assert list(made.values()) == ["o/2023/DCIM/x.jpg", "o/DCIM/DCIM/x.jpg"]
    here("p/A/x.jpg", "p/a/x.jpg")
    assert list(names(plan_jobs(["p/A", "p/a"], "o")[0]).values()) == ["o/A/x.jpg", "o/a/x.jpg"]
    urls = [Url(f"s3://bucket/{year}/DCIM") for year in (2023, 2024)]
    assert list(tails(urls).values()) == ["2023/DCIM", "2024/DCIM"]


def test_a_new_name_can_clash_with_a_file_that_has_it(here):
    here("p/a.png", "p/a.jpg", "p/a_png.webp")
    with pytest.raises(RobustSRError, match="would both become"):
        plan_jobs(["p"], "o", format="png")


def test_two_files_of_one_name_are_refused(here):
    here("x/a.png", "y/a.png")
    with pytest.raises(RobustSRError, match=r"y/a.png and x/a.png would both become o/a_png.png"):
        plan_jobs(["x/a.png", "y/a.png"], "o")
    assert names(plan_jobs(["x", "y"], "o")[0]) == {"x/a.png": "o/x/a.png", "y/a.png": "o/y/a.png"}


def test_the_same_file_twice_is_one_job(here):
    here("x/a.png")
    assert len(plan_jobs(["x/a.png", "x/../x/a.png"], "o")[0]) == 1


def test_the_output_folder_and_our_own_results_are_not_input(here):
    here("p/a.png", "p/out/a.png", "p/a_x4.png", "p/up/b.png")
    ours("p/a.png", "p/a_x4.png")
    ours("p/a.png", "p/up/b.png", "p/up")
    with open("p/up/.robustsr.jsonl", "a") as file:
        file.write("half a li")
    jobs, warnings = plan_jobs(["p"], "p/out", recursive=True)
    assert names(jobs) == {"p/a.png": "p/out/a.png"}
    assert warnings == ["2 earlier results left out (first: p/a_x4.png)"]


def test_a_pattern_that_matches_yesterdays_results_leaves_them_out(here):
    here("a.png", "b.png", "a_x4.png", "b_x4.png")
    ours("a.png", "a_x4.png")
    ours("b.png", "b_x4.png")
    for inputs in (["*.png"], ["a.png", "a_x4.png", "b.png", "b_x4.png"]):
        jobs, warnings = plan_jobs(inputs, None)
        assert names(jobs) == {"a.png": "a_x4.png", "b.png": "b_x4.png"}
        assert warnings == ["2 earlier results left out (first: a_x4.png)"]
    assert names(plan_jobs(["a_x4.png"], None)[0]) == {"a_x4.png": "a_x4_x4.png"}  # alone, it is meant


def test_results_can_be_inputs_of_another_run(here):
    """As in a denoiser first, an upscaler next."""
    here("photos/a.png", "photos/b.png", "soft/a.png", "soft/b.png")
    for name in ("a.png", "b.png"):
        ours(f"photos/{name}", f"soft/{name}")
    want = {"soft/a.png": "large/a.png", "soft/b.png": "large/b.png"}
    assert names(plan_jobs(["soft"], "large")[0]) == names(plan_jobs(["soft/a.png", "soft/b.png"], "large")[0]) == want
    with pytest.raises(RobustSRError, match=r"2 earlier .* \(first: soft/a.png\), and there is nothing else"):
        plan_jobs(["soft"], "soft")


def test_a_folder_of_results_only_does_not_stop_the_others(here):
    here("photos/x/a.png", "photos/x_upscaled/a.png")
    ours("photos/x/a.png", "photos/x_upscaled/a.png")
    jobs, _ = plan_jobs(["photos/*"], None)
    assert names(jobs) == {"photos/x/a.png": "photos/x_upscaled/a.png"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_no_pictures(here):
    here("p/a.png")
    os.mkfifo("p/b.png")
    assert names(plan_jobs(["p"], "o")[0]) == {"p/a.png": "o/a.png"}
    with pytest.raises(RobustSRError, match="neither a file nor a folder"):
        plan_jobs(["p/b.png"], "o")


def test_results_below_an_output_folder_are_known_as_ours(here):
    here("p/a.png", "p/up/deep/b.png")
    ours("p/a.png", "p/up/deep/b.png", "p/up")
    jobs, _ = plan_jobs(["p"], "o", recursive=True)
    assert names(jobs) == {"p/a.png": "o/a.png"}


def test_no_server_is_asked_for_what_a_folder_says_it_was_made_from(here, monkeypatch):
    here("p/a.png", "p/b.png", "p/c.png")
    sources = ("ftp://127.0.0.1:1/x.png", "nothing://x.png", "a::b://x.png", "a\0b.png", "\ud800.png")
    for i, source in enumerate(sources):
        line = {"event": "begin", "target": f"{'abcab'[i]}.png", "source": source}
        append_line(Path("p/.robustsr.jsonl"), json.dumps(line))
    monkeypatch.setattr(Url, "_reached", lambda url: pytest.fail(f"{url} was asked"))
    assert sorted(names(plan_jobs(["p"], "o")[0])) == ["p/a.png", "p/b.png", "p/c.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_record_is_a_file(here):
    here("p/a.png", "victim")
    for make in (os.mkfifo, lambda path: os.symlink(Path("victim").absolute(), path)):
        make("p/.robustsr.jsonl")
        with pytest.raises(RobustSRError, match=r"\.robustsr\.jsonl is no plain file: remove it"):
            plan_jobs(["p"], "o")
        os.remove("p/.robustsr.jsonl")


def test_linked_folders_are_not_entered_and_dead_links_are_reported(here):
    here("p/a.png", "outside/b.png")
    Path("p/link").symlink_to("../outside", target_is_directory=True)
    Path("dead.png").symlink_to("nowhere.png")
    assert names(plan_jobs(["p"], "o", recursive=True)[0]) == {"p/a.png": "o/a.png"}
    with pytest.raises(RobustSRError, match=r"dead.png is a link to nowhere.png"):
        plan_jobs(["dead.png"], "o")


def test_broken_links_in_a_folder_are_said(here):
    here("p/a.png")
    Path("p/gone.png").symlink_to("nowhere.png")
    jobs, warnings = plan_jobs(["p"], "o")
    assert names(jobs) == {"p/a.png": "o/a.png"} and warnings == ["p: 1 broken link left alone"]


def test_links_to_folders_are_said(here):
    here("p/a.png", "outside/b.png")
    Path("p/link").symlink_to("../outside", target_is_directory=True)
    assert plan_jobs(["p"], "o", recursive=True)[1] == ["p/link is a link to a folder, which is not entered"]


def test_a_home_folder_is_meant_as_in_a_shell(here, monkeypatch):
    here("a.png", "b.png")
    monkeypatch.setenv("HOME", "/home/me")
    assert {job.target for job in plan_jobs(["a.png"], "~/x")[0]} == {Path("/home/me/x/a.png")}
    assert plan_jobs(["a.png"], "~/x.png")[0][0].target == Path("/home/me/x.png")


def test_names_too_long_for_the_file_system_are_cut(here):
    long = "ä" * 125  # 250 bytes
    here(f"{long}.png", f"{long[:-1]}b.png")
    jobs, _ = plan_jobs([f"{long}.png", f"{long[:-1]}b.png"], None)
    assert all(len(os.fsencode(job.target.name)) <= 255 and job.target.name.endswith("_x4.png") for job in jobs)
    assert len({job.target for job in jobs}) == 2


def test_bmp_and_gif_become_png(here):
    here("a.bmp", "b.gif")
    assert names(plan_jobs(["a.bmp", "b.gif"], "o")[0]) == {"a.bmp": "o/a.png", "b.gif": "o/b.png"}


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["nope"], {}, "no file or folder 'nope'"),
        ([""], {}, "an input is empty"),
        (["x" * 300], {}, "cannot look at xxx.*: File name too long"),
        (["*.png"], {}, r"no file or folder '\*.png'"),
        (["empty"], {}, r"no pictures in 'empty' \(looked for png"),
        (["deep"], {}, "no pictures in 'deep'; 1 in folders below: add -r"),
        (["x.png"], {"format": "psd"}, "cannot write 'psd'; formats: png, jpg"),
        (["empty/*"], {}, r"no pictures among the 1 files that 'empty/\*' matches"),
    ],
)
def test_what_cannot_be_meant_is_refused(here, inputs, options, message):
    here("empty/readme.txt", "deep/er/a.png", "x.png")
    Path("x.png").rename("y.jpg") if inputs == ["*.png"] else None
    with pytest.raises(RobustSRError, match=message):
        plan_jobs(inputs, None, **options)


WRONG = ('{"event": "begin", "target": "t.png", "source": 5}', '{"event": "begin", "target": 5, "source": "s.png"}')


def test_manifest_survives_a_torn_line(tmp_path):
    source, target = tmp_path / "s.png", tmp_path / "t.png"
    source.write_bytes(b"s")
    target.write_bytes(b"t")
    manifest = Manifest.read(tmp_path)
    for line in (
        '{"event": "done", "target": "t.png"}',
        '{"event": "done", "target": "t.png", "source": "s.png", "settings": "abc"}',
        '{"event": "plan"}',
        "[]",
        "3",
        "null",
        "\u2028",
        "[" * 200_000,
        *WRONG,
    ):
        with open(tmp_path / ".robustsr.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")  # of another version, or rubbish
    manifest.use("abc", {"tile": 1}, {})
    with open(tmp_path / ".robustsr.jsonl", "a") as file:
        file.write('{"event": "done", "targ')
    manifest.begin(source, target)
    killed = Manifest.read(tmp_path)
    assert killed.made(source, target) and not killed.is_done(source, target, "abc")
    manifest.wrote(source, state(source), "digest", target, "abc")
    again = Manifest.read(tmp_path)
    assert again.made(source, target) and not again.made(tmp_path / "other.png", target)
    assert again.is_done(source, target, "abc") and again.plans == {"abc": {"tile": 1}}
    assert not again.is_done(source, target, "other settings")
    os.utime(source, ns=(1, 1))
    assert not again.is_done(source, target, "abc")  # touched, and the recorded digest is not its content's
    target.write_bytes(b"cut short")
    assert not again.is_done(source, target, "abc")


def test_settings_in_any_order_have_one_name():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize("suffix", ["/../x", "a\\b", "c:d"])
def test_a_suffix_stays_in_the_name(tmp_path, suffix):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(RobustSRError, match="cannot be a part of a name: leave out"):
        plan_jobs([str(tmp_path)], str(tmp_path / "out"), suffix=suffix)
