# SPDX-License-Identifier: Apache-2.0
"""Where Triton wants an instance to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

Kind = Literal["CPU", "GPU", "MODEL"]


@dataclass(frozen=True, slots=True)
class Placement:
    """The instance group's kind and device.

    CPU and GPU mean what they say. MODEL leaves the choice to the engine, which takes the first GPU where there is one:
    the right kind on a Jetson whose server was built without GPU support.
    """

    kind: Kind = "CPU"
    device_id: int = 0


def placement_of(args: Mapping[str, str]) -> Placement:
    """From the arguments of `initialize`."""
    kind = args.get("model_instance_kind", "CPU")
    return Placement(
        cast(Kind, kind) if kind in ("GPU", "MODEL") else "CPU", int(args.get("model_instance_device_id", 0))
    )
