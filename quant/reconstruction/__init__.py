"""Block-wise reconstruction: rounding, biases, and steps that make integer blocks most like the float ones."""
