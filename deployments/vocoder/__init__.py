"""Audio codes to 24 kHz samples: flow matching to a mel spectrogram, then HiFT."""
