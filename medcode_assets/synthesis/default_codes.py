"""The codes that narratives are asked for where the user names none."""

from medcode_assets.corpora.narrative_subjects import Subject, load_subjects
from medcode_assets.synthesis.requests import ListedCode
from medcode_serving.codes.hierarchy import category
from medcode_serving.codes.tables import HCPCS_SELECTION, CodeTables, read_code_list

SUBJECT_WEIGHT = 4.0
"""Of a code that the template generator writes about: frequent ones."""
OTHER_WEIGHT = 1.0
"""Of a code of the shipped HCPCS selection, and of all billable codes of a subject's ICD-10-CM category together."""


def default_codes(tables: CodeTables) -> list[ListedCode]:
    """Return the template generator's codes, their ICD-10-CM categories' and the shipped HCPCS codes, with weights.

    For CPT codes the description is in our own words: models are told it, answers are not written with it.
    """
    subjects = [subject for group in load_subjects().values() for subject in group]
    codes: dict[tuple[str, str], ListedCode] = {(one.system, one.code): _of_subject(one) for one in subjects}
    for name in sorted({category(one.system, one.code) for one in subjects if one.system == "icd10cm"}):
        below = tables.below("icd10cm", name)
        for row in below:
            other = ListedCode(row.system, row.code, row.title, OTHER_WEIGHT / len(below))
            codes.setdefault((row.system, row.code), other)
    for listed in read_code_list(HCPCS_SELECTION, "hcpcs"):
        codes.setdefault(("hcpcs", listed.code), ListedCode("hcpcs", listed.code, listed.description, OTHER_WEIGHT))
    return list(codes.values())


def _of_subject(subject: Subject) -> ListedCode:
    return ListedCode(subject.system, subject.code, subject.title or subject.names[0], SUBJECT_WEIGHT)
