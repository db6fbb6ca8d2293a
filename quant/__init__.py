"""Post-training quantization of vision transformers to integer networks."""
