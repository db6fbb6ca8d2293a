"""IntegerNetwork + AcceleratorConfig -> program and memory image."""
