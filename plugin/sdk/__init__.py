"""The high-level interface: builders, presets, pipelines."""
