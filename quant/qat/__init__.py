"""Quantization-aware training: networks learn with fake-quantized weights and maps (Q-ViT, NeurIPS 2022)."""
