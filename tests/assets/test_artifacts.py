import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from medcode_assets.artifacts import made, making, replace_folder, stands


def test_an_artifact_stands_for_what_it_was_made_from_only(tmp_path: Path) -> None:
    target = tmp_path / "icd" / "tokens"
    assert made(target) is None
    assert not stands(target, "a1")
    with making(target, "a1") as (folder, facts):
        (folder / "rows").write_text("7")
        facts["count"] = 7
    told = made(target)
    assert told is not None
    assert (told["count"], told["fingerprint"]) == (7, "a1")
    assert stands(target, "a1")
    assert not stands(target, "b2")
    assert not stands(target, "a1", anew=True)


def test_a_failed_making_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "tokens"
    with making(target, "a1") as (folder, _):
        (folder / "rows").write_text("7")
    with pytest.raises(ValueError, match="halfway"), making(target, "b2") as (folder, _):
        (folder / "rows").write_text("8")
        raise ValueError("halfway")
    assert (target / "rows").read_text() == "7"
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_two_processes_may_make_the_same_artifact(tmp_path: Path) -> None:
    target = tmp_path / "tokens"
    code = (
        "import sys; from pathlib import Path; from medcode_assets.artifacts import making\n"
        "with making(Path(sys.argv[1]), 'theirs') as (folder, _):\n"
        "    (folder / 'rows').write_text('theirs')\n"
        "    print('filled', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "filled\n"
        with making(target, "ours") as (folder, _):
            (folder / "rows").write_text("ours")
        assert (target / "rows").read_text() == "ours"
        other.stdin.write("\n")
        other.stdin.close()
        assert other.wait(60) == 0
    assert (target / "rows").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "tokens"
    code = (
        "import os, signal, sys; from pathlib import Path; from medcode_assets.artifacts import making\n"
        "with making(Path(sys.argv[1]), 'theirs'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with making(target, "ours"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def _replace_often(target: Path, start: "multiprocessing.synchronize.Event", number: int) -> None:
    start.wait()
    for count in range(200):
        new = target.with_name(f"new{number}-{count}")
        new.mkdir()
        (new / "whose").write_text(str(number))
        replace_folder(new, target)


def test_folders_that_replace_one_another_at_once_are_whole(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    start, target = processes.Event(), tmp_path / "tokens"
    both = [processes.Process(target=_replace_often, args=(target, start, number)) for number in (1, 2)]
    for one in both:
        one.start()
    start.set()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    assert (target / "whose").read_text() in ("1", "2")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
