"""Settings of all tests of the chat worker."""

import torch

torch.set_num_threads(1)  # rows of some hundred numbers: more threads only wait for each other
