"""The stages of the pipeline, one room each; types, errors, checkpoint and device are shared between them."""
