# SPDX-License-Identifier: Apache-2.0
"""The small privileged daemon that owns the clocks."""
