"""Training rules: how batches, weights or gradients change as training goes; a file per published rule."""
