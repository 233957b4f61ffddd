import numpy as np
import pytest
import torch

from deployments.errors import InvalidInputError
from deployments.vocoder.pairs import to_pairs


def test_codes_become_the_golden_pairs(flow_golden: dict[str, torch.Tensor]) -> None:
    assert torch.equal(to_pairs(flow_golden["tokens"].numpy()), flow_golden["pairs"][0])
    assert torch.equal(to_pairs(flow_golden["prompt_tokens"].numpy()), flow_golden["prompt_pairs"][0])


def test_an_unfinished_group_is_completed_as_the_golden_is(flow_golden: dict[str, torch.Tensor]) -> None:
    assert torch.equal(to_pairs(flow_golden["tokens"][:163].numpy()), flow_golden["pairs_from_163_tokens"][0])


@pytest.mark.parametrize(
    ("count", "pairs"),
    [
        (1, [[7, 1025], [0, 1025], [1024, 1025]]),
        (2, [[7, 1025], [7, 1025], [1024, 1025]]),
        (4, [[7, 8], [7, 8], [1024, 1025]]),
    ],
)
def test_any_number_of_codes_is_padded(count: int, pairs: list[list[int]]) -> None:
    assert to_pairs(np.full(count, 7, np.int32)).tolist() == pairs


@pytest.mark.parametrize("codes", [[], [5120], [-1]])
def test_codes_that_no_codebook_has_are_refused(codes: list[int]) -> None:
    with pytest.raises(InvalidInputError):
        to_pairs(np.array(codes, np.int32))
