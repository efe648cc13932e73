"""Augmentation of whole batches on the device, with a draw for each image."""
