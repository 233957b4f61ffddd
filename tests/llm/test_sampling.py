from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import chisquare

from deployments.llm.sampling import (
    CYCLE_COLUMNS,
    WINDOW,
    Draws,
    cycle_mask,
    cycle_rows,
    draw,
    forbid_repeats,
    gumbel,
)
from deployments.types import AUDIO_CODES, VQ02_CODES

GOLDENS = Path(__file__).parents[1] / "goldens"


def draws(rows: int, temperature: float = 0.7, top_k: int = 50, seed: int = 7) -> Draws:
    """The same request at the steps 0..rows - 1."""
    return Draws(
        torch.arange(WINDOW).expand(rows, -1),
        torch.full((rows,), seed),
        torch.arange(rows),
        torch.full((rows,), temperature),
        torch.full((rows,), top_k),
    )


def test_the_repetition_rule_is_the_reference_s():
    golden = load_file(GOLDENS / "step1.safetensors")
    scores = forbid_repeats(golden["repetition_scores_in"], golden["repetition_history"][:, -WINDOW:])
    assert torch.equal(scores, golden["repetition_scores_out"])


def test_the_repetition_rule_knows_columns_that_start_later():
    history = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 12, 12], [0, 0, 0, 0, 0, 0, 0, 12, 13, 2]])
    out = forbid_repeats(torch.zeros(2, 5), history, first=10)
    assert torch.isinf(out).tolist() == [[False, False, True, False, False], [False] * 5]


def test_codes_take_turns_and_the_end_follows_whole_groups_only():
    allowed = cycle_mask(torch.device("cpu"))[cycle_rows(torch.arange(11))]
    first = allowed[:, 0].tolist()
    assert first == [True, True, False, False, False] * 2 + [True]
    assert allowed[:, VQ02_CODES].tolist() == [not one for one in first]
    assert allowed[:, AUDIO_CODES].tolist() == [False] * 5 + [True] + [False] * 4 + [True]


@pytest.mark.parametrize("top_k", [0, 3, 50])
@pytest.mark.parametrize("constrained", [False, True])
def test_draws_follow_the_exact_distribution(top_k: int, constrained: bool):
    count, columns = 100_000, 20
    logits = torch.randn(columns, generator=torch.Generator().manual_seed(3)) * 1.5
    if constrained:
        logits[8:] = float("-inf")
    exact = logits.double() / 0.7
    if top_k:
        exact[exact < exact.topk(min(top_k, columns)).values[-1]] = float("-inf")
    exact = exact.softmax(0)
    drawn = draw(logits.expand(count, -1), draws(count, 0.7, top_k), wide=top_k == 0)
    seen = torch.bincount(drawn, minlength=columns)
    possible = exact > 0
    assert seen[~possible].sum() == 0
    assert chisquare(seen[possible].numpy(), (exact[possible] * count).numpy()).pvalue > 1e-3


def test_noise_is_uniform_over_seeds_steps_and_columns():
    seeds, steps = torch.arange(2000), torch.zeros(2000, dtype=torch.int64)
    columns = torch.arange(50)[None]
    for noise in (gumbel(seeds, steps, columns), gumbel(steps, seeds, columns), gumbel(seeds << 32, steps, columns)):
        uniform = torch.exp(-torch.exp(-noise)).flatten()
        seen = torch.histc(uniform, bins=64, min=0, max=1)
        assert chisquare(seen.numpy()).pvalue > 1e-3
        assert uniform.view(2000, 50).corrcoef().triu(1).abs().max() < 0.85
        assert uniform.view(2000, 50).T.corrcoef().triu(1).abs().max() < 0.12


def test_temperature_zero_takes_the_best():
    logits = torch.randn(40, 300)
    assert torch.equal(draw(logits, draws(40, temperature=0.0)), logits.argmax(1))


def test_a_row_s_draw_does_not_depend_on_the_others():
    logits = torch.randn(16, CYCLE_COLUMNS)
    together = draw(logits, draws(16))
    one = draws(16)
    for row in range(16):
        alone = Draws(*(getattr(one, name)[row : row + 1] for name in Draws.__dataclass_fields__))
        assert draw(logits[row : row + 1], alone) == together[row]


def test_looking_at_every_column_changes_no_draw_of_the_best():
    logits = torch.randn(200, 400)
    assert torch.equal(draw(logits, draws(200)), draw(logits, draws(200), wide=True))


def test_settings_hold_per_row():
    logits = torch.randn(1, 300).expand(3, -1)
    rows = Draws(
        torch.zeros(3, WINDOW, dtype=torch.int64),
        torch.tensor([1, 1, 2]),
        torch.tensor([0, 0, 0]),
        torch.tensor([0.0, 1.0, 1.0]),
        torch.tensor([50, 1, 0]),
    )
    drawn = draw(logits, rows, wide=True)
    assert drawn[0] == drawn[1] == logits[0].argmax()
