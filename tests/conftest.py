"""Hypothesis, the same for all tests: whether one passes depends neither on the machine's speed nor on a draw.

`pytest --hypothesis-profile=search` draws other examples each time, and more of them.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("same"), derandomize=False, max_examples=1000)
settings.load_profile("same")
