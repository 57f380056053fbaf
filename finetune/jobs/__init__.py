# SPDX-License-Identifier: Apache-2.0
"""What a fine-tuning job is made of: conditions, data, weights, plan, validation; and the worker that does jobs."""
