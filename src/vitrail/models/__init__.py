"""The Vision Transformer and its family: one file each, config on top. Read `vit.py` first, then `layers.py`.

    from vitrail.models import zoo

    model = zoo.build("vit-b/16", classes=10)   # model(images) -> logits; model.features(images) -> tokens

Pure functions of images: nothing here knows of files, devices, time or training.
"""
