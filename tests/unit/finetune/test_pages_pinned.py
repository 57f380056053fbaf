# SPDX-License-Identifier: Apache-2.0
"""Pages of a GPU's storages in pinned host memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from finetune.errors import PageFailed
from finetune.pages import PinnedPages
from finetune.paging.page_file import PIECE_BYTES

pytestmark = pytest.mark.device
SIZES = {0: 20, 3: 5 * PIECE_BYTES + 4}


@pytest.fixture
def pages() -> Iterator[PinnedPages]:
    made = PinnedPages(torch.device("cuda"), SIZES)
    yield made
    made.close()


@pytest.mark.parametrize("number", SIZES)
def test_what_is_written_comes_back(pages: PinnedPages, number: int) -> None:
    """Bit for bit, in place, and the memory is free in between."""
    weight = torch.randn(SIZES[number] // 4, device="cuda")
    before, storage = weight.clone(), weight.untyped_storage()
    taken_bytes = torch.cuda.memory_allocated()
    pages.write(number, storage)
    pages.empty(number, storage)
    pages.wait(number)
    assert torch.cuda.memory_allocated() <= taken_bytes - SIZES[number]
    pages.read(number, storage)
    pages.wait(number)
    assert torch.equal(weight, before)


def test_a_write_waits_for_the_kernels_that_compute_it(pages: PinnedPages) -> None:
    """Launched before the write was begun, ended long after."""
    size = SIZES[3] // 4
    factor = torch.randn(4096, 4096, device="cuda") / 64
    product = factor
    for _ in range(50):
        product = product @ factor
    result = product.flatten()[:size].clone()
    pages.write(3, result.untyped_storage())
    landing = torch.UntypedStorage(0, device="cuda")
    pages.read(3, landing)
    pages.wait(3)
    assert torch.equal(torch.empty(0, device="cuda").set_(landing), result)


def test_a_held_channel_copies_nothing(pages: PinnedPages) -> None:
    """Until it may go on."""
    memory = torch.randn(SIZES[3] // 4, device="cuda").untyped_storage()
    pages.hold()
    pages.write(3, memory)
    assert not pages.wait(3, 0.05)
    pages.go()
    assert pages.wait(3, 30)


def test_what_was_never_written_cannot_be_read(pages: PinnedPages) -> None:
    """Pinned memory holds something from the start, but not that storage."""
    pages.read(0, torch.UntypedStorage(0, device="cuda"))
    with pytest.raises(PageFailed, match="never written"):
        pages.wait(0)
