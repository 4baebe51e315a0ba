import gc
import json
import math
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import parse_answer
from medcode_serving.device import resolve_device
from medcode_serving.engines.baseline import FrequencyPriorEngine
from medcode_serving.engines.generation import SHORTEST_PREFIX
from medcode_serving.engines.protocol import NoteOptions
from medcode_serving.engines.shared_base import SharedBase
from medcode_serving.engines.transformers import TransformersEngine
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.windows import split_windows
from tests.serving.conftest import NOTES

DECODING = DecodingSettings(max_prompt_tokens=128, max_codes=4)


def make_engine(base_model: Path, adapter: Path | None, vocabulary: Vocabulary, **options) -> TransformersEngine:
    options = {"device": "cpu", "decoding": DECODING} | options
    return TransformersEngine("tiny", base_model, adapter, vocabulary, PromptTemplate(), **options)


def codes_of(predictions) -> list[list[str]]:
    return [[code.code for code in prediction.codes] for prediction in predictions]


def probabilities_of(predictions) -> list[float]:
    return [code.probability for prediction in predictions for code in prediction.codes]


def test_batches_do_not_change_answers(base_model, adapter, vocabulary) -> None:
    notes = NOTES + [" ".join(NOTES), "x", ""]
    one_by_one = make_engine(base_model, adapter, vocabulary, batch_size=1).predict(notes)
    done: list[int] = []
    together = make_engine(base_model, adapter, vocabulary, batch_size=16).predict(notes, on_progress=done.append)
    assert codes_of(together) == codes_of(one_by_one)
    assert probabilities_of(together) == pytest.approx(probabilities_of(one_by_one), abs=1e-4)
    assert sum(done) == len(notes)
    assert all(0 <= value <= 1 for value in probabilities_of(together))


def test_the_adapter_changes_the_answers_and_the_base_answers_without(base_model, adapter, vocabulary) -> None:
    tuned = make_engine(base_model, adapter, vocabulary).predict(NOTES)
    untuned = make_engine(base_model, None, vocabulary).predict(NOTES)
    assert codes_of(tuned) != codes_of(untuned)


def test_bfloat16_answers_too(base_model, adapter, vocabulary) -> None:
    predictions = make_engine(base_model, adapter, vocabulary, dtype="bfloat16").predict(NOTES)
    assert all(prediction.codes for prediction in predictions)


def test_a_long_note_is_shortened_and_it_is_said(base_model, vocabulary) -> None:
    engine = make_engine(base_model, None, vocabulary)
    short, long = engine.predict(["Fever.", "Fever and cough. " * 200])
    assert not short.truncated
    assert long.truncated


def test_an_adapter_with_foreign_keys_is_refused(base_model, adapter, vocabulary, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter, foreign)
    weights = load_file(foreign / "adapter_model.safetensors")
    save_file(
        {name.replace("layers.0", "layers.7"): value for name, value in weights.items()},
        foreign / "adapter_model.safetensors",
    )
    with pytest.raises(MedcodeError, match="missing"):
        make_engine(base_model, foreign, vocabulary)


