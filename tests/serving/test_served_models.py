import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from medcode_serving.answers import PredictionOptions
from medcode_serving.bundle import Bundle, publish, write_bundle
from medcode_serving.errors import MedcodeError
from medcode_serving.loading import load_predictor
from medcode_serving.note_queue import NoteQueue
from medcode_serving.predictor import Predictor
from medcode_serving.served_models import ReloadAttempt, ServedModels
from medcode_serving.settings import load_inference_settings
from tests.serving.conftest import NOTES

Work = Callable[[ServedModels, NoteQueue], Awaitable[None]]


def run(home: Path, work: Work, *, load=load_predictor, watching: bool = False, **flags) -> None:
    settings = load_inference_settings(
        None, **{"model.home": str(home), "device": "cpu", "model.watch_s": 0.02 if watching else 0} | flags
    )

    async def main() -> None:
        queue = NoteQueue(max_notes=10, batch_size=4)
        models = ServedModels(settings, queue, load=load)
        try:
            await models.load_all()
            watch = asyncio.create_task(models.watch())
            await asyncio.wait_for(work(models, queue), 60)
            watch.cancel()
        finally:
            await asyncio.to_thread(queue.close)

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def corrupt(bundle: Bundle) -> Bundle:
    weights = bundle.adapter / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return bundle


def codes(predictor: Predictor, note: str) -> list[tuple[str, float | None]]:
    return [(code.code, code.probability) for code in predictor.predict(note, PredictionOptions(threshold=0)).codes]


def test_a_new_bundle_takes_over_and_the_old_one_is_freed_when_nobody_uses_it(make_bundle, tmp_path: Path) -> None:
    publish(make_bundle(tmp_path / "bundles", "v1"))

    async def work(models: ServedModels, queue: NoteQueue) -> None:
        model = models.by_recipe["icd"]
        with models.lease("icd") as old:
            assert old is not None
            engine = weakref.ref(old.engine)
            publish(make_bundle(tmp_path / "bundles", "v2", 0.5))
            assert (await models.reload("icd")).outcome == "loaded"
            assert (model.version, model.previous_version) == ("v2", "v1")
            assert old.predict(NOTES[0]).model.version == "v1"  # what runs is finished by the bundle that began it
        del old
        await asyncio.sleep(0.05)
        await queue.run(lambda ended: None)  # behind the closing
        gc.collect()
        assert engine() is None
        with models.lease("icd") as new:
            assert new is not None
            assert (new.threshold, new.predict(NOTES[0]).model.version) == (0.5, "v2")
        assert (await models.reload("icd")).outcome == "unchanged"

    run(tmp_path, work)


def test_latest_is_followed_and_a_corrupt_bundle_leaves_the_old_one_serving(make_bundle, tmp_path: Path) -> None:
    attempts: list[ReloadAttempt] = []

    async def work(models: ServedModels, queue: NoteQueue) -> None:
        model = models.by_recipe["icd"]
        assert model.version is None
        assert model.last_attempt is not None
        assert "no bundle of recipe 'icd' is published" in str(model.last_attempt.reason)
        publish(make_bundle(tmp_path / "bundles", "v1"))
        await until(lambda: model.version == "v1")
        publish(corrupt(make_bundle(tmp_path / "bundles", "v2")))
        await until(lambda: model.last_attempt is not None and model.last_attempt.outcome == "failed")
        attempts.append(model.last_attempt)
        assert model.version == "v1"
        (tmp_path / "bundles" / "icd" / "LATEST").write_text("v1\n")  # as an operator would
        await until(lambda: model.last_attempt is not None and model.last_attempt.outcome == "unchanged")
        (tmp_path / "bundles" / "icd" / "LATEST").write_bytes(b"\xff\xfe")
        await until(lambda: "LATEST: no text" in str(model.last_attempt and model.last_attempt.reason))
        assert (await models.reload("icd")).outcome == "failed"
        make_bundle(tmp_path / "bundles", "v2b").path.rename(tmp_path / "bundles" / "icd" / "v2c")
        (tmp_path / "bundles" / "icd" / "LATEST").write_text("v2c\n")
        await until(lambda: "give the folder that name" in str(model.last_attempt and model.last_attempt.reason))
        assert model.version == "v1"
        publish(make_bundle(tmp_path / "bundles", "v3"))
        await until(lambda: model.version == "v3")
        assert model.previous_version == "v1"

    run(tmp_path, work, watching=True)
    assert attempts[0].version == "v2"
    assert "adapter_model.safetensors: changed since it was published" in str(attempts[0].reason)


