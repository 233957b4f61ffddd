import torch
from safetensors.torch import load_file

from deployments.llm.loading import Options, make_runner
from deployments.llm.model import Chunk, bytes_per_token
from deployments.llm.runner import Runner, Vocabulary
from deployments.llm.step1 import Step1Config
from deployments.llm.tokenizer import Step1Tokenizer
from deployments.llm.weights import Dense, Layer, Weights
from deployments.types import ClonePrompt, EditPrompt, Sampling
from tests.llm.conftest import GOLDENS

GREEDY = Sampling(seed=0, temperature=0.0)


def golden_weights() -> tuple[Weights, dict[str, torch.Tensor]]:
    golden = load_file(GOLDENS / "step1.safetensors")
    weight = {name.removeprefix("weight."): value for name, value in golden.items()}
    config = Step1Config(96, 128, 6, 2, 2, 300)

    def layer(prefix: str) -> Layer:
        def join(*names: str) -> Dense:
            return Dense(torch.cat([weight[f"{prefix}.{name}_proj.weight"] for name in names]))

        return Layer(
            weight[f"{prefix}.input_layernorm.weight"],
            join("self_attn.q", "self_attn.k", "self_attn.v"),
            join("self_attn.o"),
            weight[f"{prefix}.post_attention_layernorm.weight"],
            join("mlp.gate", "mlp.up"),
            join("mlp.down"),
        )

    layers = [layer(f"model.layers.{index}") for index in range(2)]
    embedding, norm, head = (weight[f"{name}.weight"] for name in ("model.embed_tokens", "model.norm", "lm_head"))
    return Weights(config, embedding, layers, norm, head), golden


def golden_runner(slots: int = 3) -> tuple[Runner, dict[str, torch.Tensor]]:
    weights, golden = golden_weights()
    weights = Weights(
        weights.config, weights.embedding, weights.layers, weights.norm, torch.cat([weights.head] * 18)
    )  # enough rows for audio ids that this golden's vocabulary lacks; the first 300 are the golden's
    return make_runner(weights, Vocabulary(0, ()), Options(slots, 64)), golden


def test_prefill_in_chunks_gives_the_reference_s_logits():
    runner, golden = golden_runner()
    ids = golden["input_ids"][0]
    slot = torch.tensor([1])
    pieces = [ids[:7], ids[7:8], ids[8:30], ids[30:]]
    start, hidden = 0, []
    for piece in pieces:
        hidden.append(runner.model.prefill(piece, Chunk(slot, torch.tensor([start]))))
        start += len(piece)
    logits = torch.cat(hidden) @ runner.model.weights.head[:300].T
    torch.testing.assert_close(logits, golden["logits"][0], atol=1e-4, rtol=0)


def test_decoding_in_a_slot_gives_the_reference_s_logits():
    runner, golden = golden_runner()
    ids = golden["input_ids"][0]
    slots = torch.tensor([2, 3, 3])  # the slot and two rows of padding
    for position, token in enumerate(ids):
        tokens, positions = token.expand(3), torch.tensor([position, 0, 0])
        hidden = runner.model.decode(tokens, slots, positions)[0]
        logits = hidden @ runner.model.weights.head[:300].T
        torch.testing.assert_close(logits, golden["logits"][0, position], atol=1e-4, rtol=0)


def generate(runner: Runner, slot: int, prompt: list[int], count: int, sampling: Sampling) -> list[int]:
    runner.begin(slot, sampling, prompt)
    runner.prefill(slot, prompt, 0)
    ids = runner.first(slot).tokens()
    while len(ids) < count:
        ids += runner.decode([slot]).tokens()
    return ids


def pipeline_runner(weights: Weights, tokenizer: Step1Tokenizer) -> Runner:
    return make_runner(weights, Vocabulary(tokenizer.audio, ()), Options(slots=2, max_length=1024))


def check_pipeline(runner: Runner, expected: dict, tokenizer: Step1Tokenizer, name: str, ids: list[int]) -> None:
    assert ids == expected[f"{name}.prompt_ids"].tolist()
    hidden = runner.model.prefill(torch.tensor(ids), Chunk(torch.tensor([0]), torch.tensor([0])))[-1]
    logits = runner.model.weights.head @ hidden
    torch.testing.assert_close(logits, expected[f"{name}.last_logits"], atol=1e-3, rtol=0)
    codes = generate(runner, 1, ids, 70, GREEDY)
    wanted = expected[f"{name}.codes"].tolist()
    assert [code - tokenizer.audio for code in codes] == wanted


def test_a_clone_is_the_reference_s(base_weights: Weights, tokenizer: Step1Tokenizer, expected: dict):
    prompt = ClonePrompt(
        "测试语音合成效果",
        "The quick brown fox jumps over the lazy dog.",
        expected["mixed"].numpy(),
        "clone_0000000000000000",
    )
    runner = pipeline_runner(base_weights, tokenizer)
    check_pipeline(runner, expected, tokenizer, "clone", tokenizer.encode_prompt(prompt))


def test_an_edit_is_the_reference_s(base_weights: Weights, tokenizer: Step1Tokenizer, expected: dict):
    from deployments.llm.prompt import edit_instruction

    instruction = edit_instruction("emotion", "happy", "The quick brown fox jumps over the lazy dog.")
    prompt = EditPrompt(instruction, expected["mixed"].numpy())
    runner = pipeline_runner(base_weights, tokenizer)
    check_pipeline(runner, expected, tokenizer, "edit_emotion_happy", tokenizer.encode_prompt(prompt))


def test_unconstrained_and_constrained_requests_share_a_batch(runner: Runner):
    prompt = list(range(100, 140))
    free, bound = Sampling(seed=3, cycle=False), Sampling(seed=3)
    alone = [generate(runner, 0, prompt, 8, sampling) for sampling in (free, bound)]
    for slot, sampling in enumerate((free, bound)):
        runner.begin(slot, sampling, prompt)
        runner.prefill(slot, prompt, 0)
    together = [runner.first(slot).tokens() for slot in (0, 1)]
    for _ in range(7):
        for ids, token in zip(together, runner.decode([0, 1]).tokens(), strict=True):
            ids.append(token)
    assert together == alone
    assert alone[0] != alone[1]


def test_the_cache_takes_32_kib_a_token_at_full_size():
    assert bytes_per_token(Step1Config(), torch.bfloat16) == 32 * 1024
