"""Settings of the quantizer's tests."""

import torch

# Small tensors: more threads are slower, and very much slower on a busy machine.
torch.set_num_threads(1)