def test_a_rollback_stays_until_somebody_reloads(make_bundle, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundles", "v0")
    publish(make_bundle(tmp_path / "bundles", "v1"))

    async def work(models: ServedModels, queue: NoteQueue) -> None:
        model = models.by_recipe["icd"]
        with pytest.raises(MedcodeError, match="no bundle served before"):
            await models.roll_back("icd")
        for name in ("v7", "../icd/v0", ""):
            with pytest.raises(MedcodeError, match=r"no such bundle; there are v0, v1|no bundle served before"):
                await models.roll_back("icd", name)
        for _ in range(2):  # the second time to itself
            assert (await models.roll_back("icd", "v0")).outcome == "loaded"
            assert (model.version, model.pinned, model.previous_version) == ("v0", True, "v1")
        corrupt(make_bundle(tmp_path / "bundles", "v1-bad"))
        assert (await models.roll_back("icd", "v1-bad")).outcome == "failed"
        assert (model.version, model.pinned) == ("v0", True)
        publish(make_bundle(tmp_path / "bundles", "v2"))
        await asyncio.sleep(0.1)
        assert model.version == "v0"
        await models.reload("icd")
        assert (model.version, model.pinned) == ("v2", False)
        await models.roll_back("icd")
        assert model.version == "v0"

    run(tmp_path, work, watching=True)


def test_recipes_side_by_side_share_their_base_and_answer_as_each_alone(
    make_bundle, base_model: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(9)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base_model), config).save_pretrained(tmp_path / "adapter")
    bundle = make_bundle(tmp_path / "bundles", "v1")
    manifest = bundle.manifest.model_copy(update={"recipe": "other", "files": {}})
    publish(bundle)
    publish(write_bundle(tmp_path / "bundles", manifest, adapter=tmp_path / "adapter", codes=bundle.codes))
    settings = load_inference_settings(None, **{"model.home": str(tmp_path), "device": "cpu"})
    alone = {recipe: [codes(load_predictor(settings, recipe), note) for note in NOTES] for recipe in ("icd", "other")}
    assert alone["icd"] != alone["other"]

    async def work(models: ServedModels, queue: NoteQueue) -> None:
        with models.lease("icd") as icd, models.lease("other") as other:
            assert icd is not None
            assert other is not None
            for place, note in enumerate(NOTES):
                for predictor in (icd, other):
                    expected = alone[predictor.manifest.recipe][place]
                    found = codes(predictor, note)
                    assert [code for code, _ in found] == [code for code, _ in expected]
                    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-5)

    run(tmp_path, work, **{"model.recipes": ("icd", "other")})


def test_whatever_goes_wrong_in_loading_is_told_and_not_raised(make_bundle, tmp_path: Path) -> None:
    publish(make_bundle(tmp_path / "bundles", "v1"))

    def load(settings, recipe, version, shared_bases) -> Predictor:
        if version == "v0":
            raise ZeroDivisionError("1/0")
        return load_predictor(settings, recipe, version, shared_bases)

    make_bundle(tmp_path / "bundles", "v0")

    async def work(models: ServedModels, queue: NoteQueue) -> None:
        attempt = await models.roll_back("icd", "v0")
        assert (attempt.outcome, attempt.version) == ("failed", "v0")
        assert "ZeroDivisionError" in str(attempt.reason)
        assert models.by_recipe["icd"].version == "v1"
        assert not models.by_recipe["icd"].pinned

    run(tmp_path, work, load=load)