def test_an_adapter_of_another_shape_is_refused_in_one_line(base_model, adapter, vocabulary, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    with pytest.raises(MedcodeError, match="does not fit") as caught:
        make_engine(base_model, other, vocabulary)
    assert "\n" not in str(caught.value)


def test_a_missing_adapter_is_named(base_model, vocabulary, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="adapter_config.json"):
        make_engine(base_model, tmp_path / "nowhere", vocabulary)


def test_a_base_model_with_missing_weights_is_refused(base_model, vocabulary, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop(next(name for name in weights if "layers.1" in name))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MedcodeError, match="missing"):
        make_engine(broken, None, vocabulary)


def test_limits_that_do_not_fit_the_model_are_refused(base_model, vocabulary) -> None:
    with pytest.raises(MedcodeError, match="lower it"):
        make_engine(base_model, None, vocabulary, decoding=DecodingSettings(max_prompt_tokens=510, max_codes=4))
    with pytest.raises(MedcodeError, match="raise it"):
        make_engine(base_model, None, vocabulary, decoding=DecodingSettings(max_prompt_tokens=16, max_codes=4))


def test_devices() -> None:
    import torch

    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda", "mps"}
    with pytest.raises(MedcodeError, match="unknown device"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(MedcodeError, match="cuda"):
            resolve_device("cuda")


def test_the_frequency_prior_ranks_by_frequency(vocabulary: Vocabulary) -> None:
    first, second = FrequencyPriorEngine(vocabulary, documents=20).predict(["a", "b"])
    assert first == second
    assert [code.code for code in first.codes] == [code.code for code in vocabulary.codes]
    assert first.codes[0].probability == 0.5


LONG = "Fever and cough. Type 2 diabetes.\n" * 60


def ended_after(questions: int):
    """Return an `ended` that is True from the question after so many on, and the list of its answers so far."""
    asked: list[bool] = []

    def ended() -> bool:
        asked.append(len(asked) >= questions)
        return asked[-1]

    return ended, asked


def test_each_note_has_its_own_limit_of_codes(base_model, adapter, vocabulary) -> None:
    engine = make_engine(base_model, adapter, vocabulary)
    options = [NoteOptions(max_codes=limit) for limit in (1, 2, 3, 99, None)]
    limited, own = engine.predict(NOTES, options=options), engine.predict(NOTES)
    for prediction, whole, most in zip(limited, own, (1, 2, 3, 4, 4), strict=True):
        assert 1 <= len(prediction.codes) <= most
        # The last code can be followed by less: its probability is another one.
        assert codes_of([prediction])[0][: most - 1] == codes_of([whole])[0][: len(prediction.codes)][: most - 1]
    assert codes_of(limited[3:]) == codes_of(own[3:])
    assert all(0 <= code.support <= 1 for prediction in own for code in prediction.codes)


@pytest.mark.parametrize("constrained", [True, False])
def test_a_note_that_is_given_up_ends_alone(base_model, adapter, vocabulary, constrained) -> None:
    engine = make_engine(base_model, adapter, vocabulary)
    plain = NoteOptions(constrained=constrained)
    whole = engine.predict(NOTES, options=[plain] * 5)
    at_once, at_once_asked = ended_after(0)
    later, later_asked = ended_after(2)
    options = [plain, replace(plain, ended=at_once), plain, replace(plain, ended=later), plain]
    done: list[int] = []
    answers = engine.predict(NOTES, options=options, on_progress=done.append)
    assert [answer.outcome for answer in answers] == ["complete", "ended", "complete", "ended", "complete"]
    assert [len(answers[1].codes), len(answers[3].codes), sum(done)] == [0, 0, 5]
    assert [at_once_asked, later_asked] == [[True], [False, False, True]]
    assert codes_of(answers[::2]) == codes_of(whole[::2])


def test_what_nobody_waits_for_is_not_computed(base_model, vocabulary) -> None:
    engine = make_engine(base_model, None, vocabulary)
    engine._adapted.get().forward = None  # whoever calls it fails
    over = NoteOptions(ended=lambda: True)
    assert {answer.outcome for answer in engine.predict(NOTES, options=[over] * 5)} == {"ended"}
    refused = engine.predict([LONG], options=[NoteOptions(long_notes="refuse")])
    assert [(answer.outcome, answer.codes) for answer in refused] == [("too_long", ())]


def test_a_free_answer_is_parsed(base_model, adapter, vocabulary) -> None:
    """The answer is the one that transformers' own generation writes."""
    import torch

    engine = make_engine(base_model, adapter, vocabulary)
    found = engine.predict(NOTES, options=[NoteOptions(constrained=False)] * len(NOTES))
    for note, prediction in zip(NOTES, found, strict=True):
        ids = torch.tensor([engine._reader.tokenizer(PromptTemplate().render(note))["input_ids"]])
        out = engine._adapted.get().generate(
            ids, max_new_tokens=engine._max_answer_tokens, do_sample=False, pad_token_id=0
        )[0, ids.shape[1] :]
        cut = bool(out[-1] != 0)
        parsed = parse_answer(engine._reader.tokenizer.decode(out if cut else out[:-1]), vocabulary, cut=cut)
        assert codes_of([prediction]) == [[vocabulary.codes[mention.index].code for mention in parsed.mentions[:4]]]
        assert prediction.dropped == parsed.dropped


def test_the_probability_of_a_free_answer_is_that_of_its_tokens(base_model, vocabulary) -> None:
    """A model that always says the same: the logits of its tokens are known."""
    import torch

    engine = make_engine(base_model, None, vocabulary)
    script = engine._reader.tokenizer(" e11.9, I10 and Z99.9", add_special_tokens=False)["input_ids"] + [0]
    logits = torch.zeros(len(script), len(engine._reader.tokenizer))
    logits[range(len(script)), script] = 5.0
    steps = iter(logits)
    hook = engine._adapted.get().lm_head.register_forward_hook(
        lambda module, inputs, output: next(steps).expand_as(output)
    )
    (answer,) = engine.predict(["Fever."], options=[NoteOptions(constrained=False)])
    hook.remove()
    token = math.exp(5) / (math.exp(5) + len(engine._reader.tokenizer) - 1)
    # In this tokenizer the space is a token of its own, and no part of the code.
    lengths = [len(engine._reader.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("e11.9", "I10")]
    assert codes_of([answer]) == [["E11.9", "I10"]]
    assert probabilities_of([answer]) == pytest.approx([token**length for length in lengths])
    assert answer.dropped == 1
    assert {code.support for code in answer.codes} == {None}


def test_free_and_constrained_notes_are_answered_together(base_model, adapter, vocabulary) -> None:
    engine = make_engine(base_model, adapter, vocabulary)
    free, plain = NoteOptions(constrained=False), NoteOptions()
    mixed = engine.predict(NOTES, options=[free, plain, free, plain, free])
    assert codes_of(mixed[1::2]) == codes_of(engine.predict(NOTES)[1::2])
    assert codes_of(mixed[::2]) == codes_of(engine.predict(NOTES[::2], options=[free] * 3))


def test_a_long_note_is_read_in_windows(base_model, adapter, vocabulary) -> None:
    engine = make_engine(base_model, adapter, vocabulary)
    note = LONG + "\n".join(NOTES)
    options = [NoteOptions(long_notes="windows", max_codes=limit) for limit in (None, 2)]
    whole, short = engine.predict([note, note], options=options)
    texts = split_windows(engine._reader.tokenizer, PromptTemplate(), note, 128)
    assert whole.windows == short.windows == len(texts) > 2
    best: dict[str, float] = {}
    for code in (code for answer in engine.predict(texts) for code in answer.codes):
        best[code.code] = max(best.get(code.code, 0.0), code.probability)
    expected = sorted(best, key=best.__getitem__, reverse=True)
    assert [code.code for code in whole.codes] == expected[:4]
    assert probabilities_of([whole]) == pytest.approx([best[code] for code in expected[:4]], abs=1e-5)
    assert len(short.codes) == 2
    assert not whole.truncated


def test_a_shared_prefix_changes_no_answer(base_model, adapter, vocabulary) -> None:
    prompt = PromptTemplate(instruction="List the diagnoses of this patient, and the procedures too: {note}")
    notes = [*NOTES, " ".join(NOTES), "", "1"]
    engine = TransformersEngine("tiny", base_model, adapter, vocabulary, prompt, DECODING, device="cpu", batch_size=3)
    codes = [("icd10cm", "I10"), ("icd10cm", "E11.9")]
    with_prefix, scored = engine.predict(notes), engine.log_probabilities(notes, codes)
    assert len(engine._prefix.tokens) >= SHORTEST_PREFIX
    engine._prefix = None
    without = engine.predict(notes)
    assert codes_of(with_prefix) == codes_of(without)
    assert probabilities_of(with_prefix) == pytest.approx(probabilities_of(without), abs=1e-5)
    assert scored == pytest.approx(engine.log_probabilities(notes, codes), abs=1e-4)


def test_given_codes_are_scored_as_written_ones_are(base_model, adapter, vocabulary) -> None:
    engine = make_engine(base_model, adapter, vocabulary, batch_size=2)
    answers = engine.predict(NOTES)
    for answer in answers:
        codes = [(code.system, code.code) for code in answer.codes]
        scores = engine.log_probabilities(NOTES, codes)
        assert scores.shape == (len(NOTES), len(codes))
        assert np.exp(scores[answers.index(answer)]) == pytest.approx(probabilities_of([answer]), abs=1e-5)
    everything = [(code.system, code.code) for code in vocabulary.codes]
    assert np.isfinite(engine.log_probabilities([LONG], everything)).all()
    assert engine.log_probabilities(NOTES, []).shape == (len(NOTES), 0)
    with pytest.raises(ValueError, match="1 of 1 codes"):
        engine.log_probabilities(NOTES, [("icd10cm", "Z99.9")])


def test_a_closed_engine_holds_no_model(base_model, adapter, vocabulary) -> None:
    engine = make_engine(base_model, adapter, vocabulary)
    engine.predict(NOTES)
    model = weakref.ref(engine._adapted.get())
    engine.close()
    gc.collect()
    assert model() is None
    with pytest.raises(MedcodeError, match="closed"):
        engine.predict(NOTES)


def test_adapters_over_one_base_model_answer_as_alone(base_model, adapter, vocabulary, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    weights = load_file(other / "adapter_model.safetensors")
    turned = {name: -value if "lora_A" in name else value for name, value in weights.items()}
    save_file(turned, other / "adapter_model.safetensors")
    base = SharedBase(base_model, dtype="float32", device="cpu")
    alone = [make_engine(base_model, one, vocabulary).predict(NOTES) for one in (adapter, other)]
    engines = [make_engine(base_model, one, vocabulary, shared=base) for one in (adapter, other)]
    together = [engine.predict(NOTES) for engine in engines]
    assert codes_of(together[0]) != codes_of(together[1])
    assert [codes_of(answers) for answers in together] == [codes_of(answers) for answers in alone]
    engines[0].close()
    assert codes_of(engines[1].predict(NOTES)) == codes_of(alone[1])


def test_an_engine_takes_its_trie_from_a_file(base_model, vocabulary, tmp_path: Path) -> None:
    first, second = (make_engine(base_model, None, vocabulary, trie_folders=[tmp_path]) for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 1
    assert codes_of(first.predict(NOTES)) == codes_of(second.predict(NOTES))


def test_a_blank_window_is_not_read(base_model: Path, adapter: Path, vocabulary: Vocabulary) -> None:
    note = "Fever." + "\n" * 3000 + "Cough."
    (prediction,) = make_engine(base_model, adapter, vocabulary).predict(
        [note], options=[NoteOptions(long_notes="windows")]
    )
    apart = make_engine(base_model, adapter, vocabulary).predict(["Fever.", "Cough."])
    assert prediction.windows == 2
    assert {code.code for code in prediction.codes} <= {code.code for one in apart for code in one.codes}
