# SPDX-License-Identifier: Apache-2.0
"""What processes tell each other: pages, samples, metric names, durable files."""
