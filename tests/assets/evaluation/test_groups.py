import numpy as np
import pytest
from scipy.sparse import csr_array

from medcode_assets.evaluation.columns import CodeColumns
from medcode_assets.evaluation.groups import at_level, code_groups, membership, parents
from medcode_serving.errors import MedcodeError

CODES = (
    ("icd10cm", "I10"),
    ("icd10cm", "I50.9"),
    ("icd10cm", "I50.2"),
    ("icd10pcs", "0DTJ4ZZ"),
    ("icd9cm", "428.0"),
    ("icd9cm", "000"),
)
COLUMNS = CodeColumns(CODES)
FREQUENCIES = np.array([501, 500, 11, 0, 10, 100])


def test_groups_of_mixed_systems():
    found = {group.name: (group.title, group.columns.tolist()) for group in code_groups(COLUMNS, FREQUENCIES)}
    assert found == {
        "system:icd9cm": ("ICD-9-CM diagnosis", [4, 5]),
        "system:icd10cm": ("ICD-10-CM diagnosis", [0, 1, 2]),
        "system:icd10pcs": ("ICD-10-PCS procedure", [3]),
        "frequency:unseen": ("Never seen in training", [3]),
        "frequency:1-10": ("In 1-10 training documents", [4]),
        "frequency:11-50": ("In 11-50 training documents", [2]),
        "frequency:51-100": ("In 51-100 training documents", [5]),
        "frequency:101-500": ("In 101-500 training documents", [1]),
        "frequency:over-500": ("In over 500 training documents", [0]),
        "chapter:icd9cm:390-459": ("Diseases of the circulatory system (390-459)", [4]),
        "chapter:icd9cm:other": ("No chapter (ICD-9-CM diagnosis)", [5]),
        "chapter:icd10cm:I00-I99": ("Diseases of the circulatory system (I00-I99)", [0, 1, 2]),
        "chapter:icd10pcs:0": ("Medical and surgical (0)", [3]),
    }


@pytest.mark.parametrize("kind", ["system", "frequency", "chapter"])
def test_every_column_is_in_one_group_of_each_kind(kind):
    groups = tuple(group for group in code_groups(COLUMNS, FREQUENCIES) if group.name.startswith(kind))
    assert membership(groups, len(COLUMNS)).sum(axis=0).tolist() == [1] * len(COLUMNS)


def test_no_columns_have_no_groups():
    assert code_groups(CodeColumns([]), np.zeros(0, dtype=int)) == ()
    assert membership((), 3).shape == (0, 3)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="2 frequencies for 6 columns"):
        code_groups(COLUMNS, np.zeros(2))
    with pytest.raises(MedcodeError, match="unknown code system 'icd11'"):
        code_groups(CodeColumns([("icd11", "1A00")]), np.zeros(1))


def test_a_document_has_a_parent_if_it_has_any_code_of_it():
    matrix = csr_array([[0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
    # Sorted: icd10cm I10 and I50, icd10pcs 0DT, icd9cm 000 and 428.
    assert at_level(matrix, parents(COLUMNS, "category")).toarray().tolist() == [
        [0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1],
        [0, 0, 0, 0, 0],
    ]
    # icd10cm I00-I99, icd10pcs 0, icd9cm 390-459 and other.
    assert at_level(matrix, parents(COLUMNS, "chapter")).toarray().tolist() == [[1, 0, 0, 0], [1, 0, 1, 1], [0] * 4]
