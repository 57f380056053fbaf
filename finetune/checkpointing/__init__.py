# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: nested values as JSON, tensors as one safetensors file."""
