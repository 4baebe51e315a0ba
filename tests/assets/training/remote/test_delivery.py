"""What comes back from another machine, and what is said of it: against a machine that has already trained."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.training.job import TrainingResult, finished
from medcode_assets.training.launch import launched_training
from medcode_assets.training.remote import following
from medcode_assets.training.remote.delivery import fetch_delivery
from medcode_assets.training.remote.following import RemoteRun
from medcode_assets.training.remote.launchers import Handle, read_handle, write_handle
from medcode_assets.training.remote.runner import ENDED, LOG, MESSAGES, Ending, last_words
from medcode_assets.training.remote.shipping import Shipment, pack, unpack
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.errors import MedcodeError
from tests.assets.training.jobs import make_job, tiny_base

WEIGHTS, RESULT = "weights/adapter_model.safetensors", "result.json"
NOTE = "Mrs Doe, 81, fell at home"


def tensors(value: float) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    return save({"a": np.full(4, value, dtype=np.float32)})


def entry(step: int) -> str:
    params = {"payload": {"metrics": [step, {"loss": 1.0 / step, "tokens_per_second": 1.0}]}}
    return json.dumps({"method": "report_custom_message", "params": params}) + "\n"


class Done:
    """A machine whose training has ended, as `files` in its folder say."""

    name, host, poll_seconds, settle_seconds = "subprocess", None, 0.0, 0.0

    def __init__(self) -> None:
        self.files = {
            WEIGHTS: tensors(1),
            "weights/adapter_config.json": b"{}",
            RESULT: TrainingResult(steps=3).model_dump_json().encode(),
        }
        self.sums = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        self.ending = Ending(status=0, files=self.sums)
        self.messages = "".join(map(entry, (1, 2, 3)))
        self.started, self.fetched, self.discarded = 0, list[str](), 0

    def submit(self, handle: Handle, shipment: Shipment) -> str:
        self.started += 1
        return "id"

    def running(self, handle: Handle) -> bool:
        return False

    def fetch(self, handle: Handle, name: str, target: Path) -> bool:
        self.fetched.append(name)
        ends = {handle.file(ENDED): self.ending.model_dump_json(), handle.file(MESSAGES): self.messages}
        content = self.files.get(name, ends.get(name, "").encode())
        if content:
            target.write_bytes(content)
        return bool(content)

    def discard(self, handle: Handle) -> None:
        self.discarded += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_job(tmp_path / "job", tiny_base(tmp_path / "base"))


def run(folder: Path, machine: Any, **more: Any) -> TrainingResult:
    return launched_training(folder, ComputeSettings(launcher="subprocess"), RemoteRun(machine, **more))


def test_a_file_damaged_on_its_way_back_is_not_taken_and_is_fetched_anew(folder: Path) -> None:
    machine = Done()
    whole = machine.files[WEIGHTS]
    machine.files[WEIGHTS] = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(MedcodeError, match=rf"{WEIGHTS} came back damaged \(sha256 is not [0-9a-f]{{12}}….*anew$"):
        run(folder, machine)
    assert not finished(folder) and not (folder / "weights").exists() and not machine.discarded
    machine.files[WEIGHTS], machine.fetched = whole, []
    assert run(folder, machine).steps == 3
    assert (folder / WEIGHTS).read_bytes() == whole
    assert (machine.started, machine.discarded, read_handle(folder)) == (1, 1, None)


def test_a_killed_fetch_is_repeated_for_what_is_missing(folder: Path) -> None:
    class Dying(Done):
        def fetch(self, handle: Handle, name: str, target: Path) -> bool:
            if name == "weights/adapter_config.json":
                raise SystemExit(137)
            return super().fetch(handle, name, target)

    with pytest.raises(SystemExit):
        run(folder, Dying())
    assert not finished(folder) and not (folder / "weights").exists()
    machine = Done()
    run(folder, machine)
    assert machine.started == 0 and WEIGHTS not in machine.fetched and RESULT in machine.fetched
    assert finished(folder)


@pytest.mark.parametrize("after", ["discard", "install_delivery"])
def test_what_was_fetched_is_put_in_its_place_by_the_next_run(
    folder: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This side is killed once everything is here, before or after the other side's copy is deleted."""
    machine = Done()

    def die(*_: Any) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(machine if after == "discard" else following, after, die)
        with pytest.raises(SystemExit):
            run(folder, machine)
    assert not finished(folder)
    later = Done()
    later.files = {}
    assert run(folder, later).steps == 3
    assert later.started == 0 and finished(folder) and read_handle(folder) is None
    assert {file.name for file in folder.iterdir()} == {
        *("job.json", "train.arrow", "validation.arrow", "weights", "result.json")
    }


PARTS = st.sampled_from(["..", ".", "", "weights", "a", "job", ".hidden"])
NAMES = st.builds(
    lambda parts, end: "/".join(parts) + end,
    st.lists(PARTS, min_size=1, max_size=4),
    st.sampled_from(["", ".json", ".bin", ".pt", ".pkl", ".safetensors", "/x.json", ".safetensors/.."]),
)


@given(NAMES)
def test_no_name_leads_out_of_the_weights_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    machine, root = Done(), tmp_path_factory.mktemp("any")
    folder = root / "job"
    folder.mkdir()
    machine.files[name] = tensors(2) if name.endswith(".safetensors") else b"{}"
    sums = {**machine.sums, name: hashlib.sha256(machine.files[name]).hexdigest()}
    try:
        fetch_delivery(folder, machine, Handle(launcher="subprocess", key="k", fingerprint="0"), sums)
    except MedcodeError as error:
        assert "only result.json and safetensors" in str(error)
        assert [*folder.rglob("*")] == [] and machine.fetched == []
        return
    arrived = [file for file in root.rglob("*") if file.is_file()]
    assert all(file.parent == folder / ".delivered" / "weights" or file.name == "result.json" for file in arrived)
    assert {file.suffix for file in arrived} <= {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["weights/adapter_model.safetensors", "weights/adapter_config.json"])
