# SPDX-License-Identifier: Apache-2.0
"""Pure latency models and admission."""
