# SPDX-License-Identifier: Apache-2.0
"""The fault suite: every row of docs/faults.md, injected as often as the row says. `python -m tests.faults` runs it."""
