# SPDX-License-Identifier: Apache-2.0
"""Planners from the literature on this project's problems, each written from its published description."""
