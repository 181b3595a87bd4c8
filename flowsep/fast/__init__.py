"""The engine: several flows side by side, the likelihood with its gradient, and the layers as their reference."""
