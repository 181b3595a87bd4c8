"""flowsep: Glow priors, one per musical source, and separation as optimisation in their latent spaces."""
