"""probcl: probabilistic contrastive learning on the hypersphere, with Pyro and PyTorch."""

__version__ = "0.1.0"
