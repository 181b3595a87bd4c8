"""Studies beside the table: ablation, new sources, leakage."""
