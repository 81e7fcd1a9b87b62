"""What all test files share: one hypothesis profile, reproducible and without a clock."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "klrlhf", derandomize=True, deadline=None, database=None, max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("klrlhf")
