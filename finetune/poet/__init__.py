# SPDX-License-Identifier: Apache-2.0
"""POET's own terms: its graph files, its platforms, its five matrices and their rules."""
