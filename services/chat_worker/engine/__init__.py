"""The generation engine: sequences, blocks, scheduler, runner, sampler and the loop that owns them."""
