"""Seeded random checkpoints in the published layout, one module per part of it."""
