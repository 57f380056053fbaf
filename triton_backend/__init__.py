# SPDX-License-Identifier: Apache-2.0
"""The Python-based Triton backend `governed`."""