def test_a_pickle_under_another_name_is_refused(folder: Path, name: str) -> None:
    machine = Done()
    machine.files[name] = b"\x80\x04cos\nsystem\n"
    digest = hashlib.sha256(machine.files[name]).hexdigest()
    machine.ending = Ending(status=0, files={**machine.sums, name: digest})
    with pytest.raises(
        MedcodeError, match=r"what came back is no (safetensors|json) .*; begin anew with drop_existing"
    ):
        run(folder, machine)
    assert not finished(folder)


def test_a_mistake_is_the_other_machines_own_line(folder: Path) -> None:
    machine = Done()
    machine.ending = Ending(status=2, error="lower training.batch_size")
    with pytest.raises(MedcodeError, match=r"^lower training\.batch_size$"):
        run(folder, machine)
    assert machine.discarded == 1 and read_handle(folder) is None


def test_an_end_without_a_word_keeps_the_folder_there(folder: Path) -> None:
    machine = Done()
    machine.fetch = lambda *_: False  # type: ignore[method-assign]
    with pytest.raises(MedcodeError, match=r"attempt 1: ended without a word, as when its machine is lost"):
        run(folder, machine)
    handle = read_handle(folder)
    assert handle is not None and (handle.attempt, handle.id, machine.discarded) == (2, None, 0)


def test_mlflow_is_told_of_each_entry_once_and_listeners_of_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []

    @contextmanager
    def recording(*_: Any) -> Iterator[Any]:
        yield lambda step, metrics: recorded.append(step)

    monkeypatch.setattr(following, "reporting", recording)
    machine = Done()
    machine.messages = "".join(map(entry, (1, 2, 3, 4))) + entry(5)[:20]  # the last is being written
    job = json.loads((folder / "job.json").read_text())
    write_handle(folder, Handle(launcher="subprocess", key="k", fingerprint=job["fingerprint"], id="id", told=3))
    heard: list[int] = []
    run(folder, machine, on_metrics=lambda step, _: heard.append(step))
    assert (recorded, heard, machine.started) == ([4], [1, 2, 3, 4], 0)


def test_a_handle_of_other_settings_or_another_launcher_is_not_waited_for(folder: Path) -> None:
    machine = Done()
    write_handle(folder, Handle(launcher="subprocess", key="k", fingerprint="of other data", id="id"))
    run(folder, machine)
    assert (machine.started, machine.discarded) == (1, 2)
    write_handle(folder, Handle(launcher="modal", key="k", fingerprint="0" * 64, id="id"))
    with pytest.raises(MedcodeError, match=r"handle\.json: this training was started with compute\.launcher=modal"):
        run(folder, machine)
    (folder / "handle.json").write_text("{")
    with pytest.raises(MedcodeError, match=r"handle\.json: unreadable"):
        run(folder, machine)


@pytest.mark.parametrize(
    ("status", "log", "words"),
    [
        (-9, "", "killed by SIGKILL"),
        (
            1,
            "step 3\rstep 4\ntorch.OutOfMemoryError: CUDA out of memory.\n",
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (1, "OSError: [Errno 28] No space left on device\n\n", "OSError: [Errno 28] No space left on device"),
        (1, f"Traceback\nKeyError: '{NOTE}'\n", "KeyError, its message left out: it might quote a note"),
        (1, f"a.b.CError: x\n{NOTE}\n", "a.b.CError, its message left out: it might quote a note"),
        (1, f"{NOTE}\n", "no known error in its log"),
        (1, "", "no known error in its log"),
    ],
)
def test_the_last_words_of_a_log_hold_no_note(tmp_path: Path, status: int, log: str, words: str) -> None:
    (tmp_path / LOG).write_text("x" * 20_000 + "\n" + log)
    assert last_words(status, tmp_path / LOG) == words


def test_a_shipment_has_what_training_reads_and_no_pickles(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    for name in ("pytorch_model.bin", "training_args.pt", ".secret.json"):
        (base.path / name).write_text("")
    adapter = tmp_path / "earlier"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(tensors(1))
    folder = make_job(
        tmp_path / "job", base, training={"start_from": str(adapter)}, mlflow_uri="http://host", mlflow_run="r"
    )
    (folder / "checkpoints" / "best").mkdir(parents=True)
    (folder / "checkpoints" / "best" / "manifest.json").write_text("{}")
    sent = pack(folder, with_checkpoints=True).files
    assert "checkpoints/best/manifest.json" not in pack(folder, with_checkpoints=False).files
    assert set(sent) == {
        *("base/config.json", "base/generation_config.json", "base/model.safetensors", "shipment.json"),
        *("start_from/adapter_model.safetensors", "train.arrow", "validation.arrow", "shipped-job.json"),
        "checkpoints/best/manifest.json",
    }
    there = tmp_path / "there"
    for name, file in sent.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(file.read_bytes())
    job = unpack(there)
    assert (job.base_path, job.training.start_from) == (there / "base", str(there / "start_from"))
    assert (job.mlflow_uri, job.mlflow_run, job.compute.launcher) == (None, None, "local")
    (there / "base" / "config.json").unlink()
    with pytest.raises(MedcodeError, match="the shipment came incomplete"):
        unpack(there)
