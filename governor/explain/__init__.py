# SPDX-License-Identifier: Apache-2.0
"""Why this point: what a history of trials says of the point that the governor holds."""
