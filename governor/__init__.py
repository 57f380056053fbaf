# SPDX-License-Identifier: Apache-2.0
"""The unprivileged tuning loop."""
