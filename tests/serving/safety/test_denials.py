"""What is denied, asked and answered with no, is no red flag; what is a lack by itself stays one."""

import pytest

from medcode_serving.safety import check_safety


def emergencies(question: str) -> set[str]:
    return {one.rule for one in check_safety("Rest.", question=question).warnings if one.kind == "emergency"}


@pytest.mark.parametrize(
    "question",
    [
        *(
            f"{denial} vomited blood."
            for denial in ["I haven't", "I have not", "She has never", "I never", "We had not"]
        ),
        "I did not vomit blood.",
        "He wasn't vomiting blood.",
        "I have not overdosed.",
        "I never tried to kill myself.",
        "My face is not drooping.",
        "My face isn't drooping and my mouth is not crooked.",
        "I do not feel suicidal.",
        "He is not dizzy, short of breath or coughing up blood.",
        "My chest pain is gone.",
        "Negative hematemesis.",
        "Hematemesis is negative.",
        "Negative chest pain, negative shortness of breath.",
        "Chest pain: no. Shortness of breath: none.",
        "Chest pain: denied. Dyspnea: not present.",
        "Chest pain (-), dyspnea (-).",
        "Chest pain - no; hematemesis - none.",
        "Chest pain (no), melena (denied).",
        "Chest pain -ve.",
        "No chest pain, fever or cough.",
        "No fever, chest pain.",
        "No recent travel, sick contacts, fever, or chest pain.",
        "He denies recent travel, a new diet, chest pain.",
        "I do not have a fever, a stiff neck, or a headache.",
        "I am not dizzy, short of breath or vomiting blood.",
        "My chest pain stopped yesterday.",
    ],
)
def test_a_verb_or_a_list_denies(question: str) -> None:
    assert emergencies(question) == set()


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("Do you have chest pain? No. Sweating? No.", set()),
        ("Doctor: Any chest pain?\nPatient: No.", set()),
        ("Doctor: Do you have any chest pain? Any trouble breathing?\nPatient: Nope, none.", set()),
        ("Have you ever thought of suicide? Not at all.", set()),
        ("Do you feel like hurting yourself? Oh no.", set()),
        ("Does your chest hurt? No idea.", {"chest_pain"}),
        ("Any chest pain? Yes. Sweating? Yes.", {"heart_attack"}),
        ("Any chest pain? Yes. Shortness of breath? No.", {"chest_pain"}),
        ("Any chest pain? No, only at night.", {"chest_pain"}),
        # "no" to these does not say that the pain is not there
        ("Is your chest pain better? No.", {"chest_pain"}),
        ("Is the chest pain like a cramp? No.", {"chest_pain"}),
        ("Should I worry about chest pain? No?", {"chest_pain"}),
        ("I have chest pain. No, I did not fall.", {"chest_pain"}),
        ("Do you smoke? No. I have chest pain.", {"chest_pain"}),
    ],
)
def test_a_question_that_is_answered(question: str, told: set[str]) -> None:
    assert emergencies(question) == told


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("The bleeding has not stopped.", "heavy_bleeding"),
        ("It is not only a bad day, I feel suicidal.", "suicide"),
        ("I get no relief from the crushing pressure on my chest.", "heart_attack"),
        ("I cannot breathe.", "breathing"),
        ("He is not breathing.", "unresponsive"),
        ("She is not answering and not breathing.", "unresponsive"),
        ("I did not sleep, I keep vomiting blood.", "gi_bleeding"),
        ("I have never had this before: the worst headache of my life.", "thunderclap_headache"),
        ("My covid test was negative, chest pain since today.", "chest_pain"),
        ("Chest pain, negative ECG.", "chest_pain"),
        ("My chest pain has not gone away.", "chest_pain"),
        ("My heart has not stopped racing and I fainted.", "dangerous_rhythm"),
        ("I haven't been able to breathe.", "breathing"),
        ("I have not been able to stop vomiting blood.", "gi_bleeding"),
        ("I have never had chest pain like this.", "chest_pain"),
        ("I'm not feeling well, chest pain and sweating.", "heart_attack"),
        ("She is not eating, slurred speech and a drooping face.", "stroke"),
        ("My baby isn't feeding and is limp.", "child_dehydration"),
        ("Without warning my face drooped.", "stroke"),
        ("I no longer want to live.", "suicide"),
        ("I haven't had lunch, chest pain since noon.", "chest_pain"),
        ("I haven't slept, my chest hurts.", "chest_pain"),
        ("No fever, chest pain since noon.", "chest_pain"),
        ("No fever, no cough, severe chest pain.", "chest_pain"),
        ("No appetite, no sleep, vomiting blood.", "gi_bleeding"),
        ("Chest pain - severe.", "chest_pain"),
        ("Chest pain - no relief with rest.", "chest_pain"),
        ("Chest pain - no fever.", "chest_pain"),
        ("Chest pain (+), nausea (-).", "chest_pain"),
        ("- chest pain\n- no fever", "chest_pain"),
        ("I am 34 weeks pregnant and the baby stopped moving.", "baby_moves_less"),
        ("I have chest pain and my heart stopped.", "unresponsive"),
        ("I have never had such crushing chest pain.", "heart_attack"),
        ("I've never had so bad a headache.", "thunderclap_headache"),
    ],
)
def test_a_no_that_denies_nothing(question: str, told: str) -> None:
    assert told in emergencies(question)


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("I think I'm having a heart attack.", {"heart_attack"}),
        ("My mother just had a stroke.", {"stroke"}),
        ("My mother had a stroke in 2015.", set()),
        ("What may I eat after having a heart attack?", set()),
        ("He swallowed 30 tablets.", {"overdose"}),
        ("He swallowed 30 mg tablets.", set()),
        ("He has taken 30 tablets over ten days.", set()),
        ("He ate 20 crackers and his pills.", set()),
        ("He downed a bunch of sleeping pills.", {"overdose"}),
        ("I can't move one side of my body.", {"stroke"}),
        ("I took two tablets.", set()),
        ("My toddler swallowed 3 of my pills.", {"overdose"}),
        ("There is blood in my stool and I feel dizzy.", {"gi_bleeding"}),
        ("My left arm and leg went numb.", {"stroke"}),
        ("My left arm and leg are sore.", set()),
        ("My baby is blue.", {"child_breathing"}),
        ("My baby is blue eyed.", set()),
        ("My father collapsed.", {"unresponsive"}),
        ("My father has a collapsed lung on the scan.", set()),
        ("She slit her wrists.", {"wrist_cut"}),
        ("I had a severe allergic reaction to eggs. Is the flu shot safe?", set()),
        ("My 2 month old has a temperature of 38.4.", {"infant_fever"}),
        ("My 2 month old has a temperature of 36.8.", set()),
        ("My 3 month old has a fever of 39.", {"infant_high_fever"}),
        ("My 3 month old has a fever of 38.2.", set()),
        ("My 7 month old has a fever of 39.", set()),
        ("My lips are turning blue.", {"cyanosis"}),
        ("His tongue looks blue after the blue lolly.", set()),
        ("Do blue lips mean a lack of oxygen?", set()),
        ("My baby's lips are blue.", {"child_breathing"}),
        ("There is blood in my stool.", {"blood_in_stool"}),
        ("Bright red blood on the toilet paper.", {"blood_in_stool"}),
        ("Blood and stool tests were fine.", set()),
        ("I'm gasping.", {"breathing"}),
        ("I am gasping for a cup of tea.", set()),
        ("I lost all vision in my right eye.", {"vision_loss"}),
        ("I have a gradual loss of my vision in one eye.", set()),
        ("My newborn has a temp of 101.5 F.", {"infant_fever"}),
        ("My newborn has a temp of 98.4.", set()),
        ("My testicle suddenly hurts badly.", {"testicular_torsion"}),
        ("My baby hasn't kicked all day, 36 weeks.", {"baby_moves_less"}),
        ("He lived with us for 36 weeks, he hasn't moved out.", set()),
        ("His heart stopped beating.", {"unresponsive"}),
        ("My heart stopped racing.", set()),
        ("His breathing stopped.", {"unresponsive"}),
        ("He hit his head and stopped responding.", {"unresponsive"}),
        ("It is not responding to antibiotics.", set()),
    ],
)
def test_plain_words(question: str, told: set[str]) -> None:
    assert emergencies(question) == told


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("I have c h e s t p a i n.", "chest_pain"),
        ("I am having a s t r o k e.", "stroke"),
        ("He took an o-v-e-r-d-o-s-e.", "overdose"),
        ("She is in anaphalaxis.", "anaphylaxis"),
        ("He overdozed.", "overdose"),
        ("I feel suicidel.", "suicide"),
    ],
)
def test_other_spellings(question: str, told: str) -> None:
    assert told in emergencies(question)


@pytest.mark.parametrize("word", ["strange", "strongly", "diaphragm", "responses", "overdone", "table", "presentation"])
def test_words_that_are_right_as_they_are(word: str) -> None:
    assert emergencies(f"I feel {word}, he {word} me, a {word} today.") == set()
