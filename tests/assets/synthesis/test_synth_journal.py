from pathlib import Path

import pytest

from medcode_assets.synthesis.journal import open_journal
from medcode_serving.errors import MedcodeError

ARGUMENTS = {"stage": 1, "seed": 0, "count": 3}
RECORDS = [{"request": 0, "text": "naïve\u2028line\nbreak"}, {"request": 1}, {"request": 2, "kinds": ["no_json"]}]


def written(path: Path, records: list[dict]) -> list[int]:
    with open_journal(path, ARGUMENTS, anew=True) as journal:
        return journal.append(records)


def read(path: Path) -> list[dict]:
    with open_journal(path, ARGUMENTS, anew=False) as journal:
        return [dict(record) for _, record in journal.records()]


def test_what_was_appended_is_there_under_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    offsets = written(path, RECORDS)
    with open_journal(path, ARGUMENTS, anew=False) as journal:
        assert [(offset, dict(record)) for offset, record in journal.records()] == list(
            zip(offsets, RECORDS, strict=True)
        )
        more = journal.append([{"request": 3}])
        assert [journal.at(offset) for offset in [*offsets, *more]] == [*RECORDS, {"request": 3}]


def test_torn_at_any_byte_whole_records_stay_and_the_rest_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    offsets = written(path, RECORDS)
    whole = path.read_bytes()
    ends = [*offsets[1:], len(whole)]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = [record for record, end in zip(RECORDS, ends, strict=True) if end <= cut]
        # What is appended behind a torn line is whole.
        with open_journal(path, ARGUMENTS, anew=False) as journal:
            journal.append([{"request": 9}])
        assert read(path) == [*kept, {"request": 9}]


def test_a_broken_last_line_with_its_line_break_is_torn_too(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    written(path, RECORDS[:1])
    with path.open("ab") as file:
        file.write(b"\0\0\0\n")
    assert read(path) == RECORDS[:1]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    written(path, RECORDS)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:-3], *lines[2:]]))
    with pytest.raises(MedcodeError, match="line 2: broken"):
        read(path)


def test_other_arguments_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    written(path, RECORDS)
    with (
        pytest.raises(MedcodeError, match=r"begun with seed 0, and this run has 1: .*--drop-existing"),
        open_journal(path, ARGUMENTS | {"seed": 1}, anew=False),
    ):
        pass
    with open_journal(path, ARGUMENTS | {"seed": 1}, anew=True) as journal:
        assert list(journal.records()) == []


def test_the_count_may_grow_and_not_shrink(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    written(path, RECORDS)
    with open_journal(path, ARGUMENTS | {"count": 5}, anew=False) as journal:
        assert len(list(journal.records())) == 3
    with (
        pytest.raises(MedcodeError, match="begun with count 5, and this run has 4"),
        open_journal(path, ARGUMENTS | {"count": 4}, anew=False),
    ):
        pass


def test_before_anything_was_answered_arguments_may_change(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    written(path, [])
    with open_journal(path, ARGUMENTS | {"seed": 1}, anew=False) as journal:
        journal.append([{"request": 0}])
    with pytest.raises(MedcodeError, match="begun with seed 1"), open_journal(path, ARGUMENTS, anew=False):
        pass


def test_a_second_writer_is_refused_and_destroys_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.journal"
    with open_journal(path, ARGUMENTS, anew=False) as journal:
        offsets = journal.append(RECORDS)
        with (
            pytest.raises(MedcodeError, match="another medcode is writing"),
            open_journal(path, ARGUMENTS, anew=True),
        ):
            pass
        assert journal.at(offsets[2]) == RECORDS[2]
    assert read(path) == RECORDS


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcodeError, match="not written"), open_journal(tmp_path / "file" / "j", ARGUMENTS, anew=False):
        pass
