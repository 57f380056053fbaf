# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: how long a generated example takes is the host's affair and judges nobody."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("any-host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-host")
