"""Triton kernels of the language model, for CUDA; nothing else imports triton."""
