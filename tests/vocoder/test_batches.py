from hypothesis import given
from hypothesis import strategies as st

from deployments.vocoder.batches import batch_rows, padded, remembered, split


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_every_item_is_in_one_group_within_the_budget(lengths: list[int], budget: int) -> None:
    for cost in (padded, remembered):
        groups = split(lengths, cost, budget)
        assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
        for group in groups:
            assert len(group) == 1 or cost(len(group), max(lengths[index] for index in group)) <= budget


def test_streams_are_counted_in_the_shape_they_are_padded_to() -> None:
    assert [batch_rows(rows) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert remembered(5, 594) == 8 * (640 + 112)
    assert [len(group) for group in split([594] * 13, remembered, 8 * 752)] == [8, 5]
