# SPDX-License-Identifier: Apache-2.0
"""How long operations can be computed in pieces: one rule per family, none of them trusted before it was compared."""
