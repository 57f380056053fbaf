# SPDX-License-Identifier: Apache-2.0
"""POET: plan and run a training step within a memory budget, out of inference's way."""
