"""Safety validation of generated answers: drug interactions, red flags, doses.

Rules over words; not for clinical use.
"""

from medcode_serving.safety.check import check_safety
from medcode_serving.safety.report import MatchedSpan, SafetyReport, SafetyWarning
from medcode_serving.safety.rules import SafetyRules, load_rules

__all__ = ["MatchedSpan", "SafetyReport", "SafetyRules", "SafetyWarning", "check_safety", "load_rules"]
