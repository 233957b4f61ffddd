"""Prompt to audio codes: the Step1 language model, its tokenizer, prompts, sampling and quantised variants."""
