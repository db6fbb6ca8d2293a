"""Sequencer, descriptors, registers."""
