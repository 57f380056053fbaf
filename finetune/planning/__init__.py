# SPDX-License-Identifier: Apache-2.0
"""The planners: a fast search that finds good schedules, and programs that prove how good they are."""
