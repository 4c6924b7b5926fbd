"""Purifiers (image to image) and classifiers (image to logits), one file each; the file's name is the model's name.

A model file offers `VERSION`, `ROLE` (`"purifier"` or `"classifier"`), a frozen dataclass `Config` and
`build(config, image_shape, num_classes) -> nn.Module`; a purifier also says with `TRAINED` whether it needs training.
Images are float (N, C, H, W) in [0, 1] everywhere; normalization happens inside a classifier. Files with a leading
underscore are shared parts, not choices. Nothing here knows that sweeps exist, so every model works in a notebook.
"""
