"""Example scores: one number per example from training evidence; a file per published score."""
