"""Reference audio to dual-codebook tokens, vocoder mel and speaker vector."""
