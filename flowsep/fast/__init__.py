"""The engine: several flows side by side, and the likelihood with its gradient written out."""
