"""Audio codes and a reference voice in, 24 kHz samples out: flow matching to a mel spectrogram, then HiFT."""
