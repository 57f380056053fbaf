# SPDX-License-Identifier: Apache-2.0
"""From a schedule to a step that runs: generated code, what it calls, and where gradients go."""
