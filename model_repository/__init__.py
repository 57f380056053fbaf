# SPDX-License-Identifier: Apache-2.0
"""The example models, as a Triton model repository."""
